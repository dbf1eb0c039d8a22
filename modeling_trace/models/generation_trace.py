"""Generation: where segments close, and the latent that is drawn for the next one there (paper Sec. 5.2)."""

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, GenerationConfig, LogitsProcessorList
from transformers.utils import ModelOutput

from .cache_trace import RememberEnds, TraceCache
from .latent_draws_trace import LatentDraws, SegmentCallback
from .logits_processor_trace import RememberSeparatorScores, SegmentLogitsProcessor
from .segments_trace import SegmentRule, ids_tensor, next_segment_ids

if TYPE_CHECKING:
    from .configuration_trace import TraceConfig
    from .dynamics_trace import LatentDynamics


class SegmentGenerationMixin:
    """
    The part of [`TraceForConditionalGeneration`] that turns stock `generate()` into segment-wise sampling.

    Stands before Transformers' `GenerationMixin` among the host's bases.
    """

    if TYPE_CHECKING:  # what it needs of its host
        config: TraceConfig
        generation_config: GenerationConfig
        has_latents: bool
        one_latent_per_text: bool
        dynamics: LatentDynamics

        @property
        def device(self) -> torch.device: ...
        @property
        def segment_rule(self) -> SegmentRule: ...
        def _segment_ids(self, input_ids, attention_mask, segment_ids) -> torch.Tensor: ...
        def _warn_of_prompts(self, input_ids, attention_mask) -> None: ...
        def _prompt_states(
            self, cache: TraceCache, hidden, segment_ids, start, total
        ) -> tuple[torch.Tensor | None, torch.Tensor | None]: ...
        def _closed_states(self, cache: TraceCache, hidden, closed: torch.Tensor) -> torch.Tensor | None: ...

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        latents: torch.Tensor | None = None,
        latent_temperature: float = 1.0,
        min_segment_length: int | None = None,
        max_segment_length: int | None = None,
        segment_callback: SegmentCallback | None = None,
        generator: torch.Generator | None = None,
        **kwargs,
    ) -> torch.Tensor | ModelOutput:
        r"""
        Transformers' `generate()`, with every argument of it, plus latents. Without a prompt it starts from BOS.

        The token that closes a segment draws a new latent from the prior, so repeated calls write different texts even
        under greedy or beam decoding; greedy decoding takes `num_return_sequences` here. A prompt's complete segments
        get latents from their posterior, an open last segment and every later one from the prior. The beams of one
        prompt share z_1.

        Args:
            inputs (`torch.LongTensor` of shape `(num_prompts, sequence_length)`, *optional*): prompts, padded left,
                BOS first and, with `separator="token"`, [SEP] after each complete segment, as
                `TraceProcessor(..., add_eos=False)` makes them.
            generation_config, logits_processor: as in Transformers.
            latents (`torch.Tensor`, *optional*): z to hold, of shape `(num_segments, latent_size)`, or one such for
                each prompt or each row; NaN = draw. Segments past `num_segments` are drawn.
            latent_temperature (`float`, defaults to 1.0): scales the prior's sigma. 0 takes the prior's mean, and the
                posterior's mean for a prompt's segments.
            min_segment_length, max_segment_length (`int`, *optional*): tokens in a segment, [SEP] not counted, for
                `separator="token"` only. A model with fixed `config.segment_length` closes exactly there unless one of
                them is given.
            segment_callback (`Callable`, *optional*): called as `segment_callback(latents, prior, rows, segment)` for
                every draw from the prior: `latents` `(n, latent_size)`; `prior` its mean and log variance; `rows`
                `(n,)`; `segment` `(n,)`, counted from 1. What it returns, unless None, replaces `latents`.
            generator (`torch.Generator`, *optional*): for the latents. `torch.manual_seed` also makes them repeatable.

        Returns:
            Token ids, any [SEP] included; with `return_dict_in_generate=True` Transformers' output plus `latents` of
            shape `(returned rows, num_segments, latent_size)`, zero where a row has fewer segments.

        Raises:
            ValueError: for latents of the wrong shape, a prompt longer than the context, and what cannot work with
                latents: assisted decoding, static, quantized or paged caches, `inputs_embeds` prompts.
        """
        if not self.has_latents:
            for name, value, default in (
                ("latents", latents, None),
                ("latent_temperature", latent_temperature, 1.0),
                ("min_segment_length", min_segment_length, None),
                ("max_segment_length", max_segment_length, None),
                ("segment_callback", segment_callback, None),
                ("generator", generator, None),
            ):
                if value is not default and value != default:
                    raise ValueError(f"`{name}` cannot be used with `latent_dynamics='none'`, a plain language model.")
            if self.config.conditional:
                self._check_prompt_end(inputs if inputs is not None else kwargs.get("input_ids"))
            return super().generate(inputs, generation_config, logits_processor, **kwargs)  # type: ignore[misc]

        def setting(name, default=None):
            """A generation setting as Transformers will find it: call, then given config, then the model's own."""
            configured = (getattr(config, name, None) for config in (generation_config, self.generation_config))
            return next((value for value in (kwargs.get(name), *configured) if value is not None), default)

        self._refuse_unsupported(kwargs, setting)
        if not 0 <= latent_temperature < math.inf:
            raise ValueError(
                f"`latent_temperature` must be a number >= 0, got {latent_temperature}. Use 0 for the prior's mean."
            )

        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        bos_token_id = setting("bos_token_id", self.config.bos_token_id)
        if self.config.bos_token_id not in (None, bos_token_id):
            raise ValueError(
                f"`bos_token_id` of generation must be the model's, after which segments begin, got {bos_token_id} "
                f"and {self.config.bos_token_id}. Set model.config.bos_token_id = {bos_token_id} as well."
            )
        if inputs is None:
            if bos_token_id is None:
                raise ValueError("`bos_token_id` is needed to start without a prompt, got None. Pass `input_ids`.")
            inputs = torch.full((1, 1), bos_token_id, device=self.device)
            kwargs["attention_mask"] = torch.ones_like(inputs)  # BOS may be PAD as well
        self._check_prompt(inputs, kwargs.get("attention_mask"))
        if latents is not None and not isinstance(latents, torch.Tensor):
            raise ValueError(f"`latents` must be a tensor, got {type(latents).__name__}. Use torch.tensor(latents).")
        beams, returned = setting("num_beams", 1), setting("num_return_sequences", 1)
        for name, value in (("num_beams", beams), ("num_return_sequences", returned)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be an integer >= 1, got {value!r}. Use 1 for a single one.")
        if beams == 1 and not setting("do_sample", False) and returned > 1:
            # greedy texts differ by their latents, which Transformers cannot know
            inputs = inputs.repeat_interleave(returned, dim=0)
            if kwargs.get("attention_mask") is not None:
                kwargs["attention_mask"] = kwargs["attention_mask"].repeat_interleave(returned, dim=0)
            if latents is not None and latents.dim() == 3 and latents.shape[0] * returned == inputs.shape[0]:
                latents = latents.repeat_interleave(returned, dim=0)
            kwargs["num_return_sequences"] = returned = 1
        given = self._given_latents(latents, inputs.shape[0], max(beams, returned), beams)

        cache = TraceCache(self.config.backbone_config)
        cache.draws = LatentDraws(given, latent_temperature, segment_callback, generator)
        eos = setting("eos_token_id", self.config.eos_token_id)
        cache.end_ids = () if eos is None else tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
        processors = LogitsProcessorList(logits_processor or [])
        if self.one_latent_per_text or self.config.separator == "none":
            if min_segment_length is not None or max_segment_length is not None:
                why = "has no segments" if self.one_latent_per_text else "writes no [SEP] that could be ruled out"
                raise ValueError(
                    f"`min_segment_length` and `max_segment_length` cannot be used: this model {why}. Leave them out."
                )
        else:
            processors.append(self._segment_processor(cache, min_segment_length, max_segment_length, setting))
        if beams == 1:
            kwargs["stopping_criteria"] = RememberEnds(kwargs.get("stopping_criteria") or [], cache)
        outputs = super().generate(  # type: ignore[misc]
            inputs, generation_config, logits_processor=processors, cache=cache, **kwargs
        )
        if isinstance(outputs, torch.Tensor):
            return outputs
        outputs["latents"] = self._returned_latents(outputs, cache, inputs.shape[1], kwargs.get("attention_mask"))
        if not setting("use_cache", True):
            outputs["cache"] = None
        return outputs

    def generate_batch(self, *args, **kwargs) -> Any:
        """As in Transformers, for `latent_dynamics="none"` only."""
        if not self.has_latents:
            return super().generate_batch(*args, **kwargs)  # type: ignore[misc]
        raise ValueError("Continuous batching needs a paged cache, which cannot hold latents. Use `generate()`.")

    def _refuse_unsupported(self, kwargs, setting):
        """One clear error for what would lose latents, before anything runs."""
        refusals = (
            (
                kwargs.get("assistant_model") is not None or setting("prompt_lookup_num_tokens") is not None,
                "Assisted decoding takes tokens back, which a latent that was drawn cannot be. Leave out "
                "`assistant_model` and `prompt_lookup_num_tokens`.",
            ),
            (
                setting("cache_implementation") is not None,
                f"`cache_implementation='{setting('cache_implementation')}'` cannot hold latents. Leave it out: a "
                "TraceCache is used.",
            ),
            (
                kwargs.get("cache") is not None or kwargs.get("past_key_values") is not None,
                "`cache` cannot be given: latents belong to the cache that drew them. Pass the whole text "
                "so far as the prompt.",
            ),
            (
                kwargs.get("inputs_embeds") is not None,
                "`inputs_embeds` prompts cannot be segmented: the tokens must be seen. Pass `input_ids`.",
            ),
            (
                setting("guidance_scale") not in (None, 1),
                "`guidance_scale` decodes a second text beside each one, which has no latents. Leave it out.",
            ),
            (
                setting("token_healing", False),
                "`token_healing` writes the prompt anew, without BOS and [SEP]. Leave it out.",
            ),
            (
                setting("num_beam_groups", 1) > 1
                or any(
                    setting(name) is not None
                    for name in ("penalty_alpha", "dola_layers", "force_words_ids", "constraints")
                ),
                "Group beam search, contrastive search, DoLa and constrained beams are code from elsewhere that does "
                "not know latents. Use sampling, or beam search with `num_beams` alone.",
            ),
            (
                setting("prefill_chunk_size") is not None,
                "`prefill_chunk_size` would split segments. Leave it out.",
            ),
        )
        for refused, message in refusals:
            if refused:
                raise ValueError(message)

    def _check_prompt(self, inputs, attention_mask):
        limit = getattr(self.config.backbone_config, "max_position_embeddings", None)
        if not isinstance(inputs, torch.Tensor):
            raise ValueError(f"`inputs` must be a tensor of token ids, got {type(inputs).__name__}.")
        if inputs.dim() != 2 or inputs.is_floating_point() or inputs.numel() == 0:
            raise ValueError(f"`inputs` must be token ids (num_prompts, sequence_length), got {tuple(inputs.shape)}.")
        if attention_mask is not None and attention_mask.dim() == 2 and (attention_mask[:, -1] == 0).any():
            raise ValueError(
                "`attention_mask` ends in 0: prompts must be padded on the left. "
                "Use TraceProcessor(..., add_eos=False, padding=True), or tokenizer.padding_side='left'."
            )
        if self.config.conditional:
            self._check_prompt_end(inputs)
        if limit is not None and inputs.shape[1] >= limit:
            raise ValueError(
                f"`inputs` must leave room in the backbone's context of {limit} tokens, got a prompt of "
                f"{inputs.shape[1]}. Shorten the prompt."
            )
        self._warn_of_prompts(inputs, attention_mask)

    def _check_prompt_end(self, inputs):
        if inputs is None or not (inputs == self.config.sep_token_id).any(dim=-1).all():
            raise ValueError(
                "`inputs` of a conditional model must be BOS, a prompt and [SEP], got a row without [SEP]. "
                "Use TraceProcessor(..., conditional=True)(prompt=prompts)."
            )

    def _validate_generated_length(self, generation_config, input_ids_length, has_default_max_length):
        limit = getattr(self.config.backbone_config, "max_position_embeddings", None)
        if limit is not None and has_default_max_length and generation_config.max_new_tokens is None:
            generation_config.max_length = min(generation_config.max_length, limit)  # nobody asked for more
        super()._validate_generated_length(generation_config, input_ids_length, has_default_max_length)
        if limit is not None and generation_config.max_length > limit:
            raise ValueError(
                f"`max_length` must fit the backbone's context of {limit} tokens, got {generation_config.max_length} "
                f"with a prompt of {input_ids_length}. Use `max_new_tokens={limit - input_ids_length}` or less."
            )

    def _get_logits_processor(self, *args, **kwargs):
        processors = super()._get_logits_processor(*args, **kwargs)
        for processor in processors:
            if isinstance(processor, SegmentLogitsProcessor):
                processors.insert(0, RememberSeparatorScores(processor))
                break
        return processors

    def _get_stopping_criteria(self, generation_config, stopping_criteria, *args, **kwargs):
        criteria = super()._get_stopping_criteria(generation_config, stopping_criteria, *args, **kwargs)
        if isinstance(stopping_criteria, RememberEnds):  # a place in which the cache came
            return RememberEnds(criteria, stopping_criteria.cache)
        return criteria

    def _given_latents(self, latents, num_prompts, expansion, beams):
        """`latents` as `(rows, num_segments, latent_size)`, or None."""
        if latents is None:
            return None
        rows = num_prompts * expansion
        size = self.config.latent_size
        if latents.dim() not in (2, 3) or latents.shape[-1] != size or latents.shape[-2] < 1:
            raise ValueError(
                f"`latents` must have shape (num_segments, {size}) or ({num_prompts}, num_segments, {size}), "
                f"got {tuple(latents.shape)}."
            )
        if latents.isinf().any():
            raise ValueError("`latents` must be finite, or NaN to draw, got infinite values.")
        if self.one_latent_per_text and latents.shape[-2] != 1:
            raise ValueError(
                "`latents` must hold one latent per text for `latent_dynamics='single'`, which has no segments, got "
                f"{latents.shape[-2]}."
            )
        latents = latents.to(self.device)
        if latents.dim() == 2:
            return latents.unsqueeze(0).expand(rows, -1, -1)
        if latents.shape[0] == num_prompts:
            return latents.repeat_interleave(expansion, dim=0)
        if latents.shape[0] == rows and beams == 1:
            return latents
        or_rows = f" or per returned text ({rows})" if beams == 1 else ", which all its beams share"
        raise ValueError(f"`latents` must have one row per prompt ({num_prompts}){or_rows}, got {latents.shape[0]}.")

    def _segment_processor(self, cache, min_length, max_length, setting) -> SegmentLogitsProcessor:
        if min_length is None and max_length is None:
            min_length = max_length = self.config.segment_length
        start = {setting("bos_token_id", self.config.bos_token_id), setting("pad_token_id", self.config.pad_token_id)}
        processor = SegmentLogitsProcessor(
            self.config.sep_token_id,
            list(cache.end_ids),
            sorted(start - {None}),
            1 if min_length is None else min_length,
            max_length,
        )
        processor.cache = cache
        return processor

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        cache: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        next_sequence_length: int | None = None,
        use_cache: bool | None = True,
        **kwargs,
    ) -> dict[str, Any]:
        """Hand the rows' text so far to the cache: latents are drawn in the pass itself, see `_next_latents`."""
        if not isinstance(cache, TraceCache):
            return super().prepare_inputs_for_generation(  # type: ignore[misc]
                input_ids,
                cache=cache,
                attention_mask=attention_mask,
                position_ids=position_ids,
                next_sequence_length=next_sequence_length,
                use_cache=use_cache,
                **kwargs,
            )
        cache.input_ids, cache.attention_mask = input_ids, attention_mask  # the whole text, in the rows' present order
        if use_cache and cache.latents is not None:
            input_ids = input_ids[:, -1:]
        if position_ids is not None:
            position_ids = position_ids[:, -input_ids.shape[1] :]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache": cache,
            "use_cache": use_cache,
            **kwargs,
        }

    @torch.compiler.disable  # a step of the host's between two layers, also of a backbone that is compiled
    def _next_latents(self, cache: TraceCache, hidden: torch.Tensor) -> torch.Tensor:
        """
        z of the segment of each *next* token, `(rows, L, latent_size)`, for a pass over `L` tokens that has come to
        the latents' place: drawn at the first step, and for rows whose last token closed a segment.
        """
        if cache.latents is None:
            self._begin(cache, hidden)
        else:
            self._redraw(cache, hidden)
        cache.step_latents.append(cache.current)
        if hidden.shape[1] == 1:
            return cache.current.unsqueeze(1)
        following = next_segment_ids(self._segment_ids(cache.input_ids, cache.attention_mask, None))
        following[:, -1] = cache.segment  # what comes next may be in a segment that has no token yet
        index = (following - 1).clamp_min(0).unsqueeze(-1).expand(-1, -1, cache.latents.shape[-1])
        return cache.latents.gather(1, index) * (following > 0).unsqueeze(-1)

    def _begin(self, cache: TraceCache, hidden: torch.Tensor) -> None:
        """Latents of the prompt's complete segments, and z of the segment that generation continues."""
        input_ids = cache.input_ids
        segment_ids = self._segment_ids(input_ids, cache.attention_mask, None)
        rows = input_ids.shape[0]
        every_row = torch.arange(rows, device=input_ids.device)
        current = (segment_ids[:, -1] + self._closed(cache).long()).clamp_min(1)
        if self.one_latent_per_text:
            current = torch.ones_like(current)
        # first token of the open segment; past the end where it has none yet
        start = (segment_ids < current.unsqueeze(1)).sum(dim=1)
        total = int(current.max())
        context, states = self._prompt_states(cache, hidden, segment_ids, start, total)
        draws = cache.draws
        steps = []
        previous = torch.zeros(rows, self.config.latent_size, device=input_ids.device)
        for t in range(1, total + 1):
            first = torch.full((rows,), t == 1, device=input_ids.device)
            prior = self.dynamics.prior(previous, None if context is None else context[:, t - 1], first)
            mean, logvar = prior
            complete = (t < current).unsqueeze(-1)
            if t < total:
                posterior = self.dynamics.posterior(*prior, states[:, t])
                mean, logvar = (torch.where(complete, q, p) for q, p in zip(posterior, prior, strict=True))
            scale = torch.where(complete, float(draws.temperature > 0), draws.temperature)
            z = draws.replace_given(draws.draw(mean, logvar, scale), every_row, torch.full_like(every_row, t))
            z = draws.call_back(z, prior, t == current, current)
            z = z * (t <= current).unsqueeze(-1)
            steps.append(z)
            previous = z
        cache.begin(torch.stack(steps, dim=1), current, start)

    def _closed(self, cache: TraceCache) -> torch.Tensor:
        """Whose last token closes a segment, `(rows,)`. What stands after the end of a text does not."""
        input_ids = cache.input_ids
        if cache.latents is None:  # a prompt
            return self.segment_rule.closes(input_ids, cache.attention_mask)[:, -1]
        written, cache.looked_at = input_ids[:, cache.looked_at :], input_ids.shape[1]
        cache.ended = cache.ended | torch.isin(written, ids_tensor(cache.end_ids, input_ids.device)).any(dim=1)
        return self.segment_rule.last_closes(input_ids, cache.segment_start) & ~cache.ended

    def _redraw(self, cache: TraceCache, hidden: torch.Tensor) -> None:
        """
        Give the rows whose last token closed a segment the latent of their next one.

        Every row is computed and those are chosen, so that no number is read from the device to know how many.
        """
        if self.one_latent_per_text or not cache.may_close(self.segment_rule):
            return
        closed = self._closed(cache)
        context = self._closed_states(cache, hidden, closed)
        prior = self.dynamics.prior(cache.current, context, torch.zeros_like(closed))
        segment = cache.segment + 1
        every_row = torch.arange(len(closed), device=closed.device)
        z = cache.draws.replace_given(cache.draws.draw(*prior, cache.draws.temperature), every_row, segment)
        z = cache.draws.call_back(z, prior, closed, segment)
        cache.open_segments(closed, z, cache.input_ids.shape[1])

    def _returned_latents(self, outputs, cache: TraceCache, prompt_length: int, prompt_mask) -> torch.Tensor:
        """
        The latents of each returned row.

        The cache's rows are the running beams at the end; a returned beam may have left it long before. Its latents
        are looked up step by step: at step t it was row `beam_indices[row, t]`.
        """
        beams = outputs.get("beam_indices")
        if beams is None:
            return cache.latents[:, : int(cache.segment.max())]
        sequences, mask = outputs.sequences, None
        if prompt_mask is not None:
            prompt_mask = prompt_mask.repeat_interleave(len(sequences) // len(prompt_mask), dim=0)
            mask = torch.nn.functional.pad(prompt_mask, (0, sequences.shape[1] - prompt_length), value=1)
        closes = self.segment_rule.closes(sequences, mask).tolist()
        rows = []
        for closed, path in zip(closes, beams.tolist(), strict=True):
            path = [row for row in path if row >= 0]
            first = path[0]
            begun = [cache.prompt_latents[first, : cache.prompt_segments[first]]]
            for step in range(1, len(path)):
                if closed[prompt_length + step - 1] and not self.one_latent_per_text:
                    begun.append(cache.step_latents[step][path[step]].unsqueeze(0))
            rows.append(torch.cat(begun))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


__all__ = ["SegmentGenerationMixin"]
