"""The report of an evaluation: Markdown, JSON, a page for the browser, and the texts; written whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...data.writing import write_whole
from .html_page import html_page
from .markdown import markdown_report
from .systems import file_name

FILES = ("report.md", "report.json", "report.html")


def write_report(report: dict[str, Any], folder: str | os.PathLike) -> None:
    """
    Write `report.md`, `report.json`, `report.html`, and the texts of each decoding strategy and system as JSON lines
    in `texts/`, which `modeling-trace human make` takes.

    Args:
        report (`dict`): from [`compare_systems`].
        folder (`str` or `os.PathLike`): made where it is missing; an earlier report in it is replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = report["texts"]
    kept = {name: value for name, value in report.items() if name != "texts"}
    page = html_page(kept)  # whatever fails does so before a file is touched
    markdown = markdown_report(kept)
    metrics = json.dumps(_finite(kept), indent=1, ensure_ascii=False, allow_nan=False)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".texts."))
    try:
        for decoding, systems in texts.items():
            for name, sets in systems.items():
                for number, rows in enumerate(sets):
                    end = f"-{number + 1}" if len(sets) > 1 else ""
                    path = temporary / decoding / f"{file_name(name)}{end}.jsonl"
                    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        os.chmod(temporary, folder.stat().st_mode & 0o777)
        shutil.rmtree(folder / "texts", ignore_errors=True)
        os.replace(temporary, folder / "texts")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for name, content in zip(FILES, (markdown, metrics, page), strict=True):
        write_whole(folder / name, content + "\n")


def _finite(value):
    """JSON has no NaN: None."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["FILES", "write_report"]
