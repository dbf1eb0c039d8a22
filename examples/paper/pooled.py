"""Results of experiments as they were written, and their metrics pooled over seeds."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from modeling_trace.evaluation.report.metric_values import METRICS
from modeling_trace.utils import one_line

RESULTS = "results.json"
REAL = "real text"
# In the order in which they tell rows apart
LABELS = ("dataset", "system", "decoding", "segment_length", "steps", "temperature", "latent_temperature")

# Of metrics that the runner makes of those of the package, and of its benchmarks
OWN_LABELS = {
    "neg_elbo_mean_kl": "-ELBO, mean KL",
    "seconds_per_step": "seconds a step",
    "ratio_to_plain": "step / plain step",
    "ratio_to_trace_p": "step / TRACE-P's step",
}


@dataclass(frozen=True)
class Pooled:
    """
    A metric of one setting.

    Args:
        values (`tuple[float]`): one of each seed, or one that has no seed.
        seeds (`tuple`): of the values; empty for a measurement that depends on no training.
        interval (`tuple[float, float]`, *optional*): over texts, raters or rounds, of a single value.
        texts (`tuple[int]`): how many each value is of.
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    interval: tuple[float, float] | None = None
    texts: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def low(self) -> float:
        """The least of several seeds, or the lower end of the interval of one value."""
        return min(self.values) if len(self.values) > 1 or self.interval is None else self.interval[0]

    @property
    def high(self) -> float:
        return max(self.values) if len(self.values) > 1 or self.interval is None else self.interval[1]

    @property
    def spread(self) -> float | None:
        """Greatest less least of several seeds; the interval's width for what has no seed; None where unknown."""
        if len(self.values) > 1:
            return self.high - self.low
        return None if self.seeds or self.interval is None else self.interval[1] - self.interval[0]

    def scaled(self, factor: float) -> "Pooled":
        interval = None if self.interval is None else (factor * self.interval[0], factor * self.interval[1])
        return Pooled(tuple(factor * value for value in self.values), self.seeds, interval, self.texts)


class Results:
    """
    The content of a results.json.

    Args:
        content (`dict`): as the runner writes it.
        folder (`Path`): where it was found.
    """

    def __init__(self, content: dict[str, Any], folder: Path):
        self.content, self.folder = content, folder
        self.experiment, self.scale = str(content["experiment"]), str(content["scale"])
        self.recipe = str(content.get("recipe", "ours"))
        self.rows: list[dict[str, Any]] = content["rows"]

    @property
    def datasets(self) -> list[str | None]:
        """In their order; [None] for an experiment without."""
        found = {row["labels"].get("dataset"): None for row in self.rows}
        return [name for name in found if name is not None] or [None]

    def labels(self, name: str, **where) -> list:
        """The different values of a label, in the order of the rows."""
        return list({row["labels"].get(name): None for row in self._matching(where)})

    def groups(self, **where) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Rows that differ in their seed alone, with their other labels."""
        found: dict[str, tuple[dict[str, Any], list]] = {}
        for row in self._matching(where):
            labels = {name: value for name, value in row["labels"].items() if name != "seed"}
            found.setdefault(json.dumps(labels, sort_keys=True), (labels, []))[1].append(row)
        return list(found.values())

    def find(self, metric: str, **where) -> Pooled | str:
        """
        A metric over the seeds of the one setting that has these labels.

        Args:
            metric (`str`): its name.
            **where: labels; those that are not named may be any, but the same in all rows that are found.

        Returns:
            [`Pooled`], or the reason why there is none.
        """
        where = {name: value for name, value in where.items() if value is not None}
        groups, name = self.groups(**where), ", ".join(map(str, where.values()))
        if not groups:
            return f"no results of {name}"
        if len(groups) > 1:
            return f"{len(groups)} settings of {name}"
        found = pool(groups[0][1], metric)
        if found is None:
            reasons = [row["failed"] for row in groups[0][1] if row.get("failed")]
            return f"{name}: {reasons[0]}" if reasons else f"no {label(metric)} of {name}"
        return found

    def _matching(self, where: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in self.rows if all(row["labels"].get(name) == value for name, value in where.items())]


def pool(rows: Sequence[dict[str, Any]], metric: str) -> Pooled | None:
    """A metric of rows that differ in their seed alone; None where no row has it."""
    having = [row for row in rows if not row.get("failed") and _is_number(row["metrics"].get(metric))]
    if not having:
        return None
    intervals = [(row.get("intervals") or {}).get(metric) for row in having]
    single = intervals[0] if len(having) == 1 and intervals[0] and None not in intervals[0] else None
    return Pooled(
        tuple(float(row["metrics"][metric]) for row in having),
        tuple(row["labels"]["seed"] for row in having if row["labels"].get("seed") is not None),
        None if single is None else (float(single[0]), float(single[1])),
        tuple(row["texts"] for row in having if row.get("texts") is not None),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def read_results(folders: Sequence[str | os.PathLike]) -> list[Results]:
    """
    All results in folders, or in the folders in them, by experiment and scale.

    Raises:
        ValueError: in one line, for a folder without results and for a file that is none.
    """
    found = []
    for folder in map(Path, folders):
        files = [folder / RESULTS] if (folder / RESULTS).is_file() else sorted(folder.glob(f"*/{RESULTS}"))
        if not files:
            what = "holds no results.json" if folder.is_dir() else "is not there"
            raise ValueError(f"`results` folder '{folder}' {what}. Give one that examples/paper/run.py wrote.")
        found += [_read(file) for file in files]
    return sorted(found, key=lambda one: (one.experiment, one.scale, one.recipe, str(one.folder)))


def _read(file: Path) -> Results:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for row in content["rows"]:
            if not (isinstance(row["labels"], dict) and isinstance(row["metrics"], dict)):
                raise TypeError("a row without labels and metrics")
        return Results(content, file.parent)
    except KeyError as error:
        raise ValueError(f"`results` file '{file}' must hold {error}, and has none.") from None
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"`results` file '{file}' could not be read: {one_line(error)}.") from None


def label(metric: str) -> str:
    """What a metric is called in a table."""
    return METRICS[metric][0] if metric in METRICS else OWN_LABELS.get(metric, metric.replace("_", " "))


def number(value: float, metric: str) -> str:
    """A value to the digits that its metric is shown with; small ones to three significant digits."""
    decimals = METRICS[metric][2] if metric in METRICS else None
    if decimals is None or (value and abs(value) < 10**-decimals):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.1f}"
    return f"{value:.{decimals}f}"


def cell(pooled: Pooled | None, metric: str) -> str:
    """The mean with what is known of its spread: `12.3 (0.4)` over seeds, `12.3 ± 0.4` over texts."""
    if pooled is None:
        return ""
    text = number(pooled.mean, metric)
    if len(pooled.values) > 1:
        return f"{text} ({number(pooled.high - pooled.low, metric)})"
    if pooled.interval is not None:
        return f"{text} ± {number((pooled.interval[1] - pooled.interval[0]) / 2, metric)}"
    return text


__all__ = ["LABELS", "REAL", "RESULTS", "Pooled", "Results", "cell", "label", "number", "pool", "read_results"]
