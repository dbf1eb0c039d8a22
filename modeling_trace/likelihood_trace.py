"""Likelihood of texts under a model: the importance-weighted bound (Burda et al. 2016) and the ELBO (paper Eq. 6)."""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

# Logits that one decoder pass may hold: on a CPU 32 MiB of float32, above which passes get slower; elsewhere 512 MiB
_MAX_LOGITS_CPU = 2**23
_MAX_LOGITS = 2**27
# Encoder states that the dynamics are given at once, copied for each sample
_MAX_STATES = 2**24


@dataclass
class LikelihoodOutput(ModelOutput):
    """
    Estimates of log p(x) for each text, in nats. All float64; [SEP] and EOS are paid for, BOS, padding and prompt not.

    Args:
        log_likelihood (`torch.DoubleTensor` of shape `(batch_size,)`): L_n, a lower bound in expectation that rises
            with n; exact with `latent_dynamics="none"`.
        effective_sample_size (`torch.DoubleTensor` of shape `(batch_size,)`): (sum w)^2 / sum w^2, from 1 to n. Near
            1 the bound is loose: one sample carries it.
        elbo (`torch.DoubleTensor` of shape `(batch_size,)`): mean log p(x | z) - KL, with the KL in closed form.
        reconstruction (`torch.DoubleTensor` of shape `(batch_size, num_samples)`): log p(x | z) under each sample.
        log_weights (`torch.DoubleTensor` of shape `(batch_size, num_samples)`): log p(x | z) p(z) / q(z | x).
        kl (`torch.DoubleTensor` of shape `(batch_size, num_segments, latent_size)`): KL(q || p), mean over samples;
            zero where a text has fewer segments. None with `latent_dynamics="none"`.
        latents (`torch.FloatTensor` of shape `(batch_size, num_samples, num_segments, latent_size)`): the samples.
    """

    log_likelihood: torch.Tensor | None = None
    effective_sample_size: torch.Tensor | None = None
    elbo: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    log_weights: torch.Tensor | None = None
    kl: torch.Tensor | None = None
    latents: torch.Tensor | None = None


def gaussian_log_density(x: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """
    log N(x; mean, exp(logvar)), element by element and in float64.

    Args:
        x, mean, logvar (`torch.Tensor`): shapes that broadcast.

    Returns:
        `torch.Tensor` of the broadcast shape; sum over the last axis for the density of one latent.
    """
    x, mean, logvar = (_float64(value) for value in (x, mean, logvar))
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * torch.exp(-logvar))


