"""ADC by hand, its bounds, its units, and which volumes of a series it is made of."""

import numpy as np
import pytest

from common.errors import UserError
from common.transforms.adc_map import adc_map, choose_volumes, geometric_mean, noise_floor, to_micro

ALL = np.ones((1, 1, 2), bool)


def volume(*values):
    return np.array(values, np.float32).reshape(1, 1, -1)


def test_adc_by_hand():
    # 1000 / e and 1000 / e^2 at b = 1000 s/mm2: 1e-3 and 2e-3 mm2/s
    adc, bounded = adc_map(volume(1000, 1000), volume(1000 / np.e, 1000 / np.e**2), 1000, ALL)
    np.testing.assert_allclose(adc.ravel(), [1000, 2000], rtol=1e-5)
    assert adc.dtype == np.float32 and bounded == 0


@pytest.mark.parametrize("b", [500.0, 1000.0, 2000.0])
def test_adc_undoes_the_decay_whatever_the_b_value_and_the_gain(b):
    true = np.random.default_rng(0).uniform(300, 3000, (4, 5, 6))
    s0 = np.random.default_rng(1).uniform(100, 900, true.shape)
    for gain in (1.0, 7.0):
        adc, _ = adc_map(gain * s0, gain * s0 * np.exp(-b * true * 1e-6), b, np.ones(true.shape, bool))
        np.testing.assert_allclose(adc, true, rtol=1e-5)


def test_a_signal_below_the_noise_counts_as_noise():
    # ln(1000 / 20) / 1000 = 3912e-6; the second voxel has no signal to measure
    adc, bounded = adc_map(volume(1000, 15), volume(3, 10), 1000, ALL, floor=20)
    np.testing.assert_allclose(adc.ravel(), [np.log(50) * 1000, 0], rtol=1e-5)
    assert bounded == 1


def test_inside_the_brain_nothing_is_0_since_0_means_outside():
    adc, bounded = adc_map(volume(100, 100), volume(120, 50), 1000, np.array([True, False]).reshape(1, 1, 2))
    assert adc.ravel().tolist() == [1.0, 0.0] and bounded == 1


def test_the_mean_over_directions_is_that_of_the_adcs():
    adcs = np.array([600.0, 900.0, 1500.0])
    signals = (500 * np.exp(-adcs / 1000)).reshape(3, 1, 1, 1)
    adc, _ = adc_map(np.full((1, 1, 1), 500.0), geometric_mean(signals, 0), 1000, np.ones((1, 1, 1), bool))
    assert adc.item() == pytest.approx(1000, rel=1e-5)


def test_the_shell_nearest_to_the_wish_is_taken_with_its_neighbours():
    assert choose_volumes([0, 5, 995, 1000, 1005, 2000, 700]) == ([0, 1], [2, 3, 4], 1000.0)
    assert choose_volumes([0, 800, 810]) == ([0], [1, 2], 805.0)


@pytest.mark.parametrize("bvals", [[1000, 1000], [0, 0], [0, 10]])
def test_a_series_without_either_kind_is_refused(bvals):
    with pytest.raises(UserError, match="expected at least one of each"):
        choose_volumes(bvals)


def test_the_noise_of_the_air_is_measured_by_rayleighs_law():
    noise = np.hypot(*np.random.default_rng(0).normal(0, 8, (2, 60, 60, 60)))
    brain = np.zeros(noise.shape, bool)
    brain[20:40, 20:40, 20:40] = True
    assert noise_floor(noise + 500 * brain, brain) == pytest.approx(8 * np.sqrt(np.pi / 2), rel=0.06)
    assert noise_floor(np.where(brain, 500, 0), brain) == 0


@pytest.mark.parametrize("factor, unit", [(1, "1e-6 mm2/s"), (1e-3, "1e-3 mm2/s"), (1e-6, "mm2/s")])
def test_a_map_in_any_of_the_usual_units_becomes_1e_6(factor, unit):
    values = np.random.default_rng(0).uniform(600, 1600, (5, 5, 5))
    found, name = to_micro(values * factor, np.ones(values.shape, bool), "a.nii")
    np.testing.assert_allclose(found, values, rtol=1e-5)
    assert name == unit


def test_what_is_no_adc_is_named():
    with pytest.raises(UserError, match=r"a.nii: the median in the brain is 50, which is no ADC"):
        to_micro(np.full((3, 3, 3), 50.0), np.ones((3, 3, 3), bool), "a.nii")
    with pytest.raises(UserError, match="mask of the brain is empty"):
        to_micro(np.ones((3, 3, 3)), np.zeros((3, 3, 3), bool), "a.nii")
    with pytest.raises(UserError, match="expected three equal 3D ones"):
        adc_map(np.ones((2, 2, 2)), np.ones((2, 2, 3)), 1000, np.ones((2, 2, 2), bool))
    with pytest.raises(UserError, match="got b = 0"):
        adc_map(volume(1, 1), volume(1, 1), 0, ALL)
    with pytest.raises(UserError, match="ADC: the mask of the brain is empty"):
        adc_map(volume(1, 1), volume(1, 1), 1000, ~ALL)
