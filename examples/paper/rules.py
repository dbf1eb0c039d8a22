"""
By what rule one system is better than another. The rule: the means over seeds differ by more than the larger spread,
greatest less least over seeds, and every seed of one lies beyond every seed of the other. What has no seed (a step's
time, people's ratings) differs where the intervals do not meet. One seed tells nothing. Of n comparisons some are the
other way round by chance: a claim does not hold where more are than that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pooled import Pooled, Results, cell, label

from modeling_trace.evaluation.report.tables import BOUNDS, BY_LENGTH, LENGTH_RATIO, LOOSE, SATURATED

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
OUTCOMES = (FAILS, HOLDS, OPEN)
MIN_SEEDS = 2
MARGIN = 0.05  # of the other's mean: what is at most so much worse counts as no worse


class Part(NamedTuple):
    """A comparison that a claim rests on: its outcome, what was compared, and how often chance alone reverses it."""

    outcome: str
    text: str
    chance: float = 0.0


def decide(first: Pooled, second: Pooled, direction: int) -> str:
    """
    Whether `first` is lower (`direction` -1) or higher (1) than `second`, by the rule above.

    Returns:
        `str`: `HOLDS`, `FAILS` where it is the other way round, or `OPEN`.
    """
    spreads = [first.spread, second.spread]
    if None in spreads:
        return OPEN
    if first.seeds or second.seeds:
        apart = abs(first.mean - second.mean) > max(spreads)
    else:
        apart = True
    for outcome, sign in ((HOLDS, direction), (FAILS, -direction)):
        low, high = (second, first) if sign > 0 else (first, second)
        if apart and low.high < high.low:
            return outcome
    return OPEN


def decide_not_worse(first: Pooled, second: Pooled, direction: int) -> str:
    """
    Whether `first` is no worse than `second`, where lower (-1) or higher (1) is better: its worst seed is behind the
    other's best by no more than `MARGIN`, or it is better by the rule above. `FAILS` where it is worse by that rule.
    """
    if None in (first.spread, second.spread):
        return OPEN
    behind = second.high - first.low if direction > 0 else first.high - second.low
    return HOLDS if behind <= MARGIN * abs(second.mean) else decide(first, second, direction)


def compare(
    results: Results,
    metric: str,
    direction: int,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    factor: float = 1.0,
    not_worse: bool = False,
) -> Part:
    """
    Compare two settings of an experiment.

    Args:
        results ([`Results`]).
        metric (`str`).
        direction (`int`): -1 where `first` should be lower, 1 where higher.
        first, second (`Mapping`): labels.
        factor (`float`, *optional*, defaults to 1.0): `first` should be lower or higher after multiplication by it.
        not_worse (`bool`, *optional*, defaults to `False`): by [`decide_not_worse`].
    """
    found = [results.find(metric, **labels) for labels in (first, second)]
    shared = {name: value for name, value in first.items() if second.get(name) == value and value is not None}
    place = "".join(f"{_shown(name, value)}, " for name, value in shared.items())
    names = [_name(labels, shared) for labels in (first, second)]
    what = f"{place}{label(metric)}: "
    for one in found:
        if isinstance(one, str):
            return Part(OPEN, f"{what}{one}")
    a, b = found
    times = "" if factor == 1 else f"{factor:g} times "
    shown = f"{what}{times}{names[0]} {cell(a.scaled(factor), metric)}, {names[1]} {cell(b, metric)}"
    reason = _not_comparable(results, metric, first, second, a.mean < b.mean)
    if reason is None:
        reason = not_enough(a, b)
    if reason is not None:
        return Part(OPEN, f"{shown}; {reason}")
    outcome = (decide_not_worse if not_worse else decide)(a.scaled(factor), b, direction)
    return Part(outcome, shown + ("; within the spread" if outcome == OPEN else ""), chance(a, b))


def chance(first: Pooled, second: Pooled) -> float:
    """
    The most that the probability can be that, of two equal systems, every seed of one lies below every seed of the
    other, in one direction: one of all orders of the seeds. 0 for what has no seed.
    """
    counts = [len(one.values) for one in (first, second) if one.seeds]
    return 1 / math.comb(sum(counts), counts[0]) if counts else 0.0


def _name(labels: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    own = [_shown(name, value) for name, value in labels.items() if name not in shared and value is not None]
    return " ".join(own)


def _shown(name: str, value: Any) -> str:
    return f"segments of {value}" if name == "segment_length" else str(value)


def not_enough(first: Pooled, second: Pooled) -> str | None:
    """Why two metrics cannot be compared at all: one seed, or no interval."""
    counts = [len(one.values) for one in (first, second)]
    if (first.seeds or second.seeds) and min(counts) < MIN_SEEDS:
        return f"{min(counts)} seed" + (f" of one, {max(counts)} of the other" if max(counts) > 1 else "")
    return None if None not in (first.spread, second.spread) else "no interval is known"


def _not_comparable(results: Results, metric: str, first, second, first_is_lower: bool) -> str | None:
    """Where a metric does not allow a comparison: the same limits as in the package's own reports."""

    def mean(name: str, labels) -> float | None:
        found = results.find(name, **labels)
        return None if isinstance(found, str) else found.mean

    lower, higher = (first, second) if first_is_lower else (second, first)
    if metric in BY_LENGTH:
        words = [mean("words", labels) for labels in (first, second)]
        if None not in words and max(words) > LENGTH_RATIO * min(words):
            return f"texts of {words[0]:.0f} and {words[1]:.0f} words do not compare"
    if metric in BOUNDS and (mean("ess", higher) or math.inf) < LOOSE:
        return "the higher one is a loose upper bound (effective sample size below 3)"
    if metric == "mi":
        if (mean("mi_share_of_cap", lower) or 0) > SATURATED:
            return "the lower one is at its cap"
        if mean("one_latent", lower) != mean("one_latent", higher):
            return "one latent a text and one a segment have other caps"
    return None


def combine(parts: Sequence[Part]) -> str:
    """`FAILS` where more parts do than chance alone would reverse, `HOLDS` where all do, else `OPEN`."""
    outcomes = [part.outcome for part in parts]
    if outcomes.count(FAILS) > by_chance(parts):
        return FAILS
    return HOLDS if outcomes and set(outcomes) == {HOLDS} else OPEN


def by_chance(parts: Sequence[Part]) -> float:
    """How many of these comparisons would at most be reversed, were all systems equal."""
    return sum(part.chance for part in parts)


__all__ = [
    "FAILS",
    "HOLDS",
    "MARGIN",
    "MIN_SEEDS",
    "OPEN",
    "OUTCOMES",
    "Part",
    "by_chance",
    "chance",
    "combine",
    "compare",
    "decide",
]
