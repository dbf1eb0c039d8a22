"""What a data set must be: its columns, its texts, its rows; with errors that name the row and the remedy."""

import difflib

from transformers.utils import logging

logger = logging.get_logger(__name__)

_PROMPT_COLUMNS = ("prompt", "title", "question", "context", "input")
_TEXT_COLUMNS = ("text", "review", "story", "content", "sentence", "document", "article", "body")
NO_ROWS = "`dataset` must hold at least one text, got 0 rows."


def is_stream(dataset) -> bool:
    import datasets

    return isinstance(dataset, datasets.IterableDataset)


def check_sizes(validation_split, max_texts) -> None:
    number = validation_split if isinstance(validation_split, (int, float)) else None
    if isinstance(validation_split, bool) or (
        number is not None and (number < 0 or isinstance(number, float) and number >= 1)
    ):
        raise ValueError(
            "`validation_split` must be a fraction between 0 and 1, a number of texts, the name of a split or None, "
            f"got {validation_split!r}. Use 0.1."
        )
    if max_texts is not None and (not isinstance(max_texts, int) or isinstance(max_texts, bool) or max_texts < 1):
        raise ValueError(f"`max_texts` must be an integer >= 1, got {max_texts!r}. Use None for all texts.")


def check_dataset(dataset) -> None:
    import datasets

    if isinstance(dataset, datasets.Dataset):
        return
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict, dict)):
        splits = list(dataset)
        name = "train" if "train" in splits or not splits else splits[0]
        raise ValueError(
            f"`dataset` must be a Dataset, got a {type(dataset).__name__} of {', '.join(map(str, splits))}. "
            f"Use dataset['{name}']."
        )
    raise ValueError(
        f"`dataset` must be a Dataset, got {type(dataset).__name__}. From a list of texts: "
        "Dataset.from_dict({'text': texts})."
    )


def check_conditional(names: list[str], conditional: bool, prompt_column: str | None) -> None:
    """Prompts where the model wants none, or the reverse; `names` are the columns."""
    if conditional and prompt_column is not None and prompt_column not in names:
        raise ValueError(
            f"`prompt_column` {prompt_column!r} is not in the data set, which has {', '.join(names)}. A conditional "
            "model needs a prompt for each text; for texts alone leave `conditional` False."
        )
    if not conditional and "prompt" in names:
        raise ValueError(
            "`dataset` has a column 'prompt', but the model is not conditional. Set conditional=True (command line: "
            "--conditional true), or drop the column: dataset.remove_columns('prompt')."
        )


def check_column(dataset, column: str, argument: str = "text_column") -> None:
    if column not in dataset.column_names:
        raise ValueError(
            f"`{argument}` {column!r} is not in the data set, which has {', '.join(dataset.column_names)}."
            f"{nearest(column, dataset.column_names)}"
        )
    dtype = getattr(dataset.features[column], "dtype", type(dataset.features[column]).__name__)
    if dtype not in ("string", "large_string", "null"):
        raise ValueError(f"`{argument}` must hold texts, got {column!r} of type {dtype}. {_columns(dataset)}")


def check_texts(dataset, column: str, control: list[str] = ()) -> None:
    """Look for empty rows and for control tokens such as [SEP] in the texts; scans Arrow buffers, so it is quick."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(dataset) == 0:
        raise ValueError(NO_ROWS)
    empty, found, start = [], {token: [] for token in control}, 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        texts = table[column].cast(pa.large_string())
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
        empty.extend(start + row for row in pc.indices_nonzero(blank).to_pylist())
        for token, rows in found.items():
            has_token = pc.fill_null(pc.match_substring(texts, token), False)
            rows.extend(start + row for row in pc.indices_nonzero(has_token).to_pylist())
        start += len(texts)
    if empty:
        raise ValueError(without_text(empty, column))
    for token, rows in found.items():
        if rows:
            raise ValueError(
                f"`dataset` has {_rows(rows)} with '{token}' in the text, which the model would read as structure. "
                f"Take it out first, e.g. text.replace('{token}', ' ')."
            )


def without_text(rows: list[int], column: str) -> str:
    return (
        f"`dataset` has {_rows(rows)} without text in the column '{column}'. Leave them out by drop_empty=True "
        "(command line: --drop_empty true)."
    )


def text_columns(dataset, text_column: str | None, prompt_column: str | None, conditional: bool) -> dict[str, str]:
    """Which columns become `text` and `prompt`, checked."""
    if conditional:
        names = dataset.column_names
        if prompt_column is None:
            lower = {name.lower(): name for name in reversed(names) if name != text_column}
            known = [lower[name] for name in _PROMPT_COLUMNS if name in lower]
            prompt_column = known[0] if known else None
        if prompt_column is None:
            raise ValueError(
                f"`conditional` is set, but the data set has no column of prompts. {_columns(dataset)} Name it by "
                "`prompt_column`, or leave `conditional` False."
            )
        if prompt_column == text_column:
            raise ValueError(f"`prompt_column` must not be the column of texts, got {prompt_column!r} for both.")
    else:
        check_conditional(dataset.column_names, False, None)
    renamed = {_find_text_column(dataset, text_column, prompt_column): "text"}
    if conditional:
        check_column(dataset, prompt_column, "prompt_column")
        renamed[prompt_column] = "prompt"
    return renamed


def named_columns(dataset, text_column: str | None, prompt_column: str | None, conditional: bool, drop_empty: bool):
    """Rename the columns of texts and prompts to `text` and `prompt`, after checking them."""
    renamed = text_columns(dataset, text_column, prompt_column, conditional)
    for column in renamed:
        if drop_empty:
            dataset = _without_empty(dataset, column)
        check_texts(dataset, column)
    others = [name for name in renamed.values() if name in dataset.column_names and name not in renamed]
    return dataset.remove_columns(others).rename_columns(renamed)


def _without_empty(dataset, column: str):
    kept = dataset.filter(lambda text: (text or "").strip() != "", input_columns=column, desc="Dropping empty rows")
    if len(kept) < len(dataset):
        logger.warning(f"Dropped {len(dataset) - len(kept)} rows without text in the column '{column}'.")
    return kept


def _find_text_column(dataset, text_column: str | None, prompt_column: str | None) -> str:
    """The column with the texts."""
    names = [name for name in dataset.column_names if name != prompt_column]
    column = text_column
    if column is None:
        lower = {name.lower(): name for name in reversed(names)}
        texts = [
            name for name in names if getattr(dataset.features[name], "dtype", None) in ("string", "large_string")
        ]
        known = [lower[name] for name in _TEXT_COLUMNS if name in lower]
        column = known[0] if known else texts[0] if len(texts) == 1 else names[0] if len(names) == 1 else None
        if column is None:
            raise ValueError(f"`text_column` must be given for this data set. {_columns(dataset)}")
        if len(names) > 1:
            logger.info(f"Texts are read from the column '{column}' of {', '.join(names)}.")
    check_column(dataset, column)
    return column


def _columns(dataset) -> str:
    return f"The columns are {', '.join(dataset.column_names)}."


def _rows(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"1 row ({shown})" if len(rows) == 1 else f"{len(rows)} rows ({shown})"


def nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


__all__ = [
    "is_stream",
    "NO_ROWS",
    "check_column",
    "check_conditional",
    "check_dataset",
    "check_sizes",
    "check_texts",
    "named_columns",
    "nearest",
    "one_line",
    "text_columns",
    "without_text",
]
