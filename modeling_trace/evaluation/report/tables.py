"""Tables of systems: metrics with intervals, tests of every pair, and marks only where the tests bear them out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from ..jackknife import Difference, Replicates
from ..multiple_tests import correct_tests
from .metric_values import METRICS
from .systems import REAL

BOUNDS = ("nats", "ppl", "ppl_word")  # upper bounds where there are latents
LOOSE = 3.0  # effective sample size below which nobody knows how far above the truth a bound is
SATURATED = 0.95  # share of its cap, log N, above which mutual information is a lower bound
BY_LENGTH = ("self_bleu", "distinct_2", "jaccard", "cnd", "rep_4", "compression")  # worse or better by length alone
LENGTH_RATIO = 1.25  # of words per text, above which these are not compared

Rows = Mapping[str, Mapping[str, Replicates | float]]


def make_table(
    identifier: str,
    title: str,
    columns: Sequence[dict[str, Any]],
    rows: Rows,
    confidence: float = 0.95,
    caption: str = "",
    untested: Sequence[str] = (),
) -> tuple[dict[str, Any], list[dict]]:
    """
    One table, with every pair of systems tested, and the best and second best of each column marked.

    Args:
        identifier (`str`), title (`str`), caption (`str`).
        columns (`Sequence[dict]`): from [`make_column`]; those that no row has are left out.
        rows (`Mapping[str, Mapping]`): metrics of each system by the columns' keys; `REAL` is shown, but not tested.
            Further keys say what a test needs, where it is known: `words` per text, `ess`, `mi_share_of_cap`.
        confidence (`float`, *optional*, defaults to 0.95): of intervals, and of the tests over the whole table.
        untested (`Sequence[str]`, *optional*): metrics that do not compare between these systems.

    Returns:
        `dict`: the table, JSON; and `list[dict]`: its tests.
    """
    columns = [dict(column) for column in columns if any(column["key"] in metrics for metrics in rows.values())]
    tested = [column for column in columns if column["metric"] not in untested]
    tests = _test_pairs(identifier, tested, {name: rows[name] for name in rows if name != REAL}, confidence)
    filled: list[dict[str, Any]] = [
        {"name": name, "cells": [make_cell(rows[name].get(c["key"]), confidence) for c in columns]} for name in rows
    ]
    for place, column in enumerate(columns):
        marks = _marks(column, rows, tests)
        for row in filled:
            if row["cells"][place] is not None:
                row["cells"][place]["mark"] = marks.get(row["name"])
    return {"id": identifier, "title": title, "columns": columns, "rows": filled, "caption": caption}, tests


def make_column(metric: str, num_texts: int, key: str | None = None, label: str | None = None) -> dict[str, Any]:
    """A column of a metric in `METRICS`; key and label only where there are several of one metric."""
    default_label, direction, decimals = METRICS[metric]
    arrow = {-1: " ↓", 0: "", 1: " ↑"}[direction]
    return {
        **{"metric": metric, "key": key or metric, "label": label or default_label + arrow},
        **{"decimals": decimals, "num_texts": num_texts},
    }


def make_difference_table(
    identifier: str,
    title: str,
    columns: Sequence[dict[str, Any]],
    rows: Rows,
    confidence: float = 0.95,
    untested: Sequence[str] = (),
) -> dict[str, Any]:
    """Each system less the first one; arguments as for [`make_table`]. Significant differences have a star."""
    columns = [
        {**column, "label": METRICS[column["metric"]][0]}
        for column in columns
        if any(column["key"] in metrics for metrics in rows.values())
    ]
    first, *others = rows
    tests, filled = [], []
    for name in others:
        cells = []
        for column in columns:
            cell, difference = None, _difference(column, rows[name], rows[first], confidence)
            if difference is not None:
                cell = {"value": difference.value, "low": difference.low, "high": difference.high, "signed": True}
                if column["metric"] not in untested:
                    tests.append({"p": difference.p_value, "cell": cell})
            cells.append(cell)
        filled.append({"name": name, "cells": cells})
    for test in correct_tests(tests, 1 - confidence):
        test["cell"].update(mark="differs" if test["significant"] else None, p_holm=test["p_holm"])
    caption = f"A star: differs at {1 - confidence:.0%} after Holm's correction over this table."
    return {"id": identifier, "title": title, "columns": columns, "rows": filled, "caption": caption}


def make_cell(metric: Replicates | float | None, confidence: float) -> dict[str, Any] | None:
    """Value and interval; without one for a plain number."""
    if metric is None:
        return None
    if not isinstance(metric, Replicates) or not metric.is_finite:
        return {"value": getattr(metric, "value", metric), "low": None, "high": None}
    interval = metric.interval(confidence)
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _test_pairs(identifier: str, columns, rows: Rows, confidence: float) -> list[dict]:
    """Every pair of systems in every metric that has a better and a worse, and by the judge."""
    tests = []
    for column in columns:
        if METRICS[column["metric"]][1] == 0 and column["metric"] != "judge":
            continue
        for first, second in combinations(rows, 2):
            difference = _difference(column, rows[first], rows[second], confidence)
            if difference is not None:
                tests.append(
                    {"table": identifier, "metric": column["metric"], "column": column["key"]}
                    | {"first": first, "second": second, "difference": difference.value}
                    | {"low": difference.low, "high": difference.high, "p": difference.p_value}
                )
                lengths = _unlike_lengths(column, rows[first], rows[second])
                if lengths is not None:
                    tests[-1]["lengths"] = lengths
    return correct_tests(tests, 1 - confidence)  # by chance alone, so many tables have any significant test


def _difference(column, first: Mapping, second: Mapping, confidence: float) -> Difference | None:
    """
    None where one of them has no such metric, or none that is a finite number.

    Nothing is shown, p = 1, where the metrics do not allow it: the higher of two is a loose upper bound, so that the
    truth may be below the other; the lower mutual information is at its cap, or only one of them is of single latents;
    the metric depends on the texts' lengths, and these differ much.
    """
    metrics = first.get(column["key"]), second.get(column["key"])
    if not all(isinstance(metric, Replicates) and metric.is_finite for metric in metrics):
        return None
    difference = metrics[0].difference(metrics[1], confidence)
    lower, higher = (second, first) if difference.value > 0 else (first, second)
    loose = column["metric"] in BOUNDS and higher.get("ess", math.inf) < LOOSE
    capped = column["metric"] == "mi" and (
        lower.get("mi_share_of_cap", 0) > SATURATED or first.get("one_latent") != second.get("one_latent")
    )
    unlike = _unlike_lengths(column, first, second) is not None
    return replace(difference, p_value=1.0) if loose or capped or unlike else difference


def _unlike_lengths(column, first: Mapping, second: Mapping) -> list[float] | None:
    """Words per text of both sets of texts, where they differ so much that the metric does not compare."""
    if column["metric"] not in BY_LENGTH:
        return None
    key = words_key(column["key"])
    lengths = [row.get(key, row.get("words")) for row in (first, second)]
    if None in lengths or max(lengths) <= LENGTH_RATIO * min(lengths):
        return None
    return lengths


def words_key(key: str) -> str:
    """Where a row has the words per text of one column alone; of all others they are under `words`."""
    return f"{key} words"


def _marks(column, rows: Rows, tests) -> dict[str, str]:
    """Best, and second of three or more, only where the system differs from every other one."""
    key, direction = column["key"], METRICS[column["metric"]][1]
    if direction == 0:
        return {}
    differs = {frozenset((t["first"], t["second"])) for t in tests if t["column"] == key and t["significant"]}
    metrics = {name: row.get(key) for name, row in rows.items() if name != REAL}
    having = {name: f.value for name, f in metrics.items() if isinstance(f, Replicates) and math.isfinite(f.value)}
    order = sorted(having, key=lambda name: -direction * having[name])
    marks = {}
    for name, mark in zip(order, ("best", "second")[: max(0, len(having) - 1)], strict=False):
        if all(frozenset((name, other)) in differs for other in having if other != name):
            marks[name] = mark
    return marks


__all__ = [
    "BOUNDS",
    "LOOSE",
    "REAL",
    "SATURATED",
    "make_cell",
    "make_column",
    "make_difference_table",
    "make_table",
    "words_key",
]
