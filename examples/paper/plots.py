"""The paper's figures, and two of our own, from results: SVG, PNG and CSV."""

import os
from pathlib import Path
from typing import Any


def draw(results: dict[str, Any], folder: str | os.PathLike) -> list[Path]:
    """
    Draw what an experiment's results have a figure of.

    Args:
        results (`dict`): the content of a results.json.
        folder (`str` or `os.PathLike`): where files are written.

    Returns:
        `list[Path]`: the files; none for experiments without a figure.
    """
    raise NotImplementedError


__all__ = ["draw"]
