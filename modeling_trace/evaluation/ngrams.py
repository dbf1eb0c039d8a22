"""What the text metrics share: the checks of their input, and exact n-gram ids as integers in near-linear time."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)

SEPARATOR = "[SEP]"


def require(module: str, what: str, extra: str = "eval") -> ModuleType:
    """Import an optional package by its name, or raise an ImportError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"{what} requires the `{extra}` extra: pip install 'modeling-trace[{extra}]'"
        raise ImportError(message) from None


class ValidatedTexts(list):
    """Texts that passed [`validate_texts`], so that subsets of them need not again."""


def validate_texts(texts: Sequence[str], name: str = "texts", minimum: int = 1, extra: str = "") -> list[str]:
    """
    The texts as a list, or a ValueError of one line.

    Empty texts pass, as they do in nltk; a warning says how many there are.

    Args:
        texts (`Sequence[str]`): one string per text, without special tokens.
        name (`str`, *optional*): the argument that the errors name.
        minimum (`int`, *optional*): how many texts are needed.
        extra (`str`, *optional*): a further remedy, where there are too few.

    Raises:
        ValueError: for no texts, fewer than `minimum`, a row that is not a string, a text that still holds `[SEP]`.
    """
    if texts is None:
        raise ValueError(f"`{name}` is missing, got None. Pass a list of strings.")
    if isinstance(texts, (str, bytes, dict)) or not hasattr(texts, "__iter__"):
        hint = f"Did you mean [{name}]?" if isinstance(texts, str) else "Use dataset['text'] for a data set."
        raise ValueError(f"`{name}` must be a list of strings, got {type(texts).__name__}. {hint}")
    checked, texts = isinstance(texts, ValidatedTexts), ValidatedTexts(texts)
    if len(texts) < minimum:
        number = "one text" if minimum == 1 else "two texts" if minimum == 2 else f"{minimum} texts"
        raise ValueError(f"`{name}` must hold at least {number}, got {len(texts)}. {extra or 'Generate more texts.'}")
    if checked:
        return texts
    for row, text in enumerate(texts):
        check_row(text, f"{name}[{row}]")
    empty = sum(not text.strip() for text in texts)
    if empty:
        logger.warning_once(f"{empty} of {len(texts)} `{name}` are empty. They are counted like the others.")
    return texts


def check_row(text: object, name: str) -> None:
    """Refuse a row that is not a string or still holds `[SEP]`; `name` is what the error calls it."""
    if not isinstance(text, str):
        hint = "Join its words by ' '.join(words)." if isinstance(text, (list, tuple)) else "Drop or convert the row."
        raise ValueError(f"`{name}` must be a string, got {type(text).__name__}. {hint}")
    if SEPARATOR in text:
        raise ValueError(
            f"`{name}` must be plain text, got one that still contains '{SEPARATOR}'. "
            "Decode with skip_special_tokens=True."
        )


def check_paired(references: Sequence, num_texts: int) -> list[list[str]]:
    """References of each text, as lists: `references[i]` is a string or a list of strings."""
    if references is None:
        raise ValueError("`references` is missing, got None. Pass one string (or a list of strings) per text.")
    if isinstance(references, (str, bytes, dict)) or not hasattr(references, "__iter__"):
        raise ValueError(
            f"`references` must be a list, got {type(references).__name__}. Pass one string per text, in their order."
        )
    references = [[row] if isinstance(row, str) else row for row in references]
    if len(references) != num_texts:
        raise ValueError(
            f"`references` must hold one entry per text, got {len(references)} for {num_texts} texts. "
            "Keep the order and length of the texts."
        )
    for row, row_references in enumerate(references):
        if not isinstance(row_references, (list, tuple)):
            raise ValueError(
                f"`references[{row}]` must be a string or a list of strings, got {type(row_references).__name__}. "
                "Drop or convert the row."
            )
        if not row_references:
            raise ValueError(f"`references[{row}]` must hold at least one reference, got an empty list. Drop the row.")
        for number, text in enumerate(row_references):
            check_row(text, f"references[{row}]" if len(row_references) == 1 else f"references[{row}][{number}]")
    return [list(row_references) for row_references in references]


def check_order(n: object, name: str = "n") -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"`{name}` must be a whole number >= 1, got {n!r}. Use 2 for pairs of words.")
    return int(n)


def check_orders(orders: Iterable[int]) -> tuple[int, ...]:
    if isinstance(orders, (str, bytes)) or not hasattr(orders, "__iter__"):
        raise ValueError(f"`orders` must be several whole numbers, got {orders!r}. Use (2, 3, 4).")
    orders = tuple(check_order(n, "orders") for n in orders)
    if not orders or len(set(orders)) < len(orders):
        raise ValueError(f"`orders` must hold different numbers, at least one, got {orders}. Use (2, 3, 4).")
    return orders


def ngrams(tokens: np.ndarray, lengths: np.ndarray, max_n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    All n-grams of n = 1, 2, ..., `max_n`, in the order of the texts; equal integers if and only if equal n-grams.

    An n-gram is the pair of the two (n-1)-grams that it consists of. Their ids are dense, so that the id of the pair
    is exact (no hashing) and stays far below 2^63.

    Yields:
        `grams` and `rows` (the text of each), both of shape `(num_ngrams,)`.
    """
    grams, rows = tokens, np.repeat(np.arange(len(lengths)), lengths)
    yield grams, rows
    for _ in range(max_n - 1):
        inside = rows[1:] == rows[:-1]
        pairs = grams[:-1][inside] * (grams.max(initial=0) + 1) + grams[1:][inside]
        grams, rows = np.unique(pairs, return_inverse=True)[1], rows[:-1][inside]
        yield grams, rows


def count_by_text(grams: np.ndarray, rows: np.ndarray, num_texts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different (n-gram, text) pairs sorted by n-gram, then text, and how often each occurs."""
    pairs, counts = np.unique(grams * num_texts + rows, return_counts=True)
    return *np.divmod(pairs, num_texts), counts


def group_starts(sorted_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal ids starts, and how long it is."""
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))
    return starts, np.diff(starts, append=len(sorted_ids))
