"""`modeling-trace edit PATH-OR-HUB-ID --text '...' --segments 2`: draws the latents of chosen segments again."""

import dataclasses
import sys

from ..dynamics_trace import has_segments
from .editing import as_rows, batches, load, parse, write
from .parser import flag


@dataclasses.dataclass
class EditArguments:
    """How."""

    segments: str | None = flag(None, "Numbers of the segments to draw again, counted from 1: 2 or 2,3.")
    num_draws: int = flag(5, "New texts for each text.")
    latent_temperature: float = flag(1.0, "Scales the standard deviation of the prior that new latents come from.")


def run(argv: list[str] | None = None) -> int:
    """Edit. Returns the exit code."""
    arguments, decoding = parse(
        sys.argv[2:] if argv is None else argv,
        "edit",
        "Draw the latents of chosen segments again and hold all others. The text before the first of them stays "
        "as it is; from there on it is written again.",
        EditArguments,
    )
    if arguments.num_draws < 1:
        raise ValueError(f"`num_draws` must be >= 1, got {arguments.num_draws}.")
    segments = _segments(arguments.segments)
    model, processor, texts, prompts, limit, seed = load(arguments, lambda *args: _check_segments(segments, *args))
    rows = []
    for part, inputs in batches(model, processor, texts, prompts, limit, arguments.batch_size):
        outputs = model.edit(
            **inputs,
            segments=segments,
            num_return_sequences=arguments.num_draws,
            latent_temperature=arguments.latent_temperature,
            **decoding,
        )
        rows += as_rows(processor, outputs, [text for text in part for _ in range(arguments.num_draws)])
    return write(rows, arguments, lambda number: f"{number + 1}.", seed)


def _segments(given: str | None) -> list[int] | None:
    if given is None:
        return None
    try:
        return [int(number) for number in given.replace(" ", "").split(",")]
    except ValueError:
        raise ValueError(f"`segments` must be numbers such as 2 or 2,3, got '{given}'.") from None


def _check_segments(segments, config, processor, rows) -> None:
    if not has_segments(config.latent_dynamics):
        raise ValueError("this model has one latent for the whole text, and no segment to draw again. Use generate.")
    pieces = [processor.split(row) for row in rows]
    if segments is None:
        shown = ", ".join(f"{number}: {piece!r}" for number, piece in enumerate(pieces[0], 1))
        raise ValueError(f"`segments` is missing: which of {shown}? For example --segments 1")
    for number, own in enumerate(pieces, 1):
        if min(segments) < 1 or max(segments) > len(own):
            raise ValueError(f"`segments` must be between 1 and {len(own)} for text {number}, got {segments}.")


__all__ = ["run"]