def importance_weighted_bound(log_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    L_n = logsumexp_k log w_k - log n, and the effective sample size (sum w)^2 / sum w^2.

    Args:
        log_weights (`torch.Tensor` of shape `(..., num_samples)`): log p(x | z_k) + log p(z_k) - log q(z_k | x) with
            z_k drawn from q: the *sampled* log ratio, not the KL in closed form. -inf is a weight of zero.

    Returns:
        Two tensors of shape `(...)`, float64.
    """
    log_weights = _float64(log_weights)
    total = log_weights.logsumexp(dim=-1)
    effective = torch.exp(2 * total - (2 * log_weights).logsumexp(dim=-1))
    return total - math.log(log_weights.shape[-1]), effective


def target_mask(segment_ids: torch.LongTensor, conditional: bool) -> torch.BoolTensor:
    """
    The tokens that the model pays for: all but padding, a row's first token and, in a conditional model, the prompt.

    Args:
        segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): 0 prefix, -1 padding.
        conditional (`bool`): as in `TraceConfig`.
    """
    real = segment_ids >= 0
    return (real.cumsum(dim=-1) > 1) & (segment_ids >= int(conditional)) & real


@contextmanager
def evaluation_mode(model: torch.nn.Module):
    """No dropout, exact recurrence, running statistics; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class LikelihoodMixin:
    """
    The methods of [`TraceForConditionalGeneration`] that estimate log p(x).

    Always as in eval mode. With `latent_dynamics="parallel"` that is the exact recurrence, the model that writes.
    """

    @torch.no_grad()
    def log_likelihood(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        num_samples: int = 100,
        *,
        segment_ids: torch.LongTensor | None = None,
        generator: torch.Generator | None = None,
        max_rows: int | None = None,
        return_dict: bool = False,
    ) -> torch.Tensor | LikelihoodOutput:
        """
        The importance-weighted bound on log p(x) of each text, in nats (Burda et al. 2016).

            L_n = log 1/n sum_k p(x | z^k) p(z^k) / q(z^k | x),  z^k ~ q(z_1 | x) ... q(z_T | z_<T, x)

        Texts are encoded once; only the latent dynamics and the decoder run n times. A text's samples depend on the
        generator and on the texts before it, not on padding, `max_rows` or how texts are batched.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): complete texts, in a conditional
                model with their prompts, which are given and not paid for.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
            num_samples (`int`, defaults to 100): n. Without latents the likelihood is exact, and n is not used.
            segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): as in `forward`.
            generator (`torch.Generator`, *optional*): for the draws.
            max_rows (`int`, *optional*): texts x samples that one decoder pass takes. By default as many as have 32
                MiB of logits on a CPU, 512 MiB on an accelerator.
            return_dict (`bool`, defaults to `False`): return a [`LikelihoodOutput`].

        Returns:
            `torch.DoubleTensor` of shape `(batch_size,)`, nats per text; or a [`LikelihoodOutput`].

        Raises:
            ValueError: for `num_samples` or `max_rows` below 1, or a row without a token to predict.

        Note: A row that does not start with BOS is scored given its first token. A sample whose latents overflow,
        which an unbounded prior allows, has weight zero: L_n stays a lower bound.

        Example:

        ```python
        >>> import torch
        >>> from transformers import GPT2Config
        >>> from modeling_trace import TraceConfig, TraceForConditionalGeneration

        >>> backbone = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2)
        >>> model = TraceForConditionalGeneration(
        ...     TraceConfig(backbone_config=backbone, sep_token_id=99, bos_token_id=0, eos_token_id=1, pad_token_id=2)
        ... )
        >>> texts = torch.tensor([[0, 5, 6, 99, 7, 1], [0, 8, 9, 99, 9, 1]])
        >>> model.log_likelihood(texts, num_samples=10).shape
        torch.Size([2])

        ```
        """
        for name, value in (("num_samples", num_samples), ("max_rows", 1 if max_rows is None else max_rows)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be an integer >= 1, got {value!r}. Leave it out for the default.")
        self._check_length(input_ids)
        with evaluation_mode(self):
            segment_ids = self._segment_ids(input_ids, attention_mask, segment_ids)
            targets = target_mask(segment_ids, self.config.conditional)
            if not bool(targets.any(dim=1).all()):
                row = int(targets.any(dim=1).long().argmin())
                raise ValueError(f"`input_ids` has no token to predict in row {row}. Take texts without tokens out.")
            rows = (input_ids, attention_mask, segment_ids)
            if not self.has_latents:
                reconstruction = self._reconstruction(*rows, targets, None, max_rows)
                exact = reconstruction.squeeze(1)
                out = LikelihoodOutput(exact, torch.full_like(exact, num_samples), exact, reconstruction)
                out.log_weights = reconstruction
                return out if return_dict else exact
            latents, log_ratio, kl = self._posterior_samples(*rows, num_samples, generator)
            overflow = ~(log_ratio.isfinite() & latents.flatten(2).isfinite().all(dim=-1))
            usable = latents.masked_fill(overflow[:, :, None, None], 0.0)
            reconstruction = self._reconstruction(*rows, targets, usable, max_rows)
            overflow = overflow | ~reconstruction.isfinite()  # large latents can be too much for the decoder only
            reconstruction = reconstruction.masked_fill(overflow, -math.inf)
            log_weights = (reconstruction + log_ratio).masked_fill(overflow, -math.inf)
        bound, effective = importance_weighted_bound(log_weights)
        if not return_dict:
            return bound
        elbo = reconstruction.mean(dim=1) - kl.sum(dim=(1, 2))
        return LikelihoodOutput(bound, effective, elbo, reconstruction, log_weights, kl, latents)

    def elbo(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        num_samples: int = 1,
        *,
        return_dict: bool = False,
        **kwargs,
    ) -> torch.Tensor | LikelihoodOutput:
        """
        The ELBO of each text in nats, log p(x | z) - KL(q || p) with z drawn from the posterior (Eq. 6).

        Args:
            input_ids, attention_mask: as in [`~LikelihoodMixin.log_likelihood`].
            num_samples (`int`, defaults to 1): draws of z to average over.
            return_dict (`bool`, defaults to `False`): return a [`LikelihoodOutput`]: reconstruction by sample, KL by
                segment and dimension.
            **kwargs: `segment_ids`, `generator`, `max_rows`, as in [`~LikelihoodMixin.log_likelihood`].

        Returns:
            `torch.DoubleTensor` of shape `(batch_size,)`, nats per text; or a [`LikelihoodOutput`].
        """
        out = self.log_likelihood(input_ids, attention_mask, num_samples, return_dict=True, **kwargs)
        return out if return_dict else out.elbo

    def _posterior_samples(self, input_ids, attention_mask, segment_ids, num_samples, generator):
        """Latents `(B, n, S, D)`, log p(z) - log q(z | x) of each sample `(B, n)` and the mean KL `(B, S, D)`."""
        context, states, mask = self._encoder_states(input_ids, attention_mask, segment_ids)
        batch_size, num_segments, hidden_size = states.shape
        size = self.config.latent_size
        latents = torch.zeros(batch_size, num_samples, num_segments, size, device=states.device)
        log_ratio = _float64(torch.zeros(batch_size, num_samples, device=states.device))
        kl = _float64(torch.zeros(batch_size, num_segments, size, device=states.device))
        for row, steps in enumerate(mask.sum(dim=1).tolist()):
            # a text by itself, so that its noise does not depend on the others' lengths
            own = [None if x is None else x[row : row + 1, :steps] for x in (context, states)]
            for part in torch.arange(num_samples).split(max(1, _MAX_STATES // (steps * hidden_size))):
                repeated = [None if x is None else x.repeat(len(part), 1, 1) for x in own]
                found = self.latents(*repeated, mask.new_ones(len(part), steps), sample=True, generator=generator)
                z = found.latents
                ratio = gaussian_log_density(z, found.prior_mean, found.prior_logvar)
                ratio = ratio - gaussian_log_density(z, found.posterior_mean, found.posterior_logvar)
                chosen = slice(int(part[0]), int(part[-1]) + 1)
                latents[row, chosen, :steps] = z
                log_ratio[row, chosen] = ratio.sum(dim=(1, 2))
                kl[row, :steps] += _float64(found.kl()).sum(dim=0) / num_samples
        return latents, log_ratio, kl

    def _reconstruction(self, input_ids, attention_mask, segment_ids, targets, latents, max_rows):
        """log p(x | z) of each text under each of its samples, `(B, n)`; n = 1 without latents."""
        batch_size, length = input_ids.shape
        num_samples = 1 if latents is None else latents.shape[1]
        if max_rows is None:
            budget = _MAX_LOGITS_CPU if input_ids.device.type == "cpu" else _MAX_LOGITS
            max_rows = max(1, budget // (length * self.config.backbone_config.vocab_size))
        real = segment_ids >= 0
        first, last = real.long().argmax(dim=1).tolist(), (length - real.flip(1).long().argmax(dim=1)).tolist()
        labels = torch.nn.functional.pad(input_ids.masked_fill(~targets, -100)[:, 1:], (0, 1), value=-100)
        sums = []
        for start in range(0, batch_size * num_samples, max_rows):
            rows = torch.arange(start, min(start + max_rows, batch_size * num_samples), device=input_ids.device)
            texts = rows // num_samples
            columns = slice(None)
            if attention_mask is not None:  # without it positions count from the first column
                among = slice(start // num_samples, (start + len(rows) - 1) // num_samples + 1)
                columns = slice(min(first[among]), max(last[among]))
            settings = {} if latents is None else {"latents": latents.flatten(0, 1)[rows]}
            logits = self(
                input_ids[texts, columns],
                attention_mask=None if attention_mask is None else attention_mask[texts, columns],
                segment_ids=segment_ids[texts, columns],
                use_cache=False,
                **settings,
            ).logits
            wanted = labels[texts, columns]
            nats = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=-100
            )
            sums.append(-_float64(nats.view_as(wanted)).sum(dim=1))
        return torch.cat(sums).view(batch_size, num_samples)


def _float64(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.device.type == "mps" else x.double()  # Apple's GPUs have no float64


__all__ = [
    "LikelihoodMixin",
    "LikelihoodOutput",
    "evaluation_mode",
    "gaussian_log_density",
    "importance_weighted_bound",
    "target_mask",
]
