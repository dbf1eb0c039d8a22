"""The published numbers, and what results say of them: which of them the same way round, and by which definition."""

import math
from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pooled import Pooled, Results
from rules import Part, compare

NOT_A_DEFINITION = ("mi_share_of_cap", "bleu_to_set")  # begin as a metric does, but are no other reading of it
CAPS = {"mi": "mi_cap"}  # shown beside the readings: what a metric can be at most


@cache
def read_reference() -> dict[str, Any]:
    """The content of reference.yaml."""
    return yaml.safe_load((Path(__file__).parent / "reference.yaml").read_text(encoding="utf-8"))


def published(experiment: str) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Labels and metrics of the rows of a table; empty where none is published."""
    table = read_reference().get(experiment)
    if table is None:
        return []
    return [
        (
            {name: value for name, value in row.items() if name != "values"} | table.get("labels", {}),
            {
                metric: value
                for metric, value in zip(table["metrics"], row["values"], strict=True)
                if value is not None
            },
        )
        for row in table["rows"]
    ]


def published_for(experiment: str, labels: Mapping[str, Any]) -> dict[str, float]:
    """The published metrics of a row with these labels."""
    return next(
        (
            metrics
            for own, metrics in published(experiment)
            if all(labels.get(name) == value for name, value in own.items())
        ),
        {},
    )


def orderings(results: Results) -> list[Part]:
    """Every pair of systems that a table tells apart in a metric: whether results have the same order."""
    parts = []
    rows = published(results.experiment)
    present = set(results.datasets)
    for (first, ours), (second, theirs) in combinations(rows, 2):
        place = {name: value for name, value in first.items() if name != "system"}
        if place != {name: value for name, value in second.items() if name != "system"}:
            continue
        if "dataset" in place and place["dataset"] not in present:
            continue
        for metric in ours:
            if metric in theirs and ours[metric] != theirs[metric]:
                direction = 1 if ours[metric] > theirs[metric] else -1
                parts.append(compare(results, metric, direction, first, second))
    return parts


class Definition(NamedTuple):
    """A published number beside all readings of its metric; `nearest` by the ratio."""

    labels: dict[str, Any]
    metric: str
    published: float
    readings: dict[str, Pooled]
    nearest: str


def definitions(results: Results) -> list[Definition]:
    """Where a metric was measured by more than one definition: which comes closest to what was published."""
    found = []
    for own, metrics in published(results.experiment):
        for metric, value in metrics.items():
            names = [
                metric,
                *sorted({name for row in results.rows for name in row["metrics"] if is_reading(name, metric)}),
            ]
            readings = {name: results.find(name, **own) for name in names}
            readings = {name: one for name, one in readings.items() if isinstance(one, Pooled)}
            ratios = {
                name: abs(math.log(one.mean / value))
                for name, one in readings.items()
                if one.mean > 0 and value > 0 and name != CAPS.get(metric)
            }
            if len(readings) > 1 and ratios:
                found.append(Definition(own, metric, value, readings, min(ratios, key=ratios.get)))
    return found


def is_reading(name: str, metric: str) -> bool:
    """Whether a metric is another definition of a published one: `kl_per_dim` of `kl`."""
    return name.startswith(f"{metric}_") and name not in NOT_A_DEFINITION


__all__ = [
    "CAPS",
    "Definition",
    "definitions",
    "is_reading",
    "orderings",
    "published",
    "published_for",
    "read_reference",
]
