"""The base class of latent dynamics: how latents depend on each other and on the text (paper Sec. 3.2)."""

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

from .gaussian_trace import (
    LinearFloat32,
    PosteriorNorm,
    SegmentLatents,
    reparameterize,
    smooth_bound,
    standard_normal,
)


class LatentDynamics(nn.Module, ABC):
    """
    Base of all latent dynamics: a prior and a posterior for the latent of every segment.

        prior      [mu_t, log sigma_t^2] = `prior(z_{t-1}, c_{t-1})`
        residual   [dmu_t, log dsigma_t^2] = norm(W^g s_t)                          Eq. 11
        posterior  N(dmu_t, dsigma_t^2)                                             residual_posterior False (-RP)
                   N(mu_t + sigma_t dmu_t, sigma_t^2 dsigma_t^2)                    True, residual_scale "prior"
                   N(mu_t + dmu_t, sigma_t^2 dsigma_t^2)                            True, residual_scale "none", Eq. 10

    c_{t-1} is a state at the end of segment t-1, which has seen x_<t. s_t is what the posterior reads. With a
    `latent_layer` both come from the decoder's own pass, and s_t has seen x_<=t ([`StateReader`]). For latents at the
    embeddings they are outputs of the backbone as an encoder, s_t at the end of segment t in the pass named by
    `posterior_pass`: "segment" (h_t, sees x_t only), "context" (c_t, sees x_<=t) or "whole" (sees the whole text).

    For dynamics of your own subclass this, override `prior` (and `residual`, `combine`, `__init__` where needed), and
    register it: see [`register_latent_dynamics`]. Note: dsigma_t starts at `config.posterior_sigma_init` rather than
    1, so that z carries a signal.

    Class attributes:
        posterior_pass (`str`): see above. With a `latent_layer` it has no effect, but "whole" is refused (unless
            `one_per_text`).
        reads_context (`bool`): whether the prior reads c_{t-1}. Without, no encoder pass is made for it.
        reads_previous (`bool`): whether the prior reads z_{t-1}. Without, all steps are computed at once.
        one_per_text (`bool`): one latent for the whole text instead of one per segment.
    """

    posterior_pass = "segment"
    reads_context = True
    reads_previous = True
    one_per_text = False

    def __init__(self, config):
        super().__init__()
        self.latent_size = config.latent_size
        self.conditional = config.conditional
        self.bound = config.prior_logvar_bound
        self.residual_scale = config.residual_scale
        self.residual_posterior = config.residual_posterior
        hidden_size = config.backbone_config.hidden_size
        self._make_prior(hidden_size, config)
        self.posterior_network = LinearFloat32(hidden_size, 2 * config.latent_size)  # W^g
        norm = (config.latent_size, config.posterior_norm, config.posterior_norm_gamma)
        self.mean_norm = PosteriorNorm(*norm)
        self.logvar_norm = PosteriorNorm(*norm, beta_init=2 * math.log(config.posterior_sigma_init))

    def _make_prior(self, hidden_size: int, config) -> None:
        """The prior's own weights, if it has some."""

    @abstractmethod
    def prior(
        self, previous: torch.Tensor, context: torch.Tensor | None, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The prior of the next latent.

        Args:
            previous (`torch.Tensor` of shape `(..., latent_size)`): z_{t-1}, zero for t = 1.
            context (`torch.Tensor` of shape `(..., hidden_size)`): c_{t-1}; None where `reads_context` is False.
            first (`torch.BoolTensor` of shape `(...)`): True where t = 1.

        Returns:
            Mean and log variance, each of shape `(..., latent_size)`, float32.
        """

    def residual(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        [dmu_t, log dsigma_t^2] from s_t (Eq. 11).

        Args:
            states (`torch.Tensor` of shape `(..., hidden_size)`): s_t.
            mask (`torch.BoolTensor` of shape `(...)`, *optional*): True where there is a segment, for +BN.

        Returns:
            Two tensors of shape `(..., latent_size)`, float32.
        """
        mean, logvar = self.posterior_network(states).split(self.latent_size, dim=-1)
        return self.mean_norm(mean, mask), self.logvar_norm(logvar, mask)

    def combine(
        self,
        prior_mean: torch.Tensor,
        prior_logvar: torch.Tensor,
        delta_mean: torch.Tensor,
        delta_logvar: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the posterior from prior and residual (Eq. 10), all of one shape."""
        if not self.residual_posterior:
            return delta_mean, delta_logvar
        shift = delta_mean * torch.exp(0.5 * prior_logvar) if self.residual_scale == "prior" else delta_mean
        return prior_mean + shift, prior_logvar + delta_logvar

    def posterior(
        self, prior_mean: torch.Tensor, prior_logvar: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The posterior of one latent given its prior, for a prompt's segments.

        Args:
            prior_mean, prior_logvar (`torch.Tensor` of shape `(rows, latent_size)`): as `prior` gives them.
            state (`torch.Tensor` of shape `(rows, hidden_size)`): s_t.

        Returns:
            Mean and log variance, each of shape `(rows, latent_size)`.
        """
        return self.combine(prior_mean, prior_logvar, *self.residual(state))

    def forward(
        self,
        context_states: torch.Tensor | None,
        posterior_states: torch.Tensor,
        mask: torch.Tensor,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> SegmentLatents:
        """
        Args:
            context_states (`torch.Tensor` of shape `(batch_size, num_segments, hidden_size)`, *optional*): c_{t-1} for
                t = 1..T; None where `reads_context` is False.
            posterior_states (`torch.Tensor` of shape `(batch_size, num_segments, hidden_size)`): s_t for t = 1..T.
            mask (`torch.BoolTensor` of shape `(batch_size, num_segments)`): True where a row has the segment.
            sample (`bool`): draw z from the posterior; its mean when False.
            generator (`torch.Generator`, *optional*): for the draw.
        """
        keep = mask.unsqueeze(-1)
        delta = tuple(x * keep for x in self.residual(posterior_states, mask))
        noise = self._noise(delta[0], keep, sample, generator)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        if self.reads_previous:
            steps = []
            previous = torch.zeros_like(noise[:, 0])
            for t in range(mask.shape[1]):
                context = None if context_states is None else context_states[:, t]
                prior = self.prior(previous, context, first[:, t])
                posterior = self.combine(*prior, *(x[:, t] for x in delta))
                previous = reparameterize(*posterior, noise[:, t])
                steps.append((previous, *prior, *posterior))
            values = [torch.stack(x, dim=1) for x in zip(*steps, strict=True)]
        else:
            prior = self.prior(torch.zeros_like(noise), context_states, first)
            posterior = self.combine(*prior, *delta)
            values = [reparameterize(*posterior, noise), *prior, *posterior]
        return SegmentLatents(*(torch.where(keep, x, 0.0) for x in values))

    @staticmethod
    def _noise(like, keep, sample, generator) -> torch.Tensor:
        return standard_normal(like, generator) * keep if sample else torch.zeros_like(like)


class ContextPriorDynamics(LatentDynamics):
    """Base of dynamics whose prior comes from c_{t-1} by a network W^f, and is N(0, I) at t = 1 without a prompt."""

    prior_network: nn.Module  # W^f

    def _context_inputs(self, context: torch.Tensor) -> torch.Tensor:
        """W_c c_{t-1} + bias, mean first, `(..., 2 * latent_size)`."""
        return self.prior_network(context)

    def _prior_inputs(self, context: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """W_c c_{t-1} + bias; zero where the prior is N(0, I)."""
        inputs = self._context_inputs(context)
        return inputs if self.conditional else inputs.masked_fill(first.unsqueeze(-1), 0.0)

    def _prior_from_inputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, logvar = inputs.split(self.latent_size, dim=-1)
        return mean, smooth_bound(logvar, self.bound)


__all__ = ["ContextPriorDynamics", "LatentDynamics"]
