"""
Confidence intervals and paired tests over texts, for every metric of this folder.

Two kinds of metrics need two methods.

*Means over independent texts* (BLEU against references, ROUGE, rep-n) and ratios of sums (nats per word): the
bootstrap, BCa (Efron, 1987) or percentile.

*Functions of the set of texts* (Self-BLEU, Distinct, Jaccard, CND, ...): the bootstrap would be wrong. A resample with
replacement holds about 37 % duplicates; each has a Self-BLEU of 100 and adds no distinct n-gram, so that the resamples
do not even surround the figure. Bootstrapping the per-text contributions alone forgets that each text is also what
the others are compared with: for Jaccard, a U-statistic of degree 2, the standard error comes out at half its size.
Here the texts are left out in groups, and the variance is that of the delete-group jackknife (Busing et al., 1999, for
groups of unequal size),

    h_g = N / m_g    pseudo_g = h_g theta - (h_g - 1) theta_(-g)    var = mean_g (pseudo_g - pseudo)^2 / (h_g - 1)

with theta_(-g) the metric without the m_g texts of group g. No text is ever duplicated, and nothing is assumed of the
metric but that the order of the texts does not matter: by the Efron-Stein inequality (Efron and Stein, 1981) the
expected jackknife variance is no smaller than the variance for the number of texts that are left, so that intervals
err to the wide side: by a tenth for Self-BLEU, Distinct and Jaccard (simulated, 40 texts), by up to the square root of
2 for CND near 0, where a text has no effect of its own, only in pairs. They are theta -+ t_{G-1} standard errors. What
they cover is the expectation of the metric *for this number of texts*: Self-BLEU and Distinct have no meaning without
it, so theta is not extrapolated to others.

Intervals hold references fixed, and know nothing of training: for another seed of training, train again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .diversity import (
    SelfBleuTable,
    bleu,
    compression_ratio,
    distinct_n,
    expectation_adjusted_distinct,
    jaccard_similarity,
    rep_n,
    vendi_score,
)
from .ngrams import CheckedTexts, check_order, check_paired, check_texts, count_by_text, encode, ngrams, require
from .quality import ROUGE_TYPES, cnd, rouge, sacrebleu

MEANS = {"bleu": bleu, "rep_n": rep_n}
OF_SETS = {
    "cnd": cnd,
    "compression_ratio": compression_ratio,
    "distinct_n": distinct_n,
    "expectation_adjusted_distinct": expectation_adjusted_distinct,
    "jaccard_similarity": jaccard_similarity,
    "sacrebleu": sacrebleu,
    "self_bleu": SelfBleuTable,
    "vendi_score": vendi_score,
}
RESAMPLES_AT_ONCE = 4_000_000  # numbers in a block of resamples


@dataclass(frozen=True)
class Interval:
    """
    A figure and its confidence interval.

    Args:
        value (`float`): the metric of all texts.
        low (`float`), high (`float`): the interval.
        standard_error (`float`).
        confidence (`float`): its nominal coverage.
        method (`str`): `"bca"`, `"percentile"` or `"jackknife"`.
        num_texts (`int`).
    """

    value: float
    low: float
    high: float
    standard_error: float
    confidence: float
    method: str
    num_texts: int


@dataclass(frozen=True)
class Difference:
    """
    The difference of two systems, first less second, with its confidence interval and test.

    Args:
        value (`float`): the metric of the first less that of the second.
        low (`float`), high (`float`): the interval.
        p_value (`float`): two-sided, of the hypothesis that the systems do not differ.
        confidence (`float`): the nominal coverage.
        method (`str`): `"permutation"` or `"jackknife"`.
        num_texts (`int`): of each.
    """

    value: float
    low: float
    high: float
    p_value: float
    confidence: float
    method: str
    num_texts: int

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 1 - confidence."""
        return self.p_value < 1 - self.confidence


