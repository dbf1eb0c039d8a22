"""`modeling-trace push MODEL REPO`: a trained model to the Hub, with its card, samples and evaluation."""

import dataclasses
import sys

from .parser import CommandParser, flag

USAGE = "modeling-trace push MODEL REPO [--name value ...]"


@dataclasses.dataclass
class PushArguments:
    """What goes out, and where to."""

    private: bool = flag(False, "Make a new repository private.")
    branch: str | None = flag(None, "Branch to push to, made where it is missing. Default: the main one.")
    dry_run: bool = flag(False, "List what would go out, with sizes, and push nothing.")
    report: str | None = flag(
        None, "Folder of a report of `evaluate` or `compare`. Default: `report` in the model's folder, if it is there."
    )
    num_samples: int = flag(5, "Number of random texts to generate for the card.")
    license: str | None = flag(None, "License of the model, for the card: mit, apache-2.0, ...")
    language: str | None = flag(None, "Language of the texts, for the card: en, de, ...")
    datasets: str | None = flag(None, "Hub id of the data set that the model was trained on, for the card.")
    device: str | None = flag(None, "cuda, mps or cpu. Default: the first that is available.")


def run(argv: list[str] | None = None) -> int:
    """Push, or list. Returns the exit code."""
    parser = CommandParser(
        [PushArguments],
        instead={"revision": "branch", "repo_id": "REPO, without a flag", "model": "MODEL, without a flag"},
        prog="modeling-trace push",
        usage=USAGE,
        description="Push a trained model to the Hub, in one commit: weights, code, processor, card, random samples "
        "and, where there is one, its evaluation. Nothing else of the folder goes.",
    )
    parser.add_argument("places", nargs="*", metavar="MODEL REPO", help="the model's folder and the repository")
    parser.add_argument("--prompt", action="append", help="a prompt for a conditional model's samples; several times")
    arguments = parser.parse(sys.argv[2:] if argv is None else argv)
    if len(arguments.places) != 2:
        raise ValueError(f"`push` takes a model's folder and a repository, got {len(arguments.places)}. Use: {USAGE}")

    from ..sharing import push  # imports torch

    settings = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(PushArguments)}
    settings |= {"private": arguments.private or None, "prompts": arguments.prompt}
    pushed = push(*arguments.places, **settings)
    width = max(len(name) for name in pushed.files)
    print("\n".join(f"{name:{width}}  {size:>14,}" for name, size in pushed.files.items()))
    total = f"{len(pushed.files)} files, {sum(pushed.files.values()):,} bytes"
    if pushed.url is None:
        print(f"{total} would go to {pushed.repo_id}. Nothing was pushed.")
    else:
        print(f"{total} went to {pushed.repo_id}: {pushed.url}")
    return 0


__all__ = ["run"]
