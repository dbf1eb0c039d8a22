"""`load_texts` for data sets that are read as they are needed: texts of a stream are checked one by one."""

import math
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .files import HEAD, FileSettings, checked_text
from .sources import load_split
from .validation import NO_ROWS, TextColumns, row_kinds, text_columns, without_text

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

SHUFFLE_BUFFER = 10_000  # texts of a stream that are held in memory, to be drawn from at random
ROW_COLUMN = "row_of_stream"  # texts of a stream carry their number: the rows that reach the processor have gaps


def stream_texts(
    dataset: Any,
    columns: TextColumns,
    settings: FileSettings,
    split: str,
    validation_split: float | int | str | None,
    max_texts: int | None,
    seed: int,
) -> "tuple[datasets.IterableDataset, datasets.IterableDataset | datasets.Dataset | None]":
    """`load_texts` for texts that are read as they are needed."""
    import datasets

    if isinstance(validation_split, float):
        raise ValueError(
            f"`validation_split` must be a number of texts, a split or None for a stream, whose length is not known, "
            f"got the fraction {validation_split}. Use 1000."
        )
    if validation_split and not isinstance(validation_split, str) and validation_split >= (max_texts or math.inf):
        raise ValueError(
            f"`validation_split` must leave texts to train on, got {validation_split} of `max_texts` {max_texts}. "
            "Lower it, or use None."
        )

    def load(argument: str, name: str):
        texts = load_split(dataset, argument, name, columns, settings, max_texts, streaming=True)
        texts = _checked_stream(texts, columns)
        return texts if max_texts is None else texts.take(max_texts)

    def in_memory(texts):
        return datasets.Dataset.from_list(list(texts.remove_columns(ROW_COLUMN)))

    train, validation = load("split", split), None
    if isinstance(validation_split, str):
        validation = in_memory(load("validation_split", validation_split))
    elif validation_split:
        validation = in_memory(train.take(validation_split))
        train = train.skip(validation_split)
    if next(iter(train), None) is None:
        had = 0 if validation is None or isinstance(validation_split, str) else len(validation)
        raise ValueError(
            f"`dataset` must hold more texts than `validation_split`, got {had} texts in all." if had else NO_ROWS
        )
    logger.info(f"Training texts are streamed; {0 if validation is None else len(validation)} validation texts.")
    return train.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER), validation


def _checked_stream(stream, wanted: TextColumns):
    """The columns `text` and `prompt` of a stream and the number of each row; looks at a row when it is reached."""
    import datasets

    # a stream may not know its columns before it is read
    head = list(stream.take(HEAD))
    if not head:
        raise ValueError(NO_ROWS)
    renamed = text_columns(row_kinds(head), wanted)
    types = {name: datasets.Value("string") for name in renamed.values()}
    # A generator has one shard. Several would be dealt out to processes: unequal ones end at different steps, which
    # leaves the others waiting, and each would count its rows from 0.
    return datasets.IterableDataset.from_generator(
        _checked_rows,
        features=datasets.Features({**types, ROW_COLUMN: datasets.Value("int64")}),
        gen_kwargs={"stream": stream, "renamed": renamed, "drop_empty": wanted.drop_empty},
    )


def _checked_rows(stream, renamed: dict[str, str], drop_empty: bool):
    for number, row in enumerate(stream):
        for column in renamed:
            text = checked_text(row.get(column), column, f"row {number}")
            if not (text or "").strip():
                if drop_empty:
                    break
                raise ValueError(without_text([number], column))
        else:
            yield {**{name: row[column] for column, name in renamed.items()}, ROW_COLUMN: number}


__all__ = ["ROW_COLUMN", "stream_texts"]
