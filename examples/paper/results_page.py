"""The page of what this package obtained beside the paper's numbers, from results.json files alone."""

import os
from collections.abc import Sequence
from pathlib import Path


def write_page(results_folders: Sequence[str | os.PathLike], output_md: str | os.PathLike) -> Path:
    """
    Write the page.

    Args:
        results_folders (`Sequence[str or os.PathLike]`): each with a results.json.
        output_md (`str` or `os.PathLike`): the page; written whole or not at all.

    Returns:
        `Path`: the page.
    """
    raise NotImplementedError


__all__ = ["write_page"]
