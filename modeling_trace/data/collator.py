"""TraceDataCollator: tokenised texts of unequal lengths to one training batch."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning
from transformers.utils import logging

from ..models.segments_trace import SegmentRule
from ..utils import one_line
from .processor import TraceProcessor

logger = logging.get_logger(__name__)


def mask_prompts(batch: dict[str, torch.Tensor], sep_token_id: int) -> dict[str, torch.Tensor]:
    """The labels of a batch without its prompts: nothing up to the first [SEP] of a row is a target."""
    segment_ids = SegmentRule(sep_token_id, conditional=True).segment_ids(batch["input_ids"])
    return {**batch, "labels": batch["labels"].masked_fill(segment_ids == 0, -100)}


def check_collator(collator: Callable, processor: TraceProcessor | PreTrainedTokenizerBase) -> None:
    """
    Refuse a collator whose batches are not TRACE's: it is tried on two short rows, `BOS x y EOS` and one token more.

    A collator of another class is nobody's to change, but what it makes can be seen: whether each text stays a row of
    its own with its tokens, whether all of a text's tokens but the first can be targets, and EOS among them.
    Collators that need columns other than `input_ids` and `attention_mask` cannot be tried and pass.

    Args:
        collator (`Callable`): what a `Trainer` takes as `data_collator`.
        processor ([`TraceProcessor`] or `PreTrainedTokenizerBase`): the model's own.

    Raises:
        ValueError: texts are joined into one row (`DataCollatorWithFlattening`), EOS or a word is taken for padding
            and is no target (`DataCollatorForLanguageModeling` where PAD is EOS), or tokens are masked (`mlm=True`).
    """
    if isinstance(collator, TraceDataCollator):
        return
    tokenizer = processor.tokenizer if isinstance(processor, TraceProcessor) else processor
    name = getattr(collator, "__name__", type(collator).__name__)
    remedy = "Leave `data_collator` out, or use TraceDataCollator(processor)."
    if getattr(collator, "mlm", False):
        raise ValueError(f"`data_collator` must not mask tokens, got {name} with mlm=True. {remedy}")
    rows = _probe_rows(tokenizer)
    try:
        batch = collator([{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in rows])
        input_ids = torch.as_tensor(batch["input_ids"])
    except Exception as error:
        logger.info(f"{name} could not be tried on two rows of `input_ids` ({one_line(error)}): not checked.")
        return
    if input_ids.ndim != 2 or len(input_ids) != len(rows):
        raise ValueError(
            f"`data_collator` must keep each text in a row of its own, got {tuple(input_ids.shape)} of two texts from "
            f"{name}: latents would run from one text into the next. {remedy}"
        )
    if batch.get("labels") is None:  # it takes those of the data set; without any the Trainer stops at the first step
        return
    for ids, padded, labels in zip(rows, input_ids.tolist(), torch.as_tensor(batch["labels"]).tolist(), strict=True):
        start = next((i for i in range(len(padded)) if padded[i : i + len(ids)] == ids), None)
        if start is None:
            raise ValueError(f"`data_collator` must not change tokens, got {padded} of {ids} from {name}. {remedy}")
        for token, label in list(zip(ids, labels[start : start + len(ids)], strict=True))[1:]:
            if label != token and token == tokenizer.eos_token_id:
                raise ValueError(
                    f"`data_collator` must keep EOS a target, or texts learn no end, got {name}, which takes it for "
                    f"padding (PAD is {tokenizer.pad_token!r}). {remedy}"
                )
            if label != token and token == tokenizer.unk_token_id:
                raise ValueError(
                    f"`data_collator` must keep unknown words targets, got {name}, which takes them for padding (PAD "
                    f"is {tokenizer.pad_token!r}). {remedy}"
                )


def _probe_rows(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """`BOS x y EOS` and `BOS x y y EOS`, where y is the unknown word if the tokenizer has one that is no structure."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    structure = {bos, tokenizer.eos_token_id, tokenizer.sep_token_id}
    word, other = islice((token for token in range(len(tokenizer)) if token not in structure), 2)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in structure:
        other = tokenizer.unk_token_id
    return [[bos, word, *[other] * count, tokenizer.eos_token_id] for count in (1, 2)]


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

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            features (`Sequence[Mapping]`): rows with `input_ids` and perhaps an `attention_mask` (0 = no token).

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


__all__ = ["TraceDataCollator", "check_collator", "mask_prompts"]
