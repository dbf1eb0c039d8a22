"""`modeling-trace demo`: what recurrent latents do, on a laptop, offline, in minutes."""

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from .parser import CommandParser, flag

PLAN = """\
This demo trains two tiny models on built-in reviews, offline, and compares what they generate. On one CPU core it
takes about three minutes:
    1. a plain language model                                    about 1 minute
    2. TRACE from that model, with a latent for each sentence    about 1.5 minutes, first texts after 20 seconds
    3. texts of both side by side, the training curves, a map of the latents
Ctrl-C stops it and keeps what is finished.
"""
RESULTS = {
    "model": "TRACE and its processor",
    "plain-lm": "the plain language model that it started from",
    "samples.jsonl": "all texts printed above, and the greedy ones that were counted",
    "held-out.jsonl": "1,000 more reviews, to compare the two models on",
    "curves.png": "reconstruction, KL and KL weight during training (training_log.json)",
    "latents.png": "the latents in two dimensions, coloured by what the sentence is about",
}


@dataclasses.dataclass
class DemoArguments:
    """Where the results go, and the seed."""

    output_dir: str = flag("trace-demo", "Folder for all results.")
    overwrite: bool = flag(False, "Replace the results of an earlier demo there.")
    seed: int = flag(0, "Random seed of the initial weights and of the texts.")
    lm_steps: int | None = flag(None, argparse.SUPPRESS)  # for the tests, as the next
    trace_steps: int | None = flag(None, argparse.SUPPRESS)


def run(argv: list[str] | None = None) -> int:
    """Run the demo into its folder. Returns the exit code."""
    parser = CommandParser(
        [DemoArguments],
        prog="modeling-trace demo",
        usage="modeling-trace demo [--name value ...]",
        description="Train a tiny TRACE model and the same model as a plain language model on built-in reviews, and "
        "show what they generate. Runs offline, in about three minutes on one CPU core.",
    )
    arguments = parser.parse(sys.argv[2:] if argv is None else argv)

    output = Path(arguments.output_dir)
    _check_output(output, arguments.overwrite)
    print(PLAN, flush=True)
    started = time.perf_counter()
    # Everything is written beside the folder and moved in at the end: a demo that fails half-way leaves nothing.
    folder = output.resolve()  # `.` and links have their true neighbours
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}-{os.getpid()}"
    work.mkdir()
    try:
        _demo(work, arguments)
        _move(work, folder)
    except KeyboardInterrupt:
        if not any(work.iterdir()):
            raise KeyboardInterrupt("nothing was finished yet.") from None
        for name in RESULTS:  # an earlier demo's, which would not go with the new ones
            old = folder / name
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        _move(work, folder)
        finished = ", ".join(name for name in RESULTS if (output / name).exists())
        raise KeyboardInterrupt(
            f"finished so far, in {output}/: {finished}. Start over with: modeling-trace demo --output_dir "
            f"{shlex.quote(str(output))} --overwrite"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _print_end(output, time.perf_counter() - started)
    return 0


def _demo(work: Path, arguments: argparse.Namespace) -> None:
    from ..demo import run_demo  # here, so that --help and the plan come at once

    names = ("lm_steps", "trace_steps")
    steps = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    run_demo(work, seed=arguments.seed, **steps, say=_say)


def _say(text: str) -> None:
    print(text, flush=True)


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"`output_dir` '{output}' is a file. Choose a folder by --output_dir.")
    if not any(output.iterdir()):
        return
    # these two are there in each demo that left anything
    if not all((output / name).exists() for name in ("plain-lm", "training_log.json")):
        raise ValueError(
            f"`output_dir` '{output}' holds something other than a demo. Choose another folder by --output_dir."
        )
    if not overwrite:
        raise ValueError(
            f"`output_dir` '{output}' holds an earlier demo. Replace it by --overwrite, or choose another folder by "
            "--output_dir."
        )


def _move(work: Path, folder: Path) -> None:
    """Put the results into their folder, in place of an earlier demo's; what else lies there stays."""
    folder.mkdir(exist_ok=True)
    for new in work.iterdir():
        old = folder / new.name
        if old.is_dir():
            shutil.rmtree(old)
        shutil.move(new, old)


def _print_end(output: Path, seconds: float) -> None:
    model = shlex.quote(str(output / "model"))
    print(f"\nResults in {output}/, after {seconds / 60:.1f} minutes:")
    for name, what in RESULTS.items():
        print(f"    {name + '/' * (output / name).is_dir():<18} {what}")
    print("\nTry next:")
    print(f"    modeling-trace generate {model} --num_texts 20 --top_k 50")
    print(f'    modeling-trace generate {model} --num_texts 5 --prompt "The staff were friendly."')
    plain, held_out, report = (shlex.quote(str(output / name)) for name in ("plain-lm", "held-out.jsonl", "report"))
    print(f"    modeling-trace compare {plain} {model} --dataset {held_out} --validation_split none \\")
    print(f"        --num_texts 500 --num_likelihood_texts 100 --num_samples 20 --judge none --output {report}")
    print("    modeling-trace train --dataset your_texts.jsonl --backbone gpt2 --output_dir my-trace")


__all__ = ["run"]
