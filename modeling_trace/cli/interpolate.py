"""`modeling-trace interpolate PATH-OR-HUB-ID --text A --text B`: walks from one text's latents to another's."""

import dataclasses
import sys

from .editing import as_rows, encode, load, parse, write
from .parser import flag


@dataclasses.dataclass
class InterpolateArguments:
    """How."""

    num_steps: int = flag(5, "Texts from one to the other, both ends included.")


def run(argv: list[str] | None = None) -> int:
    """Interpolate. Returns the exit code."""
    arguments, decoding = parse(
        sys.argv[2:] if argv is None else argv,
        "interpolate",
        "Walk from the latents of one text to those of another, segment by segment. Takes two texts; of more, the "
        "first and second, third and fourth, and so on.",
        InterpolateArguments,
    )
    if arguments.num_steps < 2:
        raise ValueError(f"`num_steps` must be >= 2, both ends, got {arguments.num_steps}.")
    model, processor, texts, prompts, limit, seed = load(arguments, _check_pairs)
    inputs = encode(model, processor, texts, prompts, limit)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    outputs = model.interpolate(
        ids[0::2], ids[1::2], mask[0::2], mask[1::2], num_steps=arguments.num_steps, **decoding
    )
    steps = [step / (arguments.num_steps - 1) for _ in texts[0::2] for step in range(arguments.num_steps)]
    pairs = [pair for pair in zip(texts[0::2], texts[1::2], strict=True) for _ in range(arguments.num_steps)]
    sources = [{"from": a, "to": b, "share": share} for (a, b), share in zip(pairs, steps, strict=True)]
    return write(as_rows(processor, outputs, sources), arguments, lambda number: f"{steps[number]:.2f}", seed)


def _check_pairs(processor, texts, prompts):
    if len(texts) % 2:
        raise ValueError(f"`text` must be given in pairs, from and to, got {len(texts)} texts.")


__all__ = ["run"]
