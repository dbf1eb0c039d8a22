"""`modeling-trace reconstruct PATH-OR-HUB-ID --text '...'`: generates texts again from their latents alone."""

import dataclasses

from .latent_commands import run_latent_command
from .parser import flag


@dataclasses.dataclass
class ReconstructArguments:
    """From which latents."""

    sample_latents: bool = flag(False, "Sample the latents from the posterior rather than take its mean.")


def run(argv: list[str] | None = None) -> int:
    """Reconstruct. Returns the exit code."""
    return run_latent_command(
        argv,
        "reconstruct",
        "Encode texts and generate them again from their latents alone: shows how much of a text the latents hold.",
        _work,
        extra_arguments=ReconstructArguments,
        label=lambda number, row: f"{number + 1}. {row['source']!r}\n  ->",
    )


def _work(model, arguments, inputs, texts, decoding):
    return model.reconstruct(**inputs, sample_latents=arguments.sample_latents, **decoding), texts


__all__ = ["run"]
