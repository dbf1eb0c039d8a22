"""Likelihood of a data set: nats per text, perplexity per original token and per word, what the latents cost."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils.logging import tqdm

from ..data import TraceDataCollator, TraceProcessor
from ..models.likelihood_trace import LikelihoodOutput, check_likelihood_method, target_mask
from .words import WHITESPACE, count_words

if TYPE_CHECKING:
    from ..models.modeling_trace import TraceForConditionalGeneration

ELBO_DRAWS = 10  # beside a particle filter: means over draws need no more, as they are means over texts, too


@dataclass
class LikelihoodResult:
    """
    Likelihood of N texts, text by text: float64 tensors on the CPU, nats unless said otherwise.

    Args:
        log_likelihood (`torch.Tensor` of shape `(N,)`): the bound L_n on log p(x) by `method`; exact without latents.
        separator_log_likelihood (`torch.Tensor` of shape `(N,)`): the part of it that is [SEP]'s, see
            [`LikelihoodOutput`]; 0 with `separator="none"`.
        ess (`torch.Tensor` of shape `(N,)`): effective sample size of each text, from 1 to `num_samples`; of a
            particle filter the least of the text's steps. Near 1 the bound is loose.
        ess_per_step (`torch.Tensor` of shape `(N, S)`): that of the weights up to and with each segment; NaN where a
            text has fewer.
        resampled (`torch.Tensor` of shape `(N, S)`): 1 where particles were resampled after the segment, else 0; NaN
            where the text has no segment after it. Of importance weighting 0.
        reconstruction (`torch.Tensor` of shape `(N,)`): log p(x | z), mean over samples.
        kl (`torch.Tensor` of shape `(N,)`): KL(q || p), summed over segments *and* dimensions, mean over samples.
        kl_per_segment_position (`torch.Tensor` of shape `(N, S)`): KL of each segment, summed over dimensions; NaN
            where a text has fewer.
        kl_per_dim (`torch.Tensor` of shape `(N, latent_size)`): KL of each dimension, mean over the text's segments.
        neg_elbo (`torch.Tensor` of shape `(N,)`): -reconstruction + kl.
        tokens (`torch.Tensor` of shape `(N,)`): original tokens: EOS counted; BOS, padding, [SEP] and prompt not.
        separators (`torch.Tensor` of shape `(N,)`): the [SEP] that close segments.
        words (`torch.Tensor` of shape `(N,)`): whitespace-separated words of the text.
        num_samples (`int`): n of L_n.
        method (`str`): `"importance"` or `"particle"`, as in [`~LikelihoodMixin.log_likelihood`].

    Note: [SEP] is paid for in all of these, and not in `tokens`: counting it would lower perplexity for nothing. What
    says "without separators" leaves out what is paid for it.
    """

    log_likelihood: torch.Tensor
    separator_log_likelihood: torch.Tensor
    ess: torch.Tensor
    ess_per_step: torch.Tensor
    resampled: torch.Tensor
    reconstruction: torch.Tensor
    kl: torch.Tensor
    kl_per_segment_position: torch.Tensor
    kl_per_dim: torch.Tensor
    neg_elbo: torch.Tensor
    tokens: torch.Tensor
    separators: torch.Tensor
    words: torch.Tensor
    num_samples: int
    method: str

    @property
    def nats_per_text(self) -> float:
        """-L_n, mean over texts: an upper bound on the true figure."""
        return -self.log_likelihood.mean().item()

    @property
    def perplexity(self) -> float:
        """exp(-sum L_n / sum tokens), per original token: an upper bound."""
        return _exp(-self.log_likelihood.sum() / self.tokens.sum())

    @property
    def perplexity_per_word(self) -> float:
        """exp(-sum L_n / sum words), which models with different tokenizers can be compared by: an upper bound."""
        return _exp(-self.log_likelihood.sum() / self.words.sum())

    @property
    def separator_nats_per_text(self) -> float:
        """What is paid for [SEP], mean over texts: the part of `nats_per_text` that is not for the text itself."""
        return -self.separator_log_likelihood.mean().item()

    @property
    def nats_per_text_without_separators(self) -> float:
        """`nats_per_text` less `separator_nats_per_text`: equal to it with `separator="none"`."""
        return -(self.log_likelihood - self.separator_log_likelihood).mean().item()

    @property
    def perplexity_without_separators(self) -> float:
        """`perplexity` without what is paid for [SEP]."""
        return _exp(-(self.log_likelihood - self.separator_log_likelihood).sum() / self.tokens.sum())

    @property
    def perplexity_with_separators(self) -> float:
        """`perplexity` with each [SEP] counted as a token: lower for nothing, and what published ones may be."""
        return _exp(-self.log_likelihood.sum() / (self.tokens + self.separators).sum())

    @property
    def neg_elbo_perplexity(self) -> float:
        """exp(sum -ELBO / sum tokens): the looser bound that one sample gives."""
        return _exp(self.neg_elbo.sum() / self.tokens.sum())

    @property
    def num_segments(self) -> torch.Tensor:
        """Segments of each text, `(N,)`; 0 without latents."""
        return self.kl_per_segment_position.isfinite().sum(dim=1)

    @property
    def mean_kl_per_segment_and_dim(self) -> float:
        """The figure that published KL values are [inferred]; all KL over all segments times dimensions; 0 without."""
        parts = int(self.num_segments.sum()) * self.kl_per_dim.shape[1]
        return self.kl.sum().item() / parts if parts else 0.0

    @property
    def ess_median_per_step(self) -> float:
        """Median over all steps of all texts; that of `num_samples` without latents, where nothing is drawn."""
        return self.ess_per_step.nanmedian().item() if self.ess_per_step.numel() else float(self.num_samples)

    @property
    def share_resampled(self) -> float:
        """Of the steps that another follows, those after which particles were resampled; 0 where there are none."""
        return self.resampled.nanmean().nan_to_num().item()

    def summary(self) -> dict[str, float | str]:
        """One figure for each name, and `method`; nats are means over texts."""
        return {
            "texts": len(self.tokens),
            "tokens": int(self.tokens.sum()),
            "num_samples": self.num_samples,
            "method": self.method,
            "nats_per_text": self.nats_per_text,
            "separator_nats_per_text": self.separator_nats_per_text,
            "nats_per_text_without_separators": self.nats_per_text_without_separators,
            "perplexity": self.perplexity,
            "perplexity_without_separators": self.perplexity_without_separators,
            "perplexity_with_separators": self.perplexity_with_separators,
            "perplexity_per_word": self.perplexity_per_word,
            "neg_elbo": self.neg_elbo.mean().item(),
            "neg_elbo_perplexity": self.neg_elbo_perplexity,
            "reconstruction": -self.reconstruction.mean().item(),
            "kl": self.kl.mean().item(),
            "kl_per_segment_and_dim": self.mean_kl_per_segment_and_dim,
            "ess_median": self.ess.median().item(),
            "ess_median_per_step": self.ess_median_per_step,
            "share_resampled": self.share_resampled,
        }


def evaluate_likelihood(
    model: "TraceForConditionalGeneration",
    data: Iterable[dict[str, Any]],
    processor: TraceProcessor,
    num_samples: int = 100,
    *,
    method: str = "importance",
    batch_size: int = 16,
    seed: int = 0,
    generator: torch.Generator | None = None,
    max_rows: int | None = None,
    word_tokenizer: str = WHITESPACE,
) -> LikelihoodResult:
    """
    The likelihood of a data set (metrics: a bound on the log likelihood, ELBO, KL, perplexity).

    The figures depend on the order of the texts by their random draws only, and not on `batch_size` or `max_rows`.

    Args:
        model ([`TraceForConditionalGeneration`]): the model.
        data: a data set or list of rows with `input_ids`, as `prepare_dataset` makes them; or batches, such as a
            `DataLoader` gives.
        processor ([`TraceProcessor`]): pads, and reads the words of a text.
        num_samples (`int`, defaults to 100): n of L_n, and draws that reconstruction and KL are averaged over; beside
            a particle filter these are of at most 10 draws of their own.
        method (`str`, defaults to `"importance"`): or `"particle"`, the tighter bound where texts have several
            segments; see [`~LikelihoodMixin.log_likelihood`].
        batch_size (`int`, defaults to 16): texts that are encoded at once.
        seed (`int`, defaults to 0): of the draws, where no generator is given.
        generator (`torch.Generator`, *optional*): for the draws.
        max_rows (`int`, *optional*): texts x samples in one decoder pass.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        [`LikelihoodResult`].

    Raises:
        ValueError: for an empty data set, an unknown `method`, rows without `input_ids`, or a processor that differs
            from the model in `conditional`.
    """
    check_likelihood_method(method)
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    elbo_generator = generator
    if method == "particle":  # draws of q of their own, so that no text's depend on how texts are batched
        like: dict[str, Any] = {"generator": generator, "device": generator.device}
        elbo_generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), **like)))
    scores, kls, steps_ess, steps_resampled, tokens, separators, words = [], [], [], [], [], [], []
    for batch in iterate_batches(model, data, processor, batch_size, "Likelihood"):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        settings: dict[str, Any] = {"max_rows": max_rows, "return_dict": True}
        bound: LikelihoodOutput = model.log_likelihood(
            ids, mask, num_samples, method=method, generator=generator, **settings
        )
        out: LikelihoodOutput = bound
        if bound.elbo is None:
            out = model.elbo(ids, mask, min(num_samples, ELBO_DRAWS), generator=elbo_generator, **settings)
        segment_ids = model._segment_ids(ids, mask, None)
        kl = torch.zeros(len(ids), 0, model.config.latent_size) if out.kl is None else out.kl
        kl = kl.cpu().double()
        steps = torch.arange(1, kl.shape[1] + 1)
        has_step = steps <= segment_ids.amax(dim=1, keepdim=True).cpu()
        kls.append(kl.masked_fill(~has_step.unsqueeze(-1), math.nan))
        if bound.effective_sample_size_per_step is not None:
            ess = bound.effective_sample_size_per_step.cpu().double()
            resampled = torch.zeros_like(ess) if bound.resampled is None else bound.resampled.cpu().double()
            followed = steps < segment_ids.amax(dim=1, keepdim=True).cpu()
            steps_ess.append(ess)
            steps_resampled.append(resampled.masked_fill(~followed, math.nan))
        values = (
            *(bound.log_likelihood, bound.separator_log_likelihood, bound.effective_sample_size),
            *(out.reconstruction.mean(dim=1), out.elbo),
        )
        scores.append(torch.stack([value.cpu().double() for value in values]))
        targets = target_mask(segment_ids, model.config.conditional)
        is_separator = torch.zeros_like(targets)
        for separator in {model.config.sep_token_id, processor.sep_token_id} - {None}:
            is_separator = is_separator | (ids == separator)
        tokens += (targets & ~is_separator).sum(dim=1).tolist()
        separators += (targets & is_separator).sum(dim=1).tolist()
        texts = processor.batch_decode([row[real.bool()] for row, real in zip(ids.cpu(), mask.cpu(), strict=True)])
        words += count_words(texts, word_tokenizer).tolist()
    log_likelihood, of_separators, ess, reconstruction, elbo = torch.cat(scores, dim=1)
    width = max(kl.shape[1] for kl in kls)
    kl = _join(kls, width)  # (N, S, D)
    per_segment = kl.sum(dim=2)
    per_dim = kl.nanmean(dim=1) if width else torch.zeros(len(kl), kl.shape[2], dtype=kl.dtype)
    return LikelihoodResult(
        log_likelihood=log_likelihood,
        separator_log_likelihood=of_separators,
        ess=ess,
        ess_per_step=_join(steps_ess, width) if width else torch.zeros(len(kl), 0, dtype=kl.dtype),
        resampled=_join(steps_resampled, width) if width else torch.zeros(len(kl), 0, dtype=kl.dtype),
        reconstruction=reconstruction,
        kl=per_segment.nansum(dim=1),
        kl_per_segment_position=per_segment,
        kl_per_dim=per_dim,
        neg_elbo=-elbo,
        tokens=torch.tensor(tokens, dtype=torch.float64),
        separators=torch.tensor(separators, dtype=torch.float64),
        words=torch.tensor(words, dtype=torch.float64),
        num_samples=num_samples,
        method=method,
    )


def iterate_batches(
    model: "TraceForConditionalGeneration",
    data: Iterable[dict[str, Any]],
    processor: TraceProcessor,
    batch_size: int,
    description: str,
) -> Iterator[dict[str, torch.Tensor]]:
    """
    `input_ids` and `attention_mask` of a data set, batch by batch, on the model's device, under a progress bar.

    Args:
        model ([`TraceForConditionalGeneration`]): says which device, and whether texts have prompts.
        data: rows with `input_ids`, or batches of them as tensors (see [`evaluate_likelihood`]).
        processor ([`TraceProcessor`]): pads rows.
        batch_size (`int`): rows in a batch; batches are taken as they are.
        description (`str`): in front of the progress bar, which Transformers' own switch turns off.
    """
    if not isinstance(processor, TraceProcessor):
        raise ValueError(f"`processor` must be a TraceProcessor, got {processor!r:.80}.")
    if processor.conditional != model.config.conditional:
        raise ValueError(
            f"`processor` must be as conditional as the model, got {processor.conditional} and "
            f"{model.config.conditional}. Use TraceProcessor.from_pretrained on the model's own folder."
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an integer >= 1, got {batch_size!r}.")
    if isinstance(data, Mapping):
        if not torch.is_tensor(data.get("input_ids")):
            raise ValueError(
                f"`data` must be a data set, rows or batches, got a mapping of {', '.join(map(str, data))}. Did you "
                "pass the DatasetDict? Use one split: dataset['validation']."
            )
        data = [data]  # one batch
    if isinstance(data, (str, TraceProcessor)) or not isinstance(data, Iterable):
        raise ValueError(f"`data` must be a data set, rows or batches, got {data!r:.80}.")
    items = iter(data)
    first = next(items, None)
    if first is None:
        raise ValueError("`data` holds no text, got none. Pass a data set with at least one row.")
    if not isinstance(first, Mapping) or "input_ids" not in first:
        got = ", ".join(first) if isinstance(first, Mapping) else repr(first)[:40]
        raise ValueError(
            f"`data` must have rows with `input_ids`, got {got}. Tokenise first: prepare_dataset(dataset, processor)."
        )
    items = chain([first], items)
    rows_in_item = 1
    if torch.is_tensor(first["input_ids"]) and first["input_ids"].dim() == 2:
        batches, rows_in_item = items, batch_size
    else:
        collate = TraceDataCollator(processor)
        batches = (collate(rows) for rows in iter(lambda: list(islice(items, batch_size)), []))
    num_items = len(data) if hasattr(data, "__len__") else None  # type: ignore[arg-type]
    total = None if num_items is None else math.ceil(num_items * rows_in_item / batch_size)
    for batch in tqdm(batches, total=total, desc=description, disable=total == 1):
        ids = batch["input_ids"].to(model.device)
        mask = batch.get("attention_mask")
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask.to(model.device)}


def _join(parts: list[torch.Tensor], width: int) -> torch.Tensor:
    """Tensors `(b, S, ...)` of batches under each other, NaN up to `width` steps."""
    joined = [part.new_full((len(part), width, *part.shape[2:]), math.nan) for part in parts]
    for whole, part in zip(joined, parts, strict=True):
        whole[:, : part.shape[1]] = part
    return torch.cat(joined)


def _exp(x: torch.Tensor) -> float:
    return torch.exp(x).item()


__all__ = ["LikelihoodResult", "evaluate_likelihood", "iterate_batches"]
