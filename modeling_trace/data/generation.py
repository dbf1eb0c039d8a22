"""Texts from a model, one row for each prompt."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig
from transformers.utils.logging import tqdm

from ..utils import atomic_write
from .processor import TraceProcessor

if TYPE_CHECKING:
    from ..models.modeling_trace import TraceForConditionalGeneration

MAX_NEW_TOKENS = 256  # where the context has room for them


def generate_texts(
    model: "TraceForConditionalGeneration",
    processor: TraceProcessor,
    prompts: Sequence[str | None],
    *,
    batch_size: int = 32,
    description: str = "Generating",
    **settings,
) -> list[dict[str, Any]]:
    """
    Generate one text for each prompt.

    Each text is a row of its own for `generate()`, also under beam search: its latents, and so its beams, are its own.
    Texts are repeatable for the same seed (`transformers.set_seed`) and batch size.

    Args:
        model ([`TraceForConditionalGeneration`]): the model.
        processor ([`TraceProcessor`]): the model's own.
        prompts (`Sequence[str | None]`): one for each text; `None` for a text from nothing. A conditional model writes
            on its prompt, others continue it.
        batch_size (`int`, *optional*, defaults to 32): texts that are generated at once.
        description (`str`, *optional*): in front of the progress bar.
        settings: of `generate()`, such as `max_new_tokens`.

    Returns:
        `list[dict]`: `text`, `segments` (its parts), `prompt`, and `finished`: whether the text ended by itself rather
        than at the greatest length.
    """
    if "stop_strings" in settings:
        settings["tokenizer"] = processor.tokenizer
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    rows = []
    for batch in tqdm(batches, desc=description, disable=len(batches) == 1):
        if batch[0] is None:
            input_ids = torch.full((len(batch), 1), processor.bos_token_id)
            inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        elif processor.conditional:
            inputs = processor(prompt=list(batch), padding=True, return_tensors="pt")
        else:
            inputs = processor(list(batch), add_eos=False, padding=True, return_tensors="pt")
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        width = inputs["input_ids"].shape[1]
        sequences = model.generate(**inputs, **settings)
        for prompt, ids in zip(batch, sequences.tolist(), strict=True):
            text = {"text": processor.decode(ids), "segments": processor.split(ids), "prompt": prompt}
            rows.append({**text, "finished": processor.eos_token_id in ids[width:]})
    return rows


def fitting_max_new_tokens(
    processor: TraceProcessor,
    config: PreTrainedConfig,
    prompts: Sequence[str | None] = (),
    max_new_tokens: int | None = None,
) -> int:
    """
    The tokens that `generate()` may add to these prompts; no weights are needed to ask.

    Args:
        processor ([`TraceProcessor`]): the model's own.
        config ([`TraceConfig`]): the model's configuration, for the size of its context.
        prompts (`Sequence[str | None]`, *optional*): as for [`generate_texts`].
        max_new_tokens (`int`, *optional*): how many are wanted. By default as many as fit, at most 256.

    Returns:
        `int`: `max_new_tokens`, or the default.

    Raises:
        ValueError: where a prompt cannot be tokenized or leaves no room, or more tokens are wanted than fit.
    """
    prompts = [prompt for prompt in prompts if prompt is not None]
    if processor.conditional:
        encoded = processor.encode_rows(None, prompts=prompts)
    else:
        encoded = processor.encode_rows(prompts, add_eos=False)
    longest = max((len(ids) for ids in encoded), default=1)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    room = MAX_NEW_TOKENS if context is None else context - longest
    if room < 1:
        raise ValueError(
            f"`prompt` must leave room in the model's context of {context} tokens, got {longest} tokens. Shorten it."
        )
    if max_new_tokens is None:
        return min(MAX_NEW_TOKENS, room)
    if context is not None and max_new_tokens > room:
        raise ValueError(
            f"`max_new_tokens` must fit the model's context of {context} tokens, got {max_new_tokens}. Use {room} or "
            "less."
        )
    return max_new_tokens


def save_rows(rows: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """Save texts, as [`generate_texts`] returns them, as a file of JSON lines: all rows, or no file."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


__all__ = ["fitting_max_new_tokens", "generate_texts", "save_rows"]
