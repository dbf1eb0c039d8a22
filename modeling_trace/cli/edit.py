"""`modeling-trace edit PATH-OR-HUB-ID --text '...' --segments 2`: draws the latents of chosen segments again."""

import dataclasses

from ..models.dynamics_trace import has_segments
from .editing import run_editing
from .parser import flag


@dataclasses.dataclass
class EditArguments:
    """How."""

    segments: str | None = flag(None, "Numbers of the segments to draw again, counted from 1: 2 or 2,3.")
    num_draws: int = flag(5, "New texts for each text.")
    latent_temperature: float = flag(1.0, "Scales the standard deviation of the prior that new latents come from.")


def run(argv: list[str] | None = None) -> int:
    """Edit. Returns the exit code."""
    return run_editing(
        argv,
        "edit",
        "Draw the latents of chosen segments again and hold all others. The text before the first of them stays "
        "as it is; from there on it is written again.",
        _work,
        own=EditArguments,
        check=_check,
    )


def _check(arguments, config, processor, rows):
    if arguments.num_draws < 1:
        raise ValueError(f"`num_draws` must be >= 1, got {arguments.num_draws}.")
    if not has_segments(config.latent_dynamics):
        raise ValueError("this model has one latent for the whole text, and no segment to draw again. Use generate.")
    pieces = [processor.split(row) for row in rows]
    if arguments.segments is None:
        shown = ", ".join(f"{number}: {piece!r}" for number, piece in enumerate(pieces[0], 1))
        raise ValueError(f"`segments` is missing: which of {shown}? For example --segments 1")
    segments = _segments(arguments)
    for number, own in enumerate(pieces, 1):
        if min(segments) < 1 or max(segments) > len(own):
            raise ValueError(f"`segments` must be between 1 and {len(own)} for text {number}, got {segments}.")


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
