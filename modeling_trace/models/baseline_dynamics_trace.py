"""Latents without recurrence, which the paper compares with: IND, CGD and one latent per text (Sec. 3.2, Eq. 3, 4)."""

import torch

from .dynamics_trace import ContextPriorDynamics, LatentDynamics
from .gaussian_trace import LinearFloat32


class IndependentDynamics(LatentDynamics):
    """
    IND, `latent_dynamics="independent"` (TWR-VAE, Li et al. 2020; Eq. 3): latents that know nothing of each other.

        prior      N(0, I), also in a conditional model
        posterior  from what has seen x_<=t (c_t at the embeddings)
    """

    posterior_pass = "context"
    reads_context = False
    reads_previous = False

    def prior(
        self, previous: torch.Tensor, context: torch.Tensor | None, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(previous), torch.zeros_like(previous)


class ContextDynamics(ContextPriorDynamics):
    """
    CGD, `latent_dynamics="context"` (VAD, Du et al. 2018; Eq. 4): the prior given the text so far, not the latents.

        prior      [mu_t, log sigma_t^2] = W^f c_{t-1}; z_1 ~ N(0, I), in a conditional model given the prompt
        posterior  from the whole text: the state at the end of segment t in a bidirectional pass
    """

    posterior_pass = "whole"
    reads_previous = False

    def _make_prior(self, hidden_size, config):
        if self.reads_context:
            self.prior_network = LinearFloat32(hidden_size, 2 * config.latent_size)  # W^f

    def prior(
        self, previous: torch.Tensor, context: torch.Tensor | None, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.reads_context:
            return torch.zeros_like(previous), torch.zeros_like(previous)
        return self._prior_from_inputs(self._prior_inputs(context, first))


class SingleDynamics(ContextDynamics):
    """
    No Recurrence, `latent_dynamics="single"` (Optimus, Li et al. 2020): one latent, added at every position.

        prior      N(0, I); in a conditional model [mu, log sigma^2] = W^f c_0, given the prompt
        posterior  from the whole text: the state at its last token in a bidirectional pass, or, with a `latent_layer`,
                   s_1 of the whole text

    Texts need no [SEP]; where they have some, they are tokens like others.
    """

    one_per_text = True

    def __init__(self, config):
        self.reads_context = config.conditional  # N(0, I) has nothing to read
        super().__init__(config)


__all__ = ["ContextDynamics", "IndependentDynamics", "SingleDynamics"]
