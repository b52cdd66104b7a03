"""Z maps by hand, smoothing that does not see the outside, and the norm of a scan's own parenchyma."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.errors import UserError
from common.transforms.zscore_map import own_norm, smooth_in_brain, zscore_map


def test_z_by_hand():
    adc = np.array([900.0, 700.0, 5000.0, 800.0, 800.0]).reshape(1, 1, 5)
    brain = np.array([True, True, True, False, True]).reshape(1, 1, 5)
    sd = np.array([100.0, 50.0, 100.0, 100.0, 0.0]).reshape(1, 1, 5)
    # (900 - 800) / 100, (700 - 800) / 50, clipped, outside, not known to the norm
    assert zscore_map(adc, 800.0, sd, brain).ravel().tolist() == [1.0, -2.0, 10.0, 0.0, 0.0]


def test_smoothing_keeps_a_constant_up_to_the_rim_and_leaves_the_outside():
    brain = np.zeros((9, 9, 9), bool)
    brain[2:7, 2:7, 2:7] = True
    found = smooth_in_brain(np.full(brain.shape, 800.0), brain, (1, 1, 2))
    np.testing.assert_allclose(found[brain], 800, rtol=1e-5)
    assert not found[~brain].any()


def test_inside_a_large_brain_smoothing_is_scipys_with_the_width_in_mm():
    values = np.random.default_rng(0).normal(800, 100, (20, 20, 20)).astype(np.float32)
    found = smooth_in_brain(values, np.ones(values.shape, bool), (1.0, 0.5, 2.0), 2.0)
    expected = gaussian_filter(values, [2 / 2.354820 / step for step in (1.0, 0.5, 2.0)], mode="nearest")
    np.testing.assert_allclose(found[8:12, 8:12, 8:12], expected[8:12, 8:12, 8:12], rtol=1e-3)


def test_no_smoothing_is_the_identity():
    values = np.arange(27, dtype=np.float32).reshape(3, 3, 3) + 1
    np.testing.assert_array_equal(smooth_in_brain(values, np.ones((3, 3, 3), bool), (1, 1, 1), 0.0), values)


@pytest.mark.parametrize("fluid, lesion", [(0, 0), (4000, 0), (4000, 1500)])
def test_fluid_and_lesions_do_not_move_the_norm_of_the_parenchyma(fluid, lesion):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(820, 80, 20000), rng.normal(3000, 200, fluid), rng.normal(350, 30, lesion)])
    norm = own_norm(values.reshape(1, 1, -1), np.ones((1, 1, len(values)), bool))
    assert norm.median == pytest.approx(820, rel=0.01) and norm.sd == pytest.approx(80, rel=0.05)
    assert norm.share == pytest.approx(20000 / len(values), abs=0.01)


def test_the_spread_is_robust_by_hand():
    # median 1000; deviations 100, 50, 0, 50, 100: median 50
    norm = own_norm(np.array([900.0, 950, 1000, 1050, 1100]).reshape(1, 1, 5), np.ones((1, 1, 5), bool))
    assert (norm.median, norm.sd, norm.share) == (1000, pytest.approx(74.13), 1.0)


def test_an_empty_mask_and_a_map_without_spread_are_named():
    with pytest.raises(UserError, match="mask of the brain is empty"):
        own_norm(np.ones((2, 2, 2)), np.zeros((2, 2, 2), bool))
    with pytest.raises(UserError, match="no spread in the brain"):
        own_norm(np.ones((2, 2, 2)), np.ones((2, 2, 2), bool))
