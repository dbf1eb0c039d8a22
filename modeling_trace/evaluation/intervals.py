"""
Confidence intervals and paired tests over texts, for every metric of this folder.

Two kinds of metrics need two methods.

*Means over independent texts* (BLEU against references, ROUGE, rep-n) and ratios of sums (nats per word): the
bootstrap, BCa (Efron, 1987) or percentile.

*Functions of the set of texts* (Self-BLEU, Distinct, Jaccard, CND, ...): the delete-group jackknife (jackknife.py).

Intervals hold references fixed, and know nothing of training: for another seed of training, train again.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .diversity import bleu, rep_n
from .jackknife import OF_SETS, Difference, Interval, metric_replicates
from .ngrams import check_order, require, validate_texts
from .quality import ROUGE_TYPES, rouge

MEANS = {"bleu": bleu, "rep_n": rep_n}
RESAMPLES_AT_ONCE = 4_000_000  # numbers in a block of resamples


def bootstrap_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    method: str = "bca",
    num_resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """
    Bootstrap interval of a mean over texts, or of a ratio of sums over texts.

    Args:
        values (`ArrayLike` of shape `(num_texts,)`): what each text contributes, independently of the others:
            `bleu(..., per_text=True)`, but not those of Self-BLEU or Jaccard.
        weights (`ArrayLike` of shape `(num_texts,)`, *optional*): the value is sum(values) / sum(weights): nats
            and words for nats per word. The number of texts without.
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval.
        method (`str`, *optional*, defaults to `"bca"`): or `"percentile"`.
        num_resamples (`int`, *optional*, defaults to 9999): bootstrap samples.
        seed (`int`, *optional*, defaults to 0): of the random resamples.

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
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval.
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
    return metric_replicates(metric, texts, references, num_groups, seed, **settings).interval(confidence)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    first_weights: ArrayLike | None = None,
    second_weights: ArrayLike | None = None,
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
        first, second (`ArrayLike` of shape `(num_texts,)`): what text i of each system contributes; of the same
            prompt or real text where there is one.
        first_weights, second_weights (`ArrayLike` of shape `(num_texts,)`, *optional*): as `weights` of
            [`bootstrap_interval`].
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval.
        num_resamples (`int`, *optional*, defaults to 9999): both of swaps and of bootstrap resamples.
        seed (`int`, *optional*, defaults to 0): of the random resamples.

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
    texts = validate_texts(first, "first"), validate_texts(second, "second")
    if len(texts[0]) != len(texts[1]):
        raise ValueError(
            f"`second` must hold as many texts as `first`, got {len(texts[1])} and {len(texts[0])}. "
            "Cut the longer list: metrics of different numbers of texts do not compare."
        )
    values = [_contributions(metric, part, references, settings) for part in texts]
    if values[0] is not None:
        return paired_difference(values[0], values[1], confidence=confidence, num_resamples=num_resamples, seed=seed)
    validate_texts(texts[0], "first", minimum=3, extra="An interval needs texts to leave out.")
    one, two = (metric_replicates(metric, part, references, num_groups, seed, **settings) for part in texts)
    return one.difference(two, confidence)


def _contributions(metric, texts, references, settings) -> ArrayLike | None:
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
