"""Diversity metrics equal nltk's and naive ones on random corpora, with duplicates, empty texts and single words."""

import gzip
import math
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from modeling_trace.data import generate_reviews
from modeling_trace.evaluation import (
    bleu,
    compression_ratio,
    distinct_n,
    diversity,
    expectation_adjusted_distinct,
    jaccard_similarity,
    metric_replicates,
    ngrams,
    rep_n,
    self_bleu,
    vendi_score,
)
from modeling_trace.evaluation.words import encode

TOLERANCE = {"rtol": 0, "atol": 1e-10}  # x 100, so 1e-12 of nltk's
texts_of_words = st.lists(st.sampled_from(["a", "b", "é"]), max_size=9).map(" ".join)
corpora = st.lists(texts_of_words, min_size=2, max_size=7)
few = settings(max_examples=150, deadline=None, derandomize=True)


def nltk_bleu(references, text, max_n=4):
    weights = (1 / max_n,) * max_n
    smoothing = SmoothingFunction().method1
    return 100 * sentence_bleu([r.split() for r in references], text.split(), weights, smoothing)


def naive_ngrams(text, n):
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@few
@given(corpora, st.integers(1, 5))
@example(["", ""], 4)
@example(["a", "a", ""], 4)
@example(["a a a", "a a", "b a a a"], 2)  # the largest count has one owner
@example(["a b c", "a b c", "a b c d e"], 4)
@example(["a b", "a b c d", "c b a"], 4)  # lengths at the same distance: the shorter
def test_self_bleu_is_nltks(texts, max_n):
    expected = [nltk_bleu(texts[:i] + texts[i + 1 :], text, max_n) for i, text in enumerate(texts)]
    np.testing.assert_allclose(self_bleu(texts, max_n, per_text=True), expected, **TOLERANCE)
    assert self_bleu(texts, max_n) == pytest.approx(np.mean(expected), rel=0, abs=1e-10)


@few
@given(corpora, st.lists(texts_of_words, min_size=1, max_size=5), st.integers(1, 4))
@example(["a b"], [""], 4)
@example(["a b c", ""], ["a b", "a b c d"], 1)
def test_bleu_is_nltks(texts, references, max_n):
    expected = [nltk_bleu(references, text, max_n) for text in texts]
    np.testing.assert_allclose(bleu(texts, references, max_n, per_text=True), expected, **TOLERANCE)


