"""The built-in corpus: what it promises about its texts, its factors and its chains."""

import doctest
import hashlib
import math
import os
import re
import string
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from modeling_trace.data.reviews import ASPECTS, REGISTERS, SENTIMENTS, generate_reviews, review_dataset
from modeling_trace.data.reviews import generator as corpus

CHAINS = {
    "aspects": (ASPECTS, corpus.ASPECT_START, corpus.ASPECT_TRANSITIONS),
    "sentiments": (SENTIMENTS, corpus.SENTIMENT_START, corpus.SENTIMENT_TRANSITIONS),
    "registers": (REGISTERS, corpus.REGISTER_START, corpus.REGISTER_TRANSITIONS),
}
TOPICS = [business["kind"] for business in corpus.BUSINESSES.values()] + [
    name for name in ASPECTS if name != "product"
]


@pytest.fixture(scope="module")
def reviews():
    return generate_reviews()


@pytest.fixture(scope="module")
def sentences(reviews):
    """(sentence, aspect, sentiment, register) of the whole corpus."""
    return [row for r in reviews for row in zip(r.sentences, r.aspects, r.sentiments, r.registers, strict=True)]


def words_of(text):
    return re.findall(r"\$?\d+|[a-z]+(?:['-][a-z]+)*", text.lower())


def strings_in(data):
    if isinstance(data, str):
        return [data]
    return [text for item in (data.values() if isinstance(data, dict) else data) for text in strings_in(item)]


# The list ------------------------------------------------------------------------------------------------------------


def test_twenty_thousand_distinct_reviews(reviews):
    assert len(reviews) == 20_000
    assert len({review.text for review in reviews}) == 20_000


def test_same_seed_same_reviews_and_other_seed_other_reviews():
    assert generate_reviews(50, seed=3) == generate_reviews(50, seed=3)
    assert not {r.text for r in generate_reviews(50, seed=3)} & {r.text for r in generate_reviews(50, seed=4)}


def test_first_reviews_do_not_depend_on_how_many_are_asked_for(reviews):
    assert generate_reviews(1) == reviews[:1]
    assert generate_reviews(300) == reviews[:300]


def test_reviews_are_those_of_every_release(reviews):
    # published numbers are of these texts: a change of the grammar is a change of the corpus
    found = hashlib.sha256()
    for review in [*reviews[:2000], *generate_reviews(500, seed=7)]:
        found.update(repr(review).encode())
    assert found.hexdigest() == "8acdf9f2881fe4ee645d430b1d56d2caa9f62386dd08b84fe2092ae2a1f7c475"


