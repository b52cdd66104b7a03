import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from common.errors import UserError
from common.metrics.roc import auroc, bootstrap_auroc, compare_auroc, roc_curve, structure_score, why_undefined

SCORED = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(lambda rows: len({y for _, y in rows}) == 2)


def brute(scores, truth):
    """The definition, pair by pair."""
    pairs = [(a > b) + 0.5 * (a == b) for a, y in zip(scores, truth, strict=True) if y for b, z in zip(scores, truth, strict=True) if not z]
    return sum(pairs) / len(pairs)


def test_area_by_hand():
    # Positives 3 and 2, negatives 1, 2, 0: 3 wins 3 of 3; 2 wins 2 and ties 1: (3 + 2.5)/6.
    assert auroc([3, 1, 2, 2, 0], [1, 0, 1, 0, 0]) == pytest.approx(5.5 / 6)


@given(SCORED)
def test_area_is_the_share_of_pairs_won_with_ties_as_halves(rows):
    scores, truth = zip(*rows, strict=True)
    assert auroc(scores, truth) == pytest.approx(brute(scores, truth))
    assert auroc([-s for s in scores], truth) == pytest.approx(1 - brute(scores, truth))
    assert auroc(np.exp(scores), truth) == pytest.approx(brute(scores, truth))  # ranks alone count


def test_area_is_that_of_scipys_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=80).round(1), rng.integers(0, 2, 80)
    u = mannwhitneyu(scores[truth == 1], scores[truth == 0]).statistic
    assert auroc(scores, truth) == pytest.approx(u / (truth.sum() * (1 - truth).sum()))


@given(SCORED)
def test_curve_runs_from_corner_to_corner_and_holds_the_area(rows):
    scores, truth = zip(*rows, strict=True)
    curve = roc_curve(scores, truth)
    x, y = curve["false_positive_rate"], curve["true_positive_rate"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all() and x.size == len(set(scores)) + 1
    assert float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum()) == pytest.approx(auroc(scores, truth))


def test_curve_by_hand():
    # Above 2: the 3. Above 1: 3, 2 and the healthy 2. Above 0: the healthy 1 too.
    curve = roc_curve([3, 2, 2, 1], [1, 1, 0, 0])
    assert curve["threshold"].tolist() == [3, 2, 1, -math.inf]
    assert curve["true_positive_rate"].tolist() == [0, 0.5, 1, 1] and curve["false_positive_rate"].tolist() == [0, 0, 0.5, 1]


def test_one_class_alone_has_no_area_and_a_reason():
    for truth, why in (([0, 0], "none of 2 is abnormal"), ([1, 1], "none of 2 is free of the finding")):
        assert math.isnan(auroc([1, 2], truth)) and why_undefined([1, 2], truth) == why
        found = bootstrap_auroc([1, 2], truth)
        assert math.isnan(found["auroc"]) and math.isnan(found["low"]) and found["reason"] == why
        assert roc_curve([1, 2], truth)["threshold"].size == 0
        assert math.isnan(compare_auroc([1, 2], [2, 1], truth)["difference"])
    assert why_undefined([math.nan], [1]) == "nothing was scored (1 without a score are left out)"
    assert why_undefined([1, 2], [0, 1]) == ""


def test_a_structure_without_a_score_is_left_out_and_counted():
    found = bootstrap_auroc([1, math.nan, 2, 3], [0, 1, 1, 0], groups=["a", "a", "b", "c"])
    assert found["auroc"] == auroc([1, 2, 3], [0, 1, 0]) == 0.5
    assert (found["left_out"], found["positives"], found["negatives"], found["cases"]) == (1, 1, 2, 3)


@settings(deadline=None, max_examples=30)
@given(SCORED, st.integers(0, 5))
def test_interval_lies_in_range_and_repeats_with_its_seed(rows, seed):
    scores, truth = zip(*rows, strict=True)
    first = bootstrap_auroc(scores, truth, resamples=50, seed=seed)
    assert first == bootstrap_auroc(scores, truth, resamples=50, seed=seed)
    assert 0 <= first["low"] <= first["high"] <= 1


