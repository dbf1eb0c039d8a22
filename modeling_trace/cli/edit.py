"""`modeling-trace edit PATH-OR-HUB-ID --text '...' --segments 2`: draws the latents of chosen segments again."""

import dataclasses
import sys

from .editing import as_rows, encode, load, parse, write
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
    inputs = encode(model, processor, texts, prompts, limit)
    outputs = model.edit(
        **inputs,
        segments=segments,
        num_return_sequences=arguments.num_draws,
        latent_temperature=arguments.latent_temperature,
        **decoding,
    )
    sources = [text for text in texts for _ in range(arguments.num_draws)]
    return write(as_rows(processor, outputs, sources), arguments, lambda number: f"{number + 1}.", seed)


def _segments(given: str | None) -> list[int] | None:
    if given is None:
        return None
    try:
        return [int(number) for number in given.replace(" ", "").split(",")]
    except ValueError:
        raise ValueError(f"`segments` must be numbers such as 2 or 2,3, got '{given}'.") from None


def _check_segments(segments, processor, texts, prompts) -> None:
    pieces = processor.split(processor(texts[0], prompt=None if prompts is None else prompts[0])["input_ids"])
    if segments is None:
        shown = ", ".join(f"{number}: {piece!r}" for number, piece in enumerate(pieces, 1))
        raise ValueError(f"`segments` is missing: which of {shown}? For example --segments 1")


__all__ = ["run"]
