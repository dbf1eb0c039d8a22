"""`modeling-trace reconstruct PATH-OR-HUB-ID --text '...'`: writes texts again from their latents alone."""

import dataclasses
import sys

from .editing import as_rows, batches, load, parse, write
from .parser import flag


@dataclasses.dataclass
class ReconstructArguments:
    """How."""

    sample_latents: bool = flag(False, "Draw the latents from the posterior rather than take its mean.")


def run(argv: list[str] | None = None) -> int:
    """Reconstruct. Returns the exit code."""
    arguments, decoding = parse(
        sys.argv[2:] if argv is None else argv,
        "reconstruct",
        "Encode texts and write them again from their latents alone: how much of a text the latents hold.",
        ReconstructArguments,
    )
    model, processor, texts, prompts, limit, seed = load(arguments)
    rows = []
    for part, inputs in batches(model, processor, texts, prompts, limit, arguments.batch_size):
        outputs = model.reconstruct(**inputs, sample_latents=arguments.sample_latents, **decoding)
        rows += as_rows(processor, outputs, part)
    return write(rows, arguments, lambda number: f"{number + 1}. {texts[number]!r}\n  ->", seed)


__all__ = ["run"]
