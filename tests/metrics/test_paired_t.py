"""The paired t-test against scipy and by hand, with what scipy leaves as NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from common.errors import UserError
from common.metrics.paired_t import paired_t


def test_it_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=12), random.normal(0.4, 1, 12)
    theirs, found = ttest_rel(first, second), paired_t(list(first), list(second))
    interval = theirs.confidence_interval(0.95)
    assert found["p"] == pytest.approx(theirs.pvalue) and (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))


def test_by_hand() -> None:
    # differences 1, 2, 3: mean 2, SD 1, t = 2 * sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    found = paired_t([2, 4, 6], [1, 2, 3])
    assert found["mean_difference"] == 2 and found["p"] == pytest.approx(1 - math.sqrt(12 / 14))


def test_equal_and_equally_shifted_methods_have_a_p() -> None:
    assert paired_t([1, 2], [1, 2]) == {"n": 2, "mean_difference": 0, "low": 0, "high": 0, "p": 1}
    assert paired_t([2, 3], [1, 2]) == {"n": 2, "mean_difference": 1, "low": 1, "high": 1, "p": 0}


def test_pairs_without_numbers_are_left_out() -> None:
    found = paired_t([1, math.inf, 3], [0, 1, math.nan])
    assert found["n"] == 1 and found["mean_difference"] == 1 and math.isnan(found["p"])


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="paired_t: got 1 and 2 numbers"):
        paired_t([1], [1, 2])
    with pytest.raises(UserError, match="level: got 95"):
        paired_t([1, 2], [1, 2], 95)
