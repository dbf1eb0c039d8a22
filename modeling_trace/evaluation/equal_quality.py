"""Diversity at equal quality: systems where an outside judge likes their texts equally (after Caccia et al., 2020)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .jackknife import Replicates
from .tables import make_column, make_table

LEVELS = (0.25, 0.5, 0.75)  # of the range of quality that all curves share


def equal_quality_table(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], num_texts: int, confidence: float = 0.95
) -> tuple[dict[str, Any], list[dict]] | None:
    """
    Self-BLEU of each system at three levels of the judge's perplexity per word, with tests.

    Args:
        curves (`Mapping[str, Sequence[Mapping]]`): points of each system, with `judge` and `self_bleu` among their
            `figures`, in any order. Points whose texts are all the same (a plain model's greedy one) are left out: no
            line leads from there.
        num_texts (`int`): of each point.
        confidence (`float`, *optional*, defaults to 0.95).

    Returns:
        The table and its tests, as [`make_table`] does; None without a judge, for curves of fewer than two points, and
        for those that share no range of quality.
    """
    points = {name: _points(curve) for name, curve in curves.items()}
    if any(len(found) < 2 for found in points.values()):
        return None
    low, high = max(p[0][0].value for p in points.values()), min(p[-1][0].value for p in points.values())
    if low >= high:
        return None
    levels = [low + share * (high - low) for share in LEVELS]  # log perplexity: nats per word
    columns = [
        make_column("self_bleu", num_texts, key=f"level{number}", label=f"SB ↓ at {math.exp(level):.0f}")
        for number, level in enumerate(levels)
    ]
    rows = {
        name: {column["key"]: interpolate(found, level) for column, level in zip(columns, levels, strict=True)}
        for name, found in points.items()
    }
    return make_table(
        "equal-quality",
        "Diversity at equal quality: Self-BLEU where the judge's perplexity per word is the same",
        columns,
        rows,
        confidence,
        "On the straight lines of each system's curve over the sampling temperature, at a quarter, half and three "
        "quarters of the range (in nats) that all curves share. The judge likes dull text, too: read samples.",
    )


def interpolate(points: Sequence[tuple[Replicates, Replicates]], level: float) -> Replicates:
    """
    The second figure where the first is at a level, on the line between the two points around it. The errors of both
    points, in both figures, are in its replicates.

    Args:
        points (`Sequence[tuple[Replicates, Replicates]]`): sorted by the first figure, which must reach the level.
        level (`float`): of the first figure.
    """
    number = next(i for i in range(1, len(points)) if points[i][0].value >= level)
    (x0, y0), (x1, y1) = points[number - 1], points[number]
    return x0.map(lambda a, b, c, d: b + (d - b) * (level - a) / (c - a), y0, x1, y1)


def _points(curve) -> list[tuple[Replicates, Replicates]]:
    figures = [p["figures"] for p in curve if "judge" in p["figures"] and p["figures"].get("different", 2) > 1]
    pairs = [(own["judge"].map(np.log), own["self_bleu"]) for own in figures]
    return sorted(pairs, key=lambda pair: pair[0].value)


__all__ = ["equal_quality_table", "interpolate"]
