"""
Diversity of generated texts (paper, Section 5.1), exact and near-linear in the number of words.

Words are those of `word_tokenizer`; metrics are x 100 unless their docstring says otherwise. Self-BLEU and Distinct
depend strongly on the number of texts: compare only equal numbers, and print as many real texts beside them.
"""

import gzip
from collections.abc import Sequence

import numpy as np

from .ngrams import (
    check_order,
    check_orders,
    check_paired,
    count_by_text,
    group_starts,
    ngrams,
    require,
    validate_texts,
)
from .words import WHITESPACE, encode

# Entries of the product of two sparse matrices that are held at once, 12 bytes each and as much again in passing
BLOCK_ENTRIES = 4_000_000
NUM_TRANSPOSED = 16  # times that the later of its factors is transposed


class SelfBleuTable:
    """
    What Self-BLEU needs of the n-grams of a set of texts, so that it can be had of many subsets of them.

    Args:
        texts (`Sequence[str]`): at least two.
        max_n (`int`, *optional*, defaults to 4): the longest n-grams.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].
    """

    def __init__(self, texts: Sequence[str], max_n: int = 4, word_tokenizer: str = WHITESPACE):
        texts = validate_texts(texts, minimum=2, extra="Self-BLEU compares each text with the others.")
        tokens, self.lengths = encode(texts, word_tokenizer)
        self.orders = []
        for grams, rows in ngrams(tokens, self.lengths, check_order(max_n, "max_n")):
            grams, rows, counts = count_by_text(grams, rows, len(texts))
            starts, sizes = group_starts(grams)
            shared = np.repeat(sizes > 1, sizes)  # the others match nothing
            self.orders.append([part[shared].astype(np.int32) for part in (grams, rows, counts)])

    def scores(self, keep: np.ndarray | None = None) -> np.ndarray:
        """
        Self-BLEU of each text.

        Args:
            keep (`np.ndarray` of booleans of shape `(num_texts,)`, *optional*): the texts of the subset.

        Returns:
            `np.ndarray` of shape `(num_kept,)`.
        """
        keep = np.ones(len(self.lengths), dtype=bool) if keep is None else keep
        matches = np.zeros((len(self.orders), len(keep)), dtype=np.int64)  # (n, N)
        for text_matches, (grams, rows, counts) in zip(matches, self.orders, strict=True):
            inside = keep[rows]
            grams, rows, counts = grams[inside], rows[inside], counts[inside]
            if not len(grams):
                continue
            starts, sizes = group_starts(grams)
            highest = np.repeat(np.maximum.reduceat(counts, starts), sizes)
            is_highest = counts == highest
            second = np.maximum.reduceat(np.where(is_highest, 0, counts), starts)
            alone = is_highest & np.repeat(np.add.reduceat(is_highest, starts, dtype=np.int32) == 1, sizes)
            # The largest count in any *other* text: the second largest for its only owner, else the largest
            in_others = np.where(alone, np.repeat(second, sizes), highest)
            text_matches += np.bincount(rows, np.minimum(counts, in_others), minlength=len(keep)).astype(np.int64)
        lengths = self.lengths[keep]
        return _bleu(matches[:, keep], lengths, _closest_other(lengths))


def _bleu(matches: np.ndarray, lengths: np.ndarray, reference_lengths: np.ndarray) -> np.ndarray:
    """Sentence BLEU x 100 from clipped matches `(n, N)`, with nltk's corners."""
    orders = np.arange(len(matches))[:, None]
    possible = np.maximum(1, lengths - orders)  # (n, N)
    precisions = np.where(matches == 0, 0.1, matches) / possible  # SmoothingFunction().method1
    ratio = reference_lengths / np.maximum(1, lengths)
    brevity = np.where(lengths > reference_lengths, 1.0, np.exp(1 - ratio))
    scores = brevity * np.exp(np.log(precisions).mean(axis=0))
    return 100 * np.where(matches[0] == 0, 0.0, scores)  # also the empty texts


