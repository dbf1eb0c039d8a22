"""A particle filter over segments, a tighter bound than importance weighting (FIVO, Maddison et al. 2017)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from .gaussian_trace import at_least_float32
from .segments_trace import last_token_index, next_segment_ids, token_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Particles are resampled when fewer than this share of them would count. The usual choice, also of FIVO's authors:
# resampling at every step adds noise where weights are even anyway.
_RESAMPLE_BELOW = 0.5


@dataclass
class FilterResult:
    """
    What a particle filter says of one text.

    Args:
        log_likelihood (`float`): log of an unbiased estimate of p(x), nats.
        separator_log_likelihood (`float`): what [SEP] adds to it, nats: see [`LikelihoodOutput`].
        effective_sample_size (`torch.DoubleTensor` of shape `(num_steps,)`): of the weights after each step, before
            resampling; NaN after a step at which no particle has a weight.
        resampled (`torch.BoolTensor` of shape `(num_steps,)`): whether particles were resampled after each step.
    """

    log_likelihood: float
    separator_log_likelihood: float
    effective_sample_size: torch.Tensor
    resampled: torch.Tensor


def particle_filter(
    log_weight: Callable[[int], torch.Tensor],
    reorder: Callable[[torch.Tensor], None],
    num_particles: int,
    uniforms: torch.Tensor,
    separator_nats: Callable[[], torch.Tensor] | None = None,
) -> FilterResult:
    """
    log p^(x) = sum_t log sum_k w_{t-1}^k alpha_t^k, with resampling where the effective sample size is below K / 2.

    Without resampling this is importance weighting of whole paths; with it, particles that explain the text badly so
    far give their place to copies of better ones, and weights do not degenerate. E[p^(x)] = p(x) either way (FIVO,
    Maddison et al. 2017, Alg. 1), so that E[log p^(x)] <= log p(x).

    Args:
        log_weight (`Callable`): takes t = 0, 1, ..., moves the particles on by one step and returns log alpha_t, the
            incremental weight p(x_t | x_<t, z_<=t) p(z_t | z_<t) / q(z_t | z_<t, x), `(num_particles,)`. -inf is a
            weight of zero.
        reorder (`Callable`): takes the ancestors `(num_particles,)` that the particles become.
        num_particles (`int`): K.
        uniforms (`torch.Tensor` of shape `(num_steps,)`): from U(0, 1), for resampling after each step.
        separator_nats (`Callable`, *optional*): returns log p of the [SEP] among the last step's tokens,
            `(num_particles,)`; none where it is left out.

    Returns:
        [`FilterResult`].
    """
    num_steps = len(uniforms)
    log_weights = torch.full((num_particles,), -math.log(num_particles), dtype=torch.float64)  # they sum to one
    effective = torch.full((num_steps,), math.nan, dtype=torch.float64)
    resampled = torch.zeros(num_steps, dtype=torch.bool)
    total = of_separators = 0.0
    for t in range(num_steps):
        # on the CPU: whether to resample has to be known there, and not every accelerator has float64
        log_weights = log_weights + log_weight(t).cpu().double()
        step = log_weights.logsumexp(0)
        total += step.item()
        if total == -math.inf:
            of_separators = 0.0
            break
        if separator_nats is not None:  # log p(x_t | x_<t) less that of the step's other tokens
            of_separators += (step - (log_weights - separator_nats().cpu().double()).logsumexp(0)).item()
        log_weights = log_weights - step
        effective[t] = torch.exp(-(2 * log_weights).logsumexp(0))
        if t + 1 < num_steps and effective[t] < _RESAMPLE_BELOW * num_particles:
            reorder(systematic_ancestors(log_weights, uniforms[t]))
            log_weights = torch.full_like(log_weights, -math.log(num_particles))
            resampled[t] = True
    return FilterResult(total, of_separators, effective, resampled)


def systematic_ancestors(log_weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """
    Systematic resampling: particle k gets K w_k copies in expectation, and never one more or less than that rounded.

    Args:
        log_weights (`torch.DoubleTensor` of shape `(num_particles,)`): normalised; -inf is never drawn.
        uniform (`torch.Tensor` of shape `()`): from U(0, 1).

    Returns:
        `torch.LongTensor` of shape `(num_particles,)`: the particle that each one becomes a copy of, ascending.
    """
    count = len(log_weights)
    cumulative = log_weights.exp().cumsum(0)
    cumulative = cumulative / cumulative[-1]  # rounding must not leave a place after the last weight
    places = (torch.arange(count, dtype=torch.float64) + uniform.double()) / count
    return torch.searchsorted(cumulative, places, right=True)


class Particles:
    """
    K particles of one text: their latents, and decoders that read each token once for each of them.

    Latents are aligned with targets: step t reads from the last token of segment t - 1 to the last but one of segment
    t, and the first step the prefix as well. A segment that is missing has nothing to read.

    Args:
        model ([`TraceForConditionalGeneration`]): in eval mode.
        text (`dict`): `input_ids`, `labels` (the next token at every position, -100 where it is not paid for),
            `is_separator` (which of these are [SEP]), `segment_ids`, `position_ids` and `attention_mask` (or None),
            each of shape `(sequence_length,)`.
        draw (`Callable`): takes t and z_{t-1} `(K, latent_size)`; returns draws of z_t from q of the same shape, their
            log p - log q `(K,)`, and more that is not looked at.
        num_steps (`int`): T.
        start (`torch.Tensor` of shape `(K, latent_size)`): z_0, zeros.
        max_rows (`Callable`): takes a number of tokens; how many particles may share a decoder pass over so many.
            Keys and values are kept of all.
    """

    def __init__(self, model, text: dict, draw: Callable, num_steps: int, start: torch.Tensor, max_rows: Callable):
        self.model, self.draw, self.latents = model, draw, start
        self._separator_nats: torch.Tensor | None = None
        ends = last_token_index(text["segment_ids"].unsqueeze(0), num_steps)[0]
        self.edges = [0, *ends.cummax(dim=0).values[1:].tolist()]
        self.text = {name: x for name, x in text.items() if name != "segment_ids"}
        self.has_latent = next_segment_ids(text["segment_ids"].unsqueeze(0))[0] > 0
        widest = max(end - begin for begin, end in zip(self.edges[:-1], self.edges[1:], strict=True))
        chunk, count = max_rows(max(1, widest)), len(start)
        self.chunks = [min(chunk, count - first) for first in range(0, count, chunk)]
        # the backbone's config says which layers have a sliding window
        self.caches = [DynamicCache(config=model.config.backbone_config) for _ in self.chunks]

    def log_weight(self, t: int) -> torch.Tensor:
        """Move all particles on by step t = 0, 1, ...; returns log alpha_t `(K,)`, -inf where something overflows."""
        latents, log_weights, *_ = self.draw(t, self.latents)
        usable = log_weights.isfinite() & latents.isfinite().all(dim=1)
        # a particle without weight goes on from zero: its weight stays zero
        self.latents = latents.masked_fill(~usable.unsqueeze(1), 0.0)
        begin, end = self.edges[t : t + 2]
        self._separator_nats = torch.zeros_like(log_weights)
        if end > begin:
            nats = self._score(begin, end).to(log_weights.dtype)
            log_weights = log_weights + nats.sum(dim=1)
            self._separator_nats = (nats * self.text["is_separator"][begin:end]).sum(dim=1)
        usable = usable & log_weights.isfinite()
        self._separator_nats = self._separator_nats.masked_fill(~usable, 0.0)
        return log_weights.masked_fill(~usable, -math.inf)

    def separator_nats(self) -> torch.Tensor:
        """log p of the [SEP] among the last step's targets, `(K,)`, nats."""
        return self._separator_nats

    def _score(self, begin: int, end: int) -> torch.Tensor:
        """log p of what positions `begin` to `end` - 1 predict, `(K, L)`, nats. Those before have been read."""
        nats = []
        for z, cache in zip(self.latents.split(self.chunks), self.caches, strict=True):
            text = {name: None if x is None else x.expand(len(z), -1) for name, x in self.text.items()}
            mask = text["attention_mask"]
            logits = self.model(
                input_ids=text["input_ids"][:, begin:end],
                attention_mask=None if mask is None else mask[:, :end],
                position_ids=text["position_ids"][:, begin:end],
                token_latents=z.unsqueeze(1) * self.has_latent[begin:end].view(1, -1, 1),  # (K, L, D)
                cache=cache,
                use_cache=True,
            ).logits
            nats.append(target_nats(logits, text["labels"][:, begin:end]))
        return torch.cat(nats)

    def reorder(self, ancestors: torch.Tensor) -> None:
        """Particles become `ancestors` `(K,)` of the present ones."""
        index = ancestors.to(self.latents.device)
        self.latents = self.latents[index]
        for layers in zip(*(cache.layers for cache in self.caches), strict=True):
            if not layers[0].is_initialized:  # no token read yet
                continue
            for name in ("keys", "values"):
                every = torch.cat([getattr(layer, name) for layer in layers])[index.to(layers[0].keys.device)]
                for layer, rows in zip(layers, every.split(self.chunks), strict=True):
                    setattr(layer, name, rows)


