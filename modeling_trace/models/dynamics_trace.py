"""Latent dynamics: how the latents of a text depend on each other and on the text (paper Sec. 3.2, 4.1, 4.2)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from .configuration_trace import LATENT_DYNAMICS_VALUES, REGISTERED_DYNAMICS, TraceConfig
from .gaussian_trace import (
    LinearFloat32,
    PosteriorNorm,
    SegmentLatents,
    linear_float32,
    reparameterize,
    smooth_bound,
    standard_normal,
)
from .scan_trace import recurrent_scan


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
    def _noise(like, keep, sample, generator):
        return standard_normal(like, generator) * keep if sample else torch.zeros_like(like)


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


class RecurrentDynamics(LatentDynamics):
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
        """W_c c_{t-1} + bias, mean first, `(..., 2 * latent_size)`."""
        return self.prior_network(context)[1]

    def _prior_inputs(self, context: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """W_c c_{t-1} + bias; zero where the prior is N(0, I)."""
        inputs = self._context_inputs(context)
        return inputs if self.conditional else inputs.masked_fill(first.unsqueeze(-1), 0.0)

    def _prior_from_inputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, logvar = inputs.split(self.latent_size, dim=-1)
        return mean, smooth_bound(logvar, self.bound)

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
            prior_mean, prior_logvar = self._prior_from_inputs(prior_inputs + linear_float32(_shift(latents), weight))
        posterior = self.combine(prior_mean, prior_logvar, delta_mean, delta_logvar)
        values = (latents, prior_mean, prior_logvar, *posterior)
        return SegmentLatents(*((x * keep).transpose(0, 1) for x in values))


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

    def _context_inputs(self, context):
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
        keep, prior_inputs, delta_mean, delta_logvar, noise = self._steps(
            context_states, posterior_states, mask, sample, generator
        )
        weight = self._recurrent_weight()
        approximate = self.approximate_latents(
            prior_inputs, delta_mean, delta_logvar, noise, self._noise(noise, keep, sample, generator), weight
        )
        prior = self._prior_from_inputs(prior_inputs + linear_float32(_shift(approximate), weight))
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
        keep, prior_inputs, delta_mean, delta_logvar, noise = self._steps(
            context_states, posterior_states, mask, True, generator
        )
        weight = self._recurrent_weight()
        approximate = self.approximate_latents(
            prior_inputs, delta_mean, delta_logvar, noise, self._noise(noise, keep, True, generator), weight
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


class ContextDynamics(LatentDynamics):
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
        inputs = self.prior_network(context)
        if not self.conditional:
            inputs = inputs.masked_fill(first.unsqueeze(-1), 0.0)
        mean, logvar = inputs.split(self.latent_size, dim=-1)
        return mean, smooth_bound(logvar, self.bound)


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


def _shift(steps: torch.Tensor) -> torch.Tensor:
    """z_{t-1} from z_t, time-major: z_0 = 0."""
    return torch.cat([torch.zeros_like(steps[:1]), steps[:-1]])


# Config value to class; "none" needs no module. [`register_latent_dynamics`] adds to it.
LATENT_DYNAMICS: dict[str, type[LatentDynamics]] = {
    "recurrent": RecurrentDynamics,
    "parallel": ParallelDynamics,
    "independent": IndependentDynamics,
    "context": ContextDynamics,
    "single": SingleDynamics,
}


def has_segments(latent_dynamics: str) -> bool:
    """Whether texts are cut into segments: not for a plain language model, nor for one latent per text."""
    return latent_dynamics != "none" and not getattr(LATENT_DYNAMICS.get(latent_dynamics), "one_per_text", False)


def register_latent_dynamics(name: str) -> Callable[[type[LatentDynamics]], type[LatentDynamics]]:
    """
    Make latent dynamics of your own a value of `TraceConfig.latent_dynamics`.

    A saved model names module and class in its config (`latent_dynamics_class`); whoever loads it imports that module
    first. See docs/custom_dynamics.md.

    Args:
        name (`str`): the value of `latent_dynamics`.

    Raises:
        ValueError: for a name that is not a string or is built in, or a class that is no [`LatentDynamics`].

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config
    >>> from modeling_trace import LatentDynamics, TraceConfig, register_latent_dynamics

    >>> @register_latent_dynamics("random-walk")
    ... class RandomWalk(LatentDynamics):
    ...     reads_context = False
    ...
    ...     def prior(self, previous, context, first):
    ...         return previous, torch.zeros_like(previous)

    >>> TraceConfig(latent_dynamics="random-walk").latent_dynamics
    'random-walk'

    ```
    """

    if not isinstance(name, str) or not name:
        raise ValueError(
            f"`name` must be the value of `latent_dynamics`, a string, got {name!r:.80}. "
            "Write @register_latent_dynamics('my-dynamics') above the class."
        )

    def register(cls: type[LatentDynamics]) -> type[LatentDynamics]:
        if not (isinstance(cls, type) and issubclass(cls, LatentDynamics)):
            raise ValueError(f"`register_latent_dynamics` is for subclasses of LatentDynamics, got {cls!r:.80}.")
        if cls.__abstractmethods__:
            raise ValueError(f"`{cls.__name__}` has no prior. Define prior(self, previous, context, first) in it.")
        if name in LATENT_DYNAMICS_VALUES:
            raise ValueError(f"`name` must not be one of the built-in dynamics, got '{name}'. Choose another.")
        LATENT_DYNAMICS[name] = cls
        REGISTERED_DYNAMICS.add(name)
        return cls

    return register


def dynamics_class(config: TraceConfig) -> type[LatentDynamics]:
    """The class that `config.latent_dynamics` names; a ValueError says what to import where it is missing."""
    if config.latent_dynamics not in LATENT_DYNAMICS:
        module, _, name = (config.latent_dynamics_class or "").rpartition(".")
        remedy = "register it" if module == "__main__" else f"import {module}"
        raise ValueError(
            f"`latent_dynamics='{config.latent_dynamics}'` is the class {name} of {module}, which is not imported. "
            f"First {remedy}, then load the model (on the command line: modeling-trace --import {module} ...)."
        )
    return LATENT_DYNAMICS[config.latent_dynamics]


def check_buffers(dynamics: nn.Module) -> None:
    """Refuse, when a model is built, a buffer that would hold anything after loading."""
    lost = {name for name, _ in dynamics.named_buffers()} - dynamics.state_dict().keys()
    if lost:
        raise ValueError(
            f"`{type(dynamics).__name__}` has the buffer `{min(lost)}` with persistent=False, which "
            "holds anything after loading. Register it with persistent=True."
        )


__all__ = [
    "LATENT_DYNAMICS",
    "ContextDynamics",
    "IndependentDynamics",
    "LatentDynamics",
    "ParallelDynamics",
    "RecurrentDynamics",
    "SingleDynamics",
    "check_buffers",
    "dynamics_class",
    "has_segments",
    "register_latent_dynamics",
]
