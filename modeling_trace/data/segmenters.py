"""Segmenters: where a text is cut into segments x_1, ..., x_T, one latent each (paper Sec. 4.1).

A segmenter never changes the tokens. The whole text is tokenised once, as a plain language model sees it, and the
token list is cut: by count, or at the tokens whose character offsets start a sentence or follow a match.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import pairwise
from math import prod

import regex
from transformers.utils import logging

from .sentences import (
    check_language,
    check_punkt,
    ends_sentence,
    pretrained_punkt,
    punkt_tokenizer,
    sentence_starts,
    train_punkt,
)

logger = logging.get_logger(__name__)

# Token offsets as fast tokenizers give them: one (first character, last character + 1) per token.
Offsets = list[tuple[int, int]]

# Limits on patterns, which may come with a downloaded processor
MATCH_SECONDS = 5.0  # of processor time for one text, as NLTK allows itself
MAX_PATTERN_LENGTH = 1000
MAX_REPEATS = 1000  # of all counts of a pattern multiplied: `regex` writes counted repetitions out


class Segmenter:
    """
    Base of all segmenters. A subclass sets `type`, its name in saved files, and implements [`~Segmenter.cut`] and
    [`~Segmenter.to_dict`]; it is then found by [`~Segmenter.from_dict`] and saved with the processor.

    Example:

    ```python
    >>> from modeling_trace.data import Segmenter

    >>> class HalvesSegmenter(Segmenter):
    ...     type = "halves"
    ...     needs_offsets = False
    ...
    ...     def cut(self, text, offsets):
    ...         return [len(offsets) // 2] if len(offsets) > 1 else []

    >>> Segmenter.from_dict({"type": "halves"}).cut("a b c d", [(0, 1), (2, 3), (4, 5), (6, 7)])
    [2]

    ```
    """

    type: str | None = None
    needs_offsets: bool = True  # False: only the number of tokens counts, slow tokenizers will do
    segment_length: int | None = None  # tokens per segment where all are equal, for `TraceConfig.segment_length`

    _registry: dict[str, Callable[..., "Segmenter"]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("type") is not None:
            Segmenter._registry[cls.type] = cls

    def cut(self, text: str, offsets: Offsets) -> list[int]:
        """
        Say where new segments start.

        Args:
            text (`str`): the whole text.
            offsets (`list[tuple[int, int]]`): the character span of every token of the text. With a slow tokenizer,
                and only where `needs_offsets` is False, a list of `None` of the same length.

        Returns:
            `list[int]`: the indices, sorted and greater than 0, of the tokens that start a new segment.
        """
        raise NotImplementedError(f"{self.__class__.__name__} must implement `cut`.")

    def closes(self, piece: str) -> bool:
        """
        Whether a token with this text closes a segment: the rule of `separator="none"`, by which segments of varying
        length end where no [SEP] is written, in training and in generation alike.

        Args:
            piece (`str`): the text of one token of the vocabulary.

        Raises:
            ValueError: where a segment's end cannot be told from its last token.
        """
        raise ValueError(
            f"`separator='none'` needs segments whose end their last token tells, which {self.__class__.__name__} "
            "does not know. Use separator='token'."
        )

    def to_dict(self) -> dict:
        """The segmenter as JSON-ready values, with its `type`."""
        return {"type": self.type}

    @staticmethod
    def from_dict(values: dict) -> "Segmenter":
        """Build a segmenter from [`~Segmenter.to_dict`]'s values or from a config, e.g. `{"type": "sentence"}`."""
        known = ", ".join(sorted(Segmenter._registry))
        if not isinstance(values, dict) or "type" not in values:
            raise ValueError(f"`segmenter` must be a dict with a `type` field, got {values!r}. Types: {known}.")
        values = dict(values)
        name = values.pop("type")
        cls = Segmenter._registry.get(name) if isinstance(name, str) else None
        if cls is None:
            raise ValueError(
                f"`type` of the segmenter is unknown, got {name!r}. Use one of: {known} (a segmenter of your own: "
                "import its module first)."
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"`segmenter` of type '{name}' does not take these fields: {error}.") from None

    @property
    def is_ready(self) -> bool:
        """False while [`~Segmenter.fit`] must be called before anything can be cut."""
        return True

    def fit(self, texts: Iterable[str]) -> "Segmenter":
        """Learn from the training texts what [`~Segmenter.cut`] needs; most segmenters need nothing."""
        return self

    def __eq__(self, other):
        return isinstance(other, Segmenter) and self.to_dict() == other.to_dict()

    def __repr__(self):
        values = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{self.__class__.__name__}({values})"

    def _arguments(self) -> dict:
        return {name: value for name, value in self.to_dict().items() if name != "type"}


