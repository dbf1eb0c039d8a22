"""Filled rating sheets, read back and checked against the key, file by file and row by row."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .sheets import COLUMNS, KEY_NAME, text_checksum, without_mark


def read_sheets(
    folder_or_files: str | os.PathLike | Sequence[str | os.PathLike], key: str | os.PathLike | Mapping[str, Any]
) -> list[dict[str, Any]]:
    """
    Read the filled sheets back, and check them against the key.

    Args:
        folder_or_files (`str`, `os.PathLike` or a list of them): the folder with the filled CSV files, or the files.
        key (`str`, `os.PathLike` or `dict`): `key.json`, or what is in it.

    Returns:
        `list[dict]`: for each text and annotator `annotator`, `item`, `system`, `group` and the criteria's ratings,
        which is what `summarise` takes.

    Raises:
        ValueError: for anything that is not as it was handed out, or not filled, with the file and the row as a
            spreadsheet counts it.
    """
    key = key if isinstance(key, Mapping) else _read_key(Path(key))
    if isinstance(folder_or_files, (str, os.PathLike)):
        path = Path(folder_or_files)
        if not path.exists():
            raise ValueError(f"there is no folder or file '{path}'.")
        paths = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv") if path.is_dir() else [path]
    else:
        paths = [Path(file) for file in folder_or_files]
    if not paths:
        raise ValueError(f"'{folder_or_files}' holds no CSV files. Put the filled sheets there.")
    ratings, handed_in = [], {}
    for path in paths:
        sheet = _read_sheet(path, key, handed_in)
        handed_in[sheet[0]["annotator"]] = path
        ratings += sheet
    missing = [name for name in key["annotators"] if name not in handed_in]
    if missing:
        raise ValueError(f"`folder_or_files` lacks the sheets of {', '.join(missing)}.")
    return ratings


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        if key["format"] == 1 and key["criteria"] and key["annotators"] and key["items"]:
            return key
    except OSError:
        raise ValueError(f"there is no key file '{path}'. It was written beside the sheets, as {KEY_NAME}.") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"'{path}' is no key of rating sheets. Give the {KEY_NAME} that was written with them.")


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, numbered as a spreadsheet does."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"'{path}' is not UTF-8. In the spreadsheet, save it as 'CSV UTF-8'.") from None
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets save in the manner of their country
    rows = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"'{path}' row {len(rows) + 1} is no CSV: {error}.") from None
    return [(number, row) for number, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]


def _read_sheet(path: Path, key: Mapping[str, Any], handed_in: Mapping[str, Path]) -> list[dict[str, Any]]:
    rows = _read_rows(path)
    if len(rows) < 2:
        raise ValueError(f"'{path}' is empty.")
    (header_number, header), *rows = rows
    header = [cell.strip().lower() for cell in header]
    names = {name.lower(): name for name in key["criteria"]}
    needed = [*COLUMNS, *names]
    if any(header.count(name) != 1 for name in needed):
        raise ValueError(
            f"'{path}' row {header_number}: the columns must be {', '.join(needed)}, got {', '.join(header)}."
        )
    ratings, seen = [], {}
    for number, cells in rows:
        where = f"'{path}' row {number}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: has {len(cells)} cells, and the first row {len(header)}.")
        row = dict(zip(header, cells, strict=True))
        annotator, item = row["annotator"].strip(), row["item"].strip()
        if annotator not in key["annotators"]:
            raise ValueError(f"{where}: `annotator` must be one of {', '.join(key['annotators'])}, got '{annotator}'.")
        if annotator in handed_in:
            raise ValueError(f"{where}: {annotator} has a sheet already, '{handed_in[annotator]}'. Keep one of them.")
        if ratings and annotator != ratings[0]["annotator"]:
            raise ValueError(f"{where}: `annotator` was {ratings[0]['annotator']} above, got {annotator}.")
        if item not in key["items"]:
            raise ValueError(f"{where}: there is no item '{item}' in the key. Was it changed, or is this another key?")
        if item not in key["annotators"][annotator]:
            raise ValueError(f"{where}: item '{item}' is not one of {annotator}.")
        if item in seen:
            raise ValueError(f"{where}: item '{item}' is in row {seen[item]} already.")
        seen[item] = number
        known = key["items"][item]
        if text_checksum(without_mark(row["prompt"]), without_mark(row["text"])) != known["checksum"]:
            raise ValueError(f"{where}: the prompt or text of item '{item}' was edited.")
        given = {name: _rating(row[column], name, where) for column, name in names.items()}
        ratings.append(
            {"annotator": annotator, "item": item, "system": known["system"], "group": known["group"], **given}
        )
    missing = [item for item in key["annotators"][ratings[0]["annotator"]] if item not in seen]
    if missing:
        raise ValueError(
            f"'{path}' row {rows[-1][0]} is the last, and {len(missing)} of its items are missing: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}."
        )
    return ratings


def _rating(cell: str, name: str, where: str) -> int:
    cell = cell.strip()
    if not cell:
        raise ValueError(f"{where}: `{name}` is not filled in.")
    if not re.fullmatch(r"[1-5]", cell):
        raise ValueError(f"{where}: `{name}` must be a whole number from 1 to 5, got '{cell}'.")
    return int(cell)


__all__ = ["read_sheets"]
