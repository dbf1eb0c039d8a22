"""
The tables and figures of the paper, each by one command; see README.md beside this file.

    python examples/paper/run.py table2 --scale smoke --output results
    python examples/paper/run.py table2 --scale paper --output results --data yelp=yelp/ yahoo=yahoo/ --dry_run
"""

import argparse
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from cells import BaseTrainingError, run_model_cell, run_step_time_cell
from experiment import check_name, experiment_names, load
from folder import NOT_RUN, ResultsFolder
from plan import Cell, Plan, make_plan
from ratings import NOT_RATED, rate
from table import table
from texts import load_cut_texts
from transformers.utils import logging

from modeling_trace.utils import one_line

# What the paper does not say, and this stands on
INFERRED = (
    "the number of steps; the paper names none",
    "cyclical annealing: 4 cycles, the weight rising over the first half of each (Fu et al. 2019)",
    "the KL as a mean over segments and dimensions, which the published values imply; kl is the sum, kl_per_dim that "
    "mean, neg_elbo and neg_elbo_mean_kl have one each",
    "[SEP] in the perplexity: ppl pays for it and does not count it; ppl_without_sep does neither, ppl_with_sep both",
    "MI: the published estimator is not named; mi_cap is what ours can be at most, the sum of log N over steps",
    "texts that Dist, JS, Self-BLEU and CND are of: as many as there are test texts",
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help=f"{', '.join(experiment_names())}, or the path of a YAML file like theirs")
    parser.add_argument("--scale", default="smoke", help="smoke, cpu or paper: scales.yaml")
    parser.add_argument("--output", default="results", help="folder of all results and trained models")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH", help="data sets in place of the scale's")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the training, in place of the scale's")
    parser.add_argument("--recipe", default="ours", help="ours, or paper: what the paper states, and infers")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the scale or the experiment")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and what it will take, and stop")
    parser.add_argument("--only_report", action="store_true", help="put together what is finished, and train nothing")
    parser.add_argument("--allow_cpu", action="store_true", help="where the scale needs a GPU")
    parser.add_argument("--ratings", help="table4: the folder with the filled sheets")
    return parser.parse_args(argv)


def pairs(name: str, given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not (key and equals and value):
            raise ValueError(f"`--{name}` must be NAME=VALUE, got '{one}'.")
        if key in found:
            raise ValueError(f"`--{name}` has {key} twice, {found[key]} and {value}. Leave one out.")
        found[key] = value
    return found


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"`--set` {name} must be a YAML value, got '{text}': {one_line(error)}") from None


def _check_output(folder: Path) -> None:
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ValueError(f"`--output` must be a folder, got '{folder}', and '{there}' is a file.")


def prepare(arguments: argparse.Namespace) -> tuple[Plan, dict]:
    """All that can be wrong is found here."""
    settings = {name: _value(name, text) for name, text in pairs("set", arguments.set).items()}
    _check_output(Path(arguments.output))
    if arguments.seeds is not None:
        settings["seeds"] = arguments.seeds
    check_name("recipe", arguments.recipe, ("ours", "paper"))
    data = pairs("data", arguments.data)
    experiment, scale = load(arguments.experiment, arguments.scale, data, settings)
    if experiment.kind == "step_time" and (data or arguments.seeds is not None):
        flag = "data" if data else "seeds"
        raise ValueError(
            f"`--{flag}` is of trainings, and '{experiment.name}' times steps of made-up texts. Leave it out."
        )
    if arguments.ratings is not None and experiment.kind != "ratings":
        raise ValueError(f"`--ratings` is for an experiment of ratings, such as table4, got '{experiment.name}'.")
    if arguments.ratings is not None and not Path(arguments.ratings).is_dir():
        raise ValueError(
            f"`--ratings` must be the folder with the filled sheets, got '{arguments.ratings}', which is none."
        )
    if scale.needs_gpu and experiment.kind != "ratings" and not (torch.cuda.is_available() or arguments.allow_cpu):
        raise ValueError(
            f"`--scale {arguments.scale}` needs a GPU, and none is found. Use --scale cpu, or --allow_cpu."
        )
    texts = {}
    for name, path in scale.data.items():
        try:
            texts[name] = load_cut_texts(path, experiment.conditional, scale)
        except ValueError as error:  # which speaks of `source`
            raise ValueError(f"`--data {name}=...`: {error}") from None
    return make_plan(experiment, scale, arguments.scale, arguments.recipe, texts), texts


def run_cell(cell: Cell, texts: dict, folder: ResultsFolder) -> dict:
    if cell.training is None:
        return run_step_time_cell(cell)
    return run_model_cell(cell, texts[cell.labels["dataset"]], folder.models)


