"""
Whether latents carry anything: texts under their own latents, under another text's and under draws from the prior; and
how much of what the posterior pays for is one offset that all texts share.

A KL floor or free bits keep the KL up whether the decoder reads the latents or not. What a text costs more under
another text's latents, nobody can keep up who does not read them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..data import TraceProcessor
from ..models.gaussian_trace import gaussian_kl, reparameterize, standard_normal
from ..models.likelihood_trace import evaluation_mode, target_mask
from .encoded_texts import EncodedTexts, encode_texts
from .intervals import bootstrap_interval
from .jackknife import Interval
from .likelihood import iterate_batches

if TYPE_CHECKING:
    from ..models.modeling_trace import TraceForConditionalGeneration


def choose_donors(num_segments: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Which other text lends its latents to each text: never a text to itself.

    Texts are put in the order of their number of segments, and each takes the latents of the next one, which has as
    many or a few more; the last takes those of the one before it, which may have fewer ([`lend`] repeats them).

    Args:
        num_segments (`torch.LongTensor` of shape `(num_texts,)`): of each text, for at least two texts.
        generator (`torch.Generator`, *optional*): orders texts of as many segments at random; without, as they come.

    Returns:
        `torch.LongTensor` of shape `(num_texts,)`: indices of the donors.
    """
    count = len(num_segments)
    shuffled = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    shuffled = shuffled.to(num_segments.device)
    order = shuffled[num_segments[shuffled].argsort(stable=True)]
    donors = torch.empty_like(order)
    donors[order[:-1]] = order[1:]
    donors[order[-1]] = order[-2]
    return donors


def lend(latents: torch.Tensor, num_segments: torch.Tensor, num_steps: int) -> torch.Tensor:
    """
    Latents for texts of `num_steps` segments or fewer: z_1, z_2, ... of their donors, from the start again where a
    donor has no more.

    Args:
        latents (`torch.Tensor` of shape `(num_texts, S, latent_size)`): of the donors.
        num_segments (`torch.LongTensor` of shape `(num_texts,)`): how many of the S a donor has.
        num_steps (`int`): how many are needed.

    Returns:
        `torch.Tensor` of shape `(num_texts, num_steps, latent_size)`.
    """
    steps = torch.arange(num_steps, device=latents.device) % num_segments.clamp(1, latents.shape[1]).unsqueeze(1)
    return latents.gather(1, steps.unsqueeze(-1).expand(-1, -1, latents.shape[-1]))


@dataclass
class LatentUse:
    """
    What N texts cost under which latents, text by text: float64 tensors of shape `(N,)` on the CPU, in nats.
    NaN where latents overflow.

    Args:
        posterior (`torch.Tensor`): -log p(x | z), z drawn from the text's own posterior.
        other (`torch.Tensor`): under the z of another text, `donors`.
        prior (`torch.Tensor`): z_t drawn from the prior, given the z before it and what the text was before segment t.
        kl (`torch.Tensor`): KL(q || p) of the text, summed over segments and dimensions, on the path of `posterior`.
        donors (`torch.LongTensor`): whose latents `other` is under, by [`choose_donors`].
    """

    posterior: torch.Tensor
    other: torch.Tensor
    prior: torch.Tensor
    kl: torch.Tensor
    donors: torch.Tensor

    @property
    def gains(self) -> torch.Tensor:
        """What each text costs more under another text's latents than under its own, nats."""
        return self.other - self.posterior

    @property
    def gain(self) -> float:
        """Mean of `gains`, nats per text: 0 where the decoder does not read the latents."""
        return self.gains.mean().item()

    @property
    def gain_per_nat(self) -> float:
        """Nats of text gained for each nat of KL; NaN where there is no KL at all."""
        return (self.gains.sum() / self.kl.sum()).item() if self.kl.sum() > 0 else math.nan

    def gain_interval(self, confidence: float = 0.95) -> Interval:
        """`gain` with its bootstrap interval over texts (needs scipy, the `eval` extra)."""
        return bootstrap_interval(self.gains, confidence=confidence)

    def gain_per_nat_interval(self, confidence: float = 0.95) -> Interval:
        """`gain_per_nat` with its bootstrap interval over texts (needs scipy, the `eval` extra)."""
        return bootstrap_interval(self.gains, self.kl, confidence=confidence)

    def summary(self) -> dict[str, float]:
        """One value for each name; nats are means over texts."""
        means = {name: getattr(self, name).mean().item() for name in ("posterior", "other", "prior", "kl")}
        return {"texts": len(self.posterior), **means, "gain": self.gain, "gain_per_nat": self.gain_per_nat}


