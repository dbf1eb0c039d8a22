"""Holm's correction, against statsmodels' own."""

import numpy as np
import pytest
from statsmodels.stats import multitest

from modeling_trace.evaluation.multiple_tests import correct_tests, holm


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_holm_is_that_of_statsmodels(count):
    rng = np.random.default_rng(count)
    p_values = rng.uniform(size=count) ** 4  # some of them small
    p_values[rng.integers(count)] = p_values[0]  # a tie
    for alpha in (0.01, 0.05, 0.3):
        significant, corrected, _, _ = multitest.multipletests(p_values, alpha, method="holm")
        assert np.array_equal(holm(p_values), corrected)
        tests = correct_tests([{"p": p} for p in p_values], alpha)
        assert [test["significant"] for test in tests] == significant.tolist()
        assert [test["p_holm"] for test in tests] == corrected.tolist()
    assert count == 1 or (holm(p_values) > p_values).any()


def test_no_tests():
    assert correct_tests([], 0.05) == [] and holm([]).shape == (0,)
