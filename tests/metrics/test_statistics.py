import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, wilcoxon

from common.errors import UserError
from common.metrics.statistics import bootstrap_interval, describe, holm, paired_wilcoxon

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 with m = 4: 4*.005 = .02, 3*.01 = .03, 2*.03 = .06, 1*.04 = .04 raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES, st.randoms())
def test_holm_lies_between_raw_and_bonferroni_keeps_the_order_and_follows_permutations(p_values, random):
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) or math.isclose(raw, corrected)
    by_raw = [corrected for _, corrected in sorted(zip(p_values, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == pytest.approx([adjusted[i] for i in order])


@given(P_VALUES, st.floats(0.01, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    rejected = []
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.append(index)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == set(rejected)


def test_holm_leaves_a_test_that_was_not_made_out_of_the_family():
    adjusted = holm([0.01, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1]) and adjusted[2] == 0.5
    assert holm([]) == []
    with pytest.raises(UserError, match="p_values: got"):
        holm([1.5])


def test_five_cases_all_better_by_hand():
    # All signs equal: 2 of the 2^5 sign patterns are as extreme, p = 2/32.
    result = paired_wilcoxon([0.5, 0.6, 0.7, 0.8, 0.9], [0.4, 0.4, 0.4, 0.4, 0.4])
    assert result["p"] == pytest.approx(0.0625)
    assert result["n"] == 5 and result["mean_difference"] == pytest.approx(0.3) and result["median_difference"] == pytest.approx(0.3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_paired_test_is_symmetric_and_changes_sign_with_the_order(pairs):
    first, second = zip(*pairs, strict=True)
    there, back = paired_wilcoxon(first, second), paired_wilcoxon(second, first)
    assert there["p"] == pytest.approx(back["p"])
    assert there["mean_difference"] == -back["mean_difference"]
    assert 0 <= there["p"] <= 1


def test_the_paired_test_is_scipys_on_the_cases_that_both_have():
    rng = np.random.default_rng(0)
    first, second = rng.random(30), rng.random(30)
    with_gaps = [math.nan, *first, 0.3], [0.2, *second, math.nan]
    assert paired_wilcoxon(*with_gaps)["p"] == pytest.approx(wilcoxon(first, second).pvalue)
    assert paired_wilcoxon(*with_gaps)["n"] == 30


def test_the_paired_test_without_differences_or_cases():
    assert paired_wilcoxon([0.5, 0.6], [0.5, 0.6])["p"] == 1.0
    assert math.isnan(paired_wilcoxon([math.nan], [0.5])["p"])
    with pytest.raises(UserError, match="got 1 and 2 cases"):
        paired_wilcoxon([1.0], [1.0, 2.0])


def test_description_by_hand():
    described = describe([0.2, math.nan, 0.4, 0.6])
    assert (described["n"], described["left_out"]) == (3, 1)
    assert described["mean"] == pytest.approx(0.4) and described["sd"] == pytest.approx(0.2)  # sqrt((.04 + 0 + .04)/2)
    assert 0.2 <= described["low"] <= 0.4 <= described["high"] <= 0.6


def test_description_of_too_few_cases_is_nan_not_an_error():
    assert math.isnan(describe([])["mean"]) and describe([])["n"] == 0
    lone = describe([0.7])
    assert lone["mean"] == 0.7 and all(math.isnan(lone[name]) for name in ("sd", "low", "high"))


def test_the_interval_is_scipys_percentile_bootstrap_and_repeatable():
    values = np.random.default_rng(3).beta(2, 1, size=60)
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    ends = [bootstrap_interval(rng.beta(2, 1, size=50)) for _ in range(200)]
    assert np.mean([low <= 2 / 3 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.05)


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_interval(np.full(4, 0.1)) == (0.1, 0.1)
    with pytest.raises(UserError, match="level: got 2"):
        bootstrap_interval(np.ones(3), level=2)
