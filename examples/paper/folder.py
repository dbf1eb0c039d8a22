"""A folder of results: of one configuration, with every finished cell, and what is put together from them."""

import datetime
import json
import subprocess
import traceback
from pathlib import Path
from typing import Any

import cells  # noqa: F401, for the folder of the benchmarks
import torch
from plan import Cell, Plan
from pooled import RESULTS
from reporting import machine

from modeling_trace import __version__
from modeling_trace.utils import atomic_write, one_line

CONFIGURATION, TEXTS = "configuration.json", "texts.jsonl"
NOT_RUN = "not run yet"
MAY_GROW = (("scale", "seeds"), ("scale", "data"), ("experiment", "datasets"))


class ResultsFolder:
    """
    Args:
        root (`Path`): of all experiments; trained models are shared, in its folder `models`.
        plan ([`Plan`]): its experiment, scale and recipe name the folder.

    Raises:
        ValueError: where the folder is of another configuration. More seeds or data sets than before are no other one.
    """

    def __init__(self, root: Path, plan: Plan):
        self.plan, self.models = plan, root / "models"
        recipe = "" if plan.recipe == "ours" else f"-{plan.recipe}-recipe"
        self.path = root / f"{plan.experiment.name}-{plan.scale_name}{recipe}"
        self._check()

    def _check(self) -> None:
        file = self.path / CONFIGURATION
        wanted = json.loads(json.dumps(self.plan.configuration))
        if file.exists():
            there = json.loads(file.read_text())
            for name in difference(there, wanted):
                raise ValueError(
                    f"'{self.path}' holds results of another configuration: `{name[0]}` was {name[1]}, and is "
                    f"{name[2]}. Choose another --output; a trained model of the old one is found in '{self.models}'."
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"'{self.path}' holds something else than results. Choose another --output.")

    def open(self) -> None:
        """Make it, where it is new."""
        atomic_write(self.path / CONFIGURATION, json.dumps(self.plan.configuration, indent=1) + "\n")

    def file_of(self, cell: Cell) -> Path:
        return self.path / "cells" / cell.key / "result.json"

    def is_done(self, cell: Cell) -> bool:
        return self.file_of(cell).exists()

    def keep(self, cell: Cell, result: dict[str, Any]) -> None:
        """Write a finished cell: its texts, then what says that it is finished."""
        file = self.file_of(cell)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in result["texts"])
        atomic_write(file.parent / TEXTS, "".join(lines))
        rest = {name: value for name, value in result.items() if name not in ("texts", "trained")}
        what = {"labels": cell.labels, "settings": cell.settings, "model": cell.training and cell.training.key}
        what["made"] = circumstances()
        atomic_write(file, json.dumps({**what, **rest}, indent=1) + "\n")

    def log(self, cell: Cell, error: BaseException) -> str:
        """Write the traceback of a cell that failed; returns the reason in one line."""
        file = self.path / "logs" / f"{cell.key}.log"
        atomic_write(file, "".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {one_line(error)[:300]}"

    def write(
        self,
        command: str,
        failed: dict[str, str],
        rows: list[dict[str, Any]] | None = None,
        training_texts: dict[str, int] | None = None,
    ) -> dict[str, Any]:
        """
        Put results.json and texts.jsonl together.

        Args:
            command (`str`): that made them.
            failed (`dict[str, str]`): reasons by the keys of cells.
            rows (`list[dict]`, *optional*): in place of those of the cells.
            training_texts (`dict[str, int]`, *optional*): how many each data set has.

        Returns:
            `dict`: what results.json holds.
        """
        plan = self.plan
        results = {
            "experiment": plan.experiment.name,
            "title": plan.experiment.title,
            "scale": plan.scale_name,
            "recipe": plan.recipe,
            "command": command,
            **self._circumstances(),
            "configuration": plan.configuration,
            "training_texts": training_texts or {},
            "columns": plan.experiment.metrics,
            "rows": self._rows(failed) if rows is None else rows,
        }
        files = [self.file_of(cell).parent / TEXTS for cell in plan.cells if self.is_done(cell)]
        if files:
            atomic_write(self.path / TEXTS, "".join(file.read_text(encoding="utf-8") for file in files))
        atomic_write(self.path / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
        return results

    def _circumstances(self) -> dict[str, Any]:
        """Those of the cells, which may be of several days and machines; of now where there are none."""
        done = [cell for cell in self.plan.cells if self.is_done(cell)]
        made = [json.loads(self.file_of(cell).read_text())["made"] for cell in done] or [circumstances()]
        return {
            **{name: _all_of([one[name] for one in made]) for name in made[0] if name != "machine"},
            "machine": {name: _all_of([one["machine"][name] for one in made]) for name in made[0]["machine"]},
        }

    def _rows(self, failed: dict[str, str]) -> list[dict[str, Any]]:
        rows, seen = [], set()
        for cell in self.plan.cells:
            if not self.is_done(cell):
                reason = failed.get(cell.key, NOT_RUN)
                rows += [
                    {"labels": labels, "metrics": {}, "intervals": {}, "seconds": {}, "texts": 0, "failed": reason}
                    for labels in holes(cell)
                ]
                continue
            for row in json.loads(self.file_of(cell).read_text())["rows"]:
                label = json.dumps(row["labels"], sort_keys=True)
                if label not in seen:  # every cell of a data set has the real texts' row
                    seen.add(label)
                    rows.append(row)
        return rows


def circumstances() -> dict[str, Any]:
    """In which results come about."""
    return {
        "commit": commit(),
        "package_version": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
    }


def _all_of(values: list[Any]) -> Any:
    """The one value that all have, or all that there are in one string."""
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else " and ".join(map(str, different))


def holes(cell: Cell) -> list[dict[str, Any]]:
    """The labels of the rows that a cell would have had, without points of the plane."""
    if cell.training is None:
        return [{**cell.labels, "system": system} for system in cell.settings["systems"]]
    return [{**cell.labels, "decoding": decoding} for decoding in cell.settings["decodings"]]


def difference(there: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields in which two configurations differ, with both values; a list or dict that may grow may."""
    found = []
    for part in ("experiment", "scale"):
        for name in {*there[part], *wanted[part]}:
            old, new = there[part].get(name), wanted[part].get(name)
            grown = (part, name) in MAY_GROW and (
                old.items() <= new.items() if isinstance(old, dict) else set(old) <= set(new)
            )
            if old != new and not grown:
                found.append((name, old, new))
    return sorted(found, key=lambda one: one[0])


def commit() -> str | None:
    """Of the repository that this file is in."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None


def describe_machine() -> dict[str, Any]:
    found = machine()
    return {
        "cpu": found["CPU"],
        "cores": found["cores"],
        "threads": found["threads"],
        "torch": found["torch"],
        "device": found["GPU"] or "cpu",
        "devices": max(1, torch.cuda.device_count()),
    }


__all__ = ["TEXTS", "ResultsFolder", "commit", "describe_machine", "difference"]
