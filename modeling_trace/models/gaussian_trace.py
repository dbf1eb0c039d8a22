"""Diagonal Gaussians in nats: KL, draws, bounds, free bits, the posterior's normalisation (paper Sec. 4.1)."""

import math
from dataclasses import dataclass

import torch
from torch import nn
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


def gaussian_log_density(x: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """
    log N(x; mean, exp(logvar)), element by element and in float64.

    Args:
        x, mean, logvar (`torch.Tensor`): shapes that broadcast.

    Returns:
        `torch.Tensor` of the broadcast shape; sum over the last axis for the density of one latent.
    """
    x, mean, logvar = (to_float64(value) for value in (x, mean, logvar))
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * torch.exp(-logvar))


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


def free_bits(kl: torch.Tensor, num_segments: torch.Tensor, free_nats: float) -> torch.Tensor:
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
    has_segment = torch.arange(1, kl.shape[1] + 1, device=kl.device) <= num_segments.unsqueeze(1)
    return torch.where(has_segment, kl.clamp_min(free_nats), 0.0).sum()


def reparameterize(
    mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor, scale: torch.Tensor | float | None = None
) -> torch.Tensor:
    """
    z = mean + exp(logvar / 2) noise, a draw with a gradient (Kingma & Welling 2014).

    Args:
        mean, logvar, noise (`torch.Tensor`): shapes that broadcast; noise ~ N(0, I).
        scale (`torch.Tensor` or `float`, *optional*): times the standard deviation, a latent temperature.
    """
    std = torch.exp(0.5 * logvar)
    return mean + (std if scale is None else scale * std) * noise


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


def to_float64(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.device.type == "mps" else x.double()  # Apple's GPUs have no float64


def linear_float32(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer that autocast leaves alone: log variances in half precision are no log variances."""
    x = at_least_float32(x)
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class LinearFloat32(nn.Linear):
    """A linear layer of the latent networks: in float32 at least, also under autocast ([`linear_float32`])."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_float32(x, self.weight, self.bias)


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
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, size: int, kind: str, gamma: float, beta_init: float = 0.0, eps: float = 1e-5):
        super().__init__()
        self.kind, self.gamma, self.beta_init, self.eps = kind, gamma, beta_init, eps
        self.bias = nn.Parameter(torch.full((size,), beta_init))
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(size))
            self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
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
