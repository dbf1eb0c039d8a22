"""Data sets of texts: from the Hub, local files, memory or the built-in corpus, to the rows that the Trainer takes."""

import os
from typing import TYPE_CHECKING

from transformers.utils import logging

from .files import FileSettings
from .processor import TraceProcessor
from .sources import REVIEWS, check_cache, load_split
from .streaming import prepare_stream, stream_texts
from .validation import (
    TextColumns,
    check_column,
    check_conditional,
    check_dataset,
    check_rows,
    check_sizes,
    dataset_kinds,
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
        seed (`int`, *optional*, defaults to 0): for the drawing and for the texts kept back.
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
        count = validation_split
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


def prepare_dataset(
    dataset: "Dataset | IterableDataset",
    processor: TraceProcessor,
    *,
    text_column: str = "text",
    prompt_column: str = "prompt",
    max_length: int | None = None,
    num_proc: int | None = None,
) -> "Dataset | IterableDataset":
    """
    Tokenise a data set for the Trainer: `input_ids` and `attention_mask` as the processor writes them.

    A [`SentenceSegmenter`] without Punkt parameters is trained on these texts first, so prepare the training set
    before the validation set. The result is kept in the cache of `datasets`, where a data set read from files has one:
    the same texts, processor and `max_length` are not tokenised again. The texts of an `IterableDataset` are tokenised
    as they are read.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): the texts.
        processor ([`TraceProcessor`]): tokenizer and segmenter.
        text_column (`str`, *optional*, defaults to `"text"`): the column with the texts.
        prompt_column (`str`, *optional*, defaults to `"prompt"`): the column with their prompts, for a conditional
            processor only.
        max_length (`int`, *optional*): longest row in tokens; longer texts lose whole segments at their end, prompts
            are kept whole.
        num_proc (`int`, *optional*): processes to use; not for an `IterableDataset`.

    Returns:
        `datasets.Dataset`, or an `IterableDataset` where one was given, with the columns `input_ids` and
        `attention_mask`; all others are removed.
    """
    if not is_stream(dataset):
        check_dataset(dataset)
    if not isinstance(processor, TraceProcessor):
        raise ValueError(f"`processor` must be a TraceProcessor, got {processor!r:.80}.")
    num_proc = _num_proc(num_proc, dataset)
    if is_stream(dataset):
        return prepare_stream(dataset, processor, text_column, prompt_column, max_length)
    kinds = dataset_kinds(dataset)
    check_column(kinds, text_column)
    added = processor.tokenizer.added_tokens_decoder
    control = [added[token].content for token in sorted(processor.control_token_ids) if token in added]
    check_rows(dataset, text_column, control)
    check_conditional(dataset.column_names, processor.conditional, prompt_column)
    columns = [text_column, prompt_column] if processor.conditional else [text_column]
    if processor.conditional:
        check_column(kinds, prompt_column, "prompt_column")
        check_rows(dataset, prompt_column, control)

    segmenter = processor.segmenter
    if processor.cuts_texts and not segmenter.is_ready:
        logger.info(f"{segmenter!r} has no parameters yet: fitting it to the {len(dataset)} texts of this data set.")
        batches = dataset.select_columns([text_column]).with_format(None).iter(batch_size=1000)
        segmenter.fit(text for batch in batches for text in batch[text_column])

    def encode(texts, *prompts_and_rows):
        *prompts, rows = prompts_and_rows
        input_ids = processor.encode(
            texts, prompts=prompts[0] if prompts else None, max_length=max_length, first_row=rows[0]
        )
        return {"input_ids": input_ids, "attention_mask": [[1] * len(ids) for ids in input_ids]}

    try:
        return dataset.with_format(None).map(
            encode,
            input_columns=columns,
            with_indices=True,
            batched=True,
            remove_columns=dataset.column_names,
            num_proc=num_proc,
            desc="Tokenizing",
        )
    except OSError as error:
        files = [file["filename"] for file in dataset.cache_files]
        check_cache(os.path.dirname(files[0]) if files else None, error)
        raise


def fingerprint_texts(dataset: "Dataset | IterableDataset") -> str:
    """
    What [`prepare_dataset`] returned, as a short hash: equal for the same tokens in the same order, wherever and
    whenever they were read. A change of the texts, their order, the tokenizer or the segments changes it.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): tokenised texts; of a stream the first 1,000 count.
    """
    import numpy as np
    import xxhash

    if is_stream(dataset):
        batches = [[row["input_ids"] for row in dataset.take(1000)]]
    else:
        tables = dataset.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=10_000)
        batches = (table["input_ids"].combine_chunks() for table in tables)
    lengths, tokens = xxhash.xxh64(), xxhash.xxh64()  # two, so that the size of the batches does not matter
    for rows in batches:
        if isinstance(rows, list):
            counts, values = [len(row) for row in rows], [token for row in rows for token in row]
        else:
            counts, values = rows.value_lengths().to_numpy(), rows.flatten().to_numpy()
        lengths.update(np.asarray(counts, dtype=np.int32).tobytes())
        tokens.update(np.asarray(values, dtype=np.int32).tobytes())
    return lengths.hexdigest() + tokens.hexdigest()


def _num_proc(num_proc: int | None, dataset) -> int | None:
    """The number of processes that there is work for."""
    if num_proc is None:
        return None
    if not isinstance(num_proc, int) or isinstance(num_proc, bool) or num_proc < 1:
        raise ValueError(f"`num_proc` must be an integer >= 1, got {num_proc!r}. Use None for one process.")
    if is_stream(dataset):
        raise ValueError(
            f"`num_proc` is for data sets that are tokenized before training, got {num_proc} with a stream. Leave it "
            "out, or load the data set whole."
        )
    if num_proc > len(dataset) > 0:
        logger.warning(f"`num_proc` is {num_proc} for {len(dataset)} texts: {len(dataset)} processes are used.")
        return len(dataset)
    return num_proc


def _at_most(dataset, max_texts: int | None, seed: int):
    if max_texts is None or len(dataset) <= max_texts:
        return dataset
    return dataset.shuffle(seed=seed).select(range(max_texts))


__all__ = ["fingerprint_texts", "load_texts", "prepare_dataset"]
