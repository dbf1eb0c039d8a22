"""Gaussian latents: the KL, the exact recurrence and its backward, the posterior's normalisation (paper Sec. 4.1)."""

import math
import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.utils import ModelOutput


def gaussian_kl(
    mean_q: torch.Tensor, logvar_q: torch.Tensor, mean_p: torch.Tensor, logvar_p: torch.Tensor
) -> torch.Tensor:
    """
    KL(q || p) of diagonal Gaussians, in nats, element by element and in float32 (Eq. 37).

    Args:
        mean_q, logvar_q, mean_p, logvar_p (`torch.Tensor`): means and log variances, shapes that broadcast.

    Returns:
        `torch.Tensor` of the broadcast shape; sum over the last axis for the KL of one latent.
    """
    mean_q, logvar_q, mean_p, logvar_p = (at_least_float32(x) for x in (mean_q, logvar_q, mean_p, logvar_p))
    log_ratio = logvar_q - logvar_p
    scaled = (mean_q - mean_p) * torch.exp(-0.5 * logvar_p)
    return 0.5 * (scaled.square() + log_ratio.exp() - log_ratio - 1)


def gamma_for_rate(nats_per_segment: float, latent_size: int) -> float:
    """
    The `posterior_norm_gamma` whose KL floor is a wanted rate: l gamma^2 / 2 = rate (Theorem 1, in units of sigma_t).

    Args:
        nats_per_segment (`float`): the least KL of each segment, in nats.
        latent_size (`int`): latent dimensions l.

    Example:

    ```python
    >>> from modeling_trace import gamma_for_rate
    >>> gamma_for_rate(16.0, latent_size=32)
    1.0
    ```
    """
    if nats_per_segment < 0:
        raise ValueError(f"`nats_per_segment` must be >= 0, got {nats_per_segment}.")
    if latent_size < 1:
        raise ValueError(f"`latent_size` must be >= 1, got {latent_size}.")
    return math.sqrt(2.0 * nats_per_segment / latent_size)


def free_bits(kl: torch.Tensor, num_segments: torch.LongTensor, free_nats: float) -> torch.Tensor:
    """
    What the loss counts of the KL under free bits: max(KL_t, lambda) for each segment (Kingma et al. 2016).

    Each segment has its own threshold, as each token has in the Free Transformer (Fleuret 2025), so that the sum does
    not depend on how texts are batched, accumulated or dealt to processes.

    Args:
        kl (`torch.Tensor` of shape `(batch_size, num_segments)`): nats per segment, zero where a text has fewer.
        num_segments (`torch.LongTensor` of shape `(batch_size,)`): segments of each text.
        free_nats (`float`): lambda, nats per segment.

    Returns:
        `torch.Tensor` of shape `()`: nats, summed.
    """
    there = torch.arange(1, kl.shape[1] + 1, device=kl.device) <= num_segments.unsqueeze(1)
    return torch.where(there, kl.clamp_min(free_nats), 0.0).sum()


def smooth_bound(x: torch.Tensor, bound: float | None) -> torch.Tensor:
    """c * tanh(x / c), which keeps log variances in (-c, c); the identity where `bound` is None (the paper's form)."""
    return x if bound is None else bound * torch.tanh(x / bound)


