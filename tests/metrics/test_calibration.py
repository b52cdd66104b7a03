import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import UserError
from common.metrics.calibration import brier_score, expected_calibration_error, pool_reliability, reliability_table, volume_interval_ml

SHAPE = (4, 3, 2)
PROBABILITIES = arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
TRUTHS = arrays(bool, SHAPE)
UNIT = (10.0, 10.0, 10.0)  # 1 ml per voxel


def column(*values, dtype=float):
    return np.array(values, dtype=dtype).reshape(-1, 1, 1)


def test_reliability_table_and_error_by_hand():
    probability, truth = column(0.1, 0.3, 0.6, 0.9), column(0, 1, 1, 1)
    table = reliability_table(probability, truth, bins=2)
    assert table["count"].tolist() == [2, 2]
    assert table["mean_predicted"] == pytest.approx([0.2, 0.75])
    assert table["observed"] == pytest.approx([0.5, 1.0])
    # ECE = 2/4 * |0.2 - 0.5| + 2/4 * |0.75 - 1| = 0.15 + 0.125
    assert expected_calibration_error(table) == pytest.approx(0.275)
    # Brier = (0.01 + 0.49 + 0.16 + 0.01) / 4
    assert brier_score(probability, truth) == pytest.approx(0.1675)


def test_one_belongs_to_the_last_bin_and_an_edge_to_the_bin_above():
    table = reliability_table(column(0.0, 0.5, 1.0), column(0, 1, 1), bins=2)
    assert table["count"].tolist() == [1, 2]


def test_only_the_brain_counts_and_nan_outside_it_is_harmless():
    probability, truth, brain = column(0.2, np.nan), column(0, 1), column(1, 0)
    assert reliability_table(probability, truth, brain)["count"].sum() == 1
    assert brier_score(probability, truth, brain) == pytest.approx(0.04)


@settings(deadline=None, max_examples=40)
@given(PROBABILITIES, TRUTHS)
def test_table_conserves_voxels_and_lesions_and_its_errors_are_bounded(probability, truth):
    table = reliability_table(probability, truth)
    held = table["count"] > 0
    assert table["count"].sum() == truth.size
    assert (table["observed"][held] * table["count"][held]).sum() == pytest.approx(truth.sum())
    assert (table["mean_predicted"][held] * table["count"][held]).sum() == pytest.approx(probability.sum(), rel=1e-5, abs=1e-6)
    assert 0 <= expected_calibration_error(table) <= 1
    assert 0 <= brier_score(probability, truth) <= 1


@given(TRUTHS)
def test_a_certain_and_right_map_is_perfect_and_a_certain_and_wrong_one_the_worst(truth):
    right, wrong = truth.astype(float), 1.0 - truth
    assert brier_score(right, truth) == 0 and expected_calibration_error(reliability_table(right, truth)) == 0
    assert brier_score(wrong, truth) == 1 and expected_calibration_error(reliability_table(wrong, truth)) == 1


def test_a_calibrated_map_has_a_small_error_and_an_overconfident_one_a_large_one():
    rng = np.random.default_rng(0)
    probability = rng.random((40, 40, 40))
    truth = rng.random(probability.shape) < probability
    assert expected_calibration_error(reliability_table(probability, truth)) < 0.01
    # Pushed to 0 or 1: right in 3 of 4 voxels, so the gap is 0.25 on either side.
    assert expected_calibration_error(reliability_table(probability.round(), truth)) == pytest.approx(0.25, abs=0.01)


@settings(deadline=None, max_examples=30)
@given(PROBABILITIES, TRUTHS, PROBABILITIES, TRUTHS)
def test_pooling_tables_equals_counting_all_voxels_together(p, t, q, u):
    pooled = pool_reliability([reliability_table(p, t), reliability_table(q, u)])
    together = reliability_table(np.concatenate([p, q]), np.concatenate([t, u]))
    for name in together:
        assert pooled[name] == pytest.approx(together[name], nan_ok=True)


def test_volume_interval_of_votes_runs_from_all_members_to_any_member():
    votes = column(8, 8, 7, 4, 1, 1, 0) / 8
    assert volume_interval_ml(votes, UNIT, level=0.8) == pytest.approx((2.0, 6.0))  # share >= 0.9: 2 voxels; share >= 0.1: 6


def test_nine_of_ten_votes_reach_ninety_percent_in_float32():
    assert volume_interval_ml(column(0.9, dtype=np.float32), UNIT, level=0.8)[0] == pytest.approx(1.0)


@settings(deadline=None, max_examples=40)
@given(PROBABILITIES, st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_a_higher_level_gives_a_wider_interval_around_the_majority(probability, one, other):
    narrow, wide = (volume_interval_ml(probability, UNIT, level=level) for level in sorted((one, other)))
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    majority = np.count_nonzero(probability >= 0.5)
    assert narrow[0] <= majority <= narrow[1]


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_the_interval_covers_as_often_as_it_says_when_the_truth_is_a_level_set(level):
    # A cone of probability; the truth is {p >= u}, u uniform: each voxel is lesion with probability p, so the map is calibrated.
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 21)] * 3, indexing="ij")
    probability = np.clip(1 - np.sqrt(x**2 + y**2 + z**2), 0, 1)
    low, high = volume_interval_ml(probability, UNIT, level=level)
    thresholds = np.random.default_rng(1).random(2000)
    volumes = np.array([np.count_nonzero(probability >= u) for u in thresholds])
    assert np.mean((volumes >= low - 1e-9) & (volumes <= high + 1e-9)) == pytest.approx(level, abs=0.04)


def test_the_interval_is_wide_rather_than_narrow_when_voxels_err_independently():
    rng = np.random.default_rng(2)
    probability = rng.random((12, 12, 12))
    low, high = volume_interval_ml(probability, UNIT, level=0.8)
    volumes = np.array([np.count_nonzero(rng.random(probability.shape) < probability) for _ in range(200)])
    assert np.mean((volumes >= low) & (volumes <= high)) >= 0.8


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: brier_score(column(1.2), column(1)), "probability: values run from 1.2 to 1.2, expected .* sigmoid"),
        (lambda: brier_score(column(np.nan), column(1)), "probability: values run from nan"),
        (lambda: brier_score(column(0.5, 0.5), column(1)), r"probability: got shape \(2, 1, 1\), expected \(1, 1, 1\)"),
        (lambda: brier_score(column(0.5), column(1), column(0)), "brain: the mask holds no voxel"),
        (lambda: reliability_table(column(0.5), column(1), bins=0), "bins: got 0"),
        (lambda: volume_interval_ml(column(0.5), UNIT, level=1), "level: got 1"),
        (lambda: pool_reliability([]), "tables: got 0"),
    ],
)
def test_mistakes_are_named(call, text):
    with pytest.raises(UserError, match=text):
        call()
