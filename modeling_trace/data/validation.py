"""What a data set must be: its columns, its texts, its rows; with errors that name the row and the remedy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers.utils import logging

from ..utils import nearest
from .files import has_lone_surrogate

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

_PROMPT_COLUMNS = ("prompt", "title", "question", "context", "input")
_TEXT_COLUMNS = ("text", "review", "story", "content", "sentence", "document", "article", "body")
NO_ROWS = "`dataset` must hold at least one text, got 0 rows."


@dataclass(frozen=True)
class TextColumns:
    """What a user says of the columns; see [`load_texts`]."""

    text_column: str | None = None
    prompt_column: str | None = None
    conditional: bool = False
    drop_empty: bool = False


def is_stream(dataset: object) -> bool:
    import datasets

    return isinstance(dataset, datasets.IterableDataset)


def check_sizes(validation_split: float | int | str | None, max_texts: int | None) -> None:
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


def check_dataset(dataset: object) -> None:
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


def unknown_column(argument: str, column: str, names: list[str]) -> str:
    hint = nearest(column, names, quote="'")
    return f"`{argument}` {column!r} is not in the data set, which has {', '.join(names)}.{hint}"


def dataset_kinds(dataset: "datasets.Dataset | datasets.IterableDataset") -> dict[str, str]:
    """What each column of a data set holds: "string", "null", or the name of another type."""
    kinds = {}
    for name, feature in dataset.features.items():
        dtype = getattr(feature, "dtype", type(feature).__name__)
        kinds[name] = "string" if dtype == "large_string" else dtype
    return kinds


def row_kinds(rows: list[dict]) -> dict[str, str]:
    """The same of rows that are not in a data set. A column with texts is one of texts: others are errors there."""
    kinds = {}
    for row in rows:
        for name, value in row.items():
            kind = "null" if value is None else "string" if isinstance(value, str) else type(value).__name__
            if kind == "string" or kinds.get(name, "null") == "null":
                kinds[name] = kind
    return kinds


def check_column(kinds: dict[str, str], column: str, argument: str = "text_column") -> None:
    if column not in kinds:
        raise ValueError(unknown_column(argument, column, list(kinds)))
    if kinds[column] not in ("string", "null"):
        raise ValueError(f"`{argument}` must hold texts, got {column!r} of type {kinds[column]}. {_columns(kinds)}")


def check_strings(name: str, texts: list, first_row: int, remedy: str) -> None:
    """That each of `texts` is a string of whole characters with something to see; rows count from `first_row`."""
    for number, text in enumerate(texts, first_row):
        if not isinstance(text, str):
            raise ValueError(f"`{name}` must hold strings, got {text!r:.40} ({type(text).__name__}) in row {number}.")
        if has_lone_surrogate(text):
            raise ValueError(
                f"`{name}` must hold whole characters, got half of one (a lone surrogate) in row {number}: "
                f"{text!r:.40}. Take it out first, e.g. {name}.encode('utf-8', 'ignore').decode()."
            )
        if not text.strip():
            raise ValueError(f"`{name}` must not be empty, got {text!r:.40} in row {number}. {remedy}")


def check_rows(dataset: "datasets.Dataset", column: str, control: Sequence[str] = ()) -> None:
    """Look for empty rows and for control tokens such as [SEP] in the texts; scans Arrow buffers, so it is quick."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(dataset) == 0:
        raise ValueError(NO_ROWS)
    empty, rows_with, start = [], {token: [] for token in control}, 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        texts = table[column].cast(pa.large_string())
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
        empty.extend(start + row for row in pc.indices_nonzero(blank).to_pylist())
        for token, rows in rows_with.items():
            has_token = pc.fill_null(pc.match_substring(texts, token), False)
            rows.extend(start + row for row in pc.indices_nonzero(has_token).to_pylist())
        start += len(texts)
    if empty:
        raise ValueError(without_text(empty, column))
    for token, rows in rows_with.items():
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


