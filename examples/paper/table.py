"""Results as a table for a screen: a row for each setting, means over its seeds, and holes with their reasons."""

from pathlib import Path
from typing import Any

from pooled import LABELS, REAL, Results, cell, label, pool


def table(content: dict[str, Any]) -> str:
    """
    Markdown, with the columns of the experiment that any row has.

    Args:
        content (`dict`): of a results.json.
    """
    results = Results(content, Path())
    rows = results.rows
    labels = [name for name in LABELS if name == "system" or len(set(results.labels(name)) - {None}) > 1]
    metrics = [name for name in content["columns"] if any(row["metrics"].get(name) is not None for row in rows)]
    lines = [[*labels, *map(label, metrics)]]
    lines.append(["---"] * len(lines[0]))
    reasons = []
    for own, same in sorted(results.groups(), key=lambda group: group[0].get("system") != REAL):
        names = [str("" if own.get(name) is None else own[name]) for name in labels]
        failed = [row for row in same if row["failed"]]
        cells = [cell(pool(same, metric), metric) for metric in metrics]
        lines.append([*names, *(["hole"] * len(cells) if len(failed) == len(same) else cells)])
        reasons += [
            f"- {', '.join(filter(None, names))}, seed {row['labels'].get('seed')}: {row['failed']}" for row in failed
        ]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return shown + ("\n\nHoles:\n" + "\n".join(reasons) if reasons else "")


__all__ = ["table"]
