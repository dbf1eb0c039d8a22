"""
Results of the benchmarks, as JSON, Markdown and a plot, with the machine that they come from and what was aimed at.
Written by each benchmark, and for all of them by `python benchmarks/run_all.py`.
"""

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path

import torch
import transformers
from matplotlib.figure import Figure


def machine() -> dict:
    """What the figures were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "date": date.today().isoformat(),
        "CPU": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def goal(text: str, measured: float | None, limit: float, at_least: bool = False) -> dict:
    met = None if measured is None else bool(measured >= limit if at_least else measured <= limit)
    return {"goal": text, "limit": limit, "at_least": at_least, "measured": measured, "met": met}


def _verdict(one: dict) -> str:
    if one["met"] is None:
        return "not measured"
    return f"{'met' if one['met'] else '**missed**'} by {abs(one['measured'] / one['limit'] - 1):.0%}"


def _cell(value) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _table(rows: list[dict]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goals_table(goals: list[dict]) -> str:
    """Each goal, what was measured, and by how much it is met or missed."""
    return _table(
        [
            {
                "goal": f"{one['goal']} {'>=' if one['at_least'] else '<='} {one['limit']:g}",
                "measured": one["measured"],
                "verdict": _verdict(one),
            }
            for one in goals
        ]
    )


def machine_line(machine: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)


def markdown(results: dict) -> str:
    """One benchmark's results as a section of Markdown."""
    parts = [f"## {results['name']}", machine_line(results["machine"])]
    parts.append("Arguments: " + ", ".join(f"{name} {value}" for name, value in results["arguments"].items()))
    if results["goals"]:
        parts.append(goals_table(results["goals"]))
    parts += [f"### {title}\n\n{_table(rows)}" for title, rows in results["tables"].items() if rows]
    return "\n\n".join([*parts, "Times and ratios are medians over rounds (least to greatest)."]) + "\n"


def write_results(name: str, arguments: argparse.Namespace, tables: dict, goals=(), plot: dict | None = None) -> dict:
    """
    Write `name`.json, `name`.md and, with a `plot` (`title`, `x`, `y`, and `lines`: label to two lists), `name`.png.

    Returns:
        `dict`: what the JSON file holds.
    """
    results = {
        "name": name,
        "machine": machine(),
        "arguments": {key: value for key, value in vars(arguments).items() if key != "output"},
        "goals": list(goals),
        "tables": tables,
        "plot": plot,
    }
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (folder / f"{name}.md").write_text(text)
    if plot is not None:
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot(title=plot["title"], xlabel=plot["x"], ylabel=plot["y"])
        for label, (x, y) in plot["lines"].items():
            axes.plot(x, y, marker="o", label=label)
        axes.set_ylim(bottom=0)
        axes.legend()
        figure.savefig(folder / f"{name}.png", dpi=150)
    print(text, flush=True)
    return results
