from itertools import chain, combinations

import numpy as np
import pytest
from scipy import stats

from trainables.scoring.significance import holm, student_interval


def test_the_interval_equals_that_of_scipy():
    values = [0.81, 0.84, 0.86, 0.9]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_the_interval_is_cut_to_the_range_and_holds_the_mean():
    assert student_interval([0.82, 0.98], (0, 1)) == (pytest.approx(0.9), 0, 1)


def test_holm_equals_bonferroni_on_every_subset():
    """Closed testing (Marcus 1976): an effect counts if Bonferroni rejects every subset that holds it."""
    p_values = np.random.default_rng(0).random(6) ** 3
    everything = range(len(p_values))
    subsets = list(chain.from_iterable(combinations(everything, size + 1) for size in everything))
    expected = [
        max(min(1, len(subset) * min(p_values[list(subset)])) for subset in subsets if place in subset)
        for place in everything
    ]
    assert holm(p_values.tolist()) == pytest.approx(expected)


def test_one_difference_needs_no_correction():
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
