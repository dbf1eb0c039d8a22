"""The real texts of an evaluation: which ones, and how many."""

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...data import load_texts
from ..ngrams import validate_texts
from ..words import WHITESPACE, cut_words
from .settings import MIN_TEXTS, check_least

if TYPE_CHECKING:
    import datasets

NUM_TEXTS = 1000
FEW_REFERENCES = 100  # below, n-grams are compared with training texts


@dataclass
class EvaluationData:
    """
    Real texts.

    Args:
        name (`str`): of the data set.
        real (`list[str]`): at least three. Each system generates as many for each decoding strategy and seed.
        references (`list[str]`): others, that n-gram distributions are compared with.
        prompts (`list[str]`, *optional*): those of `real`, for conditional models.
        max_words (`int`, *optional*): that all texts were cut at.
        uncut (`list[str]`, *optional*): `real` before it was cut, to be looked for among training texts; by default
            `real` itself.
        notes (`list[str]`): what a reader should know of them.
    """

    name: str
    real: list[str]
    references: list[str]
    prompts: list[str] | None = None
    max_words: int | None = None
    uncut: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def first(self, count: int) -> "EvaluationData":
        """The same with the first `count` of the real texts."""
        own = {name: getattr(self, name) for name in ("real", "prompts", "uncut")}
        return replace(self, **{name: texts and texts[:count] for name, texts in own.items()})


def load_real_texts(
    dataset: "str | os.PathLike | datasets.Dataset",
    *,
    text_column: str | None = None,
    prompt_column: str | None = None,
    conditional: bool = False,
    drop_empty: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
    split: str = "train",
    validation_split: float | int | str | None = 0.1,
    max_texts: int | None = None,
    num_texts: int | None = None,
    allow_fewer: bool = False,
    max_words: int | None = None,
    word_tokenizer: str = WHITESPACE,
) -> EvaluationData:
    """
    The texts that training with the same arguments holds out.

    Args:
        dataset (`str`, `os.PathLike` or `datasets.Dataset`): as for [`load_texts`], like `text_column`,
            `prompt_column`, `conditional`, `drop_empty`, `encoding`, `delimiter` and `max_texts`.
        split (`str`): as for [`load_texts`].
        validation_split (`float`, `int` or `str`, *optional*): as for [`load_texts`]. The validation texts are
            evaluated on; all of `split` for `None`.
        num_texts (`int`, *optional*): real texts to use, drawn at random; 1,000 by default, or as many as there are.
        allow_fewer (`bool`): use fewer texts than `num_texts` where there are no more.
        max_words (`int`, *optional*): cut every text after that many words.
        word_tokenizer (`str`, *optional*, defaults to `"whitespace"`): what words are, see [`word_splitter`].

    Returns:
        [`EvaluationData`]. Its references are the rest of these texts, or training texts where that are fewer than
        100.

    Raises:
        ValueError: for fewer texts than asked for or than three, for texts that are empty or hold [SEP], and as
            [`load_texts`] does.
    """
    check_least("num_texts", num_texts, MIN_TEXTS)
    check_least("max_words", max_words, 1)
    train, validation = load_texts(
        dataset,
        text_column=text_column,
        prompt_column=prompt_column,
        conditional=conditional,
        drop_empty=drop_empty,
        encoding=encoding,
        delimiter=delimiter,
        split=split,
        validation_split=validation_split,
        max_texts=max_texts,
    )
    name = str(dataset) if isinstance(dataset, (str, os.PathLike)) else "texts in memory"
    pool = train if validation is None else validation
    validate_texts(pool["text"], "dataset")  # before they are shuffled, for the numbers of the rows
    pool = pool.shuffle(seed=0)
    if len(pool) < MIN_TEXTS:
        raise ValueError(f"`dataset` must hold at least three texts to evaluate on, got {len(pool)}. Use more texts.")
    notes = []
    count = num_texts
    if count is None:  # without training texts, half of the texts are kept as references
        count = min(NUM_TEXTS, len(pool) if validation is not None else max(MIN_TEXTS, len(pool) // 2))
    if count > len(pool):
        if not allow_fewer:
            raise ValueError(
                f"`num_texts` must be at most the {len(pool)} texts that '{name}' holds for evaluation, "
                f"got {count}. Lower it, or go on with {len(pool)} by --allow_fewer."
            )
        notes.append(f"{count} texts were asked for; the data hold {len(pool)}, so all metrics are of {len(pool)}.")
        count = len(pool)
    uncut = pool["text"][:count]
    length = max_words, word_tokenizer
    references = [cut_words(text, *length) for text in pool["text"][count:]]
    if len(references) < FEW_REFERENCES and validation is not None:
        train = train.shuffle(seed=0).select(range(min(NUM_TEXTS, len(train))))
        references = [cut_words(text, *length) for text in train["text"]]
        notes.append(
            f"Too few validation texts are left beside the {count}, so texts are compared with {len(references)} "
            "training texts for CND: a model that knows them by heart would look good."
        )
    return EvaluationData(
        name=name,
        real=[cut_words(text, *length) for text in uncut],
        references=references,
        prompts=pool["prompt"][:count] if conditional else None,
        max_words=max_words,
        uncut=uncut,
        notes=notes,
    )


__all__ = ["NUM_TEXTS", "EvaluationData", "load_real_texts"]
