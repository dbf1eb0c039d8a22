"""
Texts as the latent networks read them, for [`mutual_information`] and [`active_units`].

All that these estimators need is q(z_t | z_<t, x_j) for any z_<t and any text j: the encoder runs once per text
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

from ..data import TraceProcessor
from ..models.dynamics_trace import LatentDynamics
from ..models.gaussian_trace import gaussian_log_density, linear_float32, reparameterize
from ..models.likelihood_trace import evaluation_mode
from ..models.recurrent_dynamics_trace import RecurrentDynamics
from .likelihood import iterate_batches

if TYPE_CHECKING:
    from ..models.modeling_trace import TraceForConditionalGeneration

_BLOCK = 2**19  # elements (4 MiB of float64) of a block of pairs: what stays in a CPU's cache is several times faster
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


def check_encoded(texts: EncodedTexts) -> None:
    """Refuse what is no [`EncodedTexts`], or a single text, which cannot be told from others."""
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
    "EncodedTexts",
    "check_encoded",
    "encode_states",
    "encode_texts",
]
