"""`modeling-trace average PATH-OR-HUB-ID --text A --text B ...`: generates from the mean of several texts' latents."""

from .latent_commands import run_latent_command


def run(argv: list[str] | None = None) -> int:
    """Average. Returns the exit code."""
    return run_latent_command(
        argv,
        "average",
        "Generate one text from the mean of several texts' latents, segment by segment.",
        lambda model, arguments, inputs, texts, decoding: (model.average(**inputs, **decoding), [texts]),
        texts_per_item=None,
    )


__all__ = ["run"]
