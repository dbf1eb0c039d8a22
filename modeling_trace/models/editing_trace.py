"""Working with the latents of given texts: reconstruct, interpolate, edit and average (all by `generate()`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.utils import ModelOutput, logging

from .segments_trace import SegmentRule

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from .configuration_trace import TraceConfig

logger = logging.get_logger(__name__)


class _StopAfterSegments(StoppingCriteria):
    """Ends each row after as many segments as it has latents for: what follows would be drawn from the prior."""

    def __init__(self, rule: SegmentRule, prompt_mask: torch.Tensor, wanted: torch.Tensor):
        self.rule, self.prompt_mask, self.wanted = rule, prompt_mask, wanted

    def __call__(self, input_ids, scores, **kwargs):
        # rows of one prompt stand together, however many beams or returned texts it has
        copies, prompt_length = len(input_ids) // len(self.wanted), self.prompt_mask.shape[1]
        mask = self.prompt_mask.to(input_ids.device).repeat_interleave(copies, dim=0)
        mask = torch.nn.functional.pad(mask, (0, input_ids.shape[1] - prompt_length), value=1)
        closed = self.rule.closes(input_ids, mask)[:, prompt_length:].sum(dim=1)
        return closed >= self.wanted.to(input_ids.device).repeat_interleave(copies)


class LatentEditingMixin:
    """
    The methods of [`TraceForConditionalGeneration`] that start from texts rather than from the prior.

    All return what `generate(return_dict_in_generate=True)` returns: `sequences` and the `latents` of each row. All
    take arguments of `generate()` (`num_beams`, `do_sample`, `max_new_tokens`, `generator`, ...) besides their own. A
    conditional model keeps each text's prompt. A text ends after as many segments as it has latents for.
    """

    if TYPE_CHECKING:  # what it needs of its host
        config: TraceConfig
        generation_config: GenerationConfig
        has_latents: bool
        one_latent_per_text: bool

        @property
        def segment_rule(self) -> SegmentRule: ...
        def encode(self, input_ids, attention_mask=None, *, sample_latents=None) -> ModelOutput: ...
        def generate(self, inputs=None, **kwargs) -> torch.Tensor | ModelOutput: ...

    @torch.no_grad()
    def reconstruct(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        sample_latents: bool = False,
        **kwargs,
    ) -> ModelOutput:
        """
        Write texts again from their posterior latents alone.

        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(num_texts, sequence_length)`): texts, as
                [`TraceProcessor`] writes them.
            sample_latents (`bool`, defaults to `False`): draw z from the posterior rather than take its mean.
            **kwargs: of `generate()`.

        Returns:
            `sequences` and `latents`, a row per text (and returned sequence).
        """
        latents, counts, segment_ids = self._latents_of(input_ids, attention_mask, sample_latents)
        prefix = self._cut(input_ids, segment_ids, 1)
        return self._write_under(latents, counts, *prefix, input_ids, kwargs)

    @torch.no_grad()
    def interpolate(
        self,
        start_ids: torch.Tensor,
        end_ids: torch.Tensor,
        start_mask: torch.Tensor | None = None,
        end_mask: torch.Tensor | None = None,
        *,
        num_steps: int = 5,
        **kwargs,
    ) -> ModelOutput:
        """
        Walk from the latents of one text to those of another in straight lines, one for each segment.

        Step i of n has z_t = (1 - a) z_t(start) + a z_t(end) with a = i / (n - 1), and as many segments as lie on the
        way between the two texts; where one text has no segment t, the other's latent is taken as it is. A conditional
        model writes on the start's prompt.

        Args:
            start_ids, end_ids (`torch.LongTensor` of shape `(num_pairs, sequence_length)`): pairs of texts.
            start_mask, end_mask: their attention masks.
            num_steps (`int`, defaults to 5): texts per pair, both ends included, >= 2.
            **kwargs: of `generate()`.

        Returns:
            `sequences` and `latents`, `num_steps` rows for each pair, from start to end.
        """
        if num_steps < 2:
            raise ValueError(f"`num_steps` must be >= 2, both ends, got {num_steps}.")
        if len(start_ids) != len(end_ids):
            raise ValueError(
                f"`start_ids` and `end_ids` must be pairs, got {len(start_ids)} and {len(end_ids)} texts."
            )
        start, start_count, segment_ids = self._latents_of(start_ids, start_mask)
        end, end_count, _ = self._latents_of(end_ids, end_mask)
        longest = max(start.shape[1], end.shape[1])
        start, end = (torch.nn.functional.pad(z, (0, 0, 0, longest - z.shape[1])) for z in (start, end))
        steps = torch.arange(1, longest + 1, device=start.device)
        has_start, has_end = ((steps <= count.unsqueeze(1)).unsqueeze(-1) for count in (start_count, end_count))
        start, end = torch.where(has_start, start, end), torch.where(has_end, end, start)
        share = torch.linspace(0, 1, num_steps, device=start.device).view(1, -1, 1, 1)
        latents = torch.lerp(start.unsqueeze(1), end.unsqueeze(1), share).flatten(0, 1)
        counts = torch.lerp(start_count.unsqueeze(1).float(), end_count.unsqueeze(1).float(), share.view(1, -1))
        ids, mask = (x.repeat_interleave(num_steps, dim=0) for x in self._cut(start_ids, segment_ids, 1))
        longer = start_ids if start_ids.shape[1] >= end_ids.shape[1] else end_ids
        return self._write_under(latents, counts.round().long().flatten(), ids, mask, longer, kwargs)

    @torch.no_grad()
    def edit(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        segments: int | Sequence[int],
        num_return_sequences: int = 1,
        **kwargs,
    ) -> ModelOutput:
        """
        Draw the latents of chosen segments again and hold all others.

        The text before the first chosen segment stays as it is. From there on it is written again: the chosen segments
        under new latents from the prior, the others under their own.

        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(num_texts, sequence_length)`): texts.
            segments (`int` or `Sequence[int]`): numbers of the segments to draw again, counted from 1.
            num_return_sequences (`int`, defaults to 1): draws for each text, each with a decoding of its own.
            **kwargs: of `generate()`, e.g. `latent_temperature`.

        Returns:
            `sequences` and `latents`, `num_return_sequences` rows for each text.

        Raises:
            ValueError: for a segment that a text does not have, or a model with one latent for the whole text.
        """
        if self.has_latents and self.one_latent_per_text:
            raise ValueError(
                "`segments` cannot be resampled with `latent_dynamics='single'`, whose one latent is the whole "
                "text's. Use generate() for a new text."
            )
        segments = [segments] if isinstance(segments, int) else list(segments)
        if not segments or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in segments):
            raise ValueError(f"`segments` must be numbers of segments, counted from 1, got {segments}.")
        if num_return_sequences < 1:
            raise ValueError(f"`num_return_sequences` must be >= 1, got {num_return_sequences}.")
        segments = sorted(set(segments))
        latents, counts, segment_ids = self._latents_of(input_ids, attention_mask)
        if segments[-1] > int(counts.min()):
            row = int(counts.argmin())
            raise ValueError(
                f"`segments` must be in every text, got {segments[-1]}, but text {row} has only {int(counts[row])}."
            )
        latents[:, [number - 1 for number in segments]] = float("nan")
        prefix = self._cut(input_ids, segment_ids, segments[0])
        # a row of its own for each draw: the beams of one row share its latents
        latents, counts, ids, mask = (
            x.repeat_interleave(num_return_sequences, dim=0) for x in (latents, counts, *prefix)
        )
        return self._write_under(latents, counts, ids, mask, input_ids, kwargs, before=segments[0] - 1)

    @torch.no_grad()
    def average(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs) -> ModelOutput:
        """
        Write under the mean of several texts' latents, segment by segment, with their mean number of segments.

        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(num_texts, sequence_length)`): the texts. A
                conditional model writes on the first one's prompt.
            **kwargs: of `generate()`; the latents are held, so texts differ by sampling only.

        Returns:
            `sequences` and `latents`, one row (or `num_return_sequences`).
        """
        latents, counts, segment_ids = self._latents_of(input_ids, attention_mask)
        steps = torch.arange(1, latents.shape[1] + 1, device=latents.device)
        has_segment = (steps <= counts.unsqueeze(1)).unsqueeze(-1)
        mean = (latents * has_segment).sum(dim=0, keepdim=True) / has_segment.sum(dim=0, keepdim=True)
        count = counts.float().mean().round().long().view(1)
        return self._write_under(mean, count, *self._cut(input_ids[:1], segment_ids[:1], 1), input_ids, kwargs)

    def _latents_of(self, input_ids, attention_mask, sample_latents=False):
        """Posterior latents `(rows, S, D)`, the number of segments of each row, and the segment ids."""
        encoded = self.encode(input_ids, attention_mask, sample_latents=sample_latents)
        counts = encoded.segment_ids.amax(dim=1)
        if int(counts.min()) < 1:
            raise ValueError(f"`input_ids` has no text in row {int(counts.argmin())}, and so no latents.")
        return encoded.latents, counts, encoded.segment_ids

    def _cut(self, input_ids, segment_ids, first) -> tuple[torch.Tensor, torch.Tensor]:
        """What stands before segment `first` in each row, padded on the left, and its mask."""
        pad = self.config.pad_token_id if self.config.pad_token_id is not None else 0
        rows = [
            ids[(segments >= 0) & (segments < first)] for ids, segments in zip(input_ids, segment_ids, strict=True)
        ]
        start = input_ids.new_tensor([self.config.bos_token_id if self.config.bos_token_id is not None else pad])
        rows = [row if len(row) else start for row in rows]  # texts without BOS
        width = max(map(len, rows))
        ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=pad) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        mask = (torch.arange(width, device=ids.device) >= (width - lengths).unsqueeze(1)).long()
        return ids, mask

    def _write_under(self, latents, counts, prompt_ids, prompt_mask, source_ids, kwargs, before=0):
        """`generate()` under `latents` (NaN = draw), up to `counts` segments a row, `before` of them in the prompt."""
        for name in ("latents", "input_ids", "inputs", "attention_mask"):
            if name in kwargs:
                raise ValueError(f"`{name}` cannot be given: it comes from the texts. Use generate() instead.")
        configs = [kwargs.get("generation_config"), self.generation_config]
        given = [kwargs, *(config.to_dict() for config in configs if config is not None)]
        if all(values.get(name) is None for values in given for name in ("max_new_tokens", "max_length")):
            # segments of the same number can be longer than the text's own
            limit = getattr(self.config.backbone_config, "max_position_embeddings", None)
            wanted = 2 * source_ids.shape[1]
            if limit is not None and wanted > limit - prompt_ids.shape[1]:
                wanted = limit - prompt_ids.shape[1]
                if not prompt_mask.all():
                    logger.warning_once(
                        f"The longest prompt of the batch leaves {wanted} tokens to each of its texts. Where that is "
                        "too few, pass texts with prompts of like length together, or one by one."
                    )
            kwargs["max_new_tokens"] = wanted
        criteria = StoppingCriteriaList(kwargs.pop("stopping_criteria", None) or [])
        if not self.one_latent_per_text:
            criteria.append(_StopAfterSegments(self.segment_rule, prompt_mask, counts - before))
        kwargs.update(return_dict_in_generate=True, stopping_criteria=criteria)
        out = self.generate(prompt_ids, attention_mask=prompt_mask, latents=latents, **kwargs)
        # a row that is done waits for the others, and may have drawn a latent for a segment that it does not write
        counts = counts.repeat_interleave(len(out.latents) // len(counts))
        latents = out.latents[:, : int(counts.max())]
        steps = torch.arange(1, latents.shape[1] + 1, device=latents.device)
        out["latents"] = torch.where((steps <= counts.unsqueeze(1)).unsqueeze(-1), latents, 0.0)
        return out
