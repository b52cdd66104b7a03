"""A simulated ensemble that is calibrated by construction must look so, and one that is too sure must not."""

import numpy as np
import pytest

from common.errors import UserError
from common.metrics.calibration import expected_calibration_error, reliability_table
from common.metrics.ensemble_calibration import expected_error, measure_ensemble, pool_variance, variance_calibration_error, variance_table


def column(*values, dtype=float):
    return np.array(values, dtype=dtype).reshape(-1, 1, 1)


def test_the_expected_error_by_hand():
    # votes of 0, 1/5, 1/2, 4/5, 1
    shares = np.array([0, 0.2, 0.5, 0.8, 1.0])
    assert expected_error(shares * (1 - shares)).tolist() == pytest.approx([0, 0.2, 0.5, 0.2, 0])
    assert expected_error(np.array([0.3, 7.0])).tolist() == [0.5, 0.5]


def test_a_table_by_hand():
    variance, prediction, truth = column(0.0, 0.1, 0.16, 0.25, 0.9), column(0, 1, 1, 1, 0), column(0, 1, 0, 0, 1)
    table = variance_table(variance, prediction, truth, bins=2)
    assert table["upper"].tolist() == [0.125, 0.25]
    assert table["count"].tolist() == [2, 3]
    assert table["mean_variance"].tolist() == pytest.approx([0.05, (0.16 + 0.25 + 0.9) / 3])
    assert table["observed"].tolist() == [0, 1]
    # sqrt(1 - 4 x 0.1) = 0.7746, so expected 0.1127; sqrt(1 - 4 x 0.16) = 0.6, so 0.2; 0.5 and 0.5
    assert table["expected"].tolist() == pytest.approx([0.1127 / 2, 0.4], abs=1e-4)
    assert variance_calibration_error(table) == pytest.approx(0.4 * 0.1127 / 2 + 0.6 * 0.6, abs=1e-4)


def simulated(sure=1.0, seed=0, shape=(40, 40, 40)):
    """Truth drawn with probability p, and the mean and variance of an ensemble that says ``sure`` times as far from 0.5 as p."""
    generator = np.random.default_rng(seed)
    p = generator.random(shape)
    mean = np.clip(0.5 + sure * (p - 0.5), 0, 1)
    return mean, mean * (1 - mean), mean > 0.5, generator.random(shape) < p


def test_an_ensemble_that_knows_its_chances_is_calibrated_and_one_too_sure_is_not():
    right, sure = measure_ensemble(*simulated()), measure_ensemble(*simulated(sure=2.0))
    assert right["variance_ece"] < 0.02 < 0.1 < sure["variance_ece"]
    assert right["mean_ece"] < 0.02 < sure["mean_ece"]
    assert right["error_rate"] == pytest.approx(0.25, abs=0.01)  # mean of min(p, 1 - p)


def test_a_variance_drawn_at_random_points_at_nothing():
    mean, variance, prediction, truth = simulated()
    shuffled = np.random.default_rng(1).permutation(variance.ravel()).reshape(variance.shape)
    assert measure_ensemble(mean, variance, prediction, truth)["variance_auroc"] > 0.7
    assert measure_ensemble(mean, shuffled, prediction, truth)["variance_auroc"] == pytest.approx(0.5, abs=0.01)


def test_the_calibration_of_the_mean_is_that_of_the_other_metrics():
    mean, variance, prediction, truth = simulated()
    brain = mean > 0.2
    found = measure_ensemble(mean, variance, prediction, truth, brain, bins=7)
    assert found["mean_ece"] == expected_calibration_error(reliability_table(mean, truth, brain, 7))


def test_pooled_tables_are_the_table_of_all_voxels():
    parts = [simulated(seed=seed, shape=(5, 4, 3 + seed)) for seed in range(3)]
    tables = [variance_table(variance, prediction, truth) for _, variance, prediction, truth in parts]
    together = variance_table(*(np.concatenate([part[index].ravel() for part in parts])[:, None, None] for index in (1, 2, 3)))
    pooled = pool_variance(tables)
    assert all(np.allclose(pooled[key], together[key], equal_nan=True) for key in together)


def test_only_the_brain_counts_and_nan_outside_it_is_harmless():
    table = variance_table(column(0.1, np.nan), column(1, 0), column(0, 0), column(1, 0))
    assert table["count"].sum() == 1
    assert np.nansum(table["observed"]) == 1


def test_a_mask_without_error_has_no_auroc():
    mask = column(1, 0, 1)
    assert np.isnan(measure_ensemble(mask, column(0, 0.1, 0), mask, mask)["variance_auroc"])


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: variance_table(column(-0.1), column(1), column(1)), "variance: values run from -0.1"),
        (lambda: variance_table(column(0.1), column(1), column(1), bins=0), "bins: got 0"),
        (lambda: variance_table(column(0.1), column(1), column(1), column(0)), "brain: the mask holds no voxel"),
        (lambda: variance_table(column(0.1, 0.1), column(1), column(1)), "variance: got shape"),
        (lambda: pool_variance([]), "tables: got 0"),
    ],
)
def test_mistakes_are_told(act, text):
    with pytest.raises(UserError, match=text):
        act()
