"""
Diversity at equal quality: systems where an outside judge likes their texts equally (after Caccia et al., 2020).

Each setting of both temperatures is a point: the judge's nats per word, and Self-BLEU. A system has a curve over the
token temperature for each latent temperature, straight between points that are neighbours in quality. Its envelope is
the lowest of these curves at each quality. A plain language model has one curve, which is its envelope.

Not the front of all points, whatever lies between them: its lines lead over the gap from greedy texts, which are
nearly all the same, to others, where no setting is; half of each would be a bet on the judge's taste for repetition.

The best of several noisy curves looks better than it is. So the curve is chosen on one half of the texts and measured
on the other, and the halves then change places. A jackknife that chooses anew without each group of texts would show
how unsure the choice is, but leave that advantage. Where there is one curve, nothing is chosen and nothing changes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from ..jackknife import Replicates
from .tables import make_column, make_table, words_key

LEVELS = (0.25, 0.5, 0.75)  # of the range of quality that all envelopes share

Curve = Sequence[Mapping[str, Any]]
Row = Sequence[tuple[Replicates, Replicates]]


def equal_quality_table(
    curves: Mapping[str, Curve], num_texts: int, confidence: float = 0.95
) -> tuple[dict[str, Any], list[dict], dict[str, list]] | None:
    """
    Self-BLEU of each system's envelope at three levels of the judge's perplexity per word, with tests.

    Args:
        curves (`Mapping[str, Sequence[Mapping]]`): points of each system, in any order, with `temperature`,
            `latent_temperature`, and `judge` and `self_bleu` among their `metrics`. Points whose texts are all the
            same (a plain model's greedy one) are left out: no line leads from there.
        num_texts (`int`): of each point.
        confidence (`float`, *optional*, defaults to 0.95).

    Returns:
        The table and its tests, as [`make_table`] does, and for each system and level the judge's `perplexity`, and
        the `latent_temperature` and the two `temperatures` between which the envelope of all texts lies there. None
        without a judge, for systems without two points in a row, and for those that share no range of quality.
    """
    rows = {name: [[_pair(curve[place]) for place in row] for row in _rows(curve)] for name, curve in curves.items()}
    if not all(rows.values()):
        return None
    low = max(min(row[0][0].value for row in pairs) for pairs in rows.values())
    high = min(max(row[-1][0].value for row in pairs) for pairs in rows.values())
    levels = [low + share * (high - low) for share in LEVELS]  # log perplexity: nats per word
    if low >= high or not all(
        any(_reaches(row, level) for row in pairs) for pairs in rows.values() for level in levels
    ):
        return None
    columns = [
        make_column("self_bleu", num_texts, key=f"level{number}", label=f"SB ↓ at {math.exp(level):.0f}")
        for number, level in enumerate(levels)
    ]
    metrics = {}
    for name, pairs in rows.items():
        metrics[name] = {}
        for column, level in zip(columns, levels, strict=True):
            metrics[name][column["key"]] = envelope_at(pairs, level)
            metrics[name][words_key(column["key"])] = _words_at(curves[name], level)
    table, tests = make_table(
        "equal-quality",
        "Diversity at equal quality: Self-BLEU where the judge's perplexity per word is the same",
        columns,
        metrics,
        confidence,
        "On each system's envelope, the lowest of its curves over the token temperature, one for each latent "
        "temperature, at a quarter, half and three quarters of the range (in nats) that all envelopes share. The "
        "curve was chosen on one half of the texts and measured on the other, in turn, so that many curves are no "
        "advantage. The judge likes dull text, too: read samples.",
    )
    return table, tests, {name: [_setting(curve, level) for level in levels] for name, curve in curves.items()}


def envelope_of(curve: Curve) -> tuple[list[tuple[float, float]], list[int]]:
    """The envelope of all texts of a system: its corners as in [`envelope_line`], and which points are on it."""
    places = _rows(curve)
    rows = [[_values(curve[place]) for place in row] for row in places]
    on = [
        place
        for row, points in zip(places, rows, strict=True)
        for place, (x, y) in zip(row, points, strict=True)
        if y <= min(_on_line(other, x) for other in rows if _reaches(other, x)) + 1e-12
    ]
    return envelope_line(rows), sorted(on)


def envelope_line(rows: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """
    Corners of the lower envelope of several curves.

    Args:
        rows (`Sequence[Sequence[tuple[float, float]]]`): points of each curve, sorted by the first metric.

    Returns:
        `list[tuple[float, float]]`: by the first metric; two of the same where the envelope jumps, since a curve
        begins or ends there.
    """
    line: list[tuple[float, float]] = []
    for start, end in pairwise(sorted({float(x) for row in rows for x, _ in row})):
        heights = [
            (_on_line(row, start), _on_line(row, end)) for row in rows if row[0][0] <= start < end <= row[-1][0]
        ]
        crossings = [
            start + (end - start) * (a - c) / (a - c - b + d)
            for (a, b), (c, d) in combinations(heights, 2)
            if (a - c) * (b - d) < 0
        ]
        for x in (start, *sorted(crossings), end) if heights else ():
            share = (x - start) / (end - start)
            corner = (x, min((1 - share) * first + share * last for first, last in heights))
            if not line or corner != line[-1]:
                line.append(corner)
    return line


def envelope_at(rows: Sequence[Row], level: float) -> Replicates:
    """
    The second metric of the lowest curve where the first is at a level.

    With several curves, the lowest is the one that is lowest by one half of the groups of texts; it is measured by the
    other half, and the other way round, and the value is the mean of both. Since each half is measured by the other's
    choice, their errors may go together: the standard error is that of one half, not of the mean of two that are
    independent.

    Args:
        rows (`Sequence[Sequence[tuple[Replicates, Replicates]]]`): both metrics of each curve's points, sorted by the
            first, and all of the same groups of texts. At least one reaches the level.
        level (`float`): of the first metric.
    """
    metrics = [interpolate(row, level) for row in rows if _reaches(row, level)]
    if len(metrics) == 1:
        return metrics[0]
    sizes = metrics[0].sizes
    values = np.array([metric.contributions for metric in metrics])  # (curves, groups)
    measured = np.empty(len(sizes))
    even = np.arange(len(sizes)) % 2 == 0  # who is in which group was drawn at random
    for fold in (even, ~even):
        chosen = np.average(values[:, ~fold], axis=1, weights=sizes[~fold]).argmin()
        measured[fold] = values[chosen, fold]
    value = float(np.average(measured, weights=sizes))
    left_out = value - math.sqrt(2) * (measured - value) / (sizes.sum() / sizes - 1)
    return Replicates(value, left_out, sizes)


def interpolate(points: Row, level: float) -> Replicates:
    """
    The second metric where the first is at a level, on the line between the two points around it. The errors of both
    points, in both metrics, are in its replicates.

    Args:
        points (`Sequence[tuple[Replicates, Replicates]]`): sorted by the first metric, which must reach the level.
        level (`float`): of the first metric.
    """
    number = _bracket([point[0].value for point in points], level)
    (x0, y0), (x1, y1) = points[number - 1], points[number]
    return x0.map(lambda a, b, c, d: b + (d - b) * (level - a) / (c - a), y0, x1, y1)


def _bracket(values: Sequence[float], level: float) -> int:
    """The first place, after the first, whose value is at the level or above."""
    return next(place for place in range(1, len(values)) if values[place] >= level)


def _on_line(points: Sequence[tuple[float, float]], level: float) -> float:
    x, y = zip(*points, strict=True)
    return float(np.interp(level, x, y))


def _reaches(points, level: float) -> bool:
    first, last = (getattr(point[0], "value", point[0]) for point in (points[0], points[-1]))
    return first <= level <= last


def _rows(curve: Curve) -> list[list[int]]:
    """For each latent temperature its points by quality, if two or more have both metrics and more than one text."""
    rows: dict[float | None, list[int]] = {}
    for place, point in enumerate(curve):
        metrics = point["metrics"]
        finite = all(name in metrics and metrics[name].is_finite for name in ("judge", "self_bleu"))
        if finite and metrics.get("different", 2) > 1:
            rows.setdefault(point["latent_temperature"], []).append(place)
    return [sorted(row, key=lambda place: _values(curve[place])) for row in rows.values() if len(row) > 1]


def _pair(point: Mapping[str, Any]) -> tuple[Replicates, Replicates]:
    """Nats per word and Self-BLEU."""
    return point["metrics"]["judge"].map(np.log), point["metrics"]["self_bleu"]


def _values(point: Mapping[str, Any]) -> tuple[float, float]:
    return math.log(point["metrics"]["judge"].value), point["metrics"]["self_bleu"].value


def _around(curve: Curve, level: float) -> list[Mapping[str, Any]]:
    """The two points between which the envelope of all texts is at a level, by quality."""
    rows = [([_values(curve[place]) for place in row], row) for row in _rows(curve)]
    points, row = min((pair for pair in rows if _reaches(pair[0], level)), key=lambda pair: _on_line(pair[0], level))
    number = _bracket([x for x, _ in points], level)
    return [curve[place] for place in row[number - 1 : number + 1]]


def _words_at(curve: Curve, level: float) -> float | None:
    """Words per text of the envelope of all texts at a level, on the line between two points; None if not known."""
    around = _around(curve, level)
    words = [point["metrics"].get("words") for point in around]
    return None if None in words else float(np.interp(level, [_values(point)[0] for point in around], words))


def _setting(curve: Curve, level: float) -> dict[str, Any]:
    """Between which temperatures the envelope of all texts is at a level."""
    around = _around(curve, level)
    return {
        "perplexity": math.exp(level),
        "temperatures": sorted(point["temperature"] for point in around),
        "latent_temperature": around[0]["latent_temperature"],
    }


__all__ = ["envelope_at", "envelope_line", "envelope_of", "equal_quality_table", "interpolate"]
