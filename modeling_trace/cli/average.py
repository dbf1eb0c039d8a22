"""`modeling-trace average PATH-OR-HUB-ID --text A --text B ...`: writes under the mean of several texts' latents."""

import sys

from .editing import as_rows, encode, load, parse, write


def run(argv: list[str] | None = None) -> int:
    """Average. Returns the exit code."""
    arguments, decoding = parse(
        sys.argv[2:] if argv is None else argv,
        "average",
        "Write one text under the mean of several texts' latents, segment by segment.",
    )
    model, processor, texts, prompts, limit, seed = load(arguments)
    outputs = model.average(**encode(model, processor, texts, prompts, limit), **decoding)
    return write(as_rows(processor, outputs, [texts]), arguments, lambda number: f"{number + 1}.", seed)


__all__ = ["run"]
