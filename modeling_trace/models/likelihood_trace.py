"""
Likelihood of texts under a model: by importance weighting (Burda et al. 2016) or a particle filter (FIVO, Maddison et
al. 2017), and the ELBO (paper Eq. 6).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import ModelOutput

from .gaussian_trace import gaussian_kl, gaussian_log_density, reparameterize, standard_normal, to_float64
from .particles_trace import filter_texts, target_nats
from .segments_trace import next_segment_ids

if TYPE_CHECKING:
    from .configuration_trace import TraceConfig
    from .dynamics_trace import LatentDynamics

LIKELIHOOD_METHODS = ("importance", "particle")
# Logits that one decoder pass may hold: on a CPU 32 MiB of float32, above which passes get slower; elsewhere 512 MiB
_MAX_LOGITS_CPU = 2**23
_MAX_LOGITS = 2**27


@dataclass
class LikelihoodOutput(ModelOutput):
    """
    Estimates of log p(x) for each text, in nats. All float64; [SEP] and EOS are paid for, BOS, padding and prompt not.

    Args:
        log_likelihood (`torch.DoubleTensor` of shape `(batch_size,)`): L_n, a lower bound in expectation that rises
            with n; exact with `latent_dynamics="none"`.
        separator_log_likelihood (`torch.DoubleTensor` of shape `(batch_size,)`): what the [SEP] of the text add to it,
            sum_t log p([SEP]_t | x before it), estimated by the same draws; 0 with `separator="none"`. In texts of
            fixed segments [SEP] is certain where it stands, and generation sets it there.
        log_likelihood_without_separators (`torch.DoubleTensor` of shape `(batch_size,)`): `log_likelihood` less that.
        effective_sample_size (`torch.DoubleTensor` of shape `(batch_size,)`): (sum w)^2 / sum w^2, from 1 to n; of a
            particle filter the least of a text's steps. Near 1 the bound is loose: one sample carries it.
        effective_sample_size_per_step (`torch.DoubleTensor` of shape `(batch_size, num_segments)`): that of the
            weights up to and with segment t; NaN where a text has fewer. None with `latent_dynamics="none"`.
        resampled (`torch.BoolTensor` of shape `(batch_size, num_segments)`): whether the particles were resampled
            after segment t. Of a particle filter only.
        elbo (`torch.DoubleTensor` of shape `(batch_size,)`): mean log p(x | z) - KL, with the KL in closed form.
        reconstruction (`torch.DoubleTensor` of shape `(batch_size, num_samples)`): log p(x | z) under each sample.
        log_weights (`torch.DoubleTensor` of shape `(batch_size, num_samples)`): log p(x | z) p(z) / q(z | x).
        kl (`torch.DoubleTensor` of shape `(batch_size, num_segments, latent_size)`): KL(q || p), mean over samples;
            zero where a text has fewer segments. None with `latent_dynamics="none"`.
        latents (`torch.FloatTensor` of shape `(batch_size, num_samples, num_segments, latent_size)`): the samples.

    Note: `elbo` and what follows it are of draws from q; resampled particles are none, so a particle filter has none.
    """

    log_likelihood: torch.Tensor | None = None
    separator_log_likelihood: torch.Tensor | None = None
    log_likelihood_without_separators: torch.Tensor | None = None
    effective_sample_size: torch.Tensor | None = None
    effective_sample_size_per_step: torch.Tensor | None = None
    resampled: torch.Tensor | None = None
    elbo: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    log_weights: torch.Tensor | None = None
    kl: torch.Tensor | None = None
    latents: torch.Tensor | None = None


def importance_weighted_bound(log_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    L_n = logsumexp_k log w_k - log n, and the effective sample size (sum w)^2 / sum w^2.

    Args:
        log_weights (`torch.Tensor` of shape `(..., num_samples)`): log p(x | z_k) + log p(z_k) - log q(z_k | x) with
            z_k drawn from q: the *sampled* log ratio, not the KL in closed form. -inf is a weight of zero.

    Returns:
        Two tensors of shape `(...)`, float64.
    """
    log_weights = to_float64(log_weights)
    total = log_weights.logsumexp(dim=-1)
    effective = torch.exp(2 * total - (2 * log_weights).logsumexp(dim=-1))
    return total - math.log(log_weights.shape[-1]), effective


