"""TRACE-P: the priors of all segments at once, from approximate latents (paper Sec. 4.2, Eq. 12 to 14)."""

import torch
from torch.nn.utils.parametrizations import spectral_norm

from .gaussian_trace import LinearFloat32, SegmentLatents, linear_float32, reparameterize
from .recurrent_dynamics_trace import RecurrentDynamics, RecurrentMatrix, previous_latents
from .scan_trace import recurrent_scan


class ParallelDynamics(RecurrentDynamics):
    """
    TRACE-P, `latent_dynamics="parallel"`: TRACE-R, the priors of all t at once from an approximate z (Sec. 4.2).

        z~_t = v_t + sum_{i<t} u_i                                                                        Eq. 12
        v_t  = (W_mu2 c_{t-1} + dmu_t) + eps_t + (W_sigma2 c_{t-1} + log dsigma_t) * eps_t                Eq. 13
        u_t  = W_mu1 v_t + (W_sigma1 v_t) * xi_t,  xi_t ~ N(0, I)                                         Eq. 14
        [mu_t, log sigma_t^2] = W^f [z~_{t-1}; c_{t-1}], and z_t from the posterior (Eq. 10) by the same eps_t

    The paper writes g(x_t) without its LayerNorm "for simplicity"; dmu_t and log dsigma_t are Eq. 11 with it. Its
    W_sigma gives log sigma here, half of the log sigma^2 of Eq. 9. With `residual_scale="prior"` the noise of Eq. 13
    is r_t = dmu_t + (1 + log dsigma_t) * eps_t, in units of sigma_t: v_t = W_mu2 c_{t-1} + r_t + (W_sigma2 c_{t-1}) *
    r_t. A `prior_logvar_bound` is put on both halves of log sigma^2. W_mu1 and W_sigma1 have spectral norm 1
    (`spectral_norm=False`: Table 5, -SN).

    Note: The approximation is for training. In eval mode the recurrence is exact, as it is in generation, which draws
    step by step: only then reconstruction + KL bounds the likelihood of the model that writes. On texts of one segment
    both are the same.
    """

    def _make_prior(self, hidden_size, config):
        size = config.latent_size
        self.prior_network = LinearFloat32(hidden_size, 2 * size)  # W_mu2, W_sigma2
        self.recurrent_mean = RecurrentMatrix(size)  # W_mu1
        self.recurrent_logvar = RecurrentMatrix(size)  # W_sigma1
        if config.spectral_norm:
            # three power iterations a step keep up with AdamW at 1e-3; one lets the norm drift above 1.001
            spectral_norm(self.recurrent_mean, n_power_iterations=3)
            spectral_norm(self.recurrent_logvar, n_power_iterations=3)

    def _recurrent_weight(self):
        return torch.cat([self.recurrent_mean(), self.recurrent_logvar()])

    def _context_inputs(self, context):  # no PriorNetwork
        return self.prior_network(context)

    def approximate_latents(
        self,
        prior_inputs: torch.Tensor,
        delta_mean: torch.Tensor,
        delta_logvar: torch.Tensor,
        noise: torch.Tensor,
        product_noise: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        """
        z~_t of Eq. 12 to 14 for all t at once.

        Args:
            prior_inputs (`torch.Tensor` of shape `(num_segments, batch_size, 2 * latent_size)`): W_2 c_{t-1} + bias.
            delta_mean, delta_logvar (`torch.Tensor` of shape `(num_segments, batch_size, latent_size)`): Eq. 11.
            noise, product_noise: eps_t and xi_t, of the same shape.
            weight (`torch.Tensor` of shape `(2 * latent_size, latent_size)`): W_mu1 above W_sigma1 (of log sigma^2).
        """
        if not self.residual_posterior:  # z_t does not depend on z_{t-1}: nothing to approximate
            return reparameterize(delta_mean, delta_logvar, noise)
        context_mean, context_logvar = self._prior_from_inputs(prior_inputs)
        if self.residual_scale == "prior":
            r = delta_mean + noise + 0.5 * delta_logvar * noise
            v = context_mean + r + 0.5 * context_logvar * r
        else:
            v = context_mean + delta_mean + noise + 0.5 * (context_logvar + delta_logvar) * noise  # Eq. 13
        mean, logvar = self._prior_from_inputs(linear_float32(v, weight))
        u = mean + 0.5 * logvar * product_noise  # Eq. 14
        return v + u.cumsum(dim=0) - u  # Eq. 12

    def _approximate(self, context_states, posterior_states, mask, sample, generator):
        """What `_steps` gives, the weight of the recurrence, and z~_t."""
        steps = keep, *inputs, noise = self._steps(context_states, posterior_states, mask, sample, generator)
        weight = self._recurrent_weight()
        product_noise = self._noise(noise, keep, sample, generator)
        return *steps, weight, self.approximate_latents(*inputs, noise, product_noise, weight)

    def forward(
        self,
        context_states: torch.Tensor | None,
        posterior_states: torch.Tensor,
        mask: torch.Tensor,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> SegmentLatents:
        if not self.training:
            return super().forward(context_states, posterior_states, mask, sample, generator)
        keep, prior_inputs, delta_mean, delta_logvar, noise, weight, approximate = self._approximate(
            context_states, posterior_states, mask, sample, generator
        )
        prior = self._prior_from_inputs(prior_inputs + linear_float32(previous_latents(approximate), weight))
        posterior = self.combine(*prior, delta_mean, delta_logvar)
        latents = reparameterize(*posterior, noise)
        return SegmentLatents(*((x * keep).transpose(0, 1) for x in (latents, *prior, *posterior)))

    @torch.no_grad()
    def approximation_error(
        self,
        context_states: torch.Tensor | None,
        posterior_states: torch.Tensor,
        mask: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """
        How far Eq. 12 to 14 are from the recurrence that they stand for: |z~_t - z_t| / |z_t| under the same noise.

        Arguments as for `forward`. Returns the mean over rows by step, `(num_segments,)`; see
        [`~TraceForConditionalGeneration.approximation_error`].
        """
        _, prior_inputs, delta_mean, delta_logvar, noise, weight, approximate = self._approximate(
            context_states, posterior_states, mask, True, generator
        )
        if self.residual_posterior:
            exact = recurrent_scan(
                prior_inputs, delta_mean, delta_logvar, noise, weight, self.bound, self.residual_scale
            )[0]
        else:
            exact = reparameterize(delta_mean, delta_logvar, noise)
        error = (approximate - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(torch.finfo(exact.dtype).tiny)
        rows = mask.t()
        return torch.where(rows, error, 0.0).sum(dim=1) / rows.sum(dim=1).clamp_min(1)


__all__ = ["ParallelDynamics"]
