"""Texts from a model, one row for each prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils.logging import tqdm

from .processor import TraceProcessor


def generate_texts(
    model,
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


__all__ = ["generate_texts"]