def test_interval_is_that_of_resampling_cases_one_by_one():
    rng = np.random.default_rng(1)
    cases = np.repeat(np.arange(40), 2)
    truth = np.array([[0, 0], [0, 1], [1, 1]])[rng.integers(0, 3, 40)].ravel()
    scores = rng.normal(size=80) + truth + np.repeat(rng.normal(size=40), 2)
    strata = [np.flatnonzero(truth.reshape(-1, 2).sum(1) == k) for k in range(3)]
    areas = []
    for _ in range(1500):
        drawn = np.concatenate([rng.choice(members, members.size) for members in strata])
        areas.append(auroc(scores.reshape(-1, 2)[drawn].ravel(), truth.reshape(-1, 2)[drawn].ravel()))
    found = bootstrap_auroc(scores, truth, cases.tolist(), resamples=4000)
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.012)


def test_scores_that_go_together_in_a_patient_widen_the_interval():
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1], 40)
    scores = np.repeat(rng.normal(size=40) + np.repeat([0, 1], 20), 2)  # both hemispheres of a case score alike
    alone, together = (bootstrap_auroc(scores, truth, groups) for groups in (None, np.repeat(np.arange(40), 2).tolist()))
    assert together["high"] - together["low"] > 1.2 * (alone["high"] - alone["low"])


def test_interval_covers_the_true_area_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(3), []
    truth = np.repeat([0, 1], 40)
    for _ in range(200):
        found = bootstrap_auroc(rng.normal(size=80) + truth, truth, resamples=200)
        covered.append(found["low"] <= 0.7602 <= found["high"])  # Phi(1/sqrt(2))
    assert np.mean(covered) == pytest.approx(0.94, abs=0.05)


def test_methods_that_order_the_cases_alike_do_not_differ():
    rng = np.random.default_rng(4)
    scores, truth = rng.normal(size=30), np.repeat([0, 1], 15)
    same = compare_auroc(scores, np.exp(scores), truth)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)


def test_difference_is_that_of_the_areas_and_changes_sign_with_the_order():
    rng = np.random.default_rng(5)
    truth = np.repeat([0, 1], 30)
    good, bad = rng.normal(size=60) + 2 * truth, rng.normal(size=60)
    there, back = compare_auroc(good, bad, truth), compare_auroc(bad, good, truth)
    assert there["difference"] == pytest.approx(auroc(good, truth) - auroc(bad, truth))
    assert there["low"] == pytest.approx(-back["high"]) and there["low"] > 0
    gap = np.append(good[:-1], math.nan)
    assert compare_auroc(gap, bad, truth)["n"] == 59
    assert compare_auroc(gap, bad, truth)["difference"] == pytest.approx(auroc(good[:-1], truth[:-1]) - auroc(bad[:-1], truth[:-1]))


def test_the_pairing_narrows_the_interval_of_like_methods():
    rng = np.random.default_rng(6)
    truth = np.repeat([0, 1], 40)
    first = rng.normal(size=80) + truth
    second = first + 0.1 * rng.normal(size=80)
    paired = compare_auroc(first, second, truth)
    single = bootstrap_auroc(first, truth)
    assert paired["high"] - paired["low"] < 0.5 * (single["high"] - single["low"])


def test_score_of_a_structure_by_hand():
    values, mask = np.array([[[1.0, 2.0, 3.0, 50.0]]]), np.array([[[1, 1, 1, 0]]])
    assert structure_score(values, mask) == 3 and structure_score(values, mask, "mean") == 2
    assert structure_score(values, mask, "p75") == 2.5  # halfway between the second and the third of three
    assert structure_score(values, mask, "p100") == structure_score(values, mask, "max")
    assert math.isnan(structure_score(values, mask * 0))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: auroc([1, 2], [1]), "expected two lists of one length"),
        (lambda: auroc([1, math.inf], [1, 0]), "1 of 2 are infinite"),
        (lambda: auroc([1, 2], [1, 2]), "truth: found 2, expected only 0 and 1"),
        (lambda: bootstrap_auroc([1, 2], [1, 0], groups=["a"]), "groups: got 1 names, expected 2"),
        (lambda: bootstrap_auroc([1, 2], [1, 0], level=95), "level, resamples: got 95 and 2000"),
        (lambda: compare_auroc([1, 2], [1], [1, 0]), "got 2 and 1 scores"),
        (lambda: structure_score(np.ones(3), np.ones(3), "p101"), "aggregate: got 'p101', expected max, mean or a percentile"),
        (lambda: structure_score(np.ones(3), np.ones(4)), "expected one grid for both"),
        (lambda: structure_score(np.array([1, math.nan]), np.ones(2)), "1 values of the map are NaN or infinite"),
    ],
)
def test_mistakes_are_named(call, text):
    with pytest.raises(UserError, match=text):
        call()