@few
@given(st.lists(st.tuples(texts_of_words, st.lists(texts_of_words, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_paired_bleu_is_nltks(rows):
    texts, groups = zip(*rows, strict=True)
    expected = [nltk_bleu(group, text) for text, group in rows]
    np.testing.assert_allclose(bleu(texts, groups, paired=True, per_text=True), expected, **TOLERANCE)


@few
@given(corpora, st.sampled_from([(2, 3, 4), (1,), (4, 1)]), st.integers(1, 40))
@example(["", "a"], (1,), 1)
def test_jaccard_is_the_mean_over_pairs_of_sets(texts, orders, block):
    table = np.zeros((len(texts), len(texts)))
    for n in orders:
        sets = [set(naive_ngrams(text, n)) for text in texts]
        for i, j in combinations(range(len(texts)), 2):
            both = sets[i] | sets[j]
            table[i, j] += len(sets[i] & sets[j]) / len(both) if both else 0
    table = 100 * (table + table.T) / len(orders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diversity, "BLOCK_ENTRIES", block)
        scores = jaccard_similarity(texts, orders, per_text=True)
    np.testing.assert_allclose(scores, table.sum(axis=1) / (len(texts) - 1), **TOLERANCE)
    assert jaccard_similarity(texts, orders) == pytest.approx(
        np.mean([table[pair] for pair in combinations(range(len(texts)), 2)]), rel=0, abs=1e-10
    )


@few
@given(corpora, st.integers(1, 4))
def test_distinct_and_repetition_by_brute_force(texts, n):
    everything = [gram for text in texts for gram in naive_ngrams(text, n)]
    own = [naive_ngrams(text, n) for text in texts]
    repeated = [100 * (1 - len(set(grams)) / len(grams)) if grams else 0 for grams in own]
    np.testing.assert_allclose(rep_n(texts, n, per_text=True), repeated, **TOLERANCE)
    if not everything:
        with pytest.raises(ValueError, match=f"^`texts` must hold texts of at least n={n} words, got "):
            distinct_n(texts, n)
        return
    assert distinct_n(texts, n) == pytest.approx(100 * len(set(everything)) / len(everything), rel=1e-12)
    expected_number = sum(1 - (1 - 7.0**-n) ** len(everything) for _ in range(7**n))  # 7 words: 7^n n-grams
    assert expectation_adjusted_distinct(texts, 7, n) == pytest.approx(100 * len(set(everything)) / expected_number)


def test_adjusted_distinct_is_about_100_for_uniform_draws_of_any_length():
    generator = np.random.default_rng(0)
    for size in (100, 10_000):
        words = generator.integers(0, 1000, size=size)
        assert expectation_adjusted_distinct([" ".join(map(str, words))], 1000) == pytest.approx(100, abs=5)
    assert distinct_n([" ".join(map(str, words))], n=1) < 20


@few
@given(corpora, st.integers(1, 4))
def test_ngram_ids_are_equal_only_for_equal_ngrams(texts, max_n):
    tokens, lengths = encode(texts)
    for n, (grams, rows) in enumerate(ngrams.ngrams(tokens, lengths, max_n), start=1):
        expected = [(row, gram) for row, text in enumerate(texts) for gram in naive_ngrams(text, n)]
        assert rows.tolist() == [row for row, _ in expected]
        assert len(set(zip(grams.tolist(), (gram for _, gram in expected), strict=True))) == len(set(grams.tolist()))
        assert len(set(grams.tolist())) == len({gram for _, gram in expected})


@few
@given(corpora)
def test_self_bleu_of_a_subset_is_that_of_its_texts(texts):
    keep = np.arange(len(texts)) % 3 != 2
    table = diversity.SelfBleuTable(texts)
    kept = [text for text, kept in zip(texts, keep, strict=True) if kept]
    np.testing.assert_allclose(table.scores(keep), self_bleu(kept, per_text=True), **TOLERANCE)


def test_real_texts_equal_nltk():
    texts = [review.text for review in generate_reviews(40)]
    expected = np.mean([nltk_bleu(texts[:i] + texts[i + 1 :], text) for i, text in enumerate(texts)])
    assert self_bleu(texts) == pytest.approx(expected, rel=1e-12)


def test_vendi_counts_different_texts():
    assert vendi_score(["a b c"] * 5) == pytest.approx(1)
    assert vendi_score(["a b c", "d e f", "g h i"]) == pytest.approx(3)
    assert vendi_score(["a b c", "a b c", "d e f", "d e f"]) == pytest.approx(2)
    assert vendi_score(["", "a b", "c"]) == pytest.approx(3)  # nothing is like the empty text
    # Two texts at cosine c: eigenvalues (1 +- c) / 2; "a b" and "a c" have c = (1/2 + 0) / 2
    low, high = (1 - 0.25) / 2, (1 + 0.25) / 2
    assert vendi_score(["a b", "a c"]) == pytest.approx(math.exp(-low * math.log(low) - high * math.log(high)))


def test_compression_ratio_is_gzips():
    texts = ["so it goes", "naïve"] * 50
    data = "\n".join(texts).encode()
    assert compression_ratio(texts) == len(data) / len(gzip.compress(data, 9, mtime=0))
    assert compression_ratio(texts) > 5 > 2 > compression_ratio([review.text for review in generate_reviews(2)])


SETS = {
    "self_bleu": (self_bleu, 2),
    "jaccard_similarity": (jaccard_similarity, 2),
    "vendi_score": (vendi_score, 2),
    "distinct_n": (distinct_n, 1),
    "rep_n": (rep_n, 1),
    "compression_ratio": (compression_ratio, 1),
    "expectation_adjusted_distinct": (lambda texts: expectation_adjusted_distinct(texts, 10), 1),
    "bleu": (lambda texts: bleu(texts, ["a b"]), 1),
    "references": (lambda references: bleu(["a b"], references), 1),
}


@pytest.mark.parametrize("name", SETS)
def test_bad_texts(name):
    function, minimum = SETS[name]
    argument = name if name == "references" else "texts"
    number = {1: "one text", 2: "two texts"}[minimum]
    bad = [
        ([], f"^`{argument}` must hold at least {number}, got 0. "),
        (None, f"^`{argument}` is missing, got None. Pass a list of strings.$"),
        ("a text", f"^`{argument}` must be a list of strings, got str. Did you mean .{argument}.[?]$"),
        ({"text": ["a"]}, f"^`{argument}` must be a list of strings, got dict. Use dataset..text.. for a data set.$"),
        (["a b", "c d", 3], rf"^`{argument}\[2\]` must be a string, got int. Drop or convert the row.$"),
        (["a b", ["c", "d"]], rf"^`{argument}\[1\]` must be a string, got list. Join its words by "),
        (["a b", "a [SEP] b"], rf"^`{argument}\[1\]` must be plain text, got one that still contains '\[SEP\]'"),
    ]
    if minimum == 2:
        bad.append((["a b"], f"^`texts` must hold at least {number}, got 1. "))
    for texts, message in bad:
        with pytest.raises(ValueError, match=message) as raised:
            function(texts)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: distinct_n(["a b"], n=0), "^`n` must be a whole number >= 1, got 0. "),
        (lambda: self_bleu(["a b", "c"], max_n=2.0), "^`max_n` must be a whole number >= 1, got 2.0. "),
        (lambda: jaccard_similarity(["a", "b"], orders=3), "^`orders` must be several whole numbers, got 3. "),
        (lambda: jaccard_similarity(["a", "b"], orders=[2, 2]), "^`orders` must hold different numbers"),
        (lambda: expectation_adjusted_distinct(["a"], 1), "^`vocab_size` must be a whole number >= 2, got 1. "),
        (lambda: compression_ratio(["", " "]), "^`texts` must not all be empty. "),
        (lambda: bleu(["a", "b"], ["a"], paired=True), "^`references` must hold one entry per text, got 1"),
        (lambda: bleu(["a"], None, paired=True), "^`references` is missing, got None. "),
        (lambda: bleu(["a"], "a", paired=True), "^`references` must be a list, got str. "),
        (lambda: bleu(["a", "b"], ["a", []], paired=True), r"^`references\[1\]` must hold at least one reference"),
        (lambda: bleu(["a", "b"], ["a", 3], paired=True), r"^`references\[1\]` must be a string or a list of strings"),
        (lambda: bleu(["a"], [["a", None]], paired=True), r"^`references\[0\]\[1\]` must be a string, got NoneType. "),
        (lambda: bleu(["a"], ["[SEP]"], paired=True), r"^`references\[0\]` must be plain text"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_says_how_many_texts_are_empty(monkeypatch):
    said = []
    monkeypatch.setattr(ngrams.logger, "warning_once", said.append)
    assert self_bleu(["a b", "", " \n", "a b"], per_text=True).tolist()[1:3] == [0, 0]
    assert said == ["2 of 4 `texts` are empty. They are counted like the others."]
    distinct_n(["a b", "c d"])
    assert len(said) == 1


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    message = r"^jaccard_similarity requires the `eval` extra: pip install 'modeling-trace\[eval\]'$"
    with pytest.raises(ImportError, match=message):
        jaccard_similarity(["a b c", "a b d"])


LOADS = {
    "self_bleu": lambda texts, others: metric_replicates("self_bleu", texts),
    "distinct_n": lambda texts, others: metric_replicates("distinct_n", texts),
    "jaccard_similarity": lambda texts, others: metric_replicates("jaccard_similarity", texts),
    "cnd": lambda texts, others: metric_replicates("cnd", texts, others),
    "bleu": lambda texts, others: bleu(texts, others, per_text=True),
    "rep_n": lambda texts, others: rep_n(texts, per_text=True),
}


@pytest.mark.parametrize("metric", LOADS)
def test_memory_grows_with_the_texts_and_no_faster(metric, monkeypatch):
    """
    Three times as many texts: at most three and a half times the memory, and so little that 100,000 texts of 50 words
    take less than 1.5 GB.
    """
    monkeypatch.setattr(diversity, "BLOCK_ENTRIES", 20_000)  # jaccard's blocks, or these few texts were one
    generator = np.random.default_rng(0)
    drawn = (5000 * generator.random((2, 1500, 30)) ** 3).astype(int)
    texts, others = ([" ".join(map(str, row)) for row in part] for part in drawn)
    peaks = []
    for number in (500, 1500):
        tracemalloc.start()
        LOADS[metric](texts[:number], others[:number])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3.5 * peaks[0] and peaks[1] < 300 * drawn[0].size
