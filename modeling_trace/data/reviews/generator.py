"""The built-in corpus: short reviews from a seeded grammar, with the factors behind every sentence.

A review is about one business. Each of its sentences has an aspect, a sentiment and a register, and each of the three
follows a Markov chain within the review, so that what comes next depends on what came before: what TRACE's recurrent
latents are made for. Because the factors are returned, tests and the demo can ask whether the latents carry them.

The grammar is data, in grammar.json. To add a sentence, add a template to `frames` (fits every aspect) or `clauses`
(fits one):

- `[a|b|c]` takes one of the alternatives; `[a |]` may be empty.
- `{noun}` is what the sentence is about; `{was}`, `{it}`, `{them}`, `{his}` and `{which}` agree with it.
- `{adj}`, `{adj2}` can stand after "very"; `{desc}` may also be a phrase. All fit the aspect and the sentiment.
- `{I}`, `{me}`, `{my}`, `{I_was}`, `{I_am}` are "I" or "we" for the whole review; `{thing}` is the business ("diner").
- `{place}` names the business the way one does at this point of the review ("this diner", "it", "the place").
- A template that starts with `~` opens its own sentence: it takes neither a connective nor an introduction.
- Templates start in lower case and have no final full stop. A template with a comma takes no tail.
- A new template changes the reviews that every seed gives, and with them the example in `generate_reviews`.
- The formal register has its contractions written out by `_write_out`, so shared phrases may use them.
"""

import json
import random
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


ASPECTS = ("product", "service", "price", "location", "atmosphere", "waiting", "cleanliness", "drinks")
SENTIMENTS = ("positive", "negative", "neutral")
REGISTERS = ("plain", "colloquial", "formal")


# ---------------------------------------------------------------------------------------------------------------------
# The chains. Rows and columns are in the order of the names above.
# ---------------------------------------------------------------------------------------------------------------------

# People open with what they came for, or with the people they met.
ASPECT_START = (0.28, 0.20, 0.08, 0.12, 0.12, 0.10, 0.05, 0.05)

# A review walks through a visit: product -> drinks -> price -> location -> atmosphere -> cleanliness -> service ->
# waiting -> product is the likeliest tour. The diagonal is zero (a sentence moves on) and the step back is rare, so
# that a review hardly ever contradicts itself, and so that the aspect before says much about the next one.
ASPECT_TRANSITIONS = (
    # product service price location atmosphere waiting cleanliness drinks
    (0.00, 0.20, 0.16, 0.05, 0.12, 0.04, 0.05, 0.38),  # product
    (0.18, 0.00, 0.10, 0.04, 0.10, 0.45, 0.04, 0.09),  # service
    (0.12, 0.16, 0.00, 0.44, 0.10, 0.08, 0.06, 0.04),  # price
    (0.12, 0.12, 0.04, 0.00, 0.46, 0.10, 0.10, 0.06),  # location
    (0.14, 0.12, 0.06, 0.04, 0.00, 0.05, 0.44, 0.15),  # atmosphere
    (0.46, 0.04, 0.18, 0.06, 0.10, 0.00, 0.06, 0.10),  # waiting
    (0.12, 0.44, 0.14, 0.10, 0.04, 0.10, 0.00, 0.06),  # cleanliness
    (0.04, 0.16, 0.46, 0.06, 0.16, 0.06, 0.06, 0.00),  # drinks
)

# Sticky: an opinion carries over, and two sentences in three agree with the one before.
SENTIMENT_START = (0.50, 0.35, 0.15)
SENTIMENT_TRANSITIONS = (
    # positive negative neutral
    (0.74, 0.15, 0.11),  # positive
    (0.18, 0.72, 0.10),  # negative
    (0.35, 0.30, 0.35),  # neutral
)

# Very sticky: a writer has one voice and seldom changes it.
REGISTER_START = (0.40, 0.33, 0.27)
REGISTER_TRANSITIONS = (
    # plain colloquial formal
    (0.90, 0.06, 0.04),  # plain
    (0.08, 0.90, 0.02),  # colloquial
    (0.08, 0.02, 0.90),  # formal
)

NUM_SENTENCES, NUM_SENTENCES_WEIGHTS = (3, 4, 5), (0.3, 0.4, 0.3)
MIN_WORDS, MAX_WORDS = 8, 15  # of a sentence; one that comes out shorter or longer is drawn again


# ---------------------------------------------------------------------------------------------------------------------
# The grammar: words and templates, in the order of the review that they make.
# ---------------------------------------------------------------------------------------------------------------------


