"""For tests of examples/paper: its modules by name, and results as its runner writes them, of made-up numbers."""

import contextlib
import json
import sys
from pathlib import Path

PAPER = Path(__file__).parents[2] / "examples" / "paper"
SEEDS = (0, 1, 2)


@contextlib.contextmanager
def paper_modules():
    """Scripts import each other as where they are started by name; nothing of them is left afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(PAPER))
    try:
        yield
    finally:
        sys.path.remove(str(PAPER))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(PAPER)):
                del sys.modules[name]


def row(labels: dict, metrics: dict, **fields) -> dict:
    return {
        "labels": labels,
        "metrics": metrics,
        "intervals": {},
        "seconds": {},
        "texts": 500,
        "failed": None,
    } | fields


def over_seeds(labels: dict, metrics: dict, seeds=SEEDS, spread: float = 0.01, **fields) -> list[dict]:
    """A row for each seed, with the middle one's metrics as given and the others a share of `spread` around it."""
    steps = [0.0] if len(seeds) == 1 else [2 * place / (len(seeds) - 1) - 1 for place in range(len(seeds))]
    return [
        row(
            {**labels, "seed": seed},
            {name: value * (1 + spread / 2 * step) for name, value in metrics.items()},
            **fields,
        )
        for seed, step in zip(seeds, steps, strict=True)
    ]


def content(experiment: str, rows: list[dict], scale: str = "cpu", **fields) -> dict:
    return {
        "experiment": experiment,
        "scale": scale,
        "command": f"python examples/paper/run.py {experiment} --scale {scale}",
        "commit": "0123456789ab",
        "package_version": "0.1.0",
        "machine": {"cpu": "a processor", "cores": 2, "torch": "2.13.0", "device": "cpu"},
        "date": "2026-01-02",
        "configuration": {},
        "rows": rows,
        **fields,
    }


def write_results(root: Path, *contents: dict) -> Path:
    for one in contents:
        folder = root / f"{one['experiment']}-{one['scale']}-{one.get('recipe', 'ours')}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(one))
    return root


__all__ = ["PAPER", "SEEDS", "content", "over_seeds", "paper_modules", "row", "write_results"]
