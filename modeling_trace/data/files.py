"""
Local files as rows, exactly as they stand: .jsonl, .json, .csv, .tsv, .parquet and .txt, also with .gz.

Nothing is guessed in silence: a value is the text that is in the file, a row of another length is an error, and an
error names the file and the line. `csv` and `json` are the standard library's: readers of tables made for numbers
(pandas, Arrow) take `None` and `N/A` for missing values, and types from the first rows.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, TextIO

from ..utils import one_line

# extensions and what is in such files
KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text"}
TABLES = ("csv", "tsv")
READER = 1  # raised when reading changes, so that nothing is taken from the caches of before
HEAD = 100  # rows that are looked at to find the columns
_DELIMITERS = (",", ";", "\t", "|")

# rows as (place in the file, values by column); a place is "line 3" or "row 3"
Rows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class FileSettings:
    """
    How files are read.

    Args:
        encoding (`str`, *optional*): of all but .parquet; UTF-8, with or without a byte order mark, where left out.
        delimiter (`str`, *optional*): what stands between the fields of a .csv file; told from its first line where
            left out.
    """

    encoding: str | None = None
    delimiter: str | None = None

    def __post_init__(self):
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, TypeError, ValueError):
                raise ValueError(
                    f"`encoding` is unknown, got {self.encoding!r}. Use a name such as 'utf-8', 'latin-1' or 'utf-16'."
                ) from None
        if self.delimiter == r"\t":  # as a shell passes it on
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (
            not isinstance(self.delimiter, str) or len(self.delimiter) != 1 or self.delimiter in '"\r\n'
        ):
            raise ValueError(f"`delimiter` must be one character, got {self.delimiter!r}. Use ',', ';' or '\\t'.")


def file_kind(path: str) -> str | None:
    """What is in a file, by its name: one of `KINDS`, or None."""
    return KINDS.get(os.path.splitext(path.lower().removesuffix(".gz"))[1])


def file_identity(path: str) -> tuple:
    """What changes when a local file does, for the cache of what was read; files on the Hub have their commit."""
    if not os.path.isfile(path):
        return (path, READER)
    status = os.stat(path)
    return (os.path.abspath(path), READER, status.st_size, status.st_mtime_ns)


def read_rows(path: str, settings: FileSettings, columns: Sequence[str] | None = None) -> Rows:
    """
    The rows of one file.

    Args:
        path (`str`): a local file, or an address that `fsspec` knows.
        settings ([`FileSettings`]): encoding and delimiter.
        columns (`Sequence[str]`, *optional*): the only ones that are needed.

    Raises:
        ValueError: what is not as its name says, with file and line.
    """
    kind = file_kind(path)
    if settings.delimiter is not None and kind not in TABLES:
        raise ValueError(f"`delimiter` is for .csv files, got {settings.delimiter!r} for '{path}'. Leave it out.")
    try:
        yield from _READERS[kind](path, settings, columns)
    except UnicodeError:
        raise ValueError(_wrong_encoding(path, settings.encoding)) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"`dataset` file '{path}' is no whole .gz file: {one_line(error)}.") from None


def head_rows(paths: list[str], settings: FileSettings) -> list[dict[str, Any]]:
    """The first rows of the first file that has any."""
    for path in paths:
        rows = [row for _, row in islice(read_rows(path, settings), HEAD)]
        if rows:
            return rows
    raise ValueError(f"`dataset` must hold at least one text, got 0 rows in '{paths[0]}'.")


def read_texts(
    files: list[tuple], columns: tuple[str, ...], encoding: str | None, delimiter: str | None
) -> Iterator[dict]:
    """
    The texts in `columns` of all files, each checked to be one.

    Args:
        files (`list[tuple]`): as [`file_identity`] gives them.
        columns (`tuple[str, ...]`): the columns with texts and prompts.
        encoding, delimiter (`str`, *optional*): as in [`FileSettings`].

    Raises:
        ValueError: for a value that is no text, with file, column and line, and a file without such a column.
    """
    settings = FileSettings(encoding, delimiter)
    for path, *_ in files:
        missing, names = set(columns), {}
        for place, row in read_rows(path, settings, columns):
            missing.difference_update(row)
            names |= dict.fromkeys(row)
            yield {column: checked_text(row.get(column), column, f"{place} of '{path}'") for column in columns}
        if missing and names:
            raise ValueError(
                f"`dataset` must have the column '{missing.pop()}' in every file, but '{path}' has only "
                f"{', '.join(names)}."
            )


def checked_text(value: object, column: str, place: str) -> str | None:
    """`value`, which must be a text, or None for a row without."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(
            f"`dataset` must hold texts, got {value!r:.40} ({type(value).__name__}) in the column '{column}' of "
            f"{place}."
        )
    if has_lone_surrogate(value):
        raise ValueError(
            f"`dataset` must hold whole characters, got half of one (a lone surrogate) in the column '{column}' of "
            f"{place}: {value!r:.40}. Take it out, or escape both halves."
        )
    return value


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds half a character, which no encoding has: from JSON escapes or undecodable arguments."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# ---- One reader for each kind of file ----


