"""Batches for `TraceTrainer`: where their segments lie, and one order of the texts in all processes."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler

from ..data.collator import mask_prompts
from ..models.segments_trace import SegmentRule, check_prompts, make_layout
from .private import LengthGroupedSampler


class SegmentCollator:
    """
    A collator whose batches say where their segments lie, so that the model need not wait for the device to know, and
    have no targets in their prompts.
    """

    def __init__(self, collator: Callable, model, with_layout: bool):
        self.collator, self.with_layout = collator, with_layout
        # nothing else of the model: workers get a copy
        self.config, self.one_per_text = model.config, model.one_latent_per_text
        self.conditional, self.hidden_size = model.config.conditional, model.packed_hidden_size

    @property
    def rule(self) -> SegmentRule:
        """As the config is when batches are made: the Trainer aligns special tokens when training begins."""
        return SegmentRule.of(self.config, self.one_per_text)

    def __call__(self, features):
        batch = self.collator(features)
        if self.conditional and getattr(self.collator, "prompt_end", None) is None:
            batch = mask_prompts(batch, self.rule.sep_token_id)
        if not self.with_layout:
            return batch
        attention_mask, segment_ids = batch.get("attention_mask"), batch.get("segment_ids")
        if segment_ids is None:
            segment_ids = self.rule.segment_ids(batch["input_ids"], attention_mask)
        elif attention_mask is not None:
            segment_ids = segment_ids.masked_fill(attention_mask == 0, -1)
        if self.conditional:
            check_prompts(segment_ids)
        return {**batch, "segment_layout": make_layout(segment_ids, self.hidden_size)}


class SharedOrderSampler(Sampler):
    """
    The same order of the texts in all processes: Transformers draws the order of `group_by_length` from each process's
    own random state, and from the second pass on these differ, so that some texts come twice and others never.

    Args:
        sampler (`LengthGroupedSampler`): what draws the order.
        seed (`Callable[[], int]`): of the pass that begins, the same in all processes, also after resuming.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: Callable[[], int]):
        self.sampler, self.seed = sampler, seed

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.seed())
        return iter(self.sampler)


__all__ = ["SegmentCollator", "SharedOrderSampler"]