class FixedLengthSegmenter(Segmenter):
    """
    A new segment every `length` tokens: the paper's setting for Yelp and Yahoo. The last segment holds what is left.

    Args:
        length (`int`, *optional*, defaults to 10): tokens per segment, [SEP] not counted.
    """

    type = "fixed_length"
    needs_offsets = False

    def __init__(self, length: int = 10):
        _check_positive("length", length, "Use 10 as in the paper.")
        self.length = length

    @property
    def segment_length(self) -> int:  # type: ignore[override]
        return self.length

    def cut(self, text: str, offsets: Offsets) -> list[int]:
        return list(range(self.length, len(offsets), self.length))

    def to_dict(self) -> dict:
        return {"type": self.type, "length": self.length}


class SentenceSegmenter(Segmenter):
    """
    A new segment at every sentence, as found by NLTK's Punkt (Kiss and Strunk, 2006): the paper's setting for
    WritingPrompts.

    Punkt's parameters come from, in this order: [`~SentenceSegmenter.fit`] on texts of your own; NLTK's `punkt_tab`
    data where it is installed. Nothing is ever downloaded. The parameters in use are saved with the segmenter, so that
    a loaded one cuts as it did in training, also where `punkt_tab` is missing.

    Where Punkt, made for Latin script, knows no full stop, the script's own ends a sentence: Chinese, Japanese, Hindi,
    Urdu and others. Scripts without any, such as Thai, need a [`RegexSegmenter`].

    A segment starts at a token whose first visible character starts a sentence. A sentence that starts inside a token
    stays with the sentence before it.

    Args:
        min_tokens (`int`, *optional*, defaults to 1): shorter sentences are joined to the next one (the last one to
            the one before).
        max_tokens (`int`, *optional*): longer segments are split into equal parts of at most so many tokens. At least
            `2 * min_tokens - 1`, so that no part is shorter than `min_tokens`.
        language (`str`, *optional*, defaults to `"english"`): which of the `punkt_tab` models to use.
        punkt (`dict`, *optional*): Punkt parameters as [`~SentenceSegmenter.to_dict`] gives them.

    Example:

    ```python
    >>> from modeling_trace.data import SentenceSegmenter

    >>> segmenter = SentenceSegmenter().fit(["Dr. Who came. He left again.", "I saw Dr. Who. It was late."])
    >>> segmenter.cut("He came. It rained.", [(0, 2), (2, 7), (7, 8), (8, 11), (11, 18), (18, 19)])
    [3]

    ```
    """

    type = "sentence"

    def __init__(
        self,
        min_tokens: int = 1,
        max_tokens: int | None = None,
        language: str = "english",
        punkt: dict | None = None,
    ):
        _check_positive("min_tokens", min_tokens, "Use 1 to keep every sentence.")
        if max_tokens is not None:
            _check_positive("max_tokens", max_tokens, "Use None to never split a sentence.")
            if max_tokens < 2 * min_tokens - 1:
                raise ValueError(
                    f"`max_tokens` must be at least 2 * min_tokens - 1 = {2 * min_tokens - 1}, got {max_tokens}. "
                    "Raise it, or lower `min_tokens`."
                )
        self.min_tokens = min_tokens
        self.max_tokens = max_tokens
        self.language = check_language(language)
        self._punkt = check_punkt(punkt)
        self._tokenizer = None

    @property
    def is_ready(self) -> bool:
        return self._parameters() is not None

    def fit(self, texts: Iterable[str], max_characters: int = 1_000_000) -> "SentenceSegmenter":
        """
        Train Punkt (abbreviations, collocations, frequent sentence starters) on texts of your own, unsupervised.
        A handful of English titles and the like (Dr., e.g.) are known without training.

        Args:
            texts (`Iterable[str]`): the training texts; a few hundred will do.
            max_characters (`int`, *optional*, defaults to 1,000,000): stop reading after so much text (a few seconds);
                more changes next to nothing.

        Returns:
            The same segmenter.
        """
        if isinstance(texts, str):
            raise ValueError("`texts` must be an iterable of texts, got a single string. Use [text].")
        sample, size = [], 0
        for text in texts:
            sample.append(text)
            size += len(text)
            if size >= max_characters:
                break
        if size == 0:
            raise ValueError(f"`texts` must hold some text, got {len(sample)} texts and 0 characters.")
        self._punkt = train_punkt(sample, self.language)
        self._tokenizer = None
        logger.info(f"Trained Punkt on {len(sample)} texts ({size} characters).")
        return self

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text, before tokens come into it. Those of punctuation alone stay with the one before."""
        return [text[start:end].strip() for start, end in pairwise([*self._starts(text), len(text)])]

    def _starts(self, text: str) -> list[int]:
        return sentence_starts(self._punkt_tokenizer(), text)

    def closes(self, piece: str) -> bool:
        if (self.min_tokens, self.max_tokens) != (1, None):
            raise ValueError(
                f"`min_tokens` and `max_tokens` need [SEP], got {self.min_tokens} and {self.max_tokens}: without one "
                "a sentence ends where it ends. Leave them out, or use separator='token'."
            )
        return ends_sentence(piece)

    def cut(self, text: str, offsets: Offsets) -> list[int]:
        cuts = _cuts_at(text, offsets, self._starts(text))
        return _even_lengths(cuts, len(offsets), self.min_tokens, self.max_tokens)

    def to_dict(self) -> dict:
        return {
            "type": self.type,
            "min_tokens": self.min_tokens,
            "max_tokens": self.max_tokens,
            "language": self.language,
            "punkt": self._parameters(),
        }

    def _arguments(self):
        return {"min_tokens": self.min_tokens, "max_tokens": self.max_tokens, "language": self.language}

    def _parameters(self) -> dict | None:
        if self._punkt is None:
            self._punkt = pretrained_punkt(self.language)
        return self._punkt

    def _punkt_tokenizer(self):
        if self._tokenizer is None:
            parameters = self._parameters()
            if parameters is None:
                raise ValueError(
                    f"`SentenceSegmenter` has no Punkt parameters, got none for '{self.language}'. Train them on your "
                    "texts with segmenter.fit(texts), or install NLTK's: python -m nltk.downloader punkt_tab."
                )
            self._tokenizer = punkt_tokenizer(parameters)
        return self._tokenizer

    def __getstate__(self):
        return {**self.__dict__, "_tokenizer": None}  # rebuilt on first use; keeps pickles small and repeatable


class RegexSegmenter(Segmenter):
    r"""
    A new segment after each match of a pattern. The match itself belongs to the segment before.

    Segments without a visible character, and segments that would start inside a token, are joined to the one before.

    Args:
        pattern (`str`): a regular expression of Python's `re`, e.g. `r"\n+"` (lines), `r"\n\s*\n"` (paragraphs) or
            `r"(?<=[.!?])\s+"` (sentences, roughly). Flags go inside: `r"(?i)chapter"`. Of at most 1,000 characters,
            with counts such as `{2,3}` that multiply to at most 1,000.

    Raises:
        ValueError: for a pattern that is none, is too long, or matches the empty string everywhere.
        TimeoutError: from [`~Segmenter.cut`], for a text in which to look for the pattern takes more than 5 seconds,
            as `(a+)+b` may; from [`TraceProcessor`] a ValueError with the text's row.

    Example:

    ```python
    >>> from modeling_trace.data import RegexSegmenter

    >>> RegexSegmenter(r"\n+").cut("one two\nthree", [(0, 3), (3, 7), (7, 8), (8, 13)])
    [3]

    ```
    """

    type = "regex"

    def __init__(self, pattern: str):
        if not isinstance(pattern, str):
            raise ValueError(f"`pattern` must be a string, got {pattern!r}. Pass the source of the expression.")
        self._expression = _compile(pattern)
        # probed between two letters: an empty match there means one between any two characters
        if any(match.span() == (1, 1) for match in self._matches("ab")):
            raise ValueError(
                f"`pattern` must match what separates two segments, got {pattern!r}, which matches the empty string "
                "everywhere. Use + in place of *."
            )
        self.pattern = pattern

    def cut(self, text: str, offsets: Offsets) -> list[int]:
        return _cuts_at(text, offsets, [match.end() for match in self._matches(text)])

    def _matches(self, text: str) -> list:
        return list(self._expression.finditer(text, timeout=MATCH_SECONDS))

    def to_dict(self) -> dict:
        return {"type": self.type, "pattern": self.pattern}


def _compile(pattern: str):
    """
    The pattern as `re` takes it, for `regex`, the one of the two that can be given a time limit.

    Raises:
        ValueError: for what is no pattern of `re`, or would take long to compile.
    """
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"`pattern` must have at most {MAX_PATTERN_LENGTH} characters, got {len(pattern)}: {pattern!r:.40}. Write "
            "a shorter one."
        )
    # escapes are stepped over; a named character has braces of its own
    braces = [match[1] for match in re.finditer(r"\\N\{[^}]*\}|\\.|\{([^{}]*)\}", pattern, re.DOTALL)]
    counts = [inside for inside in braces if inside is not None]
    if not all(re.fullmatch(r"[0-9]*,?[0-9]*", count) for count in counts):  # to `regex` such may be a fuzzy match
        raise ValueError(f"`pattern` must have counts in braces, got {pattern!r}. Write \\{{ for a brace itself.")
    numbers = (re.findall("[0-9]+", count) for count in counts)
    repeats = prod(max([1, *map(int, bounds)]) for bounds in numbers)
    if repeats > MAX_REPEATS:
        raise ValueError(
            f"`pattern` must have counts that multiply to at most {MAX_REPEATS}, got {pattern!r}. Use + or * in place "
            "of large counts."
        )
    try:
        re.compile(pattern)
        return regex.compile(pattern, regex.VERSION0)
    except (re.error, regex.error, RecursionError) as error:
        raise ValueError(f"`pattern` is not a regular expression, got {pattern!r:.80}: {error}.") from None


def _check_positive(name: str, value, remedy: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be an integer >= 1, got {value!r}. {remedy}")


def _cuts_at(text: str, offsets: Offsets, positions: list[int]) -> list[int]:
    """
    Token indices for character positions: the token whose first visible character is the first one at or after the
    position. A position inside a token gives no cut; segments that hold nothing visible are joined to a neighbour.
    """

    # Tokenizers differ in whether a token's span holds the blank before the word: step over it.
    def visible_start(span: tuple[int, int]) -> int:
        start, end = span
        first = start
        while first < end and text[first].isspace():
            first += 1
        return start if first == end else first  # a token of blanks only starts where it starts

    cuts = set()
    for position in positions:
        index = bisect_left(offsets, position, key=visible_start)  # looks at few of the tokens
        if 0 < index < len(offsets) and not text[position : visible_start(offsets[index])].strip():
            cuts.add(index)

    bounds = [0]
    for end in [*sorted(cuts), len(offsets)]:
        if text[offsets[bounds[-1]][0] : offsets[end - 1][1]].strip():
            bounds.append(end)
        elif len(bounds) > 1:
            bounds[-1] = end  # joined to the segment before; at the start of a text, to the one after
    return [bound for bound in bounds[1:] if bound < len(offsets)]


def _even_lengths(cuts: list[int], length: int, min_tokens: int, max_tokens: int | None) -> list[int]:
    """Join segments shorter than `min_tokens`, then split those longer than `max_tokens` into equal parts."""
    bounds = [0]
    for cut in cuts:
        if cut - bounds[-1] >= min_tokens:
            bounds.append(cut)
    if len(bounds) > 1 and length - bounds[-1] < min_tokens:
        bounds.pop()
    if max_tokens is not None:
        parts = []
        for start, end in pairwise([*bounds, length]):
            count = -(-(end - start) // max_tokens)
            parts.extend(start + (end - start) * part // count for part in range(count))
        bounds = parts
    return bounds[1:]


__all__ = ["FixedLengthSegmenter", "RegexSegmenter", "Segmenter", "SentenceSegmenter"]