def text_columns(kinds: dict[str, str], wanted: TextColumns, is_table: bool = False) -> dict[str, str]:
    """
    Which columns become `text` and `prompt`, checked.

    Args:
        kinds (`dict[str, str]`): the columns, as [`dataset_kinds`] or [`row_kinds`] gives them.
        wanted ([`TextColumns`]): what the user said of them.
        is_table (`bool`, *optional*, defaults to `False`): the names are the first line of a .csv file, which may be
            a text where the file has no names: only a known name is taken for one.
    """
    prompt_column = wanted.prompt_column
    if wanted.conditional:
        if prompt_column is None:
            prompt_column = _known_column(kinds, _PROMPT_COLUMNS, wanted.text_column)
        if prompt_column is None:
            raise ValueError(
                f"`conditional` is set, but the data set has no column of prompts. {_columns(kinds)} Name it by "
                "`prompt_column`, or leave `conditional` False."
            )
        if prompt_column == wanted.text_column:
            raise ValueError(f"`prompt_column` must not be the column of texts, got {prompt_column!r} for both.")
    else:
        check_conditional(list(kinds), False, None)
    renamed = {_text_column(kinds, wanted.text_column, prompt_column, is_table): "text"}
    if wanted.conditional:
        check_column(kinds, prompt_column, "prompt_column")
        renamed[prompt_column] = "prompt"
    return renamed


def named_columns(dataset: "datasets.Dataset", wanted: TextColumns) -> "datasets.Dataset":
    """Rename the columns of texts and prompts to `text` and `prompt`, after checking them."""
    renamed = text_columns(dataset_kinds(dataset), wanted)
    for column in renamed:
        if wanted.drop_empty:
            dataset = _without_empty(dataset, column)
        check_rows(dataset, column)
    others = [name for name in renamed.values() if name in dataset.column_names and name not in renamed]
    return dataset.remove_columns(others).rename_columns(renamed)


def _without_empty(dataset, column: str):
    kept = dataset.filter(lambda text: (text or "").strip() != "", input_columns=column, desc="Dropping empty rows")
    if len(kept) < len(dataset):
        logger.warning(f"Dropped {len(dataset) - len(kept)} rows without text in the column '{column}'.")
    return kept


def _known_column(kinds: dict[str, str], known: tuple[str, ...], other: str | None) -> str | None:
    lower = {name.lower(): name for name in reversed(kinds) if name != other}
    return next((lower[name] for name in known if name in lower), None)


def _text_column(kinds: dict[str, str], column: str | None, prompt_column: str | None, is_table: bool) -> str:
    """The column with the texts."""
    if column is None:
        names = [name for name in kinds if name != prompt_column]
        column = _known_column(kinds, _TEXT_COLUMNS, prompt_column)
        if column is None and is_table:
            first = ", ".join(f"'{name:.40}'" for name in names)
            raise ValueError(
                f"`text_column` must be given for a .csv file without a column called {', '.join(_TEXT_COLUMNS)}: its "
                f"first line has {first}. Where that is a text and no name, put a line with the word text above it."
            )
        if column is None:
            texts = [name for name in names if kinds[name] == "string"]
            column = texts[0] if len(texts) == 1 else names[0] if len(names) == 1 else None
        if column is None:
            raise ValueError(f"`text_column` must be given for this data set. {_columns(kinds)}")
        if len(names) > 1:
            logger.info(f"Texts are read from the column '{column}' of {', '.join(names)}.")
    check_column(kinds, column)
    return column


def _columns(names: Iterable[str]) -> str:
    return f"The columns are {', '.join(names)}."


def _rows(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"1 row ({shown})" if len(rows) == 1 else f"{len(rows)} rows ({shown})"


__all__ = [
    "NO_ROWS",
    "TextColumns",
    "check_column",
    "check_conditional",
    "check_dataset",
    "check_sizes",
    "check_strings",
    "check_rows",
    "dataset_kinds",
    "is_stream",
    "named_columns",
    "row_kinds",
    "text_columns",
    "unknown_column",
    "without_text",
]
