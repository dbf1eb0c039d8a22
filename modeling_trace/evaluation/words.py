"""The words of a text: one splitter for all metrics of words, chosen by the argument `word_tokenizer`."""

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from transformers.utils import logging

from .ngrams import require

logger = logging.get_logger(__name__)

WHITESPACE = "whitespace"  # as in the paper
CHARACTERS = "characters"
SACREBLEU = ("intl", "zh", "ja-mecab", "ko-mecab")  # by the names that sacrebleu gives them
WORD_TOKENIZERS = (WHITESPACE, CHARACTERS, *SACREBLEU)

# Scripts without spaces between words: name, letters, how many of them a word has at most on average, what suits them
UNSPACED = (
    (
        "Chinese or Japanese",
        re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"),
        3,
        "'zh', 'ja-mecab' or 'characters'",
    ),
    ("Thai, Lao, Burmese or Khmer", re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"), 8, "'characters'"),
)
UNSUITED_SHARE = 0.1  # of the texts: few are no reason to split all others in another way
NUM_INSPECTED = 1000  # texts


@cache
def word_splitter(word_tokenizer: str = WHITESPACE) -> Callable[[str], list[str]]:
    """
    The function from a text to its words.

    Args:
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): `"whitespace"` is `text.split()`, as in the
            paper; `"characters"` takes each character but white space for a word; `"intl"` (any language with spaces:
            punctuation is words of its own), `"zh"` (Chinese), `"ja-mecab"` and `"ko-mecab"` are sacrebleu's.

    Raises:
        ValueError: for a name that there is not.
        ImportError: without sacrebleu (the `eval` extra), or without MeCab for Japanese and Korean.
    """
    if word_tokenizer == WHITESPACE:
        return str.split
    if word_tokenizer == CHARACTERS:
        return lambda text: list("".join(text.split()))
    if word_tokenizer not in SACREBLEU:
        raise ValueError(
            f"`word_tokenizer` must be one of {list(WORD_TOKENIZERS)}, got {word_tokenizer!r}. Check the spelling."
        )
    package = require("sacrebleu", f"word_tokenizer='{word_tokenizer}'")
    try:
        tokenize = package.metrics.BLEU(tokenize=word_tokenizer).tokenizer
    except RuntimeError:  # in several lines
        language = word_tokenizer.removesuffix("-mecab")
        raise ImportError(
            f"word_tokenizer='{word_tokenizer}' requires MeCab: pip install 'sacrebleu[{language}]'"
        ) from None
    return lambda text: tokenize(" ".join(text.split())).split()  # sacrebleu's take single lines


def encode(texts: Sequence[str], word_tokenizer: str = WHITESPACE) -> tuple[np.ndarray, np.ndarray]:
    """
    Words as integers, the same integer for the same word; a warning where `word_tokenizer` does not suit the texts.

    Args:
        texts (`Sequence[str]`): as [`validate_texts`] returns them.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): as for [`word_splitter`].

    Returns:
        `tokens` of shape `(num_words,)`, all texts in a row, and `lengths` of shape `(num_texts,)`, in words.
    """
    warn_unsuited(texts, word_tokenizer)
    split_words = word_splitter(word_tokenizer)
    vocabulary: dict[str, int] = {}
    lengths = np.empty(len(texts), dtype=np.int64)

    def words():
        for row, text in enumerate(texts):
            split = split_words(text)
            lengths[row] = len(split)
            yield from (vocabulary.setdefault(word, len(vocabulary)) for word in split)

    tokens = np.fromiter(words(), dtype=np.int64)
    return tokens, lengths


def count_words(texts: Sequence[str], word_tokenizer: str = WHITESPACE) -> np.ndarray:
    """How many words each text has, `(num_texts,)`; arguments and warning as for [`encode`]."""
    warn_unsuited(texts, word_tokenizer)
    split_words = word_splitter(word_tokenizer)
    return np.array([len(split_words(text)) for text in texts], dtype=np.int64)


def describe_words(word_tokenizer: str) -> str:
    """What words are, for a reader of metrics."""
    names = {WHITESPACE: "what white space separates", CHARACTERS: "single characters"}
    return names.get(word_tokenizer) or f"those of sacrebleu's tokenizer '{word_tokenizer}'"


def cut_words(text: str, max_words: int | None, word_tokenizer: str = WHITESPACE) -> str:
    """The first `max_words` words of a text, with the spaces that it has."""
    if max_words is None:
        return text
    # All splitters keep every character but white space, in order
    length = sum(map(len, word_splitter(word_tokenizer)(text)[:max_words]))
    return re.match(rf"(?:\s*\S){{0,{length}}}", text)[0]


def find_unsuited(texts: Sequence[str], word_tokenizer: str) -> str | None:
    """
    A sentence for texts whose words `word_tokenizer` does not find, with the remedy; None where it does.

    Texts in a script without spaces between words come out as a few huge words: no n-gram is found twice, and all
    metrics of overlap are 0 whatever the texts are.

    Args:
        texts (`Sequence[str]`): the first 1,000 are looked at.
        word_tokenizer (`str`): as for [`word_splitter`].
    """
    texts = texts[:NUM_INSPECTED]
    split = word_splitter(word_tokenizer)
    for script, letters, most, remedy in UNSPACED:
        unsuited = 0
        for text in texts:
            if text.isascii() or 2 * len(letters.findall(text)) < len(text):  # mostly in other scripts
                continue
            counts = [count for word in split(text) if (count := len(letters.findall(word)))]
            unsuited += sum(counts) > most * len(counts)
        if unsuited > UNSUITED_SHARE * len(texts):
            return (
                f"`word_tokenizer` must suit texts in {script}, got '{word_tokenizer}', which takes whole sentences "
                f"for words: metrics of words mean nothing. Use {remedy}."
            )
    return None


def warn_unsuited(texts: Sequence[str], word_tokenizer: str) -> None:
    """Warn, once, of texts whose words are not found."""
    sentence = find_unsuited(texts, word_tokenizer)
    if sentence is not None:
        logger.warning_once(sentence)


__all__ = [
    "WHITESPACE",
    "WORD_TOKENIZERS",
    "count_words",
    "cut_words",
    "describe_words",
    "encode",
    "find_unsuited",
    "warn_unsuited",
    "word_splitter",
]
