"""Results as a table for a screen: a row for each setting, means over its seeds, and holes with their reasons."""

import json
import statistics
from typing import Any

from modeling_trace.evaluation import METRICS

LABELS = ("dataset", "system", "decoding", "segment_length", "steps", "temperature", "latent_temperature")


def group_seeds(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows that differ in their seed alone, by their other labels as JSON, in the order of the rows."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        labels = {name: value for name, value in row["labels"].items() if name != "seed"}
        groups.setdefault(json.dumps(labels, sort_keys=True), []).append(row)
    return groups


def table(results: dict[str, Any]) -> str:
    """Markdown. The spread, greatest minus least, stands behind a mean over several seeds."""
    rows = results["rows"]
    labels = [name for name in LABELS if len({json.dumps(row["labels"].get(name)) for row in rows}) > 1]
    metrics = [name for name in results["columns"] if any(row["metrics"].get(name) is not None for row in rows)]
    lines = [[*labels, *(METRICS[name][0] if name in METRICS else name.replace("_", " ") for name in metrics)]]
    reasons = []
    for same in group_seeds(rows).values():
        own = same[0]["labels"]
        cells = [str("" if own.get(name) is None else own[name]) for name in labels]
        done = [row for row in same if row["failed"] is None]
        failed = [row for row in same if row["failed"] is not None]
        name = ", ".join(cell for cell in cells if cell) or "all"
        reasons += [f"- {name}, seed {row['labels'].get('seed')}: {row['failed']}" for row in failed]
        lines.append(cells + [_cell([row["metrics"].get(metric) for row in done], bool(failed)) for metric in metrics])
    lines.insert(1, ["---"] * len(lines[0]))
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return shown + ("\n\nHoles:\n" + "\n".join(reasons) if reasons else "")


def _cell(values: list[float | None], has_holes: bool) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "hole" if has_holes else ""
    spread = f" ({max(numbers) - min(numbers):.3g})" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.4g}{spread}"


__all__ = ["group_seeds", "table"]
