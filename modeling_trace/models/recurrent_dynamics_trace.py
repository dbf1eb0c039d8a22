"""TRACE-R: latents whose prior is given the last latent and the text so far (paper Sec. 4.1, Eq. 8 to 11)."""

import torch
from torch import nn

from .dynamics_trace import ContextPriorDynamics
from .gaussian_trace import SegmentLatents, linear_float32, reparameterize
from .scan_trace import recurrent_scan


class PriorNetwork(nn.Module):
    """
    W^f of [z_{t-1}; c_{t-1}] in its two parts: what it makes of all c at once, and the matrix that the scan needs.

    No `nn.Linear`, and so nothing that PEFT's `target_modules="all-linear"` adapts: an adapter follows what a layer
    makes of its input, not its columns. Weights are read in this forward only, where whoever keeps them elsewhere
    (offloading, ZeRO-3) has brought them.
    """

    def __init__(self, latent_size: int, hidden_size: int):
        super().__init__()
        self.latent_size = latent_size
        whole = nn.Linear(latent_size + hidden_size, 2 * latent_size)
        self.weight, self.bias = whole.weight, whole.bias

    def forward(self, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            context (`torch.Tensor` of shape `(..., hidden_size)`, *optional*): c_{t-1}.

        Returns:
            The columns of W^f that act on z, mean rows first, `(2 * latent_size, latent_size)`; and W_c c_{t-1} + bias
            `(..., 2 * latent_size)`, float32, None without a context.
        """
        recurrent, of_context = self.weight.split([self.latent_size, self.weight.shape[1] - self.latent_size], dim=1)
        inputs = None if context is None else linear_float32(context, of_context, self.bias)
        return recurrent.clone(), inputs


class RecurrentMatrix(nn.Module):
    """A matrix that acts on z, which its forward returns. No `nn.Linear`, for the reasons of [`PriorNetwork`]."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Linear(size, size, bias=False).weight

    def forward(self) -> torch.Tensor:
        """`(latent_size, latent_size)`."""
        return self.weight.clone()


class RecurrentDynamics(ContextPriorDynamics):
    """
    TRACE-R, `latent_dynamics="recurrent"`: the prior given the last latent and the text so far (RGD, Sec. 4.1).

        prior      [mu_t, log sigma_t^2] = W^f [z_{t-1}; c_{t-1}], z_0 = 0         Eq. 8, 9
                   z_1 ~ N(0, I); in a conditional model its prior is given the prompt, c_0
        posterior  from s_t; in the paper a residual on the prior, from h_t         Eq. 10, 11
    """

    def _make_prior(self, hidden_size, config):
        self.prior_network = PriorNetwork(config.latent_size, hidden_size)  # W^f

    def _recurrent_weight(self) -> torch.Tensor:
        """The columns of W^f that act on z, mean rows first, `(2 * latent_size, latent_size)`."""
        return self.prior_network()[0]

    def _context_inputs(self, context: torch.Tensor) -> torch.Tensor:
        return self.prior_network(context)[1]

    def prior(
        self, previous: torch.Tensor, context: torch.Tensor | None, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._prior_from_inputs(
            linear_float32(previous, self._recurrent_weight()) + self._prior_inputs(context, first)
        )

    def _steps(self, context_states, posterior_states, mask, sample, generator):
        """Everything that does not depend on z, time-major: all padded steps neutral, since inf * 0 is NaN later."""
        keep = mask.t().unsqueeze(-1)  # (S, B, 1)
        first = torch.zeros_like(mask.t())
        first[0] = True
        prior_inputs = self._prior_inputs(context_states.transpose(0, 1), first) * keep
        delta = tuple(x.transpose(0, 1) * keep for x in self.residual(posterior_states, mask))
        return keep, prior_inputs, *delta, self._noise(delta[0], keep, sample, generator)

    def forward(
        self,
        context_states: torch.Tensor | None,
        posterior_states: torch.Tensor,
        mask: torch.Tensor,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> SegmentLatents:
        keep, prior_inputs, delta_mean, delta_logvar, noise = self._steps(
            context_states, posterior_states, mask, sample, generator
        )
        weight = self._recurrent_weight().to(delta_mean.dtype)
        if self.residual_posterior:
            latents, prior_mean, prior_logvar = recurrent_scan(
                prior_inputs.contiguous(),
                delta_mean.contiguous(),
                delta_logvar.contiguous(),
                noise.contiguous(),
                weight.contiguous(),
                self.bound,
                self.residual_scale,
            )
        else:  # the posterior does not depend on z_{t-1}, so there is nothing to scan
            latents = reparameterize(delta_mean, delta_logvar, noise)
            prior_mean, prior_logvar = self._prior_from_inputs(
                prior_inputs + linear_float32(previous_latents(latents), weight)
            )
        posterior = self.combine(prior_mean, prior_logvar, delta_mean, delta_logvar)
        values = (latents, prior_mean, prior_logvar, *posterior)
        return SegmentLatents(*((x * keep).transpose(0, 1) for x in values))


def previous_latents(steps: torch.Tensor) -> torch.Tensor:
    """z_{t-1} from z_t, time-major: z_0 = 0."""
    return torch.cat([torch.zeros_like(steps[:1]), steps[:-1]])


__all__ = ["PriorNetwork", "RecurrentDynamics", "RecurrentMatrix", "previous_latents"]