def standard_normal(like: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """eps ~ N(0, I) of the shape, type and device of `like`; the generator may live on another device (the CPU)."""
    if generator is None:  # torch.compile takes no `generator` argument, not even None, where shapes are symbols
        return torch.randn(like.shape, device=like.device, dtype=like.dtype)
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def linear_float32(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer that autocast leaves alone: log variances in half precision are no log variances."""
    x = at_least_float32(x)
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


@dataclass
class SegmentLatents(ModelOutput):
    """
    Latents of a batch and their Gaussians, all of shape `(batch_size, num_segments, latent_size)`, float32.

    Rows with fewer segments hold zeros in the steps that they do not have.
    """

    # a ModelOutput: ZeRO-3 looks for tensors in what a module returns, and finds none in a plain dataclass
    latents: torch.Tensor | None = None
    prior_mean: torch.Tensor | None = None
    prior_logvar: torch.Tensor | None = None
    posterior_mean: torch.Tensor | None = None
    posterior_logvar: torch.Tensor | None = None

    def kl(self) -> torch.Tensor:
        """KL(q(z_t) || p(z_t)) in nats, by segment and dimension, `(batch_size, num_segments, latent_size)`."""
        return gaussian_kl(self.posterior_mean, self.posterior_logvar, self.prior_mean, self.prior_logvar)


def _scan(
    prior_inputs: torch.Tensor,
    delta_mean: torch.Tensor,
    delta_logvar: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    bound: float | None,
    scale_by_prior: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    z_t, mu_t and log sigma_t^2 for t = 1..T (see [`recurrent_scan`]), and z_t once more, for the backward.

    Only the product with z_{t-1} is inside the loop.
    """
    with torch.autocast(weight.device.type, enabled=False):
        size = delta_mean.shape[-1]
        transposed = weight.t().contiguous()  # (l, 2l)
        # z = mu + s * (dmu + exp(dlv / 2) eps), s = exp(lv / 2)    (residual_scale "prior")
        # z = mu + dmu + s * exp(dlv / 2) eps                       (residual_scale "none", Eq. 10)
        scaled = torch.exp(0.5 * delta_logvar) * noise
        if scale_by_prior:
            scaled = delta_mean + scaled
        shift = None if scale_by_prior else delta_mean.unbind(0)
        previous = torch.zeros_like(delta_mean[0])
        latents, means, logvars = [], [], []
        for t, (inputs, residual) in enumerate(zip(prior_inputs.unbind(0), scaled.unbind(0), strict=True)):
            mean, logvar = torch.addmm(inputs, previous, transposed).split(size, dim=-1)
            logvar = smooth_bound(logvar, bound)
            base = mean if shift is None else mean + shift[t]
            previous = torch.addcmul(base, torch.exp(0.5 * logvar), residual)
            latents.append(previous)
            means.append(mean)
            logvars.append(logvar)
        latents = torch.stack(latents)
        # the caller's z must not share storage with the saved one: writing to it would corrupt the backward
        return latents.clone(), torch.stack(means), torch.stack(logvars), latents


def _scan_backward(
    grad_latents: torch.Tensor,
    grad_means: torch.Tensor,
    grad_logvars: torch.Tensor,
    latents: torch.Tensor,
    logvars: torch.Tensor,
    delta_mean: torch.Tensor,
    delta_logvar: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    bound: float | None,
    scale_by_prior: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Gradients of `prior_inputs`, `delta_mean`, `delta_logvar` and `weight`, by hand: plain autograd would keep a graph
    node per step, and slicing its inputs would make the backward quadratic in T.
    """
    with torch.autocast(weight.device.type, enabled=False):
        sigma = torch.exp(0.5 * logvars)
        scaled_noise = torch.exp(0.5 * delta_logvar) * noise
        scaled = delta_mean + scaled_noise if scale_by_prior else scaled_noise
        spread = 0.5 * sigma * scaled  # dz_t / d lv_t
        if bound is not None:
            slope = 1 - (logvars / bound).square()  # d bound(x) / dx, from its value
            spread, grad_logvars = spread * slope, grad_logvars * slope
        carry = torch.zeros_like(latents[0])
        grad_z, grad_inputs = [], []
        steps = (x.unbind(0) for x in (grad_latents, grad_means, grad_logvars, spread))
        for dz, dmean, dlogvar, dspread in reversed(list(zip(*steps, strict=True))):
            dz = dz + carry
            inputs = torch.cat([dz + dmean, torch.addcmul(dlogvar, dz, dspread)], dim=-1)  # (B, 2l)
            carry = inputs @ weight
            grad_z.append(dz)
            grad_inputs.append(inputs)
        grad_z = torch.stack(grad_z[::-1])
        grad_inputs = torch.stack(grad_inputs[::-1])
        grad_delta_mean = grad_z * sigma if scale_by_prior else grad_z
        grad_delta_logvar = 0.5 * grad_z * sigma * scaled_noise
        # z_0 = 0, so step 1 adds nothing to the gradient of the weight
        grad_weight = grad_inputs[1:].flatten(0, 1).t() @ latents[:-1].flatten(0, 1)
        return grad_inputs, grad_delta_mean, grad_delta_logvar, grad_weight


def _save_for_backward(ctx, inputs, output):
    _, delta_mean, delta_logvar, noise, weight, *ctx.options = inputs
    _, _, logvars, kept = output
    ctx.save_for_backward(kept, logvars, delta_mean, delta_logvar, noise, weight)


class _RecurrentScan(torch.autograd.Function):
    """The scan in eager mode: cheaper to call than an operator, and its products are seen by tools that count them."""

    @staticmethod
    def forward(ctx, *inputs):
        *outputs, kept = _scan(*inputs)
        _save_for_backward(ctx, inputs, (*outputs, kept))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        *found, grad_weight = _scan_backward(*grads, *ctx.saved_tensors, *ctx.options)
        return *found, None, grad_weight, None, None


# The same as operators: one node for torch.compile and torch.export, which otherwise write out every step. Named after
# the module, since a process may hold other versions of this file, which came with saved models.
_NAMESPACE = re.sub(r"\W", "_", __name__)
_scan_op = torch.library.custom_op(f"{_NAMESPACE}::recurrent_scan", _scan, mutates_args=())
_scan_backward_op = torch.library.custom_op(f"{_NAMESPACE}::recurrent_scan_backward", _scan_backward, mutates_args=())


@_scan_op.register_fake
def _(prior_inputs, delta_mean, delta_logvar, noise, weight, bound, scale_by_prior):
    return tuple(delta_mean.new_empty(delta_mean.shape) for _ in range(4))


@_scan_backward_op.register_fake
def _(grad_latents, grad_means, grad_logvars, latents, logvars, delta_mean, delta_logvar, noise, weight, *options):
    grad_inputs = latents.new_empty(*latents.shape[:-1], weight.shape[0])
    return (
        grad_inputs,
        latents.new_empty(latents.shape),
        latents.new_empty(latents.shape),
        weight.new_empty(weight.shape),
    )


def _op_backward(ctx, grad_latents, grad_means, grad_logvars, _):
    grads = (grad_latents, grad_means, grad_logvars)
    *found, grad_weight = _scan_backward_op(*grads, *ctx.saved_tensors, *ctx.options)
    return *found, None, grad_weight, None, None


_scan_op.register_autograd(_op_backward, setup_context=_save_for_backward)


def recurrent_scan(
    prior_inputs: torch.Tensor,
    delta_mean: torch.Tensor,
    delta_logvar: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    bound: float | None,
    residual_scale: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The exact recurrence of Eq. 9 to 11, with everything that does not depend on z hoisted out of the loop.

        [mu_t; x_t] = W z_{t-1} + prior_inputs_t,  lv_t = bound(x_t),  z_0 = 0
        z_t = mu_t + dmu_t + exp((lv_t + dlv_t) / 2) eps_t                      residual_scale "none" (the paper)
        z_t = mu_t + exp(lv_t / 2) (dmu_t + exp(dlv_t / 2) eps_t)               residual_scale "prior"

    Args:
        prior_inputs (`torch.Tensor` of shape `(num_segments, batch_size, 2 * latent_size)`): W_c c_{t-1} + bias, mean
            first; zero for a step whose prior is N(0, I).
        delta_mean, delta_logvar, noise (`torch.Tensor` of shape `(num_segments, batch_size, latent_size)`): the
            posterior's residuals (Eq. 11) and eps. Zero in padded steps, *before* the scan: inf * 0 is NaN.
        weight (`torch.Tensor` of shape `(2 * latent_size, latent_size)`): the columns of W^f that act on z.
        bound (`float`, *optional*): the smooth bound of the prior's log variance, see [`smooth_bound`].
        residual_scale (`str`): "none" or "prior".

    Returns:
        z_t, mu_t and log sigma_t^2 of the prior, each of shape `(num_segments, batch_size, latent_size)`.
    """
    inputs = (prior_inputs, delta_mean, delta_logvar, noise, weight, bound, residual_scale == "prior")
    if torch.compiler.is_compiling():
        return _scan_op(*inputs)[:3]
    return _RecurrentScan.apply(*inputs)


class PosteriorNorm(nn.Module):
    """
    Normalisation of the posterior network's output, `config.posterior_norm`: x -> gamma * normalised(x) + beta.

    - "layer" (Eq. 11): over the dimensions of each latent. A fixed gamma bounds the KL from below (Theorem 1).
    - "batch" (Table 5, +BN; Zhu et al. 2020): each dimension over all segments of the batch, of all processes. Padded
      steps do not count. Running statistics in eval mode.
    - "none" (Table 5, -LN): x + beta.

    Gamma is fixed, beta is learned. Note: the mean and the log variance are normalised each on its own; one LayerNorm
    over both would leave the norm of the mean, and so the bound, to training.
    """

    momentum = 0.1

    def __init__(self, size: int, kind: str, gamma: float, beta_init: float = 0.0, eps: float = 1e-5):
        super().__init__()
        self.kind, self.gamma, self.beta_init, self.eps = kind, gamma, beta_init, eps
        self.bias = nn.Parameter(torch.full((size,), beta_init))
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(size))
            self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: torch.Tensor, mask: torch.BoolTensor | None = None) -> torch.Tensor:
        """
        Args:
            x (`torch.Tensor` of shape `(..., latent_size)`).
            mask (`torch.BoolTensor` of shape `(...)`, *optional*): True where there is a segment. Without it running
                statistics are used, also in training mode: one step alone has no batch.
        """
        bias = self.bias.to(x.dtype)
        if self.kind == "layer":
            return self.gamma * nn.functional.layer_norm(x, x.shape[-1:], eps=self.eps) + bias
        if self.kind == "none":
            return x + bias
        if self.training and mask is not None:
            x = torch.where(mask.unsqueeze(-1), x, 0.0)  # inf * 0 would be NaN, also in the gradient
            mean, var = self._batch_statistics(x, mask.unsqueeze(-1).to(x.dtype))
        else:
            mean, var = self.running_mean.to(x.dtype), self.running_var.to(x.dtype)
        return self.gamma * (x - mean) * torch.rsqrt(var + self.eps) + bias

    def _batch_statistics(self, x, keep):
        axes = tuple(range(x.dim() - 1))
        sums = _sum_over_processes(torch.cat([x.sum(axes), keep.sum().reshape(1)]))
        count = sums[-1].clamp_min(1)
        mean = sums[:-1] / count
        var = _sum_over_processes(((x - mean).square() * keep).sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * count / (count - 1).clamp_min(1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, var


def _sum_over_processes(x: torch.Tensor) -> torch.Tensor:
    """The sum over all training processes, with its gradient."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)