def _closest(lengths: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """The nearest number of the sorted `pool` for each length, ties to the shorter."""
    place = np.searchsorted(pool, lengths)
    below, above = pool[np.maximum(place - 1, 0)], pool[np.minimum(place, len(pool) - 1)]
    return np.where(np.abs(lengths - below) <= np.abs(lengths - above), below, above)


def _closest_other(lengths: np.ndarray) -> np.ndarray:
    """The nearest length of another text for each text, ties to the shorter."""
    pool, which, sharers = np.unique(lengths, return_inverse=True, return_counts=True)
    if len(pool) == 1:
        return lengths
    places = np.arange(len(pool))
    below, above = pool[np.maximum(places - 1, 0)], pool[np.minimum(places + 1, len(pool) - 1)]
    below[0], above[-1] = above[0], below[-1]
    nearest = np.where(pool - below <= np.abs(above - pool), below, above)
    nearest[0] = above[0]
    return np.where(sharers > 1, pool, nearest)[which]


def self_bleu(
    texts: Sequence[str], max_n: int = 4, per_text: bool = False, word_tokenizer: str = WHITESPACE
) -> float | np.ndarray:
    """
    Self-BLEU (Zhu et al., 2018) x 100: the mean BLEU of each text with all the others as its references. Lower is
    more diverse.

    Equal to nltk's `sentence_bleu(others, text, weights=(1 / max_n,) * max_n,
    smoothing_function=SmoothingFunction().method1)`, in near-linear time: the clip of an n-gram is its largest count
    in any other text, which is the second largest count for the text that holds the largest alone, and the largest for
    all others.

    Args:
        texts (`Sequence[str]`): at least two. Empty texts count, as 0.
        max_n (`int`, *optional*, defaults to 4): the longest n-grams.
        per_text (`bool`, *optional*, defaults to `False`): whether to return what each text contributes.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        `float`, or `np.ndarray` of shape `(num_texts,)` whose mean it is. The contributions depend on one another: for
        an interval see [`metric_interval`].

    Raises:
        ValueError: for fewer than two texts, rows that are no strings, texts with `[SEP]`.

    Example:

    ```python
    >>> from modeling_trace.evaluation import self_bleu

    >>> round(self_bleu(["the soup was hot today", "the soup was cold today", "I like tea"]), 2)
    19.05

    ```
    """
    scores = SelfBleuTable(texts, max_n, word_tokenizer).scores()
    return scores if per_text else float(scores.mean())


def bleu(
    texts: Sequence[str],
    references: Sequence,
    max_n: int = 4,
    paired: bool = False,
    per_text: bool = False,
    word_tokenizer: str = WHITESPACE,
) -> float | np.ndarray:
    """
    Mean sentence BLEU x 100 against references, equal to nltk's `sentence_bleu` with method 1 smoothing.

    Args:
        texts (`Sequence[str]`): generated.
        references (`Sequence[str]`): all are references of every text; with `paired`, `references[i]`, a string or a
            list of strings, belongs to `texts[i]`.
        max_n (`int`, *optional*, defaults to 4): the longest n-grams: 1 for BLEU-1.
        paired (`bool`, *optional*, defaults to `False`): whether each text has references of its own.
        per_text (`bool`, *optional*, defaults to `False`): whether to return the score of each text.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        `float`, or `np.ndarray` of shape `(num_texts,)` whose mean it is.

    Raises:
        ValueError: for no texts, missing references, rows that are no strings, texts with `[SEP]`.
    """
    texts = validate_texts(texts)
    if paired:
        groups = check_paired(references, len(texts))
        owners = np.repeat(np.arange(len(texts)), [len(group) for group in groups])
        references = [text for group in groups for text in group]
    else:
        references = validate_texts(references, "references", extra="Pass the texts to compare with.")
    num_texts, num_all = len(texts), len(texts) + len(references)
    tokens, lengths = encode(texts + references, word_tokenizer)
    matches = []
    for grams, rows in ngrams(tokens, lengths, check_order(max_n, "max_n")):
        grams, rows, counts = count_by_text(grams, rows, num_all)
        is_text = rows < num_texts
        keys, reference_keys = grams[is_text], grams[~is_text]
        if paired:  # a count is only seen by the text whose reference it is from
            keys = keys * num_texts + rows[is_text]
            reference_keys = reference_keys * num_texts + owners[rows[~is_text] - num_texts]
        clips = _largest(keys, reference_keys, counts[~is_text])
        matches.append(np.bincount(rows[is_text], np.minimum(counts[is_text], clips), minlength=num_texts))
    lengths, reference_lengths = lengths[:num_texts], lengths[num_texts:]
    if paired:
        order = np.lexsort((reference_lengths, np.abs(reference_lengths - lengths[owners]), owners))
        closest = reference_lengths[order][group_starts(owners)[0]]
    else:
        closest = _closest(lengths, np.unique(reference_lengths))
    scores = _bleu(np.array(matches), lengths, closest)
    return scores if per_text else float(scores.mean())


def _largest(keys: np.ndarray, reference_keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The largest value with each key, 0 for keys that are not among `found`."""
    if not len(reference_keys):
        return np.zeros(len(keys), dtype=np.int64)
    order = np.lexsort((values, reference_keys))
    reference_keys, values = reference_keys[order], values[order]
    last = np.maximum(np.searchsorted(reference_keys, keys, side="right") - 1, 0)
    return np.where(reference_keys[last] == keys, values[last], 0)


def distinct_n(texts: Sequence[str], n: int = 2, word_tokenizer: str = WHITESPACE) -> float:
    """
    Distinct-n (Li et al., 2016) x 100: different n-grams over all n-grams of all texts. Higher is more diverse.

    Args:
        texts (`Sequence[str]`): generated.
        n (`int`, *optional*, defaults to 2): 2 as in the paper's tables.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Raises:
        ValueError: for no texts, only texts shorter than n words, rows that are no strings, texts with `[SEP]`.

    Example:

    ```python
    >>> from modeling_trace.evaluation import distinct_n

    >>> distinct_n(["so it goes", "so it was"], n=2)
    75.0

    ```
    """
    distinct, total = _count_ngrams(texts, n, word_tokenizer)
    return 100 * distinct / total


def _count_ngrams(texts, n, word_tokenizer) -> tuple[int, int]:
    """How many different n-grams there are, and how many in all."""
    tokens, lengths = encode(validate_texts(texts), word_tokenizer)
    *_, (grams, _) = ngrams(tokens, lengths, check_order(n))
    if not len(grams):
        raise ValueError(
            f"`texts` must hold texts of at least n={n} words, got {lengths.max()} at most. Use a smaller `n`."
        )
    return len(np.unique(grams)), len(grams)


def expectation_adjusted_distinct(
    texts: Sequence[str], vocab_size: int, n: int = 1, word_tokenizer: str = WHITESPACE
) -> float:
    """
    Expectation-adjusted Distinct (Liu et al., 2022, "Rethinking and Refining the Distinct Metric") x 100: different
    n-grams over the number to be expected of as many draws from a uniform distribution, V (1 - ((V - 1) / V)^C).

    It does not fall with the number of texts as Distinct does. Not bounded by 100.

    Args:
        texts (`Sequence[str]`): C is the number of their n-grams.
        vocab_size (`int`): words in the vocabulary of the real texts, the same for all systems. Counted on `texts`
            themselves it would make the metric 100 whatever they are.
        n (`int`, *optional*, defaults to 1): V = `vocab_size` ** n.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Raises:
        ValueError: as for [`distinct_n`], and for a `vocab_size` that is no whole number >= 2.
    """
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, (int, np.integer)) or vocab_size < 2:
        raise ValueError(
            f"`vocab_size` must be a whole number >= 2, got {vocab_size!r}. Count the words of the training texts."
        )
    distinct, total = _count_ngrams(texts, n, word_tokenizer)
    possible = float(vocab_size) ** n
    return 100 * distinct / (possible * -np.expm1(total * np.log1p(-1 / possible)))


def rep_n(
    texts: Sequence[str], n: int = 4, per_text: bool = False, word_tokenizer: str = WHITESPACE
) -> float | np.ndarray:
    """
    Rep-n (Welleck et al., 2020) x 100: the mean over texts of 1 - different n-grams / n-grams within the text.

    Args:
        texts (`Sequence[str]`): generated. Texts shorter than n words count, as 0.
        n (`int`, *optional*, defaults to 4): the length of n-grams.
        per_text (`bool`, *optional*, defaults to `False`): whether to return the score of each text.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        `float`, or `np.ndarray` of shape `(num_texts,)` whose mean it is.

    Raises:
        ValueError: for no texts, rows that are no strings, texts with `[SEP]`.
    """
    texts = validate_texts(texts)
    tokens, lengths = encode(texts, word_tokenizer)
    *_, (grams, rows) = ngrams(tokens, lengths, check_order(n))
    distinct = np.bincount(count_by_text(grams, rows, len(texts))[1], minlength=len(texts))
    total = np.maximum(lengths - n + 1, 0)
    scores = 100 * (total - distinct) / np.maximum(total, 1)
    return scores if per_text else float(scores.mean())


def compression_ratio(texts: Sequence[str]) -> float:
    """
    Compression ratio (Shaib et al., 2024): bytes of all texts (UTF-8, one per line) over their bytes under gzip, level
    9. Not x 100; lower is more diverse. Grows with the size of the texts, up to gzip's window of 32 KiB and beyond.

    Raises:
        ValueError: for no texts, nothing but empty texts, rows that are no strings, texts with `[SEP]`.
    """
    data = "\n".join(validate_texts(texts)).encode()
    if not data.strip():
        raise ValueError("`texts` must not all be empty. Check what was generated.")
    return len(data) / len(gzip.compress(data, compresslevel=9, mtime=0))


def jaccard_similarity(
    texts: Sequence[str],
    orders: Sequence[int] = (2, 3, 4),
    per_text: bool = False,
    word_tokenizer: str = WHITESPACE,
) -> float | np.ndarray:
    """
    Jaccard similarity x 100: |A & B| / |A | B| of the n-gram sets of two texts, mean over all pairs of texts, averaged
    over `orders`. Lower is more diverse; hardly depends on the number of texts.

    All pairs by products of sparse matrices, in blocks: memory grows with the number of texts, time with its square.
    Two texts without n-grams share nothing: 0.

    Args:
        texts (`Sequence[str]`): at least two.
        orders (`Sequence[int]`, *optional*, defaults to `(2, 3, 4)`): the lengths n of n-grams.
        per_text (`bool`, *optional*, defaults to `False`): whether to return each text's mean over all others.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        `float`, or `np.ndarray` of shape `(num_texts,)` whose mean it is. The contributions depend on one another: for
        an interval see [`metric_interval`].

    Raises:
        ValueError: for fewer than two texts, rows that are no strings, texts with `[SEP]`.
        ImportError: without scipy (the `eval` extra).

    Example:

    ```python
    >>> from modeling_trace.evaluation import jaccard_similarity

    >>> round(jaccard_similarity(["so it goes", "so it was"], orders=[1, 2]), 1)
    41.7

    ```
    """
    texts = validate_texts(texts, minimum=2, extra="Similarity is of pairs.")
    orders = check_orders(orders)
    sparse = require("scipy.sparse", "jaccard_similarity")
    tokens, lengths = encode(texts, word_tokenizer)
    totals = np.zeros(len(texts))
    for n, (grams, rows) in enumerate(ngrams(tokens, lengths, max(orders)), start=1):
        if n in orders:
            grams, rows, _ = count_by_text(grams, rows, len(texts))
            totals += _sum_of_jaccards(grams, rows, len(texts), sparse)
    scores = 100 * totals / (len(orders) * (len(texts) - 1))
    return scores if per_text else float(scores.mean())


def _sum_of_jaccards(grams: np.ndarray, rows: np.ndarray, num_texts: int, sparse) -> np.ndarray:
    """The sum over all other texts of the Jaccard similarity with each text, `(num_texts,)`."""
    set_sizes = np.bincount(rows, minlength=num_texts)
    _, sizes = group_starts(grams)
    shared = np.repeat(sizes > 1, sizes)  # the other n-grams are in no intersection
    columns = np.repeat(np.arange(len(sizes)), sizes)[shared]
    ones = np.ones(len(columns), dtype=np.int32)
    has = sparse.csr_matrix((ones, (rows[shared], columns)), shape=(num_texts, len(sizes)))
    totals = np.zeros(num_texts)
    height = max(1, BLOCK_ENTRIES // num_texts)
    stride = height * -(-num_texts // (height * NUM_TRANSPOSED))
    for base in range(0, num_texts, stride):
        # Pairs with an earlier text were counted from the other side. To transpose what is left for each block would
        # take longer than all the products
        others = has[base:].T.tocsr()
        for first in range(base, min(base + stride, num_texts), height):
            common = (has[first : first + height] @ others).tocoo()  # (texts of the block, texts from `base` on)
            left, right = common.row + first, common.col + base
            later = right > left
            left, right, both = left[later], right[later], common.data[later]
            jaccard = both / (set_sizes[left] + set_sizes[right] - both)
            totals += sum(np.bincount(side, jaccard, minlength=num_texts) for side in (left, right))
    return totals


def vendi_score(texts: Sequence[str], orders: Sequence[int] = (1, 2), word_tokenizer: str = WHITESPACE) -> float:
    """
    Vendi score (Friedman and Dieng, 2023): the effective number of different texts, exp of the entropy of the
    eigenvalues of K / N, with K the cosines of n-gram counts averaged over `orders`. Between 1 (all texts the same)
    and N (no n-gram shared); not x 100; higher is more diverse.

    Takes N^2 memory and N^3 time: 1,000 texts are a second, 10,000 are not for this function.

    Args:
        texts (`Sequence[str]`): at least two. A text without n-grams is like no other.
        orders (`Sequence[int]`, *optional*, defaults to `(1, 2)`): as in the authors' package.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Raises:
        ValueError: for fewer than two texts, rows that are no strings, texts with `[SEP]`.
        ImportError: without scipy (the `eval` extra).
    """
    texts = validate_texts(texts, minimum=2, extra="Similarity is of pairs.")
    orders = check_orders(orders)
    sparse = require("scipy.sparse", "vendi_score")
    tokens, lengths = encode(texts, word_tokenizer)
    kernel = np.zeros((len(texts), len(texts)))
    for n, (grams, rows) in enumerate(ngrams(tokens, lengths, max(orders)), start=1):
        if n in orders:
            grams, rows, counts = count_by_text(grams, rows, len(texts))
            norms = np.sqrt(np.bincount(rows, counts.astype(float) ** 2, minlength=len(texts)))
            shape = (len(texts), int(grams.max(initial=0)) + 1)
            unit = sparse.csr_matrix((counts / norms[rows], (rows, grams)), shape=shape)
            kernel += (unit @ unit.T).toarray() / len(orders)
    np.fill_diagonal(kernel, 1.0)
    eigenvalues = np.linalg.eigvalsh(kernel / len(texts))
    eigenvalues = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))


__all__ = [
    "bleu",
    "compression_ratio",
    "distinct_n",
    "expectation_adjusted_distinct",
    "jaccard_similarity",
    "rep_n",
    "self_bleu",
    "vendi_score",
]