def _csv_rows(path: str, settings: FileSettings, columns) -> Rows:
    csv.field_size_limit(2**31 - 1)  # its own limit, 131,072 characters, is less than some stories
    delimiter = settings.delimiter or ("\t" if file_kind(path) == "tsv" else _find_delimiter(path, settings))
    with _open_text(path, settings.encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = None
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise ValueError(
                    f"`dataset` file '{path}' could not be read from {place} on: {error}. A field that starts with a "
                    'quotation mark must end with one; those inside are doubled, "".'
                ) from None
            if fields is None:
                return
            if not fields:  # a blank line
                continue
            if header is None:
                header = [name.strip() for name in fields]
                twice = sorted({name for name in header if name and header.count(name) > 1})
                if twice:
                    raise ValueError(
                        f"`dataset` file '{path}' must start with a line of column names, got '{twice[0]}' twice."
                    )
            elif len(fields) != len(header):
                raise ValueError(
                    f"`dataset` file '{path}' must have {len(header)} fields in each line, as in its first, got "
                    f"{len(fields)} in {place} (separated by {delimiter!r}). Put a field that holds the separator in "
                    'quotation marks ("), or say another `delimiter`.'
                )
            else:
                yield place, {name: text for name, text in zip(header, fields, strict=True) if name}


def _find_delimiter(path: str, settings: FileSettings) -> str:
    """What separates the names in the first line; where that may be several, what gives all lines the same length."""
    lengths = {}
    for delimiter in _DELIMITERS:
        num_fields = lengths[delimiter] = []
        with _open_text(path, settings.encoding, newline="") as file, contextlib.suppress(csv.Error):
            # not strict: quotation marks that are wrong for one delimiter may be right for another
            num_fields += [len(fields) for fields in islice(csv.reader(file, delimiter=delimiter), HEAD) if fields]
    possible = [delimiter for delimiter, num_fields in lengths.items() if num_fields and num_fields[0] > 1]
    if len(possible) > 1:
        possible = [delimiter for delimiter in possible if len(set(lengths[delimiter])) == 1]
        if len(possible) != 1:
            raise ValueError(
                f"`delimiter` cannot be told for '{path}': its first line could be separated in several ways. Say it, "
                "e.g. delimiter=';' (command line: --delimiter ';')."
            )
    return possible[0] if possible else ","


def _jsonl_rows(path: str, settings: FileSettings, columns) -> Rows:
    with _open_text(path, settings.encoding) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"`dataset` file '{path}' could not be read: line {number} is no JSON ({one_line(error)})."
                ) from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"`dataset` file '{path}' must hold an object such as {{\"text\": ...}} in each line, got a "
                    f"{type(row).__name__} in line {number}. A file that is one list must end in .json."
                )
            yield f"line {number}", row


