import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.errors import UserError
from common.transforms.area_opening import area_opening

THRESHOLDS = (1.0, 2.0, 3.5)


def brute(image, mask, thresholds, min_voxels):
    """Every threshold by itself, every component by itself."""
    result = np.zeros(image.shape, np.float32)
    for threshold in sorted(thresholds):
        labels, count = ndimage.label(mask & (image > threshold), structure=np.ones((3, 3, 3)))
        for component in range(1, count + 1):
            if (labels == component).sum() >= min_voxels:
                result[labels == component] = threshold
    return result


def draw(seed, shape=(7, 6, 9)):
    generator = np.random.default_rng(seed)
    return ndimage.gaussian_filter(5 * generator.normal(size=shape), 0.7).astype(np.float32) + 1, generator.random(shape) < 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_the_map_is_that_of_every_threshold_by_itself(seed, min_voxels):
    image, mask = draw(seed)
    assert np.array_equal(area_opening(image, mask, THRESHOLDS, min_voxels), brute(image, mask, THRESHOLDS, min_voxels))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 30))
def test_asking_for_less_never_lowers_the_map(seed, min_voxels, more):
    image, mask = draw(seed)
    assert np.all(area_opening(image, mask, THRESHOLDS, min_voxels) >= area_opening(image, mask, THRESHOLDS, min_voxels + more))


def test_components_touch_by_corners_too():
    image = np.zeros((4, 4, 4), np.float32)
    image[0, 0, 0] = image[1, 1, 1] = 5
    everywhere = np.ones_like(image, bool)
    assert area_opening(image, everywhere, [2], 2).sum() == 4
    assert area_opening(image, everywhere, [2], 3).sum() == 0


def test_nothing_outside_the_mask_and_an_empty_mask_are_zero():
    image, mask = draw(0)
    assert not area_opening(image, mask, THRESHOLDS, 1)[~mask].any()
    assert not area_opening(image, np.zeros_like(mask), THRESHOLDS, 1).any()


@pytest.mark.parametrize("thresholds", [[], [0.0, 1.0]])
def test_a_threshold_that_means_nothing_found_is_an_error(thresholds):
    with pytest.raises(UserError, match="expected at least one number, all above 0"):
        area_opening(*draw(0), thresholds, 1)
