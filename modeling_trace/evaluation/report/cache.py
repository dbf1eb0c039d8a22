"""Results of a long evaluation, each in a file of its own: an evaluation that was stopped continues where it was."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...utils import atomic_write

VERSION = 4  # to be raised with every change to what a result holds: older ones are then computed again


class EvaluationCache:
    """
    Results by their name and by everything that they depend on.

    The caller's settings must hold the content behind a result, or a digest of it: `fingerprint` of an
    [`EvaluatedSystem`] for the weights, [`digest`] for texts. A name of a model or file is not enough, since what it
    stands for may change.

    Args:
        folder (`str` or `os.PathLike`): made where it is missing; its files are written whole or not at all.

    Attributes:
        num_reused (`int`): results that an earlier run had written to the folder and that were used again.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.num_reused = 0
        self._computed: set[str] = set()  # by this object, so no work of an earlier run

    def get_or_compute(self, name: str, settings: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """
        The result of that name if it was computed with equal settings, else that of `compute()`, which is kept.

        Args:
            name (`str`): slashes make folders.
            settings (`dict`): everything that the result depends on; JSON.
            compute (`Callable`): returns JSON values.

        Returns:
            What `compute` returned, as JSON has it: lists for tuples.
        """
        path = self.folder / f"{name}.json"
        settings = {**json.loads(json.dumps(settings)), "version": VERSION}
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or a damaged one
            saved = {}
        if isinstance(saved, dict) and saved.get("settings") == settings and "value" in saved:
            self.num_reused += name not in self._computed
            return saved["value"]
        value = json.loads(json.dumps(compute()))  # the same types whether new or saved
        atomic_write(path, json.dumps({"settings": settings, "value": value}))
        self._computed.add(name)
        return value


__all__ = ["EvaluationCache"]
