"""Ids back to text: whole texts, their prompts and their segments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..models.segments_trace import SegmentRule
from .layout import segment_ends, segment_texts

# One row of ids or several
TokenIds = Sequence[int] | Sequence[Sequence[int]] | torch.Tensor | np.ndarray


class DecodingMixin:
    """The part of [`TraceProcessor`] that reads ids."""

    if TYPE_CHECKING:  # what it needs of its host
        tokenizer: PreTrainedTokenizerBase
        conditional: bool
        separator: str

        @property
        def bos_token_id(self) -> int: ...
        @property
        def eos_token_id(self) -> int: ...
        @property
        def pad_token_id(self) -> int: ...
        @property
        def sep_token_id(self) -> int | None: ...
        @property
        def control_token_ids(self) -> set[int]: ...
        @property
        def segment_rule(self) -> SegmentRule: ...

    def decode(
        self,
        ids: TokenIds,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str | list[str]:
        """
        The text of one row of ids (a list of texts for several rows), without BOS, [SEP], EOS and PAD, and without its
        prompt ([`~TraceProcessor.decode_prompt`] gives that).

        Unknown-word tokens are part of the text and stay. `skip_special_tokens=False` shows every token.

        Args:
            ids (`list[int]`, array or tensor): a row from this processor or from `generate()`.
            skip_special_tokens (`bool`, *optional*, defaults to `True`): see above.
            clean_up_tokenization_spaces (`bool`, *optional*): taken for the sake of pipelines and never done: texts
                are as they were generated.
        """
        ids = _to_list(ids)
        if ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens) for row in ids]  # type: ignore[misc]
        if skip_special_tokens:
            control = self.control_token_ids
            ids = self._split_prompt(self._without_padding(ids))[1]
            ids = [token for token in ids if token not in control]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def batch_decode(self, sequences: TokenIds, skip_special_tokens: bool = True) -> list[str]:
        """[`~TraceProcessor.decode`] for every row."""
        return [self.decode(row, skip_special_tokens) for row in _to_list(sequences)]  # type: ignore[misc]

    def decode_prompt(self, ids: TokenIds) -> str | list[str]:
        """The prompt of one row of ids (a list for several rows) from a conditional processor or model."""
        ids = _to_list(ids)
        if ids and isinstance(ids[0], list):
            return [self.decode_prompt(row) for row in ids]  # type: ignore[misc]
        control = self.control_token_ids
        prompt = [token for token in self._split_prompt(self._without_padding(ids))[0] if token not in control]
        return self.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def split(self, ids: TokenIds) -> list[str]:
        """
        The text of each segment of one row of ids, in order; joined, they are `decode(ids)`.

        A segment without tokens between two [SEP] gives an empty string, so that places match those of the latents.

        Args:
            ids (`list[int]`, array or tensor): a row from this processor or from `generate()`.
        """
        ids = _to_list(ids)
        if ids and isinstance(ids[0], list):
            raise ValueError(
                f"`ids` must be one row of ids, got {len(ids)} rows. Use [processor.split(row) for row in ids]."
            )
        ids = self._without_padding(ids)
        return segment_texts(self.tokenizer, *self._segment_ends(ids, keep_empty=self.separator == "token"))

    def has_one_segment(self, ids: list[int]) -> bool:
        """Whether all the text of a row of ids is one segment."""
        return len(self._segment_ends(ids, keep_empty=False)[1]) <= 1

    def _segment_ends(self, ids: list[int], keep_empty: bool) -> tuple[list[int], list[int]]:
        closes = self.segment_rule.closes(torch.tensor([ids], dtype=torch.long)).tolist()[0]
        start = len(self._split_prompt(ids)[0])
        return segment_ends(ids[start:], closes[start:], self.control_token_ids, keep_empty)

    def _without_padding(self, ids: list[int]) -> list[int]:
        """A row without PAD before BOS and after EOS, where PAD is a rare word as well: elsewhere it is that word."""
        pad = self.pad_token_id
        if pad in self.control_token_ids:  # left out wherever it stands
            return ids
        places = [place for place, token in enumerate(ids) if token != pad]
        start = places[0] if places and ids[places[0]] == self.bos_token_id else 0
        ended = len(places) > 1 and ids[places[-1]] == self.eos_token_id
        return ids[start : places[-1] + 1 if ended else None]

    def _split_prompt(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """The ids up to the first [SEP], that one included, and the others; a row without prompt is all text."""
        if not self.conditional or self.sep_token_id not in ids:
            return [], ids
        end = ids.index(self.sep_token_id) + 1
        return ids[:end], ids[end:]


def _to_list(ids) -> list:
    """Lists, tuples, arrays and tensors as lists of numbers, or of lists of numbers."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    return [_to_list(row) if hasattr(row, "__iter__") else int(row) for row in ids]


__all__ = ["DecodingMixin"]
