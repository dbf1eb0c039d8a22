"""`modeling-trace interpolate PATH-OR-HUB-ID --text A --text B`: walks from one text's latents to another's."""

import dataclasses
import sys

from .editing import as_rows, batches, load, parse, write
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
    shares = [step / (arguments.num_steps - 1) for step in range(arguments.num_steps)]
    rows = []
    for part, inputs in batches(model, processor, texts, prompts, limit, 2 * arguments.batch_size):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        outputs = model.interpolate(
            ids[0::2], ids[1::2], mask[0::2], mask[1::2], num_steps=arguments.num_steps, **decoding
        )
        pairs = zip(part[0::2], part[1::2], strict=True)
        rows += as_rows(processor, outputs, [{"from": a, "to": b, "share": x} for a, b in pairs for x in shares])
    return write(rows, arguments, lambda number: f"{rows[number]['source']['share']:.2f}", seed)


def _check_pairs(config, processor, rows):
    if len(rows) % 2:
        raise ValueError(f"`text` must be given in pairs, from and to, got {len(rows)} texts.")


__all__ = ["run"]
