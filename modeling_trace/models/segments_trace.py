"""Segments: from tokens to segment ids, attention masks and per-segment tensors (paper Sec. 4.1, Fig. 1)."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from .private_trace import create_bidirectional_mask, create_causal_mask

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from .configuration_trace import TraceConfig

SEP_TOKEN = "[SEP]"


def add_separator_token(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """
    Give a tokenizer the [SEP] token that closes a segment (or only a prompt), in place, and PAD and BOS tokens where
    it has none.

    Tokenizers that already have a `sep_token` keep it. PAD falls back to EOS, and BOS (the token that starts every
    text) to EOS, as in GPT-2.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the backbone's tokenizer.

    Returns:
        The same tokenizer.

    Raises:
        ValueError: if there is no EOS token, or the id of [SEP] is that of BOS, EOS, PAD or a word.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` has no EOS token, got eos_token=None. Set tokenizer.eos_token first.")
    if tokenizer.sep_token is None:
        tokenizer.add_special_tokens({"sep_token": SEP_TOKEN})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
    check_separator(
        tokenizer.sep_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # a vocabulary with a gap (tokenizers' WordLevelTrainer can leave one) gives a new token the id of a word
    sep_token_id = tokenizer.sep_token_id
    others = [word for word, index in tokenizer.get_vocab().items() if index == sep_token_id]
    others.remove(tokenizer.sep_token)
    if others:
        raise ValueError(
            f"`tokenizer` gives '{tokenizer.sep_token}' the id {sep_token_id} of {others[0]!r}: its vocabulary has a "
            "gap. Train it again, without special tokens that also occur in the training text."
        )
    return tokenizer


def check_separator(sep_token_id: int, **others: int | None) -> None:
    """Raise a ValueError when [SEP] is one of the `others` (`bos_token_id`, `eos_token_id`, `pad_token_id`)."""
    for name, token_id in others.items():
        if token_id is not None and token_id == sep_token_id:
            raise ValueError(
                f"`sep_token_id` must be a token of its own, got {sep_token_id}, which is also `{name}`. "
                "Add a token for it: tokenizer.add_special_tokens({'sep_token': '[SEP]'})."
            )


@dataclass(frozen=True)
class SegmentRule:
    """
    Where segments end, from the tokens alone: one rule for training, generation, likelihood and editing.

    Segments are numbered 0 for the prefix, 1..T, -1 for padding. The prefix is BOS; a row that does not start with BOS
    has none, its first token belongs to segment 1. With `conditional` the prefix is all up to the first [SEP], that
    one included. Left and right padding both work. A token closes a segment

    - with `separator="token"` where it is [SEP];
    - with "none" where it is the last of each `segment_length` tokens of the text, or, with `closing_token_ids`, the
      first of a run of such tokens.

    The token that closes a segment belongs to it.

    Args:
        sep_token_id, bos_token_id (`int`, *optional*): ids of [SEP] and BOS.
        conditional (`bool`): rows are `BOS prompt [SEP] | x_1 | ...`.
        one_per_text (`bool`): all after the prefix is segment 1, and nothing closes it.
        separator (`str`), segment_length (`int`, *optional*), closing_token_ids (`tuple[int]`, *optional*): as in
            [`TraceConfig`].
    """

    sep_token_id: int | None = None
    bos_token_id: int | None = None
    conditional: bool = False
    one_per_text: bool = False
    separator: str = "token"
    segment_length: int | None = None
    closing_token_ids: tuple[int, ...] | None = None

    @classmethod
    def of(cls, config: "TraceConfig", one_per_text: bool) -> "SegmentRule":
        """The rule of a [`TraceConfig`] as it is now: its special tokens may change ([`Trainer`] aligns them)."""
        return cls(
            config.sep_token_id,
            config.bos_token_id,
            config.conditional,
            one_per_text,
            config.separator,
            config.segment_length,
            None if config.closing_token_ids is None else tuple(config.closing_token_ids),
        )

    def closes(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        The tokens that close a segment (in a conditional model also the [SEP] that closes the prompt).

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 1 for tokens, 0 for
                padding; all ones when left out.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, sequence_length)`.
        """
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        is_separator = torch.zeros_like(real)
        if self.sep_token_id is not None:
            is_separator = real & (input_ids == self.sep_token_id)
        if self.separator == "token":
            return is_separator
        prefix = self._prefix(input_ids, real, is_separator)
        in_text = real & ~prefix
        if self.segment_length is not None:
            closes = in_text & (in_text.cumsum(-1) % self.segment_length == 0)
        elif self.closing_token_ids is not None:
            ends = torch.isin(input_ids, ids_tensor(self.closing_token_ids, input_ids.device)) & in_text
            closes = ends & ~torch.nn.functional.pad(ends, (1, 0))[:, :-1]
        else:
            closes = torch.zeros_like(real)
        if self.conditional:  # the last token of a prompt that is complete
            closes = closes | (prefix & is_separator)
        return closes

    def last_closes(self, input_ids: torch.Tensor, segment_start: torch.Tensor) -> torch.Tensor:
        """
        Whether the last token of each row closes its segment: the last column of `closes`, from a token or two, for
        rows that have begun a segment.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, sequence_length)`): at least two tokens, padded on the left.
            segment_start (`torch.LongTensor` of shape `(rows,)`): position of the first token of the open segment.
        """
        if self.separator == "token":
            return input_ids[:, -1] == self.sep_token_id
        if self.segment_length is not None:
            return segment_start == input_ids.shape[1] - self.segment_length
        # before the first token of a text stands BOS or [SEP], which never close
        before, last = torch.isin(input_ids[:, -2:], ids_tensor(self.closing_token_ids, input_ids.device)).unbind(1)
        return last & ~before

    def _prefix(self, input_ids, real, is_separator) -> torch.Tensor:
        if self.conditional:
            return real & (is_separator.cumsum(-1) - is_separator.long() == 0)
        if self.bos_token_id is None:
            return torch.zeros_like(real)
        return real & (real.cumsum(-1) == 1) & (input_ids == self.bos_token_id)

    def segment_ids(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The segment of every token, `(batch_size, sequence_length)`. Arguments as for `closes`."""
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        closes = self.closes(input_ids, attention_mask).long()
        ids = closes.cumsum(-1) - closes
        if not self.conditional:
            ids = (ids + 1).masked_fill(self._prefix(input_ids, real, closes.bool()), 0)
        if self.one_per_text:
            ids = ids.clamp_max(1)
        return ids.masked_fill(~real, -1)


@lru_cache(maxsize=64)
def ids_tensor(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """As a tensor, made once: a copy to a GPU at every step would wait for it."""
    return torch.tensor(ids, device=device, dtype=torch.long)


def check_prompts(segment_ids: torch.Tensor) -> None:
    """Raise a ValueError when a row of a conditional model has nothing after its prompt."""
    if not bool((segment_ids.amax(dim=1) > 0).all()):
        raise ValueError(
            "`input_ids` of a conditional model must be BOS, prompt, [SEP] and a text, got a row without a text "
            "after [SEP]. Use TraceProcessor(..., conditional=True)(texts, prompt=prompts)."
        )


def next_segment_ids(segment_ids: torch.Tensor) -> torch.Tensor:
    """
    The segment of the *next* token at every position (latents are aligned with targets), 0 where there is none.

    The last position of a row keeps its own segment: it has no target.
    """
    following = torch.cat([segment_ids[:, 1:], segment_ids[:, -1:]], dim=1)
    return torch.where(following < 0, segment_ids, following).clamp_min(0)


def last_token_index(segment_ids: torch.Tensor, num_segments: int) -> torch.Tensor:
    """
    Position of the last token of each segment 0..`num_segments`, 0 where a row does not have the segment.

    Returns:
        `torch.LongTensor` of shape `(batch_size, num_segments + 1)`.
    """
    batch_size, length = segment_ids.shape
    index = segment_ids.new_zeros(batch_size, num_segments + 2)
    positions = torch.arange(length, device=segment_ids.device).expand(batch_size, -1)
    # padding goes to a slot of its own, which is cut off
    slot = torch.where(segment_ids < 0, num_segments + 1, segment_ids)
    return index.scatter_reduce(1, slot, positions, reduce="amax")[:, : num_segments + 1]


@dataclass(frozen=True)
class SegmentLayout:
    """
    Where the segments of a batch lie: all that a training step needs to know on the host, so that it never waits for
    the device. [`TraceTrainer`] works it out beside the collator.

    In the segment pass a token sees its own segment only. Where whole segments packed into short rows are less work
    than a row per text under a mask, `packed` is that arrangement.

    Args:
        num_segments (`int`): the most segments of a text, at least 1.
        ends (`torch.LongTensor` of shape `(batch_size, num_segments + 1)`): as [`last_token_index`] gives it.
        context_length (`int`): tokens that any c_{t-1} has read, at least 1.
        packed (`torch.LongTensor` of shape `(batch_size, rows, width)`, *optional*): positions of tokens, -1 for none;
            None where not worth it.
        packed_ends (`torch.LongTensor` of shape `(batch_size, num_segments)`, *optional*): place of the last token of
            segments 1..T in a text's `packed`.
    """

    num_segments: int
    ends: torch.Tensor
    context_length: int
    packed: torch.Tensor | None = None
    packed_ends: torch.Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SegmentLayout":
        """On another device. Accelerate calls it, with the rest of a batch."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "SegmentLayout":
        """In memory that a GPU can read by itself. `DataLoader` calls it."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change) -> "SegmentLayout":
        tensors = {name: getattr(self, name) for name in ("ends", "packed", "packed_ends")}
        return replace(self, **{name: change(value) for name, value in tensors.items() if value is not None})


@torch.compiler.disable  # it is host work: traced, every number read from a tensor would break the graph
def make_layout(segment_ids: torch.Tensor, hidden_size: int | None) -> SegmentLayout:
    """
    The [`SegmentLayout`] of a batch.

    Args:
        segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): -1 padding, 0 prefix, 1..T.
        hidden_size (`int`, *optional*): of the backbone: it decides what attention costs beside the rest. None packs
            nothing.
    """
    segment_ids = segment_ids.cpu()
    num_segments = max(1, int(segment_ids.max()))
    ends = last_token_index(segment_ids, num_segments)
    # the last segment of a text is read by no prior
    read = torch.arange(num_segments + 1) < segment_ids.amax(dim=1, keepdim=True)
    context_length = 1 + int((ends * read).max())
    packed = (None, None) if hidden_size is None else _pack(segment_ids, num_segments, hidden_size)
    return SegmentLayout(num_segments, ends, context_length, *packed)


def _pack(segment_ids, num_segments, hidden_size):
    """`packed` and `packed_ends` of [`SegmentLayout`], from `segment_ids` on the host."""
    slot = torch.where(segment_ids < 0, num_segments + 1, segment_ids)
    counts = slot.new_zeros(slot.shape[0], num_segments + 2).scatter_add(1, slot, torch.ones_like(slot))
    counts = counts[:, 1 : num_segments + 1]
    width, starts = _best_rows(counts, segment_ids.shape[1], hidden_size)
    if width is None:
        return None, None
    ends = (starts + counts - 1).clamp_min(0)
    size = -(-(int(ends.max()) + 1) // width) * width
    # tokens in the order of their segments: a token's place is that of its segment, and its rank there
    order = slot.argsort(dim=1, stable=True)
    segment = slot.gather(1, order) - 1
    in_segment = (segment >= 0) & (segment < num_segments)
    segment = segment.clamp(0, num_segments - 1)
    before = (segment_ids == 0).sum(dim=1, keepdim=True) + counts.cumsum(dim=1) - counts
    rank = torch.arange(slot.shape[1]) - before.gather(1, segment)
    place = torch.where(in_segment, starts.gather(1, segment) + rank, size)  # `size` is cut off
    packed = torch.full((slot.shape[0], size + 1), -1).scatter(1, place, order)[:, :size]
    return packed.view(slot.shape[0], -1, width).contiguous(), ends


def _best_rows(counts, length, hidden_size):
    """
    The best width of rows for segments of `counts` `(batch_size, num_segments)` tokens, and where each segment starts
    in its text's rows, one after another; None where the texts as they are, `length` wide, are less work.
    """

    def cost(tokens, width):
        # A layer's products are 24 hidden_size^2 a token, and 4 hidden_size * width in attention, which what is done
        # element by element there makes about twice as long.
        return tokens * (3 * hidden_size + width)

    least, best = cost(length, length), (None, None)
    longest = int(counts.max())
    for width in sorted({longest, 2 * longest, 3 * longest, 4 * longest, 8 * longest} - {0}):
        if width >= length:
            break
        starts, size = [], 0
        for row in counts.tolist():
            filled, row_starts = 0, []
            for count in row:
                if filled % width + count > width:  # a segment is in one row
                    filled += width - filled % width
                row_starts.append(filled)
                filled += count
            starts.append(row_starts)
            size = max(size, -(-filled // width) * width)
        if cost(size, width) < least:
            least, best = cost(size, width), (width, torch.tensor(starts))
    return best


def gather_positions(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Read `states` `(B, L, H)` at positions `index` `(B, S)`, giving `(B, S, H)`."""
    return states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def broadcast_segments(latents: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """
    Spread one vector per segment over tokens: `(B, S, D)` and segment numbers `(B, L)` (0 = none) to `(B, L, D)`.

    Tokens of segment 0, and of segments past S, get zeros.
    """
    padded = torch.nn.functional.pad(latents, (0, 0, 1, 0))  # slot 0: no latent
    segments = torch.where(segments < padded.shape[1], segments, 0)
    return gather_positions(padded, segments)


def token_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Position ids that do not count padding, from a 2-D attention mask."""
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


def context_mask(
    config: "PreTrainedConfig",
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segment_ids: torch.Tensor,
) -> torch.Tensor:
    """
    The paper's *extra* mask: a token sees its own segment and all earlier ones.

    Args:
        config: the backbone's config; its attention implementation decides the form of the mask.
        inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`).
        attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*).
        segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): -1 marks padding.
    """
    return create_causal_mask(
        config,
        inputs_embeds,
        attention_mask,
        cache=None,
        block_sequence_ids=segment_ids,
        allow_is_causal_skip=False,
    )


def segment_mask(
    config: "PreTrainedConfig",
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segment_ids: torch.Tensor,
) -> torch.Tensor:
    """The paper's *intra* mask: a token sees its own segment only. Arguments as for [`context_mask`]."""

    def same_segment(batch_idx, head_idx, q_idx, kv_idx):
        return segment_ids[batch_idx, q_idx] == segment_ids[batch_idx, kv_idx]

    # padding is a segment of its own: no row of the mask is empty, which some attention kernels cannot take
    return create_bidirectional_mask(config, inputs_embeds, None, and_mask_function=same_segment)


def whole_mask(
    config: "PreTrainedConfig",
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segment_ids: torch.Tensor,
) -> torch.Tensor:
    """A bidirectional pass: a token sees the whole text, its prefix included. Arguments as for [`context_mask`]."""
    return create_bidirectional_mask(config, inputs_embeds, attention_mask, allow_is_bidirectional_skip=False)


# The encoder passes by the name that latent dynamics know them by
ENCODER_MASKS = {"context": context_mask, "segment": segment_mask, "whole": whole_mask}