@torch.no_grad()
def latent_use(
    model: "TraceForConditionalGeneration",
    data: Iterable[dict[str, Any]],
    processor: TraceProcessor,
    *,
    batch_size: int = 16,
    seed: int = 0,
    generator: torch.Generator | None = None,
    encoded: EncodedTexts | None = None,
) -> LatentUse:
    """
    Does the decoder read the latents: what texts cost under their own, under another text's and under the prior's.

    A text's donor is one of the whole data set with as many segments, or as nearly so as there is ([`choose_donors`]).
    The results do not depend on `batch_size`.

    Args:
        model ([`TraceForConditionalGeneration`]): with latents.
        data: a data set or list of rows with `input_ids`, or a list of batches, as in [`evaluate_likelihood`]; it is
            read twice.
        processor ([`TraceProcessor`]): pads.
        batch_size (`int`, defaults to 16): texts that are read at once.
        seed (`int`, defaults to 0): of the draws and of the donors, where no generator is given.
        generator (`torch.Generator`, *optional*): for both.
        encoded ([`EncodedTexts`], *optional*): what [`encode_texts`] gave for the same data, to spare doing it again.

    Returns:
        [`LatentUse`].

    Raises:
        ValueError: for a model without latents, fewer than two texts, or a text without a segment.
    """
    if not model.has_latents:
        raise ValueError("`model` has latent_dynamics='none', a plain language model: it has no latents to use.")
    texts = encode_texts(model, data, processor, batch_size=batch_size) if encoded is None else encoded
    if len(texts) < 2:
        raise ValueError(f"`data` must hold at least two texts, got {len(texts)}: one has no other's latents.")
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    counts = texts.mask.sum(dim=1)
    donors = choose_donors(counts, generator)
    like = texts.delta_mean.transpose(0, 1)  # (S, N, D)
    with evaluation_mode(texts.dynamics):
        posterior_latents, kl = [], torch.zeros(len(texts), dtype=torch.float64, device=like.device)
        for t, (_, z, p_mean, p_logvar, mean, logvar) in enumerate(texts.paths(standard_normal(like, generator))):
            posterior_latents.append(z)
            kl += gaussian_kl(mean, logvar, p_mean, p_logvar).sum(dim=-1).where(texts.mask[:, t], 0.0)
        posterior_latents = torch.stack(posterior_latents, dim=1)  # (N, S, D)
        drawn = _prior_paths(texts, standard_normal(like, generator))
    other = lend(posterior_latents[donors], counts[donors], posterior_latents.shape[1])
    latents = torch.stack([posterior_latents, other, drawn], dim=1).float()
    latents = latents.where(texts.mask[:, None, :, None], 0.0)  # past its end a path means nothing
    overflow = ~latents.isfinite().all(dim=(2, 3)).cpu()  # which an unbounded prior allows
    latents = latents.masked_fill(overflow[:, :, None, None].to(latents.device), 0.0)
    nats, start = [], 0
    with evaluation_mode(model):
        for batch in iterate_batches(model, data, processor, batch_size, "Own latents and others'"):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            segment_ids = model._segment_ids(ids, mask, None)
            targets = target_mask(segment_ids, model.config.conditional)
            chosen = latents[start : start + len(ids)].to(model.device)
            by_step = model._reconstruction(ids, mask, segment_ids, targets, chosen, None)  # (B, 3, S)
            nats.append(-by_step.sum(dim=2).cpu().double())
            start += len(ids)
    if start != len(texts):
        raise ValueError(f"`encoded` must be of the same texts as `data`, got {len(texts)} and {start}. Leave it out.")
    nats = torch.cat(nats).masked_fill(overflow, math.nan)
    return LatentUse(nats[:, 0], nats[:, 1], nats[:, 2], kl.cpu(), donors.cpu())


