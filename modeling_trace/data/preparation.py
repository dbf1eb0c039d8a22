"""`prepare_dataset`: from texts to the rows of tokens that the Trainer takes, all at once or as they are read."""

import os
from typing import TYPE_CHECKING

from transformers.utils import logging

from .processor import TraceProcessor
from .sources import check_cache
from .streaming import ROW_COLUMN
from .validation import (
    check_column,
    check_conditional,
    check_dataset,
    check_rows,
    dataset_kinds,
    is_stream,
    unknown_column,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.get_logger(__name__)

SEGMENTS_SAMPLE, FEW_TEXTS = 500, 20  # the texts whose segments are counted, and how many say nothing


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
        return _prepare_stream(dataset, processor, text_column, prompt_column, max_length)
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
        input_ids = processor.encode_rows(
            texts, prompts=prompts[0] if prompts else None, max_length=max_length, first_row=rows[0]
        )
        return {"input_ids": input_ids, "attention_mask": [[1] * len(ids) for ids in input_ids]}

    try:
        prepared = dataset.with_format(None).map(
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
    _warn_of_single_segments(prepared[:SEGMENTS_SAMPLE]["input_ids"], processor)
    return prepared


def _prepare_stream(stream, processor: TraceProcessor, text_column: str, prompt_column: str, max_length: int | None):
    import datasets

    names = stream.column_names or list(next(iter(stream), {}))
    columns = [text_column, prompt_column] if processor.conditional else [text_column]
    for column, argument in zip(columns, ("text_column", "prompt_column"), strict=False):
        if column not in names:
            raise ValueError(unknown_column(argument, column, names))
    check_conditional(names, processor.conditional, None)
    segmenter = processor.segmenter
    if processor.cuts_texts and not segmenter.is_ready:
        logger.info(f"{segmenter!r} has no parameters yet: fitting it to the first texts of the stream.")
        segmenter.fit(row[text_column] for row in stream)

    def encode(batch, indices):
        numbers = batch.get(ROW_COLUMN, indices)
        texts, prompts = batch[text_column], batch[prompt_column] if processor.conditional else None
        try:
            input_ids = processor.encode_rows(texts, prompts=prompts, max_length=max_length)
        except ValueError:  # which row it is, by its number in the stream
            for index, number in enumerate(numbers):
                prompt = None if prompts is None else [prompts[index]]
                processor.encode_rows([texts[index]], prompts=prompt, max_length=max_length, first_row=number)
            raise
        return {"input_ids": input_ids, "attention_mask": [[1] * len(ids) for ids in input_ids]}

    integers = {"input_ids": "int32", "attention_mask": "int8"}
    prepared = stream.map(
        encode,
        with_indices=True,
        batched=True,
        batch_size=100,  # of a long text; more would only delay the first step
        remove_columns=names,
        features=datasets.Features({name: datasets.List(datasets.Value(kind)) for name, kind in integers.items()}),
    )
    if _segments_vary(processor):
        _warn_of_single_segments([row["input_ids"] for row in prepared.take(SEGMENTS_SAMPLE)], processor)
    return prepared


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


def _segments_vary(processor: TraceProcessor) -> bool:
    return processor.segmenter is not None and processor.segment_length is None


def _warn_of_single_segments(rows: list[list[int]], processor: TraceProcessor) -> None:
    """Most of many texts being one segment means that the segmenter does not know how these texts end theirs."""
    if not _segments_vary(processor) or len(rows) < FEW_TEXTS:
        return
    single = sum(map(processor.has_one_segment, rows))
    if single > len(rows) / 2:
        remedy = "" if processor.separator == "token" else "separator='token' (command line: --separator token), "
        logger.warning(
            f"`segmenter` finds one segment in {single} of the first {len(rows)} texts, so that one latent stands for "
            f"a whole text, got {processor.segmenter!r}. If they are no single sentences, use {remedy}"
            "FixedLengthSegmenter(10) (--segmenter fixed), or a RegexSegmenter with what separates segments in these "
            "texts (--segmenter regex --segment_pattern ...)."
        )


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


__all__ = ["fingerprint_texts", "prepare_dataset"]
