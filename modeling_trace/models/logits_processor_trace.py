"""Where segments may close: the scores of [SEP] and of the end of a text in generation (paper Sec. 5.2)."""

import torch
from transformers import LogitsProcessor

from .segments_trace import ids_tensor


class SegmentLogitsProcessor(LogitsProcessor):
    """
    Keeps segments between a least and a greatest length, and never empty, where [SEP] closes them
    (`separator="token"`); `generate()` adds it by itself.

    A row's place in its segment: in `generate()` the cache knows where segments start, by the model's
    [`SegmentRule`]. Used by itself, the processor reads it from the ids so far: tokens since the last
    [SEP], or since the leading run of BOS and padding (which cannot follow itself). Below `min_length` tokens [SEP] is
    ruled out; at `max_length` only [SEP] or the end of the text can follow. A text may end in any segment that has a
    token.

    Args:
        sep_token_id (`int`): id of [SEP].
        eos_token_ids (`list[int]`): ids that end a text.
        start_token_ids (`list[int]`): ids that may stand before a text: BOS and PAD.
        min_length (`int`): least tokens in a closed segment, [SEP] not counted, >= 1.
        max_length (`int`, *optional*): greatest tokens in a segment, [SEP] not counted.
    """

    def __init__(
        self,
        sep_token_id: int,
        eos_token_ids: list[int],
        start_token_ids: list[int],
        min_length: int = 1,
        max_length: int | None = None,
    ):
        if min_length < 1:
            raise ValueError(f"`min_segment_length` must be >= 1, got {min_length}. A segment needs a token.")
        if max_length is not None and max_length < min_length:
            raise ValueError(f"`max_segment_length` must be >= `min_segment_length`, got {max_length} < {min_length}.")
        self.sep_token_id = sep_token_id
        self.eos_token_ids = eos_token_ids
        self.start_token_ids = start_token_ids
        self.raw_sep_scores = None
        self.cache = None  # a TraceCache, which knows where segments start
        self.min_length, self.max_length = min_length, max_length

    def position_in_segment(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Tokens that each row's open segment has so far, `(batch_size,)`."""
        if self.cache is not None:
            return input_ids.shape[1] - self.cache.segment_start
        start = ids_tensor(tuple(self.start_token_ids), input_ids.device)
        leading = torch.isin(input_ids, start).long().cumprod(dim=-1).bool()
        boundary = leading | (input_ids == self.sep_token_id)
        after = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        return input_ids.shape[1] - (boundary * after).amax(dim=-1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = self.position_in_segment(input_ids)
        # nothing here reads a number from the device: a step would wait for it
        masked = scores.clone()
        masked[:, self.sep_token_id].masked_fill_(position < self.min_length, -float("inf"))
        unbegun = ids_tensor((*self.eos_token_ids, *self.start_token_ids), scores.device)
        empty = (position == 0).unsqueeze(-1)
        masked[:, unbegun] = masked[:, unbegun].masked_fill(empty, -float("inf"))
        if self.max_length is not None:
            full = (position >= self.max_length).unsqueeze(-1)
            columns = ids_tensor((self.sep_token_id, *self.eos_token_ids), scores.device)
            closing = self._closing(scores)
            masked.masked_fill_(full, -float("inf"))
            masked[:, columns] = torch.where(full, closing, masked[:, columns])
            scores = scores.clone()
            scores[:, self.sep_token_id] = torch.where(full[:, 0], closing[:, 0], scores[:, self.sep_token_id])
        # what another processor forced stands, where nothing else would be left
        dead = masked.amax(dim=-1, keepdim=True).isneginf()
        return torch.where(dead, scores, masked)

    def _closing(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of [SEP] and of the ends of the text in a full segment, `(rows, 1 + ends)`: only these are left."""
        eos = ids_tensor(tuple(self.eos_token_ids), scores.device)
        # [SEP] repeats by design. Where another processor ruled it out or weighed it down for that (n-grams,
        # repetition), the segment still closes by the model's own score, unless EOS alone was forced.
        others = scores.index_fill(1, eos, -float("inf")).amax(dim=-1)
        forced = others.isneginf()
        alone = forced & scores[:, eos].isneginf().all(dim=-1)  # nothing left at all: [SEP] it is
        raw = torch.zeros_like(others) if self.raw_sep_scores is None else self.raw_sep_scores[:, 0].to(scores)
        sep = torch.where(~forced | alone, raw, scores[:, self.sep_token_id])
        return torch.cat([sep.unsqueeze(-1), scores[:, eos]], dim=-1)


class RememberSeparatorScores(LogitsProcessor):
    """Runs before all others and keeps what the model itself says of [SEP], for [`SegmentLogitsProcessor`]."""

    def __init__(self, processor: SegmentLogitsProcessor):
        self.processor = processor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        sep = self.processor.sep_token_id
        self.processor.raw_sep_scores = scores[:, sep : sep + 1].clone()
        return scores


__all__ = ["RememberSeparatorScores", "SegmentLogitsProcessor"]
