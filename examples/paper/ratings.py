"""Table 4: blinded rating sheets from the texts of another experiment, and the filled ones read back."""

import json
import secrets
from collections import defaultdict
from pathlib import Path
from typing import Any

from experiment import RATINGS
from folder import TEXTS, ResultsFolder

from modeling_trace.evaluation import make_sheets, read_sheets, summarise

SHEETS = "sheets"
NOT_RATED = "not rated yet: give the folder of the filled sheets by --ratings"


def texts_by_system(path: Path, systems: list[str], decoding: str) -> dict[str, list[dict]]:
    """The texts of the first seed that each system wrote."""
    if not path.exists():
        raise ValueError(f"there are no texts in '{path}'. Run the experiment that writes them first, at this scale.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["decoding"] == decoding]
    seeds: dict[str, Any] = {}
    found = defaultdict(list)
    for row in rows:
        if seeds.setdefault(row["system"], row["seed"]) == row["seed"]:
            found[row["system"]].append(row)
    missing = [system for system in systems if not found[system]]
    if missing:
        raise ValueError(
            f"'{path}' has no texts of {', '.join(missing)}. Run its experiment again for what is missing."
        )
    return {system: found[system] for system in systems}


def rate(folder: ResultsFolder, source: Path, filled: Path | None) -> list[dict[str, Any]]:
    """
    Write the sheets, where there are none, and read the filled ones.

    Args:
        folder ([`ResultsFolder`]): where the sheets are.
        source (`Path`): the folder of results whose texts are rated.
        filled (`Path`, *optional*): the folder with the filled sheets.

    Returns:
        `list[dict]`: rows, of systems; holes without `filled`.
    """
    experiment = folder.plan.experiment
    sheets = folder.path / SHEETS
    if not sheets.exists():
        texts = texts_by_system(source / TEXTS, experiment.systems, experiment.decodings[0])
        make_sheets(texts, sheets, **experiment.ratings, criteria=RATINGS, seed=secrets.randbits(32))
        print(f"Sheets are in {sheets}: a form and a CSV file for each annotator. Keep key.json to yourself.")
    means = None if filled is None else summarise(read_sheets(filled, sheets / "key.json"))["means"]
    return [
        {
            "labels": {"system": system},
            "metrics": {name: cell["mean"] for name, cell in means[system].items()} if means else {},
            "intervals": {name: [cell["low"], cell["high"]] for name, cell in means[system].items()} if means else {},
            "seconds": {},
            "texts": experiment.ratings["num_prompts"],
            "failed": None if means else NOT_RATED,
        }
        for system in experiment.systems
    ]


__all__ = ["NOT_RATED", "SHEETS", "rate", "texts_by_system"]
