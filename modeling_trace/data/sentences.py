"""Where sentences start and end, in any script: NLTK's Punkt (Kiss and Strunk, 2006), its parameters as JSON."""

import re
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# What ends a sentence in scripts other than the Latin one, and nothing else (Unicode's Sentence_Terminal): Chinese and
# Japanese, the dandas of India, Arabic and Urdu, Armenian, Ethiopic, Burmese, Khmer, Mongolian. Punkt knows none.
_SCRIPT_ENDS = "\u3002\uff01\uff1f\uff61\u0964\u0965\u061f\u06d4\u0589\u1362\u1367\u104a\u104b\u17d4\u17d5\u1803\u1809"
_QUOTES = r"['\"\u2019\u201d\u00bb)\]\u300d\u300f\uff09\u300b]*"
_SCRIPT_END = re.compile(rf"[{_SCRIPT_ENDS}]+{_QUOTES}\s*")
# The end of a sentence, perhaps in quotation marks or brackets
_SENTENCE_END = re.compile(rf"[.!?\u2026{_SCRIPT_ENDS}]{_QUOTES}\s*$")
_WORD = re.compile(r"\w")

# Too rare in most corpora for Punkt to learn, and never the end of a sentence.
_ENGLISH_ABBREVIATIONS = {"dr", "e.g", "i.e", "jr", "mr", "mrs", "ms", "prof", "sr", "st", "vs"}


def ends_sentence(piece: str) -> bool:
    """Whether the end of `piece` is that of a sentence, as far as a token can tell."""
    return _SENTENCE_END.search(piece) is not None


def sentence_starts(tokenizer: "PunktSentenceTokenizer", text: str) -> list[int]:
    """The characters at which sentences start, found by a tokenizer of [`punkt_tokenizer`] and the full stops of
    scripts that Punkt does not know."""
    bounds = {start for start, _ in tokenizer.span_tokenize(text)}
    bounds.update(match.end() for match in _SCRIPT_END.finditer(text))
    starts = []
    for start, end in pairwise(sorted(bounds | {len(text)})):
        # "! !" and ":)" come out of Punkt as sentences; they say nothing that a latent could carry
        if not starts or _WORD.search(text, start, end):
            starts.append(start)
    return starts


def train_punkt(texts: list[str], language: str) -> dict:
    """
    Learn Punkt's parameters from texts.

    Raises:
        ValueError: for a text on which NLTK gives up, with its row.
    """
    from nltk.tokenize.punkt import PunktTrainer

    try:
        # one text per paragraph: Punkt knows that a paragraph starts a sentence
        parameters = PunktTrainer("\n\n".join(texts)).get_params()
    except TimeoutError:
        for row, text in enumerate(texts):  # which one it is
            try:
                PunktTrainer(text)
            except TimeoutError:
                raise ValueError(gives_up("texts", text, row)) from None
        row = max(range(len(texts)), key=lambda row: len(texts[row]))
        raise ValueError(gives_up("texts", texts[row], row)) from None
    if language == "english":
        parameters.abbrev_types |= _ENGLISH_ABBREVIATIONS
    return _to_json(parameters)


def punkt_tokenizer(parameters: dict) -> "PunktSentenceTokenizer":
    """NLTK's tokenizer with these parameters."""
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(_from_json(parameters))


def gives_up(name: str, text: str, row: int) -> str:
    """The error for a text that NLTK or a [`RegexSegmenter`], which limit themselves to seconds, cannot cut."""
    return (
        f"`{name}` must be such that the segmenter cuts each within seconds, got one of {len(text):,} characters on "
        f"which it gives up, in row {row}: {text!r:.40}. Leave it out, or use another segmenter."
    )


# Punkt parameters as JSON. The orthographic context is a word -> bit field table of tens of thousands of words; words
# hold no blanks, so that the words of one bit field fit in one string, and the saved file stays short enough to read.


def _to_json(parameters) -> dict:
    context = {}
    for word, bits in parameters.ortho_context.items():
        if bits:
            context.setdefault(str(bits), []).append(word)
    return {
        "abbrev_types": " ".join(sorted(parameters.abbrev_types)),
        "collocations": [list(pair) for pair in sorted(parameters.collocations)],
        "sent_starters": " ".join(sorted(parameters.sent_starters)),
        "ortho_context": {bits: " ".join(sorted(words)) for bits, words in sorted(context.items())},
    }


def _from_json(values: dict):
    from nltk.tokenize.punkt import PunktParameters

    parameters = PunktParameters()
    parameters.abbrev_types = set(values["abbrev_types"].split())
    parameters.sent_starters = set(values["sent_starters"].split())
    parameters.collocations = {tuple(pair) for pair in values["collocations"]}
    for bits, words in values["ortho_context"].items():
        for word in words.split():
            parameters.ortho_context[word] = int(bits)
    return parameters


def check_punkt(values: dict | None) -> dict | None:
    """The parameters, which may come from a file, once it is sure that they can be read by [`punkt_tokenizer`]."""
    fields = ("abbrev_types", "collocations", "sent_starters", "ortho_context")
    if values is None:
        return None
    good = isinstance(values, dict) and sorted(map(str, values)) == sorted(fields)
    if good:
        try:
            _from_json(values)
        except (AttributeError, TypeError, ValueError):
            good = False
    if not good:
        raise ValueError(
            f"`punkt` must hold the fields {', '.join(fields)} as saved, got {values!r:.80}. Use segmenter.fit(texts)."
        )
    return values


def check_language(language: str) -> str:
    """The language of Punkt, which becomes the name of a folder in NLTK's data and so must not lead out of it."""
    if not isinstance(language, str) or not re.fullmatch("[A-Za-z_]+", language):
        raise ValueError(f"`language` must be the name of a language, got {language!r:.80}. Use 'english'.")
    return language


def pretrained_punkt(language: str) -> dict | None:
    """NLTK's own parameters, or None where its `punkt_tab` data is not installed."""
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        return _to_json(PunktTokenizer(language)._params)
    except LookupError:
        return None


__all__ = [
    "check_language",
    "check_punkt",
    "ends_sentence",
    "gives_up",
    "pretrained_punkt",
    "punkt_tokenizer",
    "sentence_starts",
    "train_punkt",
]
