"""`modeling-trace interpolate PATH-OR-HUB-ID --text A --text B`: interpolates between the latents of two texts."""

import dataclasses

from .latent_commands import run_latent_command
from .parser import flag


@dataclasses.dataclass
class InterpolateArguments:
    """Steps between the two texts."""

    num_steps: int = flag(5, "Number of texts from one to the other, both ends included.")


def run(argv: list[str] | None = None) -> int:
    """Interpolate. Returns the exit code."""
    return run_latent_command(
        argv,
        "interpolate",
        "Interpolate between the latents of two texts, segment by segment. More texts are taken in pairs: the first "
        "and second, the third and fourth, and so on.",
        _work,
        extra_arguments=InterpolateArguments,
        check=_check,
        label=lambda number, row: f"{row['source']['share']:.2f}",
        texts_per_item=2,
    )


def _check(arguments, config, processor, rows):
    if arguments.num_steps < 2:
        raise ValueError(f"`num_steps` must be >= 2, both ends, got {arguments.num_steps}.")
    if len(rows) % 2:
        raise ValueError(f"`text` must be given in pairs, from and to, got {len(rows)} texts.")


def _work(model, arguments, inputs, texts, decoding):
    ids, mask, steps = inputs["input_ids"], inputs["attention_mask"], arguments.num_steps
    outputs = model.interpolate(ids[0::2], ids[1::2], mask[0::2], mask[1::2], num_steps=steps, **decoding)
    shares = [step / (steps - 1) for step in range(steps)]
    pairs = zip(texts[0::2], texts[1::2], strict=True)
    return outputs, [{"from": a, "to": b, "share": share} for a, b in pairs for share in shares]


__all__ = ["run"]
