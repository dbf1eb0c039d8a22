"""
All benchmarks, one after the other: `python benchmarks/run_all.py --size small`, or `tiny` (seconds, to see that all
run) or `full` (the size of GPT-2 small).

Each writes its own files; `all.json` and `all.md` beside them hold everything, first of all each goal, what was
measured, and by how much it is met or missed. Nothing fails for being slow.
"""

import argparse
import json
from pathlib import Path

import comparison
import compiled
import data
import generation
import likelihood
import long_texts
import systems
import text_metrics
import training
from common import add_run_arguments
from reporting import goals_table, machine_line, markdown

MODULES = (training, long_texts, generation, systems, likelihood, text_metrics, data, compiled, comparison)
BENCHMARKS = {module.__name__: module for module in MODULES}


def main(argv=None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "small", "full"], default="small")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    add_run_arguments(parser, rounds=None)
    arguments = parser.parse_args(argv)
    flags = ["--size", {"full": "gpt2"}.get(arguments.size, arguments.size), "--output", arguments.output]
    flags += ["--device", arguments.device]
    if arguments.rounds is not None:
        flags += ["--rounds", str(arguments.rounds)]
    results = [BENCHMARKS[name].main(flags) for name in arguments.only]
    folder = Path(arguments.output)
    (folder / "all.json").write_text(json.dumps(results, indent=1) + "\n")
    goals = [one for result in results for one in result["goals"]]
    parts = [f"# Benchmarks, size {arguments.size}", machine_line(results[-1]["machine"])]
    if goals:
        parts.append(f"## Goals\n\n{goals_table(goals)}")
    (folder / "all.md").write_text("\n\n".join([*parts, *map(markdown, results)]))
    return results


if __name__ == "__main__":
    main()