def _frozen(value):
    """JSON's lists as tuples."""
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _by_turn(table: dict) -> dict[tuple[str, str], dict]:
    """By the sentiments of the sentence before and of this one."""
    return {(before, after): values for before, row in table.items() for after, values in row.items()}


_GRAMMAR = _frozen(json.loads(Path(__file__).with_name("grammar.json").read_text(encoding="utf-8")))

# Who is reviewed, and the nouns of each aspect. "+" marks a plural. `kind` picks the product's words. `deals`: (what,
# low, usual and high prices in dollars). `ready` completes "... within five minutes"; `await` completes "waited for
# ..."; `fast`, `usual`, `slow` are waiting times.
BUSINESSES = _GRAMMAR["businesses"]
# Location is told apart by where things are, which does not depend on the business.
LOCATION_NOUNS, WAITING_NOUNS = _GRAMMAR["location_nouns"], _GRAMMAR["waiting_nouns"]
LANDMARKS, WHEN = _GRAMMAR["landmarks"], _GRAMMAR["when"]
WOMEN, MEN = _GRAMMAR["women"], _GRAMMAR["men"]

# Those that can stand after "very", and all. The product's are by kind of business.
ADJECTIVES = {
    topic: {
        sentiment: {"adj": words["gradable"], "desc": words["gradable"] + words["absolute"]}
        for sentiment, words in sentiments.items()
    }
    for topic, sentiments in _GRAMMAR["adjectives"].items()
}

FRAMES = _GRAMMAR["frames"]  # fit every aspect
# Fit one aspect (the product's: one kind of business). Their own slots: {deal} {low} {usual_price} {high};
# {landmark}; {ready} {await} {fast} {usual} {slow}.
CLAUSES = _GRAMMAR["clauses"]

# What joins sentences into a review.
INTRODUCTIONS = _GRAMMAR["introductions"]
CONNECTIVES = _by_turn(_GRAMMAR["connectives"])
BACK_REFERENCES = _by_turn(_GRAMMAR["back_references"])  # whole sentences that refer back to the one before
TAILS = _GRAMMAR["tails"]  # follow a clause on this aspect (the product's: this kind of business)
CLOSINGS = _GRAMMAR["closings"]  # follow the last clause of a review

BACK_REFERENCE_RATE, FRAME_RATE = 0.15, 0.4
INTRODUCTION_RATE, CONNECTIVE_RATE, TAIL_RATE, CLOSING_RATE = 0.55, 0.5, 0.5, 0.5
EXCLAMATION_RATE = {"plain": 0.03, "colloquial": 0.5, "formal": 0.0}


# ---------------------------------------------------------------------------------------------------------------------
# From the grammar to reviews.
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Review:
    """A review and the factors that it was written from.

    Args:
        text (`str`): The whole review; `" ".join(sentences)`.
        sentences (`tuple[str, ...]`): Its 3 to 5 sentences.
        aspects (`tuple[str, ...]`): What each sentence is about, from `ASPECTS`.
        sentiments (`tuple[str, ...]`): What each sentence thinks of it, from `SENTIMENTS`.
        registers (`tuple[str, ...]`): The voice of each sentence, from `REGISTERS`.
        business (`str`): The kind of business under review, a key of `BUSINESSES`.
    """

    text: str
    sentences: tuple[str, ...]
    aspects: tuple[str, ...]
    sentiments: tuple[str, ...]
    registers: tuple[str, ...]
    business: str


_CHOICE = re.compile(r"\[([^\]]*)\]")
_WRITTEN_OUT = {"won't": "will not", "can't": "cannot", "n't": " not", "'ve": " have", "'ll": " will", "'m": " am"}
_CONTRACTION = re.compile("|".join(_WRITTEN_OUT))


def _write_out(text: str) -> str:
    return _CONTRACTION.sub(lambda match: _WRITTEN_OUT[match[0]], text)