def run_cells(plan: Plan, texts: dict, folder: ResultsFolder) -> dict[str, str]:
    """Every cell that is not done. Returns the reasons of those that failed, by their keys."""
    failed: dict[str, str] = {}
    broken: dict[str, BaseTrainingError] = {}  # by the key of a model that others would be trained from
    to_do = [cell for cell in plan.cells if not folder.is_done(cell)]
    if len(to_do) < len(plan.cells):
        print(f"{len(plan.cells) - len(to_do)} of {len(plan.cells)} cells are done already.", flush=True)
    start = time.monotonic()
    for number, cell in enumerate(to_do, 1 + len(plan.cells) - len(to_do)):
        name = " ".join(str(value) for value in cell.labels.values() if value is not None)
        base = cell.training and cell.training.base
        try:
            if base and base.key in broken:
                raise broken[base.key]
            result = run_cell(cell, texts, folder)
            folder.keep(cell, result)
            outcome = "trained and measured" if result["trained"] else "measured"
        except Exception as error:  # the others go on
            failed[cell.key] = reason = folder.log(cell, error)
            if isinstance(error, BaseTrainingError):
                broken[base.key] = error
            outcome = f"FAILED, {reason}"
        elapsed = time.monotonic() - start
        done = number - (len(plan.cells) - len(to_do))
        left = elapsed / done * (len(to_do) - done)
        times = f"elapsed {_time(elapsed)}, about {_time(left)} left"
        print(f"cell {number} of {len(plan.cells)}, {name}: {outcome}; {times}", flush=True)
    return failed


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


MANY_PASSES = 10  # over the same texts: a small model of a few thousand then knows them by heart


def describe(plan: Plan, folder: ResultsFolder, texts: dict) -> str:
    scale = plan.scale
    lines = [
        f"{plan.experiment.title}",
        f"scale {plan.scale_name}, recipe {plan.recipe}: {len(plan.cells)} cells, {len(plan.trainings)} models of "
        f"{sum(one.steps for one in plan.trainings):,} steps in all; results in {folder.path}",
    ]
    for name, own in texts.items():
        passes = [steps * scale.batch_size / len(own.train) for steps in (scale.base_steps, scale.steps)]
        lines.append(f"{name}: {len(own.train):,} training texts, {passes[0]:.1f} passes and {passes[1]:.1f} more")
        if max(passes) > MANY_PASSES:
            lines[-1] += "; the models will know them by heart. Lower `base_steps` and `steps` by --set"
    if plan.recipe == "paper" or plan.scale_name == "paper":
        lines += ["What the paper does not say, inferred:", *(f"- {line}" for line in INFERRED)]
    return "\n".join(lines)


def dry_run(plan: Plan, folder: ResultsFolder, texts: dict) -> None:
    from estimate import estimate

    for cell in plan.cells:
        state = "done" if folder.is_done(cell) else "to do"
        print(f"- {' '.join(str(value) for value in cell.labels.values() if value is not None)}: {state}")
    found = estimate(plan, folder, texts)
    print(f"To do: {found['cells']} cells, {found['trainings']} models, {found['steps']:,} steps.")
    print(f"Disk: about {found['bytes'] / 1e6:,.0f} MB.")
    if found["seconds"] is not None:
        print(f"Time: about {_time(found['seconds'])} on this machine, by a few steps and texts of each system.")


def main(argv: list[str] | None = None) -> dict | None:
    arguments = parse(argv)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    plan, texts = prepare(arguments)
    root = Path(arguments.output)
    folder = ResultsFolder(root, plan)
    print(describe(plan, folder, texts), flush=True)
    if arguments.dry_run:
        return dry_run(plan, folder, texts)
    folder.open()
    command = "python examples/paper/run.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    if plan.experiment.kind == "ratings":
        source = root / f"{plan.experiment.texts_of}{folder.path.name.removeprefix(plan.experiment.name)}"
        results = folder.write(command, {}, rate(folder, source, arguments.ratings and Path(arguments.ratings)))
    else:
        failed = {} if arguments.only_report else run_cells(plan, texts, folder)
        results = folder.write(command, failed, training_texts={name: len(own.train) for name, own in texts.items()})
    print(table(results))
    report(results, folder)
    return results


def report(results: dict, folder: ResultsFolder) -> None:
    """The plots and the page of these results."""
    from plots import draw
    from results_page import write_page

    draw(results, folder.path)
    write_page([folder.path], folder.path / "results.md")


def exit_code(results: dict | None) -> int:
    """1 where a cell failed in this run."""
    return int(any(row.get("failed") not in (None, NOT_RUN, NOT_RATED) for row in (results or {"rows": []})["rows"]))


if __name__ == "__main__":
    try:
        sys.exit(exit_code(main()))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
