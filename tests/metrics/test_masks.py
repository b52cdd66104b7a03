import numpy as np
import pytest

from common.errors import UserError
from common.metrics.masks import as_mask, as_mask_pair, bounding_box, check_spacing, voxel_ml


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_zero_and_one_are_read_in_any_number_type(dtype):
    volume = np.zeros((2, 3, 4), dtype=dtype)
    volume[1, 2, 3] = 1
    mask = as_mask(volume, "truth")
    assert mask.dtype == bool and mask.sum() == 1 and mask[1, 2, 3]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 4)), r"truth: got an array of shape \(4, 4\), expected a 3D volume .* Drop the channel"),
        (np.zeros((1, 4, 4, 4)), r"truth: got an array of shape \(1, 4, 4, 4\)"),
        (np.zeros((0, 4, 4)), "without any voxel"),
        (np.full((2, 2, 2), np.nan), "truth: 8 voxels are NaN or infinite"),
        (np.full((2, 2, 2), np.inf), "truth: 8 voxels are NaN or infinite"),
        (np.full((2, 2, 2), 2, dtype=np.uint8), "truth: found the values 2, expected only 0 and 1. Threshold it"),
        (np.linspace(0, 1, 8).reshape(2, 2, 2), r"truth: found the values 0, 0.142857, 0.285714, 0.428571, 0.571429, \.\.\."),
        (np.full((2, 2, 2), -1), "truth: found the values -1"),
        (np.full((2, 2, 2), "a"), "truth: got values of type <U1"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_values_named(array, text):
    with pytest.raises(UserError, match=text):
        as_mask(array, "truth")


def test_masks_on_different_grids_are_refused_with_both_shapes():
    with pytest.raises(UserError, match=r"prediction: got shape \(2, 2, 3\), expected \(2, 2, 2\)"):
        as_mask_pair(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, -1.0, 1.0), (1.0, 1.0, np.nan)])
def test_a_spacing_is_three_positive_numbers(spacing):
    with pytest.raises(UserError, match=r"spacing_mm: got .* expected three positive numbers"):
        check_spacing(spacing)


def test_a_spacing_with_rounding_noise_is_the_spacing_of_the_header():
    assert check_spacing((2.0000000105, 1.9999999902, 0.4)) == (2.0, 2.0, 0.4)


def test_the_volume_of_a_voxel_is_the_product_of_its_edges():
    assert voxel_ml((2.0, 2.5, 4.0)) == pytest.approx(0.02)  # 2 * 2.5 * 4 = 20 mm^3 = 0.02 ml


def test_the_bounding_box_holds_every_marked_voxel_and_no_empty_border():
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))
    assert mask[bounding_box(np.zeros_like(mask))].size == 0