class _Words(dict):
    """The slots of one sentence. A slot that is missing is drawn when a template first asks for it."""

    def __init__(self, rng: random.Random, used: set[str], lexicon: dict[str, tuple[str, ...]], **fixed: str):
        super().__init__(fixed)
        self.rng, self.used, self.lexicon = rng, used, lexicon

    def __missing__(self, slot: str) -> str:
        self[slot] = self.expand(self.pick(self.lexicon[slot]))
        return self[slot]

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options, if possible one that this review has not used."""
        option = self.rng.choice(options)
        if option in self.used:
            fresh = [option for option in options if option not in self.used]
            option = self.rng.choice(fresh or [option for option in options if option not in self.values()])
        self.used.add(option)
        return option

    def expand(self, template: str) -> str:
        return _CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), template).format_map(self)


def _agreement(noun: str, rng: random.Random, is_person: bool) -> dict[str, str]:
    which = "who" if is_person else "which"
    if noun.startswith("+"):
        return {"noun": noun[1:], "was": "were", "it": "they", "them": "them", "his": "their", "which": which}
    if not is_person:
        return {"noun": noun, "was": "was", "it": "it", "them": "it", "his": "its", "which": which}
    if noun in WOMEN or (noun not in MEN and rng.random() < 0.5):
        return {"noun": noun, "was": "was", "it": "she", "them": "her", "his": "her", "which": which}
    return {"noun": noun, "was": "was", "it": "he", "them": "him", "his": "his", "which": which}


def _walk(
    rng: random.Random, names: tuple[str, ...], start: tuple, transitions: tuple, length: int
) -> tuple[str, ...]:
    steps = rng.choices(range(len(names)), start)
    while len(steps) < length:
        steps += rng.choices(range(len(names)), transitions[steps[-1]])
    return tuple(names[step] for step in steps)


_PERSONS = {
    "I": {"I": "I", "me": "me", "my": "my", "I_was": "I was", "I_am": "I'm"},
    "we": {"I": "we", "me": "us", "my": "our", "I_was": "we were", "I_am": "we're"},
}
_ASPECT_NOUNS = {"location": LOCATION_NOUNS, "waiting": WAITING_NOUNS}


def _write_sentence(
    rng: random.Random,
    used: set[str],
    name: str,
    person: str,
    factors: tuple[str, str, str],
    previous_sentiment: str | None,
    is_last: bool,
) -> str:
    """One sentence about `factors` (aspect, sentiment, register). `used`: what the review has said already."""
    aspect, sentiment, register = factors
    business = BUSINESSES[name]
    topic = business["kind"] if aspect == "product" else aspect
    adjectives = ADJECTIVES[topic][sentiment]
    lexicon = {**business, **adjectives, "adj2": adjectives["adj"], "when": WHEN, "landmark": LANDMARKS}
    while True:  # until the length is right; the factors stay, so the chains are not touched
        words = _Words(rng, set(used), lexicon, thing=name, place=f"this {name}", **_PERSONS[person])
        noun = words.pick(_ASPECT_NOUNS.get(aspect) or business[aspect])
        words.update(_agreement(noun, rng, aspect == "service"))
        if aspect == "price":
            words["deal"], *prices = rng.choice(business["deals"])
            words["low"], words["usual_price"], words["high"] = (f"${rng.choice(pair)}" for pair in prices)

        turn, opening = (previous_sentiment, sentiment), ""
        if turn in BACK_REFERENCES and rng.random() < BACK_REFERENCE_RATE:
            template = "~" + words.pick(BACK_REFERENCES[turn][register])
        else:
            templates = FRAMES if rng.random() < FRAME_RATE else CLAUSES[topic]
            template = words.pick(templates[sentiment][register])
        if not template.startswith("~"):
            if previous_sentiment is None and rng.random() < INTRODUCTION_RATE:
                opening = words.expand(words.pick(INTRODUCTIONS[register])) + " "
                words["place"] = "it"
            elif previous_sentiment is not None and rng.random() < CONNECTIVE_RATE:
                opening = words.pick(CONNECTIVES[turn][register]) + " "
        if previous_sentiment is not None:
            words["place"] = rng.choice(("the place", "this place", f"the {name}"))

        sentence = opening + words.expand(template.removeprefix("~"))
        if "," not in template and "?" not in template:
            if is_last and rng.random() < CLOSING_RATE:
                sentence += words.expand(words.pick(CLOSINGS[sentiment][register]))
            elif rng.random() < TAIL_RATE:
                sentence += words.expand(words.pick(TAILS[topic][sentiment]))
        if register == "formal":
            sentence = _write_out(sentence)
        if not sentence.endswith("?"):
            sentence += "!" if rng.random() < EXCLAMATION_RATE[register] and sentiment != "neutral" else "."
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            used |= words.used
            return sentence[0].upper() + sentence[1:]


def _write_review(rng: random.Random) -> Review:
    name = rng.choice(tuple(BUSINESSES))
    person = rng.choice(BUSINESSES[name].get("person", ("I", "we")))
    (length,) = rng.choices(NUM_SENTENCES, NUM_SENTENCES_WEIGHTS)
    aspects = _walk(rng, ASPECTS, ASPECT_START, ASPECT_TRANSITIONS, length)
    sentiments = _walk(rng, SENTIMENTS, SENTIMENT_START, SENTIMENT_TRANSITIONS, length)
    registers = _walk(rng, REGISTERS, REGISTER_START, REGISTER_TRANSITIONS, length)
    used: set[str] = set()
    sentences = tuple(
        _write_sentence(rng, used, name, person, factors, sentiments[i - 1] if i else None, i == length - 1)
        for i, factors in enumerate(zip(aspects, sentiments, registers, strict=True))
    )
    return Review(" ".join(sentences), sentences, aspects, sentiments, registers, name)


def generate_reviews(num_reviews: int = 20_000, seed: int = 0) -> list[Review]:
    """Writes distinct short reviews, each sentence with its aspect, sentiment and register.

    The first reviews do not depend on how many are asked for: `generate_reviews(10)` starts `generate_reviews(100)`.

    Args:
        num_reviews (`int`, *optional*, defaults to 20000): How many reviews to write. No two have the same text.
        seed (`int`, *optional*, defaults to 0): The same seed gives the same reviews, on every machine.

    Returns:
        `list[Review]`: The reviews, in an order that says nothing (any slice is a fair sample).

    Raises:
        ValueError: If `num_reviews` is not an integer >= 1 or `seed` not an integer >= 0.

    Example:

    ```python
    >>> from modeling_trace.data.reviews import generate_reviews

    >>> review = generate_reviews(num_reviews=4, seed=0)[-1]
    >>> review.business
    'bakery'
    >>> for aspect, sentiment, sentence in zip(review.aspects, review.sentiments, review.sentences):
    ...     print(f"{aspect:12}{sentiment:10}{sentence}")
    product     positive  We came to this bakery on recommendation, and the bagels were baked with considerable skill.
    atmosphere  positive  Moreover, it is a pleasure to report that the shop was just right.
    cleanliness neutral   We have neither praise nor complaint regarding the trays.
    price       negative  Worse, the final price was, in our opinion, double what we expected.

    ```
    """
    _check_numbers(num_reviews, seed)
    rng = random.Random(seed)
    reviews: dict[str, Review] = {}  # by text; a dict keeps the order and drops what was written before
    while len(reviews) < num_reviews:
        review = _write_review(rng)
        reviews.setdefault(review.text, review)
    return list(reviews.values())


def _check_numbers(num_reviews: int, seed: int) -> None:
    if not isinstance(num_reviews, int) or num_reviews < 1:
        raise ValueError(f"`num_reviews` must be an integer >= 1, got {num_reviews!r}. Use 20000 as in the demo.")
    if not isinstance(seed, int) or seed < 0:  # random.Random takes None as "anything" and -1 as 1
        raise ValueError(f"`seed` must be an integer >= 0, got {seed!r}. Use 0 as in the demo.")


def review_dataset(num_reviews: int = 20_000, seed: int = 0) -> "Dataset":
    """The same reviews as a `datasets.Dataset`.

    Args:
        num_reviews (`int`, *optional*, defaults to 20000): How many reviews to write. No two have the same text.
        seed (`int`, *optional*, defaults to 0): The same seed gives the same reviews, on every machine.

    Returns:
        `datasets.Dataset`: Columns `text` and `business` (strings), `sentences`, `aspects`, `sentiments` and
        `registers` (lists of one string per sentence).

    Raises:
        ValueError: As `generate_reviews`.

    Example:

    ```python
    >>> from modeling_trace.data.reviews import review_dataset

    >>> dataset = review_dataset(num_reviews=100)
    >>> dataset.column_names
    ['text', 'sentences', 'aspects', 'sentiments', 'registers', 'business']

    ```
    """
    _check_numbers(num_reviews, seed)
    return _dataset(num_reviews, seed)


@lru_cache(maxsize=2)  # of the sizes that one process asks for again and again
def _dataset(num_reviews: int, seed: int) -> "Dataset":
    from datasets import Dataset  # here, because it takes longer to import than the reviews take to write

    reviews = generate_reviews(num_reviews, seed)
    return Dataset.from_dict(
        {field.name: [getattr(review, field.name) for review in reviews] for field in fields(Review)}
    )


__all__ = ["ASPECTS", "REGISTERS", "SENTIMENTS", "Review", "generate_reviews", "review_dataset"]