def bootstrap_interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    method: str = "bca",
    num_resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """
    Bootstrap interval of a mean over texts, or of a ratio of sums over texts.

    Args:
        values (`Sequence[float]` of shape `(num_texts,)`): what each text contributes, independently of the others:
            `bleu(..., per_text=True)`, but not those of Self-BLEU or Jaccard.
        weights (`Sequence[float]` of shape `(num_texts,)`, *optional*): the figure is sum(values) / sum(weights): nats
            and words for nats per word. The number of texts without.
        confidence (`float`, *optional*, defaults to 0.95).
        method (`str`, *optional*, defaults to `"bca"`): or `"percentile"`.
        num_resamples (`int`, *optional*, defaults to 9999).
        seed (`int`, *optional*, defaults to 0).

    Raises:
        ValueError: for fewer than two texts, values that are no finite numbers, settings out of range.
        ImportError: without scipy (the `eval` extra).

    Example:

    ```python
    >>> from modeling_trace.evaluation import bootstrap_interval

    >>> interval = bootstrap_interval([3.0, 5.0, 4.0, 6.0, 2.0, 4.0])
    >>> interval.value
    4.0
    >>> interval.low < interval.value < interval.high
    True

    ```
    """
    values = _check_values(values, "values")
    weights = np.ones_like(values) if weights is None else _check_values(weights, "weights", len(values))
    if method not in ("bca", "percentile"):
        raise ValueError(f"`method` must be one of ['bca', 'percentile'], got {method!r}. Use 'bca'.")
    _check_settings(confidence, num_resamples)
    _check_weights(weights, "weights")
    value = float(values.sum() / weights.sum())
    if np.ptp(values - value * weights) < 1e-12 * max(1.0, np.abs(values).max()):  # every resample has this value
        return Interval(value, value, value, 0.0, confidence, method, len(values))
    result = require("scipy.stats", "bootstrap_interval").bootstrap(
        (values, weights),
        _ratio,
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        method="BCa" if method == "bca" else "percentile",
        n_resamples=num_resamples,
        batch=max(1, RESAMPLES_AT_ONCE // len(values)),
        rng=np.random.default_rng(seed),
    )
    low, high = map(float, result.confidence_interval)
    return Interval(value, low, high, float(result.standard_error), confidence, method, len(values))


def _ratio(values, weights, axis=-1):
    return values.sum(axis=axis) / weights.sum(axis=axis)


def metric_interval(
    metric: str | Callable,
    texts: Sequence[str],
    references: Sequence | None = None,
    confidence: float = 0.95,
    num_groups: int = 50,
    num_resamples: int = 9999,
    seed: int = 0,
    **settings,
) -> Interval:
    """
    A metric of texts with its confidence interval, by the method that is right for it (see the top of this file).

    Args:
        metric (`str` or `Callable`): a name out of `self_bleu`, `distinct_n`, `jaccard_similarity`, `cnd`,
            `expectation_adjusted_distinct`, `compression_ratio`, `vendi_score`, `sacrebleu` (jackknife), `bleu`,
            `rep_n`, `rouge1`, `rouge2`, `rougeL` (bootstrap), or a function of a list of texts (jackknife).
        texts (`Sequence[str]`): generated.
        references (`Sequence`, *optional*): for the metrics that need them. Held fixed.
        confidence (`float`, *optional*, defaults to 0.95).
        num_groups (`int`, *optional*, defaults to 50): of the jackknife, each left out once. Jaccard leaves out single
            texts: that is free.
        num_resamples (`int`, *optional*, defaults to 9999): of the bootstrap.
        seed (`int`, *optional*, defaults to 0): of the resamples, and of who is in which group.
        settings: of the metric, such as `n=3`.

    Raises:
        ValueError: for an unknown metric, and whatever the metric refuses.
        ImportError: without scipy (the `eval` extra).

    Example:

    ```python
    >>> from modeling_trace.data import generate_reviews
    >>> from modeling_trace.evaluation import metric_interval

    >>> interval = metric_interval("distinct_n", [review.text for review in generate_reviews(100)])
    >>> interval.low < interval.value < interval.high
    True

    ```
    """
    _check_settings(confidence, num_resamples)
    values = _contributions(metric, texts, references, settings)
    if values is not None:
        return bootstrap_interval(values, None, confidence, "bca", num_resamples, seed)
    texts = check_texts(texts, minimum=3, extra="An interval needs texts to leave out.")
    value, left_out, sizes = _replicates(metric, texts, references, num_groups, seed, settings)
    error = _jackknife_error(value, left_out, sizes)
    reach = error * _student_quantile((1 + confidence) / 2, len(sizes) - 1)
    return Interval(value, value - reach, value + reach, error, confidence, "jackknife", len(texts))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    first_weights: Sequence[float] | None = None,
    second_weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 9999,
    seed: int = 0,
) -> Difference:
    """
    Test whether two systems differ in a mean over texts (or a ratio of sums), by swapping them text by text.

    Under the hypothesis that nothing depends on the system, each of the 2^N ways of swapping is as likely as the one
    that was observed; so the share of them with at least the observed difference is an exact p-value, whatever the
    distribution. The interval is that of the paired BCa bootstrap.

    Args:
        first, second (`Sequence[float]` of shape `(num_texts,)`): what text i of each system contributes; of the same
            prompt or real text where there is one.
        first_weights, second_weights (`Sequence[float]` of shape `(num_texts,)`, *optional*): as `weights` of
            [`bootstrap_interval`].
        confidence (`float`, *optional*, defaults to 0.95).
        num_resamples (`int`, *optional*, defaults to 9999): both of swaps and of bootstrap resamples.
        seed (`int`, *optional*, defaults to 0).

    Raises:
        ValueError: for different numbers of texts, fewer than two, values that are no finite numbers.
        ImportError: without scipy (the `eval` extra).
    """
    first = _check_values(first, "first")
    second = _check_values(second, "second", len(first))
    ones = np.ones_like(first)
    weights = [
        ones if given is None else _check_values(given, name, len(first))
        for given, name in ((first_weights, "first_weights"), (second_weights, "second_weights"))
    ]
    _check_settings(confidence, num_resamples)
    for part, name in zip(weights, ("first_weights", "second_weights"), strict=True):
        _check_weights(part, name)
    sums = np.array([first, second, *weights])
    value = float(_ratio(first, weights[0]) - _ratio(second, weights[1]))
    generator = np.random.default_rng(seed)
    change = np.stack([second - first, weights[1] - weights[0]], axis=1)  # what a swap adds to the first system
    at_least, done, height = 0, 0, max(1, RESAMPLES_AT_ONCE // len(first))
    while done < num_resamples:
        number = min(height, num_resamples - done)
        added = generator.integers(0, 2, size=(number, len(first)), dtype=np.int8) @ change  # (R, 2)
        swapped = (first.sum() + added[:, 0]) / (weights[0].sum() + added[:, 1])
        swapped -= (second.sum() - added[:, 0]) / (weights[1].sum() - added[:, 1])
        at_least += int((np.abs(swapped) >= abs(value) * (1 - 1e-9) - 1e-12).sum())
        done += number
    p_value = (1 + at_least) / (1 + num_resamples)
    influence = (first - _ratio(first, weights[0]) * weights[0]) / weights[0].sum()
    influence -= (second - _ratio(second, weights[1]) * weights[1]) / weights[1].sum()
    if np.ptp(influence) < 1e-12 * np.abs(sums).max() / len(first):  # every resample has this difference
        return Difference(value, value, value, p_value, confidence, "permutation", len(first))
    result = require("scipy.stats", "paired_difference").bootstrap(
        tuple(sums),
        lambda a, b, c, d, axis=-1: _ratio(a, c, axis) - _ratio(b, d, axis),
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        method="BCa",
        n_resamples=num_resamples,
        batch=height,
        rng=generator,
    )
    low, high = map(float, result.confidence_interval)
    return Difference(value, low, high, p_value, confidence, "permutation", len(first))


def metric_difference(
    metric: str | Callable,
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence | None = None,
    confidence: float = 0.95,
    num_groups: int = 50,
    num_resamples: int = 9999,
    seed: int = 0,
    **settings,
) -> Difference:
    """
    Test whether the texts of two systems differ in a metric.

    Means over texts go by [`paired_difference`]. For functions of the set of texts, texts i of both systems are left
    out together, and the difference over its jackknife standard error is compared with Student's t. Texts of the same
    prompts may so depend on one another; independent texts may be paired at will.

    Args:
        metric (`str` or `Callable`): as for [`metric_interval`].
        first, second (`Sequence[str]`): texts of the two systems, as many of each: Self-BLEU and Distinct could not be
            compared otherwise.
        references (`Sequence`, *optional*): for the metrics that need them.
        confidence, num_groups, num_resamples, seed, settings: as for [`metric_interval`].

    Raises:
        ValueError: for different numbers of texts, an unknown metric, and whatever the metric refuses.
        ImportError: without scipy (the `eval` extra).
    """
    _check_settings(confidence, num_resamples)
    texts = check_texts(first, "first"), check_texts(second, "second")
    if len(texts[0]) != len(texts[1]):
        raise ValueError(
            f"`second` must hold as many texts as `first`, got {len(texts[1])} and {len(texts[0])}. "
            "Cut the longer list: metrics of different numbers of texts do not compare."
        )
    values = [_contributions(metric, part, references, settings) for part in texts]
    if values[0] is not None:
        return paired_difference(*values, confidence=confidence, num_resamples=num_resamples, seed=seed)
    check_texts(texts[0], "first", minimum=3, extra="An interval needs texts to leave out.")
    (one, left_one, sizes), (two, left_two, _) = (
        _replicates(metric, part, references, num_groups, seed, settings) for part in texts
    )
    value = one - two
    error = _jackknife_error(value, left_one - left_two, sizes)
    reach = error * _student_quantile((1 + confidence) / 2, len(sizes) - 1)
    if error == 0:  # the same texts, or systems without any chance
        p_value = 1.0 if value == 0 else 0.0
    else:
        p_value = 2 * float(require("scipy.special", "metric_difference").stdtr(len(sizes) - 1, -abs(value) / error))
    return Difference(value, value - reach, value + reach, p_value, confidence, "jackknife", len(texts[0]))


def _contributions(metric, texts, references, settings) -> np.ndarray | None:
    """Per-text values of a metric that is their mean, None for one that is not."""
    if metric in ROUGE_TYPES:
        return rouge(texts, references, per_text=True, **settings)[metric]
    if metric == "bleu":
        return bleu(texts, references, per_text=True, **settings)
    if metric == "rep_n":
        return rep_n(texts, per_text=True, **settings)
    if not callable(metric) and metric not in OF_SETS:
        names = sorted([*MEANS, *OF_SETS, *ROUGE_TYPES])
        raise ValueError(f"`metric` must be one of {names} or a function, got {metric!r}. Check the spelling.")
    return None


def _replicates(metric, texts, references, num_groups, seed, settings) -> tuple[float, np.ndarray, np.ndarray]:
    """The metric of all texts, the metric without each group `(G,)`, and the sizes of the groups `(G,)`."""
    num_texts = len(texts)
    if check_order(num_groups, "num_groups") < 5:
        raise ValueError(f"`num_groups` must be at least 5, got {num_groups}. Use 50.")
    if metric == "jaccard_similarity":
        own = jaccard_similarity(texts, per_text=True, **settings)
        # Leaving out text k takes away its pairs: sum over pairs less sum_j J_kj
        return own.mean(), (num_texts * own.mean() - 2 * own) / (num_texts - 2), np.ones(num_texts)
    groups = np.array_split(np.random.default_rng(seed).permutation(num_texts), min(num_groups, num_texts))
    sizes = np.array([len(group) for group in groups])
    if metric in ("distinct_n", "expectation_adjusted_distinct"):
        value, left_out = _distinct_replicates(metric, texts, groups, settings)
        return value, left_out, sizes
    at = _evaluator(metric, texts, references, settings)
    everyone = np.ones(num_texts, dtype=bool)
    left_out = []
    for group in groups:
        keep = everyone.copy()
        keep[group] = False
        left_out.append(at(keep))
    return at(everyone), np.array(left_out), sizes


def _evaluator(metric, texts, references, settings) -> Callable[[np.ndarray], float]:
    """The metric as a function of who is kept, `(num_texts,)` of booleans."""
    if metric == "self_bleu":
        table = SelfBleuTable(texts, **settings)
        return lambda keep: float(table.scores(keep).mean())
    if metric == "sacrebleu":
        groups = check_paired(references, len(texts))
        return lambda keep: sacrebleu(_kept(texts, keep), _kept(groups, keep))["sacrebleu"]
    if metric == "cnd":
        real = check_texts(references, "references", extra="Pass real texts to compare with.")
        return lambda keep: float(cnd(_kept(texts, keep), real, **settings))
    function = metric if callable(metric) else OF_SETS[metric]
    return lambda keep: float(function(_kept(texts, keep), **settings))


def _kept(items, keep) -> CheckedTexts:
    return CheckedTexts(item for item, kept in zip(items, keep, strict=True) if kept)


def _distinct_replicates(metric, texts, groups, settings) -> tuple[float, np.ndarray]:
    """Distinct without each group: what goes with a group are the n-grams that no other group has."""
    settings = dict(settings)
    n = settings.get("n", 2 if metric == "distinct_n" else 1)
    function = OF_SETS[metric]
    value = function(texts, **settings)  # checks the settings, too
    tokens, lengths = encode(texts)
    *_, (grams, rows) = ngrams(tokens, lengths, n)
    group_of = np.empty(len(texts), dtype=np.int64)
    for number, group in enumerate(groups):
        group_of[group] = number
    total = len(grams) - np.bincount(group_of[rows], minlength=len(groups))
    grams, owners, _ = count_by_text(grams, group_of[rows], len(groups))
    holders = np.bincount(grams)
    distinct = (holders > 0).sum() - np.bincount(owners[holders[grams] == 1], minlength=len(groups))
    if total.min() < 1:
        raise ValueError(f"`texts` must hold {n}-grams in more than one group of texts. Pass more or longer texts.")
    left_out = 100 * distinct / total
    if metric == "expectation_adjusted_distinct":
        possible = float(settings["vocab_size"]) ** n
        left_out = 100 * distinct / (possible * -np.expm1(total * np.log1p(-1 / possible)))
    return value, left_out


def _jackknife_error(value: float, left_out: np.ndarray, sizes: np.ndarray) -> float:
    """Standard error by the delete-group jackknife for groups of unequal size (Busing et al., 1999)."""
    shares = sizes.sum() / sizes
    pseudo = shares * value - (shares - 1) * left_out
    centre = (pseudo * sizes).sum() / sizes.sum()
    return float(np.sqrt(((pseudo - centre) ** 2 / (shares - 1)).mean()))


def _student_quantile(probability: float, degrees: int) -> float:
    return float(require("scipy.special", "metric_interval").stdtrit(degrees, probability))


def _check_values(values, name: str, length: int | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"`{name}` must hold one number per text, at least two, got shape {values.shape}. "
            "Pass what `per_text=True` returns."
        )
    if length is not None and len(values) != length:
        raise ValueError(
            f"`{name}` must hold one number per text, got {len(values)} for {length} texts. Keep their order."
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"`{name}[{row}]` must be a finite number, got {values[row]}. Drop the text in all systems.")
    return values


def _check_weights(weights: np.ndarray, name: str) -> None:
    if weights.sum() <= 0 or weights.min() < 0:
        raise ValueError(f"`{name}` must not be negative, nor all 0, got a sum of {weights.sum()}. Pass word counts.")


def _check_settings(confidence: float, num_resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}. Use 0.95.")
    if check_order(num_resamples, "num_resamples") < 100:
        raise ValueError(f"`num_resamples` must be at least 100, got {num_resamples}. Use 9999.")


__all__ = [
    "Difference",
    "Interval",
    "bootstrap_interval",
    "metric_difference",
    "metric_interval",
    "paired_difference",
]
