"""`modeling-trace edit PATH-OR-HUB-ID --text '...' --segments 2`: resamples the latents of chosen segments."""

import dataclasses

from .latent_commands import run_latent_command
from .parser import flag


@dataclasses.dataclass
class EditArguments:
    """Which latents are resampled, and how often."""

    segments: str | None = flag(None, "Segments whose latents are resampled, counted from 1: 2 or 2,3.")
    num_draws: int = flag(5, "Number of new texts for each text.")
    latent_temperature: float = flag(1.0, "Scales the standard deviation of the prior that is sampled from.")


def run(argv: list[str] | None = None) -> int:
    """Edit. Returns the exit code."""
    return run_latent_command(
        argv,
        "edit",
        "Resample the latents of chosen segments and hold all others. The text before the first of them is kept; "
        "from there on it is generated anew.",
        _work,
        extra_arguments=EditArguments,
        check=_check,
    )


def _check(arguments, config, processor, rows):
    if arguments.num_draws < 1:
        raise ValueError(f"`num_draws` must be >= 1, got {arguments.num_draws}.")
    from ..models.dynamics_registry_trace import has_segments  # here, so that --help answers without torch

    if not has_segments(config.latent_dynamics):
        raise ValueError("this model has one latent for the whole text, and no segment to resample. Use generate.")
    pieces = [processor.split(row) for row in rows]
    if arguments.segments is None:
        shown = ", ".join(f"{number}: {piece!r}" for number, piece in enumerate(pieces[0], 1))
        raise ValueError(f"`segments` is missing: which of {shown}? For example --segments 1")
    segments = _segments(arguments)
    for number, count in enumerate(map(len, pieces), 1):
        if min(segments) < 1 or max(segments) > count:
            raise ValueError(f"`segments` must be between 1 and {count} for text {number}, got {segments}.")


def _segments(arguments) -> list[int]:
    try:
        return [int(number) for number in arguments.segments.replace(" ", "").split(",")]
    except ValueError:
        raise ValueError(f"`segments` must be numbers such as 2 or 2,3, got '{arguments.segments}'.") from None


def _work(model, arguments, inputs, texts, decoding):
    outputs = model.edit(
        **inputs,
        segments=_segments(arguments),
        num_return_sequences=arguments.num_draws,
        latent_temperature=arguments.latent_temperature,
        **decoding,
    )
    return outputs, [text for text in texts for _ in range(arguments.num_draws)]


__all__ = ["run"]