def filter_texts(
    model: "PreTrainedModel",
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segment_ids: torch.Tensor,
    labels: torch.Tensor,
    is_separator: torch.Tensor,
    proposals: Iterable[tuple[torch.Tensor, Callable]],
    generator: torch.Generator | None,
    max_rows: Callable[[int], int],
) -> list[FilterResult]:
    """
    A particle filter for each text.

    Args:
        model, max_rows: as for [`Particles`].
        input_ids, segment_ids, labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): see there.
        is_separator (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): see there.
        attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
        proposals (`Iterable`): for each text the noise of its draws `(num_steps, num_particles, latent_size)`, and
            `draw` as for [`Particles`].
        generator (`torch.Generator`, *optional*): for resampling.

    Returns:
        `list[FilterResult]`, one for each text.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    batch = {
        **{"input_ids": input_ids, "labels": labels, "is_separator": is_separator, "segment_ids": segment_ids},
        **{"position_ids": token_positions(mask), "attention_mask": attention_mask},
    }
    starts = mask.long().argmax(dim=1).tolist()
    ends = (segment_ids.shape[1] - (segment_ids >= 0).flip(1).long().argmax(dim=1)).tolist()
    results = []
    for row, (noise, draw) in enumerate(proposals):
        place = slice(starts[row], ends[row])
        text = {name: None if x is None else x[row, place] for name, x in batch.items()}
        particles = Particles(model, text, draw, len(noise), torch.zeros_like(noise[0]), max_rows)
        # as many numbers whether used or not, so that a text's draws do not depend on how even others' weights were
        uniforms = torch.rand(len(noise), generator=generator, device=None if generator is None else generator.device)
        calls = (particles.log_weight, particles.reorder, noise.shape[1], uniforms.cpu(), particles.separator_nats)
        results.append(particle_filter(*calls))
    return results


def target_nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log p of each target, zero where the label is -100: `(B, L, V)` and `(B, L)` to `(B, L)`, at least float32."""
    logits = at_least_float32(logits).flatten(0, 1)
    nats = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=-100)
    return -nats.view_as(labels)


__all__ = [
    "FilterResult",
    "Particles",
    "filter_texts",
    "particle_filter",
    "systematic_ancestors",
    "target_nats",
]
