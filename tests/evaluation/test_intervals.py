"""Intervals cover what they say and tests reject as often as they say, by simulation; replicates equal brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from modeling_trace.evaluation import (
    Replicates,
    bleu,
    bootstrap_interval,
    cnd,
    distinct_n,
    expectation_adjusted_distinct,
    jaccard_similarity,
    mean_replicates,
    metric_difference,
    metric_interval,
    metric_replicates,
    paired_difference,
    rep_n,
    rouge,
    sacrebleu,
    self_bleu,
)

NUM_TEXTS = 40


def draw_texts(generator, number=NUM_TEXTS, words=60):
    """Texts of 3 to 14 words from a Zipf law, each of one of three topics, so that texts differ in more than noise."""
    chances = 1 / np.arange(1, words + 1)
    lengths = generator.integers(3, 15, size=number)
    drawn = generator.choice(words, size=lengths.sum(), p=chances / chances.sum())
    drawn = (drawn + np.repeat(20 * generator.integers(0, 3, size=number), lengths)) % words
    return [" ".join(f"w{word}" for word in row) for row in np.split(drawn, lengths.cumsum()[:-1])]


@pytest.fixture(scope="module")
def corpora():
    generator = np.random.default_rng(1)
    return [draw_texts(generator) for _ in range(400)]


@pytest.fixture(scope="module")
def jaccards(corpora):
    return np.array([jaccard_similarity(texts) for texts in corpora])


@pytest.fixture(scope="module")
def real():
    return draw_texts(np.random.default_rng(2), 200)


def binomial_range(rate, number):
    """Where the share of `number` trials lies but for one case in 10,000."""
    return stats.binom.ppf([0.00005, 0.99995], number, rate) / number


# Jackknife


@pytest.mark.parametrize("metric", ["self_bleu", "distinct_n", "jaccard_similarity", "cnd"])
def test_jackknife_covers_and_its_test_keeps_its_level(metric, corpora, real, request):
    settings, references, number = {"num_groups": 20}, None, 150
    if metric == "jaccard_similarity":
        values = request.getfixturevalue("jaccards")
    elif metric == "cnd":
        settings, references, number = {"orders": (1, 2), **settings}, real, 60
        values = np.array([cnd(texts, real, orders=(1, 2)).cnd for texts in corpora])
    else:
        function = {"self_bleu": self_bleu, "distinct_n": distinct_n}[metric]
        values = np.array([function(texts) for texts in corpora])
    truth = values.mean()
    replicates = [metric_replicates(metric, texts, references, **settings) for texts in corpora[:number]]
    found = [one.interval() for one in replicates]
    assert metric_interval(metric, corpora[0], references, **settings) == found[0]
    low = binomial_range(0.95, number)[0]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) >= low
    errors = np.mean([interval.standard_error for interval in found])
    assert 0.9 < errors / values.std() < 1.5  # to the wide side, for CND near 0 by the square root of 2
    # One system against itself, by different texts: rejected in at most 5 of 100 cases
    half = number // 2
    differences = [one.difference(two) for one, two in zip(replicates[:half], replicates[half:], strict=True)]
    assert metric_difference(metric, corpora[0], corpora[half], references, **settings) == differences[0]
    assert np.mean([difference.significant for difference in differences]) <= binomial_range(0.05, half)[1]


def test_the_bootstrap_would_not_cover(corpora, jaccards):
    """Why not: resamples hold duplicates; contributions alone give Jaccard half its standard error."""
    texts = corpora[0]
    generator = np.random.default_rng(0)
    for metric in (self_bleu, distinct_n, jaccard_similarity):
        resampled = [metric([texts[i] for i in generator.integers(0, len(texts), len(texts))]) for _ in range(50)]
        worst = max if metric is distinct_n else min
        assert (worst(resampled) < metric(texts)) == (metric is distinct_n)  # all on one side
    naive = [bootstrap_interval(jaccard_similarity(t, per_text=True), num_resamples=200) for t in corpora[:60]]
    assert np.mean([interval.low <= jaccards.mean() <= interval.high for interval in naive]) < 0.85


def test_jackknife_of_a_mean_is_the_textbook_error():
    texts = ["w " * number for number in (1, 4, 2, 8, 5, 7)]
    lengths = np.array([1, 4, 2, 8, 5, 7])
    interval = metric_interval(lambda part: np.mean([len(text.split()) for text in part]), texts)
    error = lengths.std(ddof=1) / 6**0.5
    assert interval.standard_error == pytest.approx(error)
    assert (interval.low, interval.high) == pytest.approx(stats.t.interval(0.95, 5, lengths.mean(), error))
    assert (interval.method, interval.num_texts, interval.value) == ("jackknife", 6, 4.5)


def test_groups_of_unequal_size_have_the_right_variance():
    """23 texts in 10 groups of 2 or 3: on average the variance of the mean."""
    lengths = np.random.default_rng(0).integers(1, 30, size=23)
    errors = [mean_replicates(lengths, num_groups=10, seed=seed).standard_error for seed in range(1000)]
    assert np.mean(np.square(errors)) == pytest.approx(lengths.var(ddof=1) / 23, rel=0.05)


@pytest.mark.parametrize(
    "metric, settings, function",
    [
        ("self_bleu", {"max_n": 3}, self_bleu),
        ("distinct_n", {}, distinct_n),
        ("distinct_n", {"n": 1}, distinct_n),
        ("expectation_adjusted_distinct", {"vocab_size": 60}, expectation_adjusted_distinct),
        ("expectation_adjusted_distinct", {"vocab_size": 60, "n": 2}, expectation_adjusted_distinct),
        ("jaccard_similarity", {"orders": (1, 2)}, jaccard_similarity),
        ("cnd", {"orders": (1, 2), "references": ["w1 w2 w1 w2 w3", "w2 w1 w2"]}, cnd),
    ],
)
def test_fast_replicates_are_those_of_the_remaining_texts(metric, settings, function, corpora):
    texts = corpora[0][:23]
    found = metric_replicates(metric, texts, num_groups=7, seed=3, **settings)
    assert found.value == pytest.approx(float(function(texts, **settings)), rel=1e-12)
    if metric == "jaccard_similarity":
        groups = [[row] for row in range(23)]
    else:
        groups = np.array_split(np.random.default_rng(3).permutation(23), 7)
    assert found.sizes.tolist() == [len(group) for group in groups]
    kept = [[text for row, text in enumerate(texts) if row not in set(group)] for group in groups]
    expected = [float(function(part, **settings)) for part in kept]
    np.testing.assert_allclose(found.left_out, expected, rtol=1e-12)


def test_replicates_of_means_and_of_what_is_made_of_them():
    generator = np.random.default_rng(0)
    nats, words = generator.gamma(5.0, size=40), generator.integers(3, 9, size=40)
    single = mean_replicates(nats, num_groups=40)
    assert single.standard_error == pytest.approx(stats.sem(nats))
    ratio = mean_replicates(nats, words, num_groups=8, seed=1)
    assert ratio.value == pytest.approx(nats.sum() / words.sum()) and ratio.num_texts == 40
    perplexity = ratio.map(np.exp)
    assert perplexity.value == pytest.approx(np.exp(ratio.value))
    assert perplexity.standard_error == pytest.approx(perplexity.value * ratio.standard_error, rel=0.05)
    both = ratio.map(np.add, ratio)
    assert both.standard_error == pytest.approx(2 * ratio.standard_error)
    assert ratio.difference(ratio).p_value == 1
    with pytest.raises(ValueError, match="^`others` must be of the same groups of texts, got 40 groups beside 8."):
        ratio.map(np.add, single)


def test_replicates_of_several_seeds_are_those_of_the_mean():
    """Three seeds of generation: the error of their mean is a third of the sum's, 3 ** 0.5 less than one seed's."""
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        seeds = [mean_replicates(generator.normal(size=50), num_groups=25) for _ in range(3)]
        joined = Replicates.mean(seeds)
        assert joined.value == pytest.approx(np.mean([one.value for one in seeds]))
        errors.append(joined.standard_error)
    assert np.mean(np.square(errors)) == pytest.approx(1 / 150, rel=0.1)


def test_more_texts_give_narrower_intervals(corpora):
    many = [text for texts in corpora[:10] for text in texts]
    for metric in ("self_bleu", "distinct_n", "jaccard_similarity"):
        few = np.mean([metric_interval(metric, texts).standard_error for texts in corpora[:10]])
        assert 1 < few / metric_interval(metric, many).standard_error < 6  # about 10 ** 0.5


def test_every_metric_has_an_interval(corpora, real):
    texts, references = corpora[0], corpora[1]
    values = {
        "bleu": bleu(texts, references),
        "cnd": cnd(texts, references, orders=(1, 2)).cnd,
        "rep_n": rep_n(texts, n=1),
        "rouge1": rouge(texts, references)["rouge1"],
        "rougeL": rouge(texts, references)["rougeL"],
        "sacrebleu": sacrebleu(texts, references)["sacrebleu"],
    }
    settings = {"cnd": {"orders": (1, 2)}, "rep_n": {"n": 1}}
    few = {"num_resamples": 100, "num_groups": 8}
    for metric in [*values, "compression_ratio", "vendi_score", "self_bleu"]:
        given = references if metric in values and metric != "rep_n" else None
        interval = metric_interval(metric, texts, given, **few, **settings.get(metric, {}))
        assert interval.low < interval.value < interval.high
        assert interval.value == pytest.approx(values.get(metric, interval.value))
        assert interval == metric_interval(metric, texts, given, **few, **settings.get(metric, {}))


# Bootstrap


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_bootstrap_covers_the_mean_of_skewed_values(method):
    generator = np.random.default_rng(0)
    samples = generator.gamma(2.0, size=(200, 60))
    found = [bootstrap_interval(sample, method=method, num_resamples=400, seed=i) for i, sample in enumerate(samples)]
    covered = np.mean([interval.low <= 2 <= interval.high for interval in found])
    assert binomial_range(0.92, 200)[0] <= covered <= binomial_range(0.95, 200)[1]
    assert np.mean([interval.standard_error for interval in found]) == pytest.approx((2 / 60) ** 0.5, rel=0.1)


def test_bootstrap_covers_a_ratio_of_sums():
    """Nats per word, where long texts have more of both: taking the nats alone would be several times too wide."""
    generator = np.random.default_rng(0)
    words = generator.integers(5, 100, size=(200, 60)).astype(float)
    nats = words * (3 + generator.normal(0, 0.5, size=words.shape))
    found = [bootstrap_interval(*rows, num_resamples=400) for rows in zip(nats, words, strict=True)]
    assert np.mean([interval.low <= 3 <= interval.high for interval in found]) >= binomial_range(0.93, 200)[0]
    assert np.mean([interval.high - interval.low for interval in found]) < 0.4
    assert found[0].value == pytest.approx(nats[0].sum() / words[0].sum())


def test_bootstrap_without_variation():
    interval = bootstrap_interval([2.0, 2.0, 2.0])
    assert (interval.low, interval.value, interval.high, interval.standard_error) == (2, 2, 2, 0)
    interval = bootstrap_interval([2.0, 4.0, 6.0], [1, 2, 3])
    assert (interval.low, interval.high) == (2, 2)


# Differences


def test_permutation_p_value_is_that_of_all_swaps():
    first, second = np.array([3.0, 1, 4, 1, 5, 9]), np.array([2.0, 1, 1, 2, 3, 5])
    change = first - second
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = np.mean(np.abs(signs @ change) >= abs(change.sum()) - 1e-9)
    difference = paired_difference(first, second, num_resamples=20_000)
    assert difference.p_value == pytest.approx(exact, abs=0.01)
    assert difference.value == pytest.approx(change.mean())
    assert difference.low < change.mean() < difference.high


def test_permutation_keeps_its_level_and_finds_differences():
    """Skewed scores that share the difficulty of the text: the same system twice, then one that is better."""
    generator = np.random.default_rng(0)
    shared = generator.gamma(2.0, size=(300, 40))
    first, second = (shared + generator.exponential(0.3, size=shared.shape) for _ in range(2))
    weights = generator.integers(1, 9, size=(2, 300, 40)).astype(float)
    found = [paired_difference(a, b, num_resamples=199) for a, b in zip(first, second, strict=True)]
    for level in (0.8, 0.95):
        wrong = [replace(difference, confidence=level).significant for difference in found]
        low, high = binomial_range(1 - level, 300)
        assert low <= np.mean(wrong) <= high
    assert paired_difference(first[0], second[0], confidence=0.8, num_resamples=199).p_value == found[0].p_value
    ratios = [
        paired_difference(*part, num_resamples=199).significant for part in zip(first, second, *weights, strict=True)
    ]
    assert np.mean(ratios) <= binomial_range(0.05, 300)[1]
    better = [
        paired_difference(a + 0.3, b, num_resamples=199).significant
        for a, b in zip(first[:50], second[:50], strict=True)
    ]
    assert np.mean(better) > 0.9


@pytest.mark.parametrize("metric", ["self_bleu", "distinct_n", "jaccard_similarity", "rep_n", len])
def test_the_same_texts_do_not_differ(metric, corpora):
    difference = metric_difference(metric, corpora[0], corpora[0])
    assert (difference.value, difference.p_value, difference.significant) == (0, 1, False)
    assert difference.low <= 0 <= difference.high


def test_jackknife_difference_of_means_is_the_paired_t_test():
    generator = np.random.default_rng(0)
    first = generator.integers(1, 30, size=20)
    second = np.maximum(1, first + generator.integers(-6, 9, size=20))
    texts = [["w " * number for number in lengths] for lengths in (first, second)]
    difference = metric_difference(lambda part: np.mean([len(text.split()) for text in part]), *texts)
    expected = stats.ttest_rel(first, second)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("metric, sign", [("self_bleu", 1), ("distinct_n", -1), ("jaccard_similarity", 1)])
def test_less_diverse_texts_differ(metric, sign, corpora):
    narrow = draw_texts(np.random.default_rng(3), words=12)
    difference = metric_difference(metric, narrow, corpora[0])
    assert difference.significant and difference.p_value < 1e-2
    assert sign * difference.value > 0 and difference.low * difference.high > 0


def test_difference_of_means_goes_by_permutation(corpora, real):
    difference = metric_difference("bleu", corpora[0], corpora[1], real, num_resamples=300)
    values = bleu(corpora[0], real) - bleu(corpora[1], real)
    assert (difference.method, difference.value) == ("permutation", pytest.approx(values))


TEXTS = ["a b", "b c", "c d"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metric_interval("self_blue", TEXTS), "^`metric` must be one of .*, got 'self_blue'. "),
        (lambda: metric_interval("self_bleu", TEXTS[:2]), "^`texts` must hold at least 3 texts, got 2. "),
        (lambda: metric_interval("self_bleu", TEXTS, num_groups=2), "^`num_groups` must be at least 5, got 2"),
        (lambda: metric_interval("self_bleu", TEXTS, confidence=95), "^`confidence` must be between 0 and 1, got 95"),
        (lambda: metric_interval("bleu", TEXTS), "^`references` is missing, got None. "),
        (lambda: metric_interval("cnd", TEXTS), "^`references` is missing, got None. "),
        (lambda: metric_interval("sacrebleu", TEXTS), "^`references` is missing, got None. "),
        (lambda: metric_interval("distinct_n", ["a [SEP] b", *TEXTS]), r"^`texts\[0\]` must be plain text"),
        (lambda: metric_interval("distinct_n", ["a b", "c", "d"]), "^`texts` must hold 2-grams in more than one"),
        (lambda: metric_difference("self_bleu", TEXTS, TEXTS[1:]), "^`second` must hold as many texts as `first`, "),
        (lambda: metric_difference("self_bleu", TEXTS, [1, 2, 3]), r"^`second\[0\]` must be a string, got int. "),
        (lambda: bootstrap_interval([1.0]), "^`values` must hold one number per text, at least two, got shape"),
        (lambda: bootstrap_interval([1.0, np.nan]), r"^`values\[1\]` must be a finite number, got nan. "),
        (lambda: bootstrap_interval([1, 2], [1, 2, 3]), "^`weights` must hold one number per text, got 3 "),
        (lambda: bootstrap_interval([1, 2], [0, 0]), "^`weights` must not be negative, nor all 0, got "),
        (lambda: bootstrap_interval([1, 2], method="t"), "^`method` must be one of .'bca', 'percentile'., got 't'. "),
        (lambda: bootstrap_interval([1, 2], num_resamples=10), "^`num_resamples` must be at least 100, got 10. "),
        (lambda: paired_difference([1, 2], [1, 2, 3]), "^`second` must hold one number per text, got 3 "),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
