"""Finished parts of a long evaluation, each in a file: an evaluation that was stopped goes on where it was."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...utils import atomic_write

ESTIMATORS = 1  # to be raised with every change to what a part holds: older parts are then computed again


class Parts:
    """
    Values that were computed once, in files that are written whole or not at all.

    Args:
        folder (`str` or `os.PathLike`): made where it is missing.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.reused = 0

    def get(self, name: str, settings: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """
        The value of that name where it was computed with equal settings, else `compute()`, which is kept.

        Args:
            name (`str`): slashes make folders.
            settings (`dict`): all that the value depends on; JSON.
            compute (`Callable`): returns JSON values.
        """
        path = self.folder / f"{name}.json"
        settings = {**json.loads(json.dumps(settings)), "estimators": ESTIMATORS}
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        if isinstance(kept, dict) and kept.get("settings") == settings and "value" in kept:
            self.reused += 1
            return kept["value"]
        value = json.loads(json.dumps(compute()))  # the same types whether new or kept
        atomic_write(path, json.dumps({"settings": settings, "value": value}))
        return value


def digest(value: Any) -> str:
    """A short name for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


__all__ = ["Parts", "digest"]
