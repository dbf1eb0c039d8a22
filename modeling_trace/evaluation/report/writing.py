"""The report of an evaluation: Markdown, JSON, a page for the browser, and the texts; written whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...utils import atomic_write
from .html_page import html_page
from .markdown import markdown_report
from .systems import file_name

FILES = ("report.md", "report.json", "report.html")
CACHE = "cache"  # the folder with results of an evaluation, beside the files
NOT_IN_FILES = ("texts", "num_reused")  # of a report


def write_report(report: dict[str, Any], folder: str | os.PathLike) -> None:
    """
    Write `report.md`, `report.json`, `report.html`, and the texts of each decoding strategy and system as JSON lines
    in `texts/`, which `modeling-trace human make` takes.

    Args:
        report (`dict`): from [`compare`].
        folder (`str` or `os.PathLike`): made where it is missing; an earlier report in it is replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = report["texts"]
    content = {name: value for name, value in report.items() if name not in NOT_IN_FILES}
    page = html_page(content)  # whatever fails does so before a file is touched
    markdown = markdown_report(content)
    values = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".texts."))
    try:
        for decoding, systems in texts.items():
            for name, sets in systems.items():
                for number, rows in enumerate(sets):
                    end = f"-{number + 1}" if len(sets) > 1 else ""
                    path = temporary / decoding / f"{file_name(name)}{end}.jsonl"
                    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        os.chmod(temporary, folder.stat().st_mode & 0o777)
        shutil.rmtree(folder / "texts", ignore_errors=True)
        os.replace(temporary, folder / "texts")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for name, text in zip(FILES, (markdown, values, page), strict=True):
        atomic_write(folder / name, text + "\n")


def check_output(folder: str | os.PathLike) -> None:
    """Raise a ValueError for a folder that holds something else than a report, or cannot be written."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder, got the file '{folder}'.")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in (CACHE, *FILES)):
        raise ValueError(f"`output` '{folder}' holds something else than a report. Choose another folder.")
    above = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    if not os.access(above, os.W_OK):
        raise ValueError(f"`output` cannot be written, got '{folder}': no permission for '{above}'.")


def _finite(value):
    """JSON has no NaN: None."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["CACHE", "FILES", "check_output", "write_report"]