def _prior_paths(texts: EncodedTexts, noise: torch.Tensor) -> torch.Tensor:
    """z_t ~ p(z_t | z_<t, c_{t-1}) for all texts, `(N, S, latent_size)`, with `noise` `(S, N, latent_size)`."""
    previous, steps = torch.zeros_like(noise[0]), []
    for t in range(len(noise)):
        mean, logvar = texts.prior(previous, texts.inputs[:, t], t)
        previous = reparameterize(mean, logvar, noise[t])
        steps.append(previous)
    return torch.stack(steps, dim=1)


@dataclass
class SharedOffset:
    """
    How much of what the posterior pays for says nothing of the text, since it is the same for all texts.

    Args:
        share (`float`): of E|(m_q - m_p) / sigma_p|^2, over all steps: that of one offset for each step. 1 where all
            texts have the same, 0 where they differ in all. Unbiased, and so can be a little below 0; NaN where
            posterior and prior have the same mean.
        squared_mean (`float`): E|(m_q - m_p) / sigma_p|^2 of a segment; half of it is the mean's part of the KL, nats.
        first_share (`float`): the share of the offset in E|m_q|^2 of the first latent.
        per_step (`torch.Tensor` of shape `(S,)`): the share of each step; NaN where fewer than two texts have it.
    """

    share: float
    squared_mean: float
    first_share: float
    per_step: torch.Tensor


@torch.no_grad()
def shared_offset(texts: EncodedTexts, *, seed: int = 0, generator: torch.Generator | None = None) -> SharedOffset:
    """
    The part of the posterior's shift from the prior, in units of the prior, that all texts share.

        share_t = |E_x v_t|^2 / E_x |v_t|^2    v_t = (m_q - m_p) / sigma_p, along one path drawn from the posterior

    |E_x v|^2 is estimated without bias, as (N |mean v|^2 - mean |v|^2) / (N - 1).

    Args:
        texts ([`EncodedTexts`]): from [`encode_texts`].
        seed (`int`, defaults to 0): of the path, where no generator is given.
        generator (`torch.Generator`, *optional*): for the path.

    Returns:
        [`SharedOffset`], computed in float64.

    Raises:
        ValueError: for fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"`texts` must hold at least two texts to tell apart, got {len(texts)}.")
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    noise = standard_normal(texts.delta_mean.transpose(0, 1), generator)
    parts, first = [], None
    with evaluation_mode(texts.dynamics):
        for t, (_, _, p_mean, p_logvar, mean, _) in enumerate(texts.paths(noise)):
            has_step = texts.mask[:, t]
            parts.append(_offset(((mean - p_mean) * torch.exp(-0.5 * p_logvar))[has_step]))
            first = _offset(mean[has_step]) if first is None else first
    number, shared, squares = torch.tensor(parts, dtype=torch.float64).unbind(dim=1)  # each (S,)
    usable = number > 1
    number, of_all, all_squares = number[usable], shared[usable], squares[usable]
    return SharedOffset(
        share=_ratio((number * of_all).sum(), (number * all_squares).sum()),
        squared_mean=((number * all_squares).sum() / number.sum()).item(),
        first_share=_ratio(torch.tensor(first[1]), torch.tensor(first[2])),
        per_step=torch.where(usable & (squares > 0), shared / squares, math.nan),
    )


def _offset(values: torch.Tensor) -> tuple[float, float, float]:
    """How many rows `values` `(n, D)` has, |E v|^2 without bias and E |v|^2; NaN for the second of one row."""
    count = len(values)
    squares = values.square().sum(dim=1).mean().item() if count else math.nan
    if count < 2:
        return count, math.nan, squares
    return count, (count * values.mean(dim=0).square().sum().item() - squares) / (count - 1), squares


def _ratio(part: torch.Tensor, whole: torch.Tensor) -> float:
    return (part / whole).item() if whole > 0 else math.nan


__all__ = ["LatentUse", "SharedOffset", "choose_donors", "latent_use", "lend", "shared_offset"]
