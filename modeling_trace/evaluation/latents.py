"""
What latents know of their texts: mutual information and active units for sequences of latents.

All that the estimators need is q(z_t | z_<t, x_j) for any z_<t and any text j: the encoder runs once per text
([`encode_texts`]), the heads once per pair. For built-in dynamics that is

    logvar_ij = c tanh((a_i + b_j) / c) + dlv_j     a = W z_{t-1}, b = W c_{t-1} + bias, c = `prior_logvar_bound`
    mean_ij   = p_i + u_j + s_ij dmu_j              s_ij = exp(prior logvar_ij / 2), or 1 with `residual_scale="none"`

With c = None, at t = 1, and where the posterior does not read z_{t-1}, log q_ij is a sum of products of a function of
i and a function of j: one matrix product gives all pairs. With a bound it is not, and pairs are computed in blocks.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils.logging import tqdm

from ..data import TraceProcessor
from ..models.dynamics_trace import LatentDynamics, RecurrentDynamics
from ..models.gaussian_trace import gaussian_log_density, linear_float32, reparameterize, standard_normal
from ..models.likelihood_trace import evaluation_mode
from .likelihood import iterate_batches

if TYPE_CHECKING:
    from ..models.modeling_trace import TraceForConditionalGeneration

_BLOCK = 2**19  # elements (4 MiB of float64) of a block of pairs: what stays in a CPU's cache is several times faster
_TABLE = 2**22  # log q_ij (32 MiB) that are held at once
_ROUNDING = 1e-9  # log density that the matrix product may lose to cancellation at worst, in nats


@dataclass
class EncodedTexts:
    """
    What the latent networks have read of N texts: all that q(z_t | z_<t, x) and its prior take besides z. Float64.

    Args:
        dynamics ([`LatentDynamics`]): the latent networks, in eval mode while they are used.
        inputs (`torch.Tensor` of shape `(N, S, K)`): W_c c_{t-1} + bias of the built-in recurrences; mean and log
            variance of a prior that does not read z_{t-1}; c_{t-1} itself for users' own.
        delta_mean, delta_logvar (`torch.Tensor` of shape `(N, S, latent_size)`): the posterior's residuals (Eq. 11).
        mask (`torch.BoolTensor` of shape `(N, S)`): the segments that a text has.
    """

    dynamics: LatentDynamics
    inputs: torch.Tensor
    delta_mean: torch.Tensor
    delta_logvar: torch.Tensor
    mask: torch.Tensor

    def __post_init__(self):
        dynamics = self.dynamics
        # by methods, not by isinstance: PEFT wraps the latent networks, and a user's subclass may override some
        self._known_prior = _is_method(dynamics, RecurrentDynamics, "prior", "_prior_inputs", "_prior_from_inputs")
        self._known_combine = _is_method(dynamics, LatentDynamics, "combine")
        self._prior_reads_latents = dynamics.reads_previous
        adds_no_prior = self._known_combine and not dynamics.residual_posterior
        self._posterior_reads_latents = dynamics.reads_previous and not adds_no_prior

    def __len__(self) -> int:
        return len(self.mask)

    def prior(self, previous: torch.Tensor, inputs: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of z_t, float64, from z_{t-1} `(..., D)` and `inputs` `(..., K)`, which broadcast."""
        if not self._prior_reads_latents:
            mean, logvar = inputs.chunk(2, dim=-1)
            return mean, logvar
        if self._known_prior:
            recurrent: Any = self.dynamics
            weight = recurrent._recurrent_weight()
            return recurrent._prior_from_inputs(linear_float32(previous, weight) + inputs)
        shape = torch.broadcast_shapes(previous.shape[:-1], inputs.shape[:-1])
        first = torch.full(shape, t == 0, device=previous.device)
        context = inputs.expand(*shape, -1) if self.dynamics.reads_context else None
        return _own_prior(self.dynamics, previous.expand(*shape, -1), context, first)

    def posterior(
        self,
        previous: torch.Tensor,
        inputs: torch.Tensor,
        delta_mean: torch.Tensor,
        delta_logvar: torch.Tensor,
        t: int,
    ) -> tuple[torch.Tensor, ...]:
        """Mean and log variance of the prior and of the posterior of z_t; arguments as in `prior`, all broadcast."""
        prior = self.prior(previous, inputs, t)
        values = torch.broadcast_tensors(*prior, delta_mean, delta_logvar)
        return *values[:2], *self.dynamics.combine(*values)

    def paths(self, noise: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """
        Walk through t = 1..S: z_t and the Gaussians that it comes from, for all texts at once.

        Args:
            noise (`torch.Tensor` of shape `(S, N, latent_size)`, or one that broadcasts): eps_t.

        Yields:
            z_{t-1}, z_t and mean and log variance of prior and posterior, each `(N, latent_size)`; of texts that have
            no segment t they mean nothing.
        """
        previous = torch.zeros_like(self.delta_mean[:, 0])
        for t in range(self.mask.shape[1]):
            encoded = self.inputs[:, t], self.delta_mean[:, t], self.delta_logvar[:, t]
            prior_mean, prior_logvar, mean, logvar = self.posterior(previous, *encoded, t)
            latents = reparameterize(mean, logvar, noise[t])
            yield previous, latents, prior_mean, prior_logvar, mean, logvar
            previous = latents

    def log_density(
        self, latents: torch.Tensor, previous: torch.Tensor, t: int, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """
        log q(z_t^i | z_<t^i, x_j) for all pairs of texts i and j, in nats.

        Args:
            latents, previous (`torch.Tensor` of shape `(I, latent_size)`): z_t^i and z_{t-1}^i.
            t (`int`): the step, counted from 0.
            rows, columns (`torch.LongTensor` of shape `(I,)` and `(J,)`): which texts i and j are.

        Returns:
            `torch.Tensor` of shape `(I, J)`, float64.
        """
        encoded = (self.inputs[columns, t], self.delta_mean[columns, t], self.delta_logvar[columns, t])
        table = None
        if t == 0 or not self._posterior_reads_latents:  # z_0 = 0 for all texts: q depends on j alone
            *_, mean, logvar = self.posterior(torch.zeros_like(previous[:1]), *encoded, t)
            table = _separable(latents, torch.zeros_like(latents), mean, logvar)
        elif self._known_prior and self._known_combine and self.dynamics.bound is None:
            recurrent: Any = self.dynamics
            p, a = linear_float32(previous, recurrent._recurrent_weight()).chunk(2, dim=-1)
            (u, b), (_, delta_mean, delta_logvar) = encoded[0].chunk(2, dim=-1), encoded
            if self.dynamics.residual_scale == "prior":
                table = _separable(latents - p, a, u, b + delta_logvar, delta_mean * torch.exp(0.5 * b))
            else:
                table = _separable(latents - p, a, u + delta_mean, b + delta_logvar)
        return self._by_pairs(latents, previous, t, encoded) if table is None else table

    def _by_pairs(self, latents, previous, t, encoded):
        count, size = latents.shape
        widest = size if self._known_prior or not self._prior_reads_latents else max(size, encoded[0].shape[-1])
        high = min(count, 32)
        wide = max(1, _BLOCK // (high * widest))
        table = latents.new_empty(count, len(encoded[0]))
        for i in range(0, count, high):
            z, last = (x[i : i + high].unsqueeze(1) for x in (latents, previous))
            for j in range(0, len(encoded[0]), wide):
                *_, mean, logvar = self.posterior(last, *(x[j : j + wide].unsqueeze(0) for x in encoded), t)
                table[i : i + high, j : j + wide] = gaussian_log_density(z, mean, logvar).sum(dim=-1)
        return table


def encode_states(
    dynamics: LatentDynamics, context: torch.Tensor | None, states: torch.Tensor, mask: torch.Tensor
) -> EncodedTexts:
    """
    [`EncodedTexts`] from the states that latent dynamics take, as their `forward` does.

    Args:
        dynamics ([`LatentDynamics`]): the latent networks.
        context (`torch.Tensor` of shape `(N, S, hidden_size)`, *optional*): c_{t-1}.
        states (`torch.Tensor` of shape `(N, S, hidden_size)`): s_t.
        mask (`torch.BoolTensor` of shape `(N, S)`): the segments that a text has.
    """
    with torch.no_grad(), evaluation_mode(dynamics):
        states = states.double()
        context = context.double() if dynamics.reads_context else None
        keep = mask.unsqueeze(-1)
        delta_mean, delta_logvar = (x.double() * keep for x in dynamics.residual(states, mask))
        first = torch.zeros_like(mask)
        first[:, 0] = True
        if not dynamics.reads_previous:
            inputs = torch.cat(_own_prior(dynamics, torch.zeros_like(delta_mean), context, first), dim=-1)
        elif _is_method(dynamics, RecurrentDynamics, "prior", "_prior_inputs", "_prior_from_inputs"):
            recurrent: Any = dynamics
            inputs = recurrent._prior_inputs(context, first)
        else:
            inputs = states.new_zeros(*mask.shape, 1) if context is None else context
        return EncodedTexts(dynamics, inputs * keep, delta_mean, delta_logvar, mask)


@torch.no_grad()
def encode_texts(
    model: "TraceForConditionalGeneration",
    data: Iterable[dict[str, Any]],
    processor: TraceProcessor,
    *,
    batch_size: int = 16,
) -> EncodedTexts:
    """
    Run the encoder over a data set, once per text, for [`mutual_information`] and [`active_units`].

    Args:
        model ([`TraceForConditionalGeneration`]): with latents.
        data: a data set or list of rows with `input_ids`, or batches, as in [`evaluate_likelihood`].
        processor ([`TraceProcessor`]): pads.
        batch_size (`int`, defaults to 16): texts that are encoded at once.

    Returns:
        [`EncodedTexts`].

    Raises:
        ValueError: for a model without latents, an empty data set, or a text without a segment.
    """
    if not model.has_latents:
        raise ValueError("`model` has latent_dynamics='none', a plain language model: it has no latents to measure.")
    dynamics = model.dynamics
    if model.device.type == "mps":  # no float64 there
        dynamics = copy.deepcopy(dynamics).cpu()
    device = next(dynamics.parameters()).device
    parts = []
    with evaluation_mode(model):
        for batch in iterate_batches(model, data, processor, batch_size, "Encoding"):
            segment_ids = model._segment_ids(batch["input_ids"], batch["attention_mask"], None)
            if int(segment_ids.amax(dim=1).min()) < 1:
                row = len(parts) * batch_size + int(segment_ids.amax(dim=1).argmin())
                raise ValueError(f"`data` has no text in row {row}, and so no latents. Take such rows out.")
            model._check_length(batch["input_ids"])
            context, states, mask = model._encoder_states(batch["input_ids"], batch["attention_mask"], segment_ids)
            context = None if context is None else context.to(device)
            parts.append(encode_states(dynamics, context, states.to(device), mask.to(device)))
    width = max(part.mask.shape[1] for part in parts)

    def joined(name):
        values = (getattr(part, name) for part in parts)
        after = (0, 0) if name != "mask" else ()
        return torch.cat([nn.functional.pad(x, (*after, 0, width - x.shape[1])) for x in values])

    return EncodedTexts(dynamics, *map(joined, ("inputs", "delta_mean", "delta_logvar", "mask")))


@dataclass
class MutualInformation:
    """
    How much latents tell of which text they come from, in nats. Every estimate has a cap that it saturates at.

    Args:
        per_step (`torch.Tensor` of shape `(S,)`): U_t, of z_t given the z_<t that all texts are asked about.
        caps (`torch.Tensor` of shape `(S,)`): log N_t, the most that U_t can be.
        num_texts (`torch.Tensor` of shape `(S,)`): N_t, texts that have a segment t.
        influence (`torch.Tensor` of shape `(N,)`): what each text does to `total`: the derivative by its weight, of
            mean 0. `influence.std() / N**0.5` is the standard error over texts, the draw of z^i included.
        joint (`float`): of all z of a text at once.
        joint_cap (`float`): the most that `joint` can be: log N where all texts have as many segments.
    """

    per_step: torch.Tensor
    caps: torch.Tensor
    num_texts: torch.Tensor
    influence: torch.Tensor
    joint: float
    joint_cap: float

    @property
    def total(self) -> float:
        """sum_t U_t, capped at `caps.sum()`."""
        return self.per_step.sum().item()

    @property
    def mean(self) -> float:
        """sum_t U_t / S."""
        return self.per_step.mean().item()


@torch.no_grad()
def mutual_information(
    texts: EncodedTexts, *, seed: int = 0, generator: torch.Generator | None = None
) -> MutualInformation:
    """
    Mutual information of latents and texts, step by step with shared history.

        U_t = mean_{i: T_i >= t} [ log q(z_t^i | z_<t^i, x_i) - log 1/N_t sum_{j: T_j >= t} q(z_t^i | z_<t^i, x_j) ]

    z^i is one path drawn from the posterior of text i. All texts are asked about the same z_<t^i: what the recurrence
    alone puts into z_t tells nothing of the text, and counts for nothing. U_t is no less than I(z_t; x | z_<t), since
    texts weigh the same whatever z_<t says of them. The joint estimate, of z_1..z_{T_i} against all texts with T_i
    segments or more, is a plain estimate of I(z; x), and soon at its cap. For a single latent both are the usual
    estimate (Hoffman and Johnson 2016).

    Args:
        texts ([`EncodedTexts`]): from [`encode_texts`]. Time grows with N^2: 1000 texts of 10 segments take 8 s of
            one core with `prior_logvar_bound`, half a second without.
        seed (`int`, defaults to 0): of the draw, where no generator is given.
        generator (`torch.Generator`, *optional*): for the draw.

    Returns:
        [`MutualInformation`], computed in float64.

    Raises:
        ValueError: for fewer than two texts.
    """
    _check_texts(texts)
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    count, num_segments = texts.mask.shape
    device = texts.mask.device
    with evaluation_mode(texts.dynamics):
        noise = standard_normal(texts.delta_mean.transpose(0, 1), generator)
        steps = [step[:2] for step in texts.paths(noise)]
        lengths = texts.mask.sum(dim=1)
        per_step = torch.zeros(num_segments, dtype=torch.float64, device=device)
        # as the text that z^i comes from, and as one of those that z^i is compared with
        as_own, as_other = torch.zeros(2, num_segments, count, dtype=torch.float64, device=device)
        joint = torch.zeros((), dtype=torch.float64, device=device)
        blocks = torch.arange(count, device=device).split(max(1, _TABLE // count))
        for block in tqdm(blocks, desc="Mutual information", disable=len(blocks) == 1):
            table = torch.zeros(len(block), count, dtype=torch.float64, device=device)
            for t, (previous, latents) in enumerate(steps):
                has_step = texts.mask[block, t]
                rows, columns = block[has_step], texts.mask[:, t].nonzero().squeeze(1)
                if len(rows) == 0:
                    continue
                log_q = texts.log_density(latents[rows], previous[rows], t, rows, columns)
                place = torch.searchsorted(columns, rows)
                mixture = log_q.logsumexp(dim=1)
                excess = log_q.gather(1, place.unsqueeze(1)).squeeze(1) - mixture + math.log(len(columns))
                per_step[t] += excess.sum()
                as_own[t, rows] = excess
                as_other[t, columns] += (log_q - mixture.unsqueeze(1)).exp().sum(dim=0)
                table[has_step.nonzero(), columns] += log_q
            long_enough = lengths >= lengths[block].unsqueeze(1)
            mixture = (
                table.masked_fill(~long_enough, -math.inf).logsumexp(dim=1) - long_enough.sum(dim=1).double().log()
            )
            joint += (table.gather(1, block.unsqueeze(1)).squeeze(1) - mixture).sum()
        num_texts = texts.mask.sum(dim=0)
        per_step /= num_texts
        weights = texts.mask.t() * (count / num_texts).unsqueeze(1)
        influence = (weights * (as_own - per_step.unsqueeze(1) - (as_other - 1))).sum(dim=0)
        at_least = (lengths >= lengths.unsqueeze(1)).sum(dim=1).double()
    return MutualInformation(
        per_step=per_step.cpu(),
        caps=num_texts.double().log().cpu(),
        num_texts=num_texts.cpu(),
        influence=influence.cpu(),
        joint=(joint / count).item(),
        joint_cap=at_least.log().mean().item(),
    )


@dataclass
class ActiveUnits:
    """
    Latent dimensions that differ between texts, in expectation.

    Args:
        latent, residual (`int`): dimensions d with Var_x(E_q[z_d | x]) > threshold, and with the same of the posterior
            mean less the prior mean, which leaves out what came down from z_<t.
        latent_variance, residual_variance (`torch.Tensor` of shape `(latent_size,)`): these variances, over all texts
            and steps, each step centred on its own mean. They are unbiased, and so can be a little below 0.
        latent_per_step, residual_per_step (`torch.Tensor` of shape `(S, latent_size)`): the variances of each step;
            NaN where fewer than two texts have it.
        num_texts (`torch.Tensor` of shape `(S,)`): texts that have a segment t.
        threshold (`float`): of the variances.
        num_paths (`int`): paths that E_q averages over.
    """

    latent: int
    residual: int
    latent_variance: torch.Tensor
    residual_variance: torch.Tensor
    latent_per_step: torch.Tensor
    residual_per_step: torch.Tensor
    num_texts: torch.Tensor
    threshold: float
    num_paths: int


@torch.no_grad()
def active_units(
    texts: EncodedTexts,
    *,
    threshold: float = 0.1,
    num_paths: int = 32,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> ActiveUnits:
    """
    Active units (Burda et al. 2016): AU = #{d : Var_x(E_q[z_d | x]) > threshold}.

    E_q[z_t | x] averages the posterior mean over paths z_<t ~ q. With one path, its own noise would count as if it
    came from the text, and a chain that ignores its text would have all units active. Paths come in pairs eps and
    -eps, whose mean has no noise at all where the recurrence is linear; what is left of it is subtracted: with P pairs
    the variance is (MS_between - MS_within) / P of a one-way layout, which is unbiased for every P >= 2.

    Args:
        texts ([`EncodedTexts`]): from [`encode_texts`].
        threshold (`float`, defaults to 0.1): as published.
        num_paths (`int`, defaults to 32): an even number, >= 4.
        seed (`int`, defaults to 0): of the paths, where no generator is given.
        generator (`torch.Generator`, *optional*): for the paths.

    Returns:
        [`ActiveUnits`].

    Raises:
        ValueError: for fewer than two texts, or `num_paths` that are odd or below 4.
    """
    _check_texts(texts)
    if isinstance(num_paths, bool) or not isinstance(num_paths, int) or num_paths < 4 or num_paths % 2:
        raise ValueError(f"`num_paths` must be an even number >= 4, got {num_paths!r}. Use 32.")
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    keep = texts.mask.t().unsqueeze(-1)  # (S, N, 1)
    num_texts = texts.mask.sum(dim=0).view(-1, 1)  # (S, 1)
    like = texts.delta_mean.transpose(0, 1)  # (S, N, D)
    sums = like.new_zeros(2, *like.shape)  # by text, over pairs
    squares = torch.zeros_like(sums)
    num_pairs = num_paths // 2
    with evaluation_mode(texts.dynamics):
        for _ in range(num_pairs):
            noise = standard_normal(like, generator)
            paths = (texts.paths(sign * noise) for sign in (1, -1))
            pair = [torch.stack([torch.stack([q, q - p]) for _, _, p, _, q, _ in path], dim=1) for path in paths]
            values = torch.where(keep, 0.5 * (pair[0] + pair[1]), 0.0)  # (2, S, N, D)
            sums += values
            squares += values.square()
    means = sums / num_pairs
    centred = torch.where(keep, means - (means.sum(dim=2) / num_texts).unsqueeze(2), 0.0)
    freedom = num_texts - 1
    noise = (squares - num_pairs * means.square()).sum(dim=2) / (num_texts * (num_pairs - 1))  # MS_within
    per_step = centred.square().sum(dim=2) / freedom - noise / num_pairs  # (2, S, D)
    usable = (freedom > 0).expand_as(per_step[0])
    variance = torch.where(usable, per_step * freedom, 0.0).sum(dim=1) / freedom.clamp_min(0).sum()
    active = (variance > threshold).sum(dim=1).tolist()
    per_step = per_step.masked_fill(~usable, math.nan)
    return ActiveUnits(  # type: ignore[call-arg]
        *active, *variance.cpu(), *per_step.cpu(), num_texts.squeeze(1).cpu(), float(threshold), num_paths
    )


def _check_texts(texts) -> None:
    if not isinstance(texts, EncodedTexts):
        raise ValueError(
            f"`texts` must be what encode_texts returns, got {texts!r:.60}. Call encode_texts(model, data, processor)."
        )
    if len(texts) < 2:
        raise ValueError(f"`texts` must hold at least two texts to tell apart, got {len(texts)}.")


def _is_method(dynamics, cls, *names) -> bool:
    return all(getattr(getattr(dynamics, name, None), "__func__", None) is getattr(cls, name) for name in names)


def _own_prior(dynamics, previous, context, first):
    """`prior` in float64, or in float32 where a user's own networks take no other."""
    try:
        mean, logvar = dynamics.prior(previous, context, first)
    except RuntimeError:
        mean, logvar = dynamics.prior(previous.float(), None if context is None else context.float(), first)
    return mean.double(), logvar.double()


def _separable(r, a, u, e, w=None) -> torch.Tensor | None:
    """
    log N(r_i; u_j + exp(a_i / 2) w_j, exp(a_i + e_j)), summed over dimensions, for all pairs by one matrix product.

    With R = r / s, s = exp(a / 2), the square is (R - u/s - w)^2 exp(-e), six products of an i and a j. Both sides are
    centred first. None where cancellation could cost more than `_ROUNDING`.

    Args:
        r, a (`torch.Tensor` of shape `(I, latent_size)`), u, e, w (`torch.Tensor` of shape `(J, latent_size)`).
    """
    centre = u.mean(dim=0)
    u, inverse, precision = u - centre, torch.exp(-0.5 * a), torch.exp(-e)
    scaled = (r - centre) * inverse
    if w is not None:
        shift = w.mean(dim=0)
        w, scaled = w - shift, scaled - shift
    left = [scaled.square(), inverse.square(), scaled * inverse]
    right = [precision, u.square() * precision, -2 * u * precision]
    if w is not None:
        left += [torch.ones_like(scaled), scaled, inverse]
        right += [w.square() * precision, -2 * w * precision, 2 * u * w * precision]
    left, right = torch.cat(left, dim=-1), torch.cat(right, dim=-1)
    largest = left.abs().amax(dim=0) @ right.abs().amax(dim=0)
    if not largest * torch.finfo(left.dtype).eps < _ROUNDING:  # also when it is NaN
        return None
    constant = (math.log(2 * math.pi) + a).sum(dim=-1, keepdim=True) + e.sum(dim=-1)
    return -0.5 * (constant + left @ right.t())


__all__ = [
    "ActiveUnits",
    "EncodedTexts",
    "MutualInformation",
    "active_units",
    "encode_states",
    "encode_texts",
    "mutual_information",
]
