"""TraceCache: everything that belongs to a row during generation, kept together (design: beams reorder the cache)."""

import torch
from transformers import DynamicCache, StoppingCriteriaList

from .private_trace import layer_of
from .segments_trace import SegmentRule

# Encoder slots made at a time: a copy of the whole cache for every token would be as dear as the tokens
_SPARE_SLOTS = 8


class TraceCache(DynamicCache):
    """
    Decoder keys and values, encoder keys and values, latents and segment bookkeeping of every row.

    Beam search reorders the cache and nothing else, so all per-row state lives here and moves as one.

    Attributes:
        encoder (`DynamicCache`): for latents at the embeddings: keys and values of the context pass, one slot for each
            token of the text and a few spare ones, filled up to `segment_start` in each row. Slots past it are not
            valid.
        input_ids, attention_mask (`torch.Tensor` of shape `(rows, sequence_length)`): the whole text so far, set
            before every step; the mask may be None.
        latents (`torch.Tensor` of shape `(rows, capacity, latent_size)`): z of every segment begun so far, zero after;
            None before the first draw.
        current (`torch.Tensor` of shape `(rows, latent_size)`): z of the segment that each row's next token is in.
        segment (`torch.LongTensor` of shape `(rows,)`): number (1, 2, ...) of the segment that the next token is in.
        segment_start (`torch.LongTensor` of shape `(rows,)`): position of that segment's first token.
        prompt_latents, prompt_segments: `latents` and `segment` at the first step, in the rows' order of that step.
        step_latents (`list[torch.Tensor]`): the latent of the next token at every step, in the rows' order of that
            step: what a finished beam has to be looked up in, since its row may be gone from the cache.
        end_ids (`tuple[int]`): the tokens that end a text.
        ended (`torch.BoolTensor` of shape `(rows,)`): whose text has ended, by one of `end_ids` or as
            [`RememberEnds`] saw it.
        draws (`LatentDraws`): how new latents are drawn; the same for all beams of a prompt, so never reordered.
    """

    is_croppable = False

    def __init__(self, backbone_config=None):
        super().__init__(config=backbone_config)
        # the encoder reads whole texts, whatever the decoder's sliding windows
        self.encoder = DynamicCache()
        self.draws = None
        self.end_ids: tuple[int, ...] = ()
        self._clear_rows()

    def _clear_rows(self) -> None:
        self.input_ids: torch.Tensor | None = None
        self.attention_mask: torch.Tensor | None = None
        self.latents: torch.Tensor | None = None
        self.current: torch.Tensor | None = None
        self.ended: torch.Tensor | None = None
        # what is known without asking the device: the most segments of any row, tokens whose end was
        # looked for, and where the prompts' open segments start
        self.num_segments = 0
        self.looked_at = 0
        self.starts: set[int] = set()
        self.segment: torch.Tensor | None = None
        self.segment_start: torch.Tensor | None = None
        self.prompt_latents: torch.Tensor | None = None
        self.prompt_segments: torch.Tensor | None = None
        self.step_latents: list[torch.Tensor] = []

    def begin(self, latents: torch.Tensor, segment: torch.Tensor, segment_start: torch.Tensor) -> None:
        """
        Set the rows' state after the prompt.

        Args:
            latents (`torch.Tensor` of shape `(rows, num_segments, latent_size)`): z_1 to that of the open segment.
            segment, segment_start: as the attributes of the same names.
        """
        self.latents, self.segment, self.segment_start = latents, segment, segment_start
        self.current = latents.gather(1, (segment - 1).view(-1, 1, 1).expand(-1, 1, latents.shape[-1])).squeeze(1)
        self.num_segments = latents.shape[1]
        self.ended = torch.zeros_like(segment, dtype=torch.bool)
        self.looked_at = self.input_ids.shape[1]
        self.starts = set(segment_start.tolist())
        self.prompt_latents, self.prompt_segments = latents, segment

    def may_close(self, rule: SegmentRule) -> bool:
        """
        Whether the last token may close a segment in some row. Where segments end at positions, the prompts have said
        at which ones, so that the steps between cost nothing.

        Args:
            rule ([`SegmentRule`]): of the model.
        """
        if rule.separator == "token" or rule.segment_length is None:
            return True
        return any((self.input_ids.shape[1] - start) % rule.segment_length == 0 for start in self.starts)

    def open_segments(self, closed: torch.Tensor, latents: torch.Tensor, position: int) -> None:
        """Begin the next segment, at `position` and under `latents` `(rows, latent_size)`, of the rows `closed`."""
        self.num_segments += 1
        missing = self.num_segments - self.latents.shape[1]
        if missing > 0:  # twice as many: a copy for every token would be as dear as the tokens
            self.latents = torch.nn.functional.pad(self.latents, (0, 0, 0, max(missing, self.latents.shape[1])))
        self.segment = self.segment + closed.long()
        self.segment_start = torch.where(closed, position, self.segment_start)
        self.current = torch.where(closed.unsqueeze(-1), latents, self.current)
        slot = (self.segment - 1).view(-1, 1, 1).expand(-1, 1, latents.shape[-1])
        self.latents.scatter_(1, slot, self.current.unsqueeze(1))  # where a row closed nothing: what stands there

    def encoder_past(self, rows: torch.Tensor, length: int) -> DynamicCache:
        """The first `length` encoder slots of `rows` as a cache of their own, for a pass that appends to them."""
        past = DynamicCache()
        if length > 0:
            for layer in self.encoder.layers:
                keys, values = layer.keys[:, :, :length], layer.values[:, :, :length]
                if rows.numel() != keys.shape[0]:
                    keys, values = keys[rows], values[rows]
                past.layers.append(layer_of(keys, values))
        return past

    def store_encoder(
        self, rows: torch.Tensor, past: DynamicCache, past_length: int, window: torch.Tensor, total: int
    ) -> None:
        """
        Write what a pass over `window` `(n, width)` (True for tokens) appended to `past` back to the rows' own slots.

        Row i's window begins at slot `segment_start[rows[i]]`; the cache grows to `total` slots at least.
        """
        every_row = rows.numel() == self.segment.numel()
        if every_row and total == past_length + window.shape[1] and bool(window.all()):
            self.encoder = past  # all rows closed at the same place: appending was all there was to do
            return
        columns = self.segment_start[rows].unsqueeze(1) + torch.arange(window.shape[1], device=window.device)
        row_index = rows.unsqueeze(1).expand_as(columns)[window]
        column_index = columns[window]
        for index, layer in enumerate(past.layers):
            new_keys = layer.keys[:, :, past_length:].transpose(1, 2)[window]  # (tokens, heads, head size)
            new_values = layer.values[:, :, past_length:].transpose(1, 2)[window]
            if index >= len(self.encoder.layers):
                shape = (self.segment.numel(), layer.keys.shape[1], 0, layer.keys.shape[3])
                self.encoder.update(layer.keys.new_empty(shape), layer.values.new_empty(shape), index)
            kept = self.encoder.layers[index]
            if kept.keys.shape[2] < total:
                grow = total + _SPARE_SLOTS - kept.keys.shape[2]
                kept.keys = torch.nn.functional.pad(kept.keys, (0, 0, 0, grow))
                kept.values = torch.nn.functional.pad(kept.values, (0, 0, 0, grow))
            kept.keys[row_index, :, column_index] = new_keys
            kept.values[row_index, :, column_index] = new_values

    def _apply_to_rows(self, change) -> None:
        if self.latents is not None:
            self.latents = change(self.latents)
            self.current = change(self.current)
            self.ended = change(self.ended)
            self.segment = change(self.segment)
            self.segment_start = change(self.segment_start)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Rows become `beam_idx` `(rows,)` of the present rows. The step log stays as it was written."""
        super().reorder_cache(beam_idx)
        self.encoder.reorder_cache(beam_idx)
        self._apply_to_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self.encoder.batch_repeat_interleave(repeats)
        self._apply_to_rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the rows `indices`."""
        super().batch_select_indices(indices)
        self.encoder.batch_select_indices(indices)
        self._apply_to_rows(lambda x: x[indices])

    def reset(self) -> None:
        """Forget every row."""
        super().reset()
        self.encoder.reset()
        self._clear_rows()


class RememberEnds(StoppingCriteriaList):
    """
    Stopping criteria that tell the cache which rows have ended: after a stop string nothing but the padding differs
    from a text that goes on. Not for beams, of which these rows are candidates.

    Args:
        criteria (`StoppingCriteriaList`): those of the call and of its settings.
        cache ([`TraceCache`]).
    """

    def __init__(self, criteria: StoppingCriteriaList, cache: TraceCache):
        super().__init__(criteria)
        self.cache = cache
        # without an EOS, Transformers lets rows that ended go on until all have, and so do their latents
        self.pads = any(hasattr(criterion, "eos_token_id") for criterion in criteria)

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        done = super().__call__(input_ids, scores, **kwargs)
        if self.pads:
            self.cache.ended = self.cache.ended | done
        return done
