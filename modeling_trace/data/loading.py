"""`load_texts`: training and validation texts from the Hub, local files, memory or the built-in corpus."""

import os
from typing import TYPE_CHECKING

from transformers.utils import logging

from .files import FileSettings
from .sources import REVIEWS, load_split
from .streaming import stream_texts
from .validation import (
    TextColumns,
    check_sizes,
    is_stream,
    named_columns,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.get_logger(__name__)


def load_texts(
    dataset: "str | os.PathLike | Dataset | IterableDataset",
    *,
    text_column: str | None = None,
    prompt_column: str | None = None,
    conditional: bool = False,
    drop_empty: bool = False,
    split: str = "train",
    validation_split: float | int | str | None = 0.1,
    max_texts: int | None = None,
    seed: int = 0,
    streaming: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> "tuple[Dataset | IterableDataset, Dataset | None]":
    """
    Load training and validation texts and check them, before any long work.

    Args:
        dataset (`str`, `os.PathLike` or `datasets.Dataset`): `"reviews"` for the built-in corpus; a Hub data set,
            `"org/name"` or `"org/name:config"`; a local file, folder or glob of .jsonl, .json, .csv, .tsv, .parquet or
            .txt (one text per line, blank lines are no texts), also with .gz; or a Dataset in memory. Texts of files
            are what stands there: `None`, `N/A` and numbers in a .csv file are texts.
        text_column (`str`, *optional*): the column with the texts. Found where one is called text, review, story,
            content, ... and, but for .csv files, whose first line may be none of names, where there is only one (text)
            column.
        prompt_column (`str`, *optional*): the column with the prompts, for `conditional`. Found where it is called
            prompt, title, question, ...
        conditional (`bool`, *optional*, defaults to `False`): texts have prompts. A data set with a column `prompt`
            that is not to be used as one must be told so: without it such a column is an error.
        drop_empty (`bool`, *optional*, defaults to `False`): leave rows without a text or prompt out, with a warning
            that says how many. They are an error otherwise.
        split (`str`, *optional*, defaults to `"train"`): the split to train on, also `"train[:10%]"`. Datasets in
            memory have none.
        validation_split (`float`, `int`, `str`, *optional*, defaults to 0.1): a fraction or a number of the training
            texts to keep back, or the name of a split, or `None`.
        max_texts (`int`, *optional*): use at most so many texts of each split, drawn at random.
        seed (`int`, *optional*, defaults to 0): for the draw of texts and of those held out.
        streaming (`bool`, *optional*, defaults to `False`): read the training texts as they are needed, in place of
            all of them first; so does an `IterableDataset`. They are drawn at random from a buffer of 10,000.
            `max_texts` then means the first ones, and `validation_split` a number of texts at the head of the stream,
            or a split; those are read into memory.
        encoding (`str`, *optional*): of local files, such as `"latin-1"` or `"utf-16"`; UTF-8 where left out.
        delimiter (`str`, *optional*): what separates the fields of a .csv file; told from its first line where left
            out.

    Returns:
        The training `Dataset` (or `IterableDataset`) and the validation `Dataset` or `None`. The texts are in the
        column `text`, prompts in `prompt`. Data sets in memory keep their other columns; those of files and streams
        are not read.

    Raises:
        ValueError: nothing found, an unknown split or column, empty texts (with their row numbers; in a stream when
            they are reached), a file that is not as its name or encoding says (with the line).

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from modeling_trace.data import load_texts

    >>> reviews = Dataset.from_dict({"review": ["Good food.", "Too loud.", "We will be back."], "stars": [5, 2, 4]})
    >>> train, validation = load_texts(reviews, validation_split=1)
    >>> len(train), len(validation), train.column_names
    (2, 1, ['text', 'stars'])

    ```
    """
    check_sizes(validation_split, max_texts)
    if prompt_column is not None and not conditional:
        raise ValueError(
            f"`prompt_column` is for conditional models, got {prompt_column!r}. Set conditional=True, or leave it out."
        )
    columns = TextColumns(text_column, prompt_column, conditional, drop_empty)
    settings = FileSettings(encoding, delimiter)
    if isinstance(validation_split, str):
        if not isinstance(dataset, (str, os.PathLike)) or str(dataset) == REVIEWS:
            raise ValueError(
                f"`validation_split` names a split, got {validation_split!r}, but this data set has none. Use a "
                "fraction such as 0.1."
            )
        if validation_split == split:
            raise ValueError(f"`validation_split` must not be the training split, got {split!r} for both.")

    if streaming or is_stream(dataset):
        return stream_texts(dataset, columns, settings, split, validation_split, max_texts, seed)

    # both are checked before either is cut down, so that row numbers are the user's own
    train = named_columns(load_split(dataset, "split", split, columns, settings, max_texts), columns)
    validation = None
    if isinstance(validation_split, str):
        named = load_split(dataset, "validation_split", validation_split, columns, settings, max_texts)
        validation = named_columns(named, columns)
    train = _at_most(train, max_texts, seed)
    if validation is not None:
        validation = _at_most(validation, max_texts, seed)
    elif validation_split:
        count = int(validation_split)
        if isinstance(validation_split, float):
            count = max(1, round(len(train) * validation_split))
        if count >= len(train):
            raise ValueError(
                f"`validation_split` must leave texts to train on, got {validation_split} of {len(train)} texts. "
                "Lower it, or use None."
            )
        parts = train.train_test_split(test_size=count, seed=seed)
        train, validation = parts["train"], parts["test"]
    logger.info(f"Loaded {len(train)} training and {0 if validation is None else len(validation)} validation texts.")
    return train, validation


def _at_most(dataset, max_texts: int | None, seed: int):
    if max_texts is None or len(dataset) <= max_texts:
        return dataset
    return dataset.shuffle(seed=seed).select(range(max_texts))


__all__ = ["load_texts"]
