"""TraceDataCollator: tokenised texts of unequal lengths to one training batch."""

import torch
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from ..models.segments_trace import SegmentRule
from .processor import TraceProcessor


def mask_prompts(batch: dict[str, torch.Tensor], sep_token_id: int) -> dict[str, torch.Tensor]:
    """The labels of a batch without its prompts: nothing up to the first [SEP] of a row is a target."""
    segment_ids = SegmentRule(sep_token_id, conditional=True).segment_ids(batch["input_ids"])
    return {**batch, "labels": batch["labels"].masked_fill(segment_ids == 0, -100)}


class TraceDataCollator:
    """
    Pads on the right and makes the labels: every token but the first (BOS) is a target, EOS and [SEP] included.
    Padding is none, nor is the prompt (all up to the first [SEP]) with a conditional processor, so that
    `(labels != -100).sum()` is the number of target tokens. Columns other than `input_ids` and `attention_mask` are
    dropped.

    Args:
        processor ([`TraceProcessor`] or `PreTrainedTokenizerBase`): says how to pad.
        pad_to_multiple_of (`int`, *optional*): pad to a multiple of this; 8 suits tensor cores.

    Example:

    ```python
    trainer = Trainer(model, args, train_dataset=train, data_collator=TraceDataCollator(processor))
    ```
    """

    def __init__(self, processor: TraceProcessor | PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None):
        tokenizer = processor.tokenizer if isinstance(processor, TraceProcessor) else processor
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(f"`processor` must be a TraceProcessor or a tokenizer, got {processor!r:.80}.")
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "`processor` has no padding token, got pad_token=None. Pass the TraceProcessor, or set "
                "tokenizer.pad_token = tokenizer.eos_token."
            )
        self.tokenizer = tokenizer
        self.pad_to_multiple_of = pad_to_multiple_of
        self.prompt_end = processor.sep_token_id if getattr(processor, "conditional", False) else None

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            features (`list[dict]`): rows with `input_ids` and perhaps an `attention_mask` (0 = no token).

        Returns:
            `dict` of `input_ids`, `attention_mask` and `labels`, each `(batch_size, sequence_length)`.
        """
        rows = []
        for feature in features:
            if "input_ids" not in feature:
                raise ValueError(
                    f"`features` must have `input_ids`, got the columns {', '.join(feature) or 'none'}. "
                    "Tokenise first: prepare_dataset(dataset, processor)."
                )
            rows.append({name: feature[name] for name in ("input_ids", "attention_mask") if name in feature})
        padded = pad_without_fast_tokenizer_warning(
            self.tokenizer,
            rows,
            padding=True,
            pad_to_multiple_of=self.pad_to_multiple_of,
            padding_side="right",
            return_attention_mask=True,
            return_tensors="pt",
        )
        input_ids, attention_mask = padded["input_ids"], padded["attention_mask"]
        is_first = attention_mask.cumsum(-1).eq(1) & attention_mask.eq(1)
        labels = input_ids.masked_fill(attention_mask.eq(0) | is_first, -100)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return batch if self.prompt_end is None else mask_prompts(batch, self.prompt_end)


__all__ = ["TraceDataCollator", "mask_prompts"]
