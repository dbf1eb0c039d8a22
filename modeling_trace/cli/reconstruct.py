"""`modeling-trace reconstruct PATH-OR-HUB-ID --text '...'`: writes texts again from their latents alone."""

import dataclasses

from .editing import run_editing
from .parser import flag


@dataclasses.dataclass
class ReconstructArguments:
    """How."""

    sample_latents: bool = flag(False, "Draw the latents from the posterior rather than take its mean.")


def run(argv: list[str] | None = None) -> int:
    """Reconstruct. Returns the exit code."""
    return run_editing(
        argv,
        "reconstruct",
        "Encode texts and write them again from their latents alone: how much of a text the latents hold.",
        _work,
        own=ReconstructArguments,
        label=lambda number, row: f"{number + 1}. {row['source']!r}\n  ->",
    )


def _work(model, arguments, inputs, texts, decoding):
    return model.reconstruct(**inputs, sample_latents=arguments.sample_latents, **decoding), texts


__all__ = ["run"]
