"""Many tests at once: Holm's correction of their p-values."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """
    Holm's step-down correction (Holm 1979), which needs no independence of the tests.

    Args:
        p_values (`Sequence[float]`): of m tests.

    Returns:
        `np.ndarray` of shape `(m,)`: corrected p-values. Where those of at most alpha count as significant, the
        chance of any false one is at most alpha.
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    corrected = np.empty_like(p_values)
    factors = np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected


def correct_tests(tests: list[dict[str, Any]], significance: float) -> list[dict[str, Any]]:
    """
    Add to tests, from the `p` of each, Holm's `p_holm` and whether it is `significant`.

    Args:
        tests (`list[dict]`): those that are read together; changed in place.
        significance (`float`): the chance of any false one among them.

    Returns:
        `list[dict]`: `tests`.
    """
    for test, p in zip(tests, holm([test["p"] for test in tests]).tolist(), strict=True):
        test.update(p_holm=p, significant=p <= significance)
    return tests


__all__ = ["correct_tests", "holm"]