def test_reviews_do_not_depend_on_the_hash_seed(reviews):
    program = (
        "import hashlib, runpy, sys\n"
        "reviews = runpy.run_path(sys.argv[1])['generate_reviews'](100)\n"
        "print(hashlib.sha256('\\n'.join(review.text for review in reviews).encode()).hexdigest())\n"
    )
    expected = hashlib.sha256("\n".join(review.text for review in reviews[:100]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", program, corpus.__file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == expected


def test_factors_align_with_sentences(reviews):
    for review in reviews:
        assert review.text == " ".join(review.sentences)
        assert 3 <= len(review.sentences) <= 5
        assert len(review.sentences) == len(review.aspects) == len(review.sentiments) == len(review.registers)
        assert set(review.aspects) <= set(ASPECTS)
        assert set(review.sentiments) <= set(SENTIMENTS)
        assert set(review.registers) <= set(REGISTERS)
        assert review.business in corpus.BUSINESSES
    assert {review.business for review in reviews} == set(corpus.BUSINESSES)


def test_review_dataset_holds_the_same_reviews():
    dataset, reviews = review_dataset(20, seed=5), generate_reviews(20, seed=5)
    assert dataset.column_names == ["text", "sentences", "aspects", "sentiments", "registers", "business"]
    for row, review in zip(dataset, reviews, strict=True):
        assert row["text"] == review.text and row["business"] == review.business
        for name in ("sentences", "aspects", "sentiments", "registers"):
            assert tuple(row[name]) == getattr(review, name)


@pytest.mark.parametrize("make", [generate_reviews, review_dataset])
@pytest.mark.parametrize("num_reviews", [0, -1, 2.0, "10", None])
def test_bad_num_reviews(make, num_reviews):
    with pytest.raises(ValueError, match=r"`num_reviews` must be an integer >= 1, got"):
        make(num_reviews)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match=r"`seed` must be an integer >= 0, got"):
        generate_reviews(1, seed=seed)


def test_docstring_examples():
    results = doctest.testmod(corpus)
    assert results.attempted > 0 and results.failed == 0


# The chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", CHAINS)
def test_tables_are_distributions(factor):
    names, start, transitions = CHAINS[factor]
    assert len(start) == len(transitions) == len(names)
    for row in (start, *transitions):
        assert len(row) == len(names) and min(row) >= 0
        assert sum(row) == pytest.approx(1)
    stay = [row[i] for i, row in enumerate(transitions)]
    assert (max(stay) == 0) if factor == "aspects" else all(row[i] == max(row) for i, row in enumerate(transitions))


@pytest.mark.parametrize("factor", CHAINS)
def test_frequencies_match_the_tables(reviews, factor):
    names, start, transitions = CHAINS[factor]
    walks = [getattr(review, factor) for review in reviews]
    starts = Counter(walk[0] for walk in walks)
    steps = Counter(step for walk in walks for step in pairwise(walk))
    for i, before in enumerate(names):
        assert_frequency(starts[before], len(walks), start[i])
        visits = sum(steps[before, after] for after in names)
        for j, after in enumerate(names):
            assert_frequency(steps[before, after], visits, transitions[i][j])


def assert_frequency(count, total, probability):
    if probability == 0:
        assert count == 0
    else:  # five standard errors: one false alarm in a million cells, and the seed is fixed
        assert abs(count / total - probability) < 5 * math.sqrt(probability * (1 - probability) / total)


def test_next_factor_does_not_depend_on_the_one_before_last(reviews):
    counts = defaultdict(Counter)  # Markov: after (a, b) as after b
    for review in reviews:
        for (first, second), (_, third) in pairwise(pairwise(review.sentiments)):
            counts[first, second][third] += 1
    for (_, second), nexts in counts.items():
        row = corpus.SENTIMENT_TRANSITIONS[SENTIMENTS.index(second)]
        for third, probability in zip(SENTIMENTS, row, strict=True):
            assert_frequency(nexts[third], sum(nexts.values()), probability)


def test_connectives_follow_the_turn_of_sentiment(reviews):
    good_news, bad_news = ("Luckily,", "Fortunately,", "On the bright side,"), ("Unfortunately,", "Sadly,")
    seen = Counter()
    for review in reviews:
        for sentence, (before, after) in zip(review.sentences[1:], pairwise(review.sentiments), strict=True):
            if sentence.startswith(good_news):
                assert before != "positive" and after == "positive", sentence
                seen["good"] += 1
            if sentence.startswith(bad_news):
                assert before != "negative" and after == "negative", sentence
                seen["bad"] += 1
    assert min(seen["good"], seen["bad"]) > 100


# The grammar ---------------------------------------------------------------------------------------------------------


def test_every_cell_has_its_words():
    assert set(corpus.ADJECTIVES) == set(corpus.CLAUSES) == set(corpus.TAILS) == set(TOPICS)
    for topic in set(TOPICS):
        assert (
            set(corpus.ADJECTIVES[topic]) == set(corpus.CLAUSES[topic]) == set(corpus.TAILS[topic]) == set(SENTIMENTS)
        )
        for sentiment in SENTIMENTS:
            assert len(corpus.ADJECTIVES[topic][sentiment]["adj"]) >= 3
            assert set(corpus.CLAUSES[topic][sentiment]) == set(REGISTERS)
            assert all(len(templates) >= 2 for templates in corpus.CLAUSES[topic][sentiment].values())
    assert set(corpus.CONNECTIVES) == {(before, after) for before in SENTIMENTS for after in SENTIMENTS}
    for table in (*corpus.FRAMES.values(), *corpus.CONNECTIVES.values(), *corpus.BACK_REFERENCES.values()):
        assert set(table) == set(REGISTERS) and all(table.values())


def test_templates_are_well_formed():
    slots = set(corpus._agreement("noun", None, False)) | set(corpus._PERSONS["I"]) | set(corpus.BUSINESSES["gym"])
    slots |= {"adj", "adj2", "desc", "thing", "place", "landmark", "when", "deal", "low", "usual_price", "high"}
    clauses = strings_in([corpus.FRAMES, corpus.CLAUSES, corpus.BACK_REFERENCES])
    parts = strings_in([corpus.INTRODUCTIONS, corpus.CONNECTIVES, corpus.TAILS, corpus.CLOSINGS, corpus.ADJECTIVES])
    for template in clauses + parts:
        assert {field for _, field, _, _ in string.Formatter().parse(template) if field} <= slots, template
        assert re.sub(r"\[[^\[\]]*\|[^\[\]]*\]", "", template).count("[") == 0, template  # closed, with alternatives
        assert "  " not in template and not re.search(r"[.!;]", template), template
    for template in clauses:
        assert template == template.strip() and not template.removeprefix("~")[0].isupper(), template
        assert len(template) == len(template.strip("? ")) or template.startswith("~"), template
    for tail in strings_in([corpus.TAILS, corpus.CLOSINGS]):
        assert re.match(r",? [a-z{]", tail), tail


def test_every_cell_is_varied(sentences):
    cells = defaultdict(set)
    for sentence, *factors in sentences:
        cells[tuple(factors)].add(sentence)
    assert len(cells) == len(ASPECTS) * len(SENTIMENTS) * len(REGISTERS)
    assert min(len(cell) for cell in cells.values()) > 100
    assert len({sentence for sentence, *_ in sentences}) > 0.7 * len(sentences)


# The language --------------------------------------------------------------------------------------------------------


def test_sentences_are_clean(sentences):
    for sentence, *_ in sentences:
        assert re.fullmatch(r"[A-Z$][A-Za-z0-9$,:'?\- ]*[.!?]", sentence), sentence
        assert not re.search(r"  | [.,!?:]|[,:][^ ]|,,|, and,|\b(\w+) \1\b", sentence), sentence
        assert corpus.MIN_WORDS <= len(sentence.split()) <= corpus.MAX_WORDS, sentence


PLURALS = (
    "staff|servers|baristas|bartenders|mechanics|trainers|fries|noodles|ribs|wings|cookies|prices|rates|fees|tables"
)
SINGULARS = "waiter|waitress|manager|owner|burger|pasta|bill|bread|haircut|wait|line|music|decor|coffee|beer|lighting"
MISTAKES = (
    rf"(?<!of )\b[Tt]he ({PLURALS}) (was|is|has)\b",
    rf"(?<!with )\b[Tt]he ({SINGULARS}) (were|are|have)\b",
    rf"\b[Ww]as the ({PLURALS})\b",
    rf"\b[Ww]ere the ({SINGULARS})\b",
    rf"\b[Aa]s for the ({PLURALS}), (it|he|she)\b",
    rf"\b[Aa]s for the ({SINGULARS}), they\b",
    r"\b(I were|I're|I are|[Ww]e was|[Ww]e'm|[Ww]e am|[Tt]hey was|[Ii]t were)\b",
    r"\b[Aa] [aeio]\w+|\b[Aa]n (?!hour)[^aeiou ]\w+",
    r"\b(waiter|waitress|owner|manager|staff|mechanic|trainer|stylist), which (was|were) (?!fine)",
    r"\b(waitress|hostess), he\b|\bwaiter, she\b",
    r"\b(more|most) (better|worse)\b|\b(very|so|super) (spotless|delicious|flawless|endless)\b",
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_mistakes_of_agreement(sentences, mistake):
    wrong = [sentence for sentence, *_ in sentences if re.search(mistake, sentence)]
    assert wrong == []


def test_one_person_tells_the_whole_review(reviews):
    for review in reviews:
        words = set(words_of(review.text))
        assert not (words & {"i", "my"} and words & {"we", "our"}), review.text


def test_registers_keep_their_manners(sentences):
    for sentence, _, _, register in sentences:
        if register == "formal":
            assert "'" not in sentence and "!" not in sentence, sentence
        if register != "colloquial":
            assert not re.search(r"\b(gotta|wanna|kinda|sorta|super|meh|ugh|yuck)\b", sentence.lower()), sentence


def test_lengths_and_vocabulary_suit_a_tiny_model(reviews):
    lengths = [len(review.text.split()) for review in reviews]
    assert 38 < sum(lengths) / len(lengths) < 48
    assert 3 * corpus.MIN_WORDS <= min(lengths) and max(lengths) <= 5 * corpus.MAX_WORDS
    assert sum(28 <= length <= 62 for length in lengths) > 0.9 * len(lengths)
    vocabulary = Counter(word for review in reviews for word in words_of(review.text))
    assert 800 <= len(vocabulary) <= 1500
    assert sum(count >= 10 for count in vocabulary.values()) > 0.97 * len(vocabulary)  # hardly a word is rare


@pytest.mark.parametrize("factor, accuracy", [(1, 0.9), (2, 0.85), (3, 0.85)], ids=["aspect", "sentiment", "register"])
def test_factors_can_be_read_from_the_words(sentences, factor, accuracy):
    train, test = sentences[:20_000], sentences[-4_000:]  # whole reviews apart, up to one at the border
    words, labels = defaultdict(Counter), Counter(row[factor] for row in train)
    for row in train:
        words[row[factor]].update(words_of(row[0]))
    vocabulary = set().union(*words.values())
    totals = {label: sum(words[label].values()) + len(vocabulary) for label in labels}

    def score(label, sentence):  # naive Bayes with add-one smoothing
        seen = (math.log((words[label][word] + 1) / totals[label]) for word in words_of(sentence))
        return math.log(labels[label]) + sum(seen)

    right = sum(max(labels, key=lambda label: score(label, row[0])) == row[factor] for row in test)
    chance = max(labels.values()) / len(train)
    assert right / len(test) > accuracy > chance + 0.2