def target_mask(segment_ids: torch.Tensor, conditional: bool) -> torch.Tensor:
    """
    The tokens that the model pays for: all but padding, a row's first token and, in a conditional model, the prompt.

    Args:
        segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): 0 prefix, -1 padding.
        conditional (`bool`): as in `TraceConfig`.
    """
    real = segment_ids >= 0
    return (real.cumsum(dim=-1) > 1) & (segment_ids >= int(conditional)) & real


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
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

    if TYPE_CHECKING:  # what it needs of its host
        config: TraceConfig
        has_latents: bool
        dynamics: LatentDynamics

        @property
        def device(self) -> torch.device: ...
        def __call__(self, input_ids=None, **kwargs): ...
        def _encoder_states(
            self, input_ids, attention_mask, segment_ids
        ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]: ...
        def _segment_ids(self, input_ids, attention_mask, segment_ids) -> torch.Tensor: ...
        def _check_length(self, input_ids) -> None: ...

    @torch.no_grad()
    def log_likelihood(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_samples: int = 100,
        *,
        method: str = "importance",
        segment_ids: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        max_rows: int | None = None,
        return_dict: bool = False,
    ) -> torch.Tensor | LikelihoodOutput:
        """
        A lower bound on log p(x) of each text, in nats, from n draws of its latents.

            importance    L_n = log 1/n sum_k p(x | z^k) p(z^k) / q(z^k | x),  z^k ~ q(z_1 | x) ... q(z_T | z_<T, x)
                          (Burda et al. 2016)
            particle      L_n = sum_t log sum_k w_t-1^k alpha_t^k,
                          alpha_t^k = p(x_t | x_<t, z_<=t^k) p(z_t^k | z_<t^k) / q(z_t^k | z_<t^k, x),
                          the n particles resampled where their effective sample size falls below n / 2
                          (FIVO, Maddison et al. 2017); of one segment the same as importance weighting

        Both estimate p(x) without bias. Over several segments the weights of whole paths degenerate and those of
        steps do not, so that the particle filter is the tighter one; it takes texts one by one.

        Texts are encoded once; only the latent dynamics and the decoder run n times. A text's samples depend on the
        generator and on the texts before it, not on padding, `max_rows` or how texts are batched.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): complete texts, in a conditional
                model with their prompts, which are given and not paid for.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 for padding.
            num_samples (`int`, defaults to 100): n. Without latents the likelihood is exact, and n is not used.
            method (`str`, defaults to `"importance"`): or `"particle"`, see above.
            segment_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): as in `forward`.
            generator (`torch.Generator`, *optional*): for the draws.
            max_rows (`int`, *optional*): texts x samples that one decoder pass takes. By default as many as have 32
                MiB of logits on a CPU, 512 MiB on an accelerator. The particle filter also keeps keys and values of a
                text's n particles.
            return_dict (`bool`, defaults to `False`): return a [`LikelihoodOutput`].

        Returns:
            `torch.DoubleTensor` of shape `(batch_size,)`, nats per text; or a [`LikelihoodOutput`].

        Raises:
            ValueError: for `num_samples` or `max_rows` below 1, an unknown `method`, or a row without a token to
                predict.

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
        check_likelihood_method(method)
        self._check_length(input_ids)
        with evaluation_mode(self):  # type: ignore[arg-type]
            segment_ids = self._segment_ids(input_ids, attention_mask, segment_ids)
            targets = target_mask(segment_ids, self.config.conditional)
            if not bool(targets.any(dim=1).all()):
                row = int(targets.any(dim=1).long().argmin())
                raise ValueError(f"`input_ids` has no token to predict in row {row}. Take texts without tokens out.")
            rows = (input_ids, attention_mask, segment_ids)
            if not self.has_latents:
                nats = self._nats_by_step(*rows, targets, None, max_rows)
                reconstruction, separators = (x.squeeze(2) for x in nats)
                exact = reconstruction.squeeze(1)
                out = LikelihoodOutput(
                    log_likelihood=exact,
                    separator_log_likelihood=separators.squeeze(1),
                    effective_sample_size=torch.full_like(exact, num_samples),
                    elbo=exact,
                    reconstruction=reconstruction,
                    log_weights=reconstruction,
                )
            elif method == "particle":
                out = self._filtered(*rows, targets, num_samples, generator, max_rows)
            else:
                out = self._importance_weighted(*rows, targets, num_samples, generator, max_rows)
        out.log_likelihood_without_separators = out.log_likelihood - out.separator_log_likelihood
        return out if return_dict else out.log_likelihood

    def elbo(
        self,
        input_ids: torch.Tensor,
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
        settings: dict[str, Any] = {"method": "importance", "return_dict": True}
        out: LikelihoodOutput = self.log_likelihood(input_ids, attention_mask, num_samples, **settings, **kwargs)
        return out if return_dict else out.elbo

    # ---- Draws from q, step by step ----

    def _proposals(self, input_ids, attention_mask, segment_ids, num_samples, generator):
        """
        For each text the noise of its draws `(T, n, D)`, and what draws z_t: a function of t and z_{t-1} `(n, D)` that
        gives z_t, log p(z_t) - log q(z_t) `(n,)` and the KL `(n, D)`. Each text by itself, so that its noise does not
        depend on the others' lengths.
        """
        context, states, mask = self._encoder_states(input_ids, attention_mask, segment_ids)
        for row, steps in enumerate(mask.sum(dim=1).clamp_min(1).tolist()):
            text_context = None if context is None else context[row]
            delta = self.dynamics.residual(states[row : row + 1, :steps])  # each (1, T, D)
            noise = standard_normal(delta[0].new_empty(steps, num_samples, delta[0].shape[-1]), generator)

            def draw(t, previous, context=text_context, delta=delta, noise=noise):
                count = len(previous)
                first = torch.full((count,), t == 0, device=previous.device)
                step_context = None if context is None else context[t].expand(count, -1)
                prior = self.dynamics.prior(previous, step_context, first)
                posterior = self.dynamics.combine(*prior, *(x[0, t].expand(count, -1) for x in delta))
                z = reparameterize(*posterior, noise[t])
                log_ratio = (gaussian_log_density(z, *prior) - gaussian_log_density(z, *posterior)).sum(dim=-1)
                return z, log_ratio, gaussian_kl(*posterior, *prior)

            yield noise, draw

    def _importance_weighted(
        self, input_ids, attention_mask, segment_ids, targets, num_samples, generator, max_rows
    ) -> LikelihoodOutput:
        rows = (input_ids, attention_mask, segment_ids)
        batch_size, num_segments = len(input_ids), max(1, int(segment_ids.max()))
        shape = (batch_size, num_samples, num_segments)
        latents = None
        log_ratio = to_float64(torch.zeros(shape, device=input_ids.device))  # log p(z_t) - log q(z_t)
        kl = log_ratio.new_zeros(batch_size, num_segments, self.config.latent_size)
        has_step = torch.zeros(batch_size, num_segments, dtype=torch.bool, device=input_ids.device)
        for row, (noise, draw) in enumerate(self._proposals(*rows, num_samples, generator)):
            if latents is None:
                latents = noise.new_zeros(*shape, noise.shape[-1])
            z = torch.zeros_like(noise[0])
            for t in range(len(noise)):
                z, log_ratio[row, :, t], each_kl = draw(t, z)
                latents[row, :, t] = z
                kl[row, t] = to_float64(each_kl).mean(dim=0)
            has_step[row, : len(noise)] = True
        overflow = ~(log_ratio.isfinite().all(dim=2) & latents.flatten(2).isfinite().all(dim=2))
        usable = latents.masked_fill(overflow[:, :, None, None], 0.0)
        per_step, separators = self._nats_by_step(*rows, targets, usable, max_rows)
        overflow = overflow | ~per_step.isfinite().all(dim=2)  # large latents can be too much for the decoder only
        reconstruction = per_step.sum(dim=2).masked_fill(overflow, -math.inf)
        paths = (per_step + log_ratio).cumsum(dim=2).masked_fill(overflow.unsqueeze(2), -math.inf)
        log_weights = paths[:, :, -1]
        bound, effective = importance_weighted_bound(log_weights)
        by_step = importance_weighted_bound(paths.transpose(1, 2))[1].masked_fill(~has_step, math.nan)
        # log p(x_t | x_<t) less that of the step's other tokens, each a ratio of sums over the same paths
        separators = separators.masked_fill(overflow.unsqueeze(2), 0.0)
        of_separators = (paths.logsumexp(dim=1) - (paths - separators).logsumexp(dim=1)).sum(dim=1)
        elbo = reconstruction.mean(dim=1) - kl.sum(dim=(1, 2))
        return LikelihoodOutput(
            log_likelihood=bound,
            separator_log_likelihood=of_separators.masked_fill(bound.isinf(), 0.0),
            effective_sample_size=effective,
            effective_sample_size_per_step=by_step,
            elbo=elbo,
            reconstruction=reconstruction,
            log_weights=log_weights,
            kl=kl,
            latents=latents,
        )

    def _filtered(
        self, input_ids, attention_mask, segment_ids, targets, num_samples, generator, max_rows
    ) -> LikelihoodOutput:
        rows = (input_ids, attention_mask, segment_ids)
        labels = _labels(input_ids, targets)
        results = filter_texts(
            self,
            *rows,
            labels,
            self._is_separator(labels),
            self._proposals(*rows, num_samples, generator),
            generator,
            self._max_rows if max_rows is None else lambda length: max_rows,
        )
        by_step = torch.full((len(results), max(1, int(segment_ids.max()))), math.nan, dtype=torch.float64)
        resampled = torch.zeros(by_step.shape, dtype=torch.bool)
        for row, one in enumerate(results):
            by_step[row, : len(one.resampled)] = one.effective_sample_size
            resampled[row, : len(one.resampled)] = one.resampled
        values = {
            "log_likelihood": torch.tensor([one.log_likelihood for one in results], dtype=torch.float64),
            "separator_log_likelihood": torch.tensor(
                [one.separator_log_likelihood for one in results], dtype=torch.float64
            ),
            "effective_sample_size": torch.stack([one.effective_sample_size.amin() for one in results]),
            "effective_sample_size_per_step": by_step,
        }
        dtype = to_float64(torch.zeros((), device=input_ids.device)).dtype
        values = {name: value.to(dtype).to(input_ids.device) for name, value in values.items()}
        return LikelihoodOutput(**values, resampled=resampled.to(input_ids.device))

    # ---- The decoder ----

    def _max_rows(self, length: int) -> int:
        """Texts of `length` tokens whose logits may be in memory at once."""
        budget = _MAX_LOGITS_CPU if self.device.type == "cpu" else _MAX_LOGITS
        return max(1, budget // (length * self.config.backbone_config.vocab_size))

    def _is_separator(self, labels: torch.Tensor) -> torch.Tensor:
        """Which targets are [SEP] that close a segment, of the shape of `labels`."""
        if self.config.separator != "token" or self.config.sep_token_id is None:
            return torch.zeros_like(labels, dtype=torch.bool)
        return labels == self.config.sep_token_id

    def _reconstruction(self, input_ids, attention_mask, segment_ids, targets, latents, max_rows):
        """log p(x_t | x_<t, z_<=t) of each text under each of its samples, `(B, n, S)`; n = S = 1 without latents."""
        return self._nats_by_step(input_ids, attention_mask, segment_ids, targets, latents, max_rows)[0]

    def _nats_by_step(self, input_ids, attention_mask, segment_ids, targets, latents, max_rows):
        """`_reconstruction`, and the part of it that is [SEP]'s."""
        batch_size, length = input_ids.shape
        num_samples, num_segments = (1, 1) if latents is None else latents.shape[1:3]
        if max_rows is None:
            max_rows = self._max_rows(length)
        real = segment_ids >= 0
        first, last = real.long().argmax(dim=1).tolist(), (length - real.flip(1).long().argmax(dim=1)).tolist()
        labels = _labels(input_ids, targets)
        is_separator = self._is_separator(labels)
        # a token without a segment that is paid for, after a prefix longer than BOS, counts in the first step
        steps = next_segment_ids(segment_ids).clamp(1, num_segments) - 1
        sums, separator_sums = [], []
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
            nats = to_float64(target_nats(logits, labels[texts, columns]))
            zeros, place = nats.new_zeros(len(rows), num_segments), steps[texts, columns]
            sums.append(zeros.scatter_add(1, place, nats))
            separator_sums.append(zeros.scatter_add(1, place, nats * is_separator[texts, columns]))
        shape = (batch_size, num_samples, num_segments)
        return torch.cat(sums).view(shape), torch.cat(separator_sums).view(shape)


def check_likelihood_method(method: str) -> None:
    """Raise a ValueError for what is none of `LIKELIHOOD_METHODS`."""
    if method not in LIKELIHOOD_METHODS:
        raise ValueError(f"`method` must be 'importance' or 'particle', got {method!r:.80}.")


def _labels(input_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The next token at every position, -100 where it is not paid for."""
    return torch.nn.functional.pad(input_ids.masked_fill(~targets, -100)[:, 1:], (0, 1), value=-100)


__all__ = [
    "LIKELIHOOD_METHODS",
    "LikelihoodMixin",
    "LikelihoodOutput",
    "check_likelihood_method",
    "evaluation_mode",
    "importance_weighted_bound",
    "target_mask",
]