def _json_rows(path: str, settings: FileSettings, columns) -> Rows:
    with _open_text(path, settings.encoding) as file:
        content = file.read()
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one value after the other, which is the other kind
            yield from _jsonl_rows(path, settings, columns)
            return
        raise ValueError(f"`dataset` file '{path}' could not be read, it is no JSON: {one_line(error)}.") from None
    if isinstance(values, dict):
        # {"version": ..., "data": [...]}
        lists = [name for name, value in values.items() if isinstance(value, list) and value and _all_dicts(value)]
        if len(lists) > 1:
            raise ValueError(
                f"`dataset` file '{path}' must hold one list of rows, got {', '.join(lists)}. Save the one that holds "
                "the texts as a file of its own."
            )
        values = values[lists[0]] if lists else [values]
    if not isinstance(values, list) or not _all_dicts(values):
        raise ValueError(
            f"`dataset` file '{path}' must hold a list of objects such as [{{\"text\": ...}}, ...], got a "
            f"{type(values).__name__}{' of other values' if isinstance(values, list) else ''}. A file of one text per "
            "line must end in .txt."
        )
    for number, row in enumerate(values):
        yield f"row {number}", row


def _all_dicts(values: list) -> bool:
    return all(isinstance(value, dict) for value in values)


def _parquet_rows(path: str, settings: FileSettings, columns) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _open_binary(path) as file:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1000, columns=columns and list(columns)):
                for row in batch.to_pylist():
                    yield f"row {number}", row
                    number += 1
    except pa.ArrowException as error:
        raise ValueError(f"`dataset` file '{path}' could not be read: {one_line(error)}") from None


def _text_rows(path: str, settings: FileSettings, columns) -> Rows:
    with _open_text(path, settings.encoding) as file:
        for number, line in enumerate(file, 1):
            yield f"line {number}", {"text": line.rstrip("\n")}


_READERS: dict[str | None, Callable[..., Rows]] = {
    "csv": _csv_rows,
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
    "text": _text_rows,
    "tsv": _csv_rows,
}


# ---- Opening and decoding ----


@contextlib.contextmanager
def _open_binary(path: str) -> Iterator[BinaryIO]:
    if "://" in path:
        import fsspec

        opened = fsspec.open(path, "rb").open()
    else:
        opened = open(path, "rb")
    with opened as file:
        yield gzip.GzipFile(fileobj=file) if path.lower().endswith(".gz") else file  # type: ignore[misc]


@contextlib.contextmanager
def _open_text(path: str, encoding: str | None, newline: str | None = None) -> Iterator[TextIO]:
    with _open_binary(path) as file:
        start = file.read(100)
        file.seek(0)
        encoding = codecs.lookup(encoding or "utf-8").name
        if encoding == "utf-8":
            encoding = "utf-8-sig"  # the same, and a byte order mark is no text
        if b"\0" in start and not encoding.startswith(("utf-16", "utf-32")):
            raise UnicodeError  # UTF-16, of which each ASCII letter would become two characters, one of them NUL
        yield io.TextIOWrapper(file, encoding=encoding, newline=newline)


def _wrong_encoding(path: str, encoding: str | None) -> str:
    likely, line = "latin-1", ""
    with _open_binary(path) as file:
        start = file.read(100)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            likely = "utf-16"
        elif b"\0" in start:
            likely = "utf-16-be" if start.startswith(b"\0") else "utf-16-le"
        else:
            file.seek(0)
            for number, content in enumerate(file, 1):
                try:
                    content.decode(encoding or "utf-8")
                except UnicodeError:
                    line = f" in line {number}"
                    break
    wanted = encoding or "UTF-8"
    if encoding is not None and codecs.lookup(encoding) == codecs.lookup(likely):
        return f"`encoding` must be that of '{path}', got {encoding!r}, which it is not."
    return (
        f"`encoding` must be that of '{path}', which is not {wanted}{line}. It may be encoding='{likely}' (command "
        f"line: --encoding {likely})."
    )


__all__ = [
    "HEAD",
    "KINDS",
    "TABLES",
    "FileSettings",
    "checked_text",
    "file_identity",
    "file_kind",
    "has_lone_surrogate",
    "head_rows",
    "read_rows",
    "read_texts",
]
