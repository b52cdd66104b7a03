from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from common.data.slice_stack import AIR_HU, SliceStack, even_grid, shift_slice

AXES = np.eye(3)


def stack(heights: list[float], shear: tuple[float, float] = (0.0, 0.0), pixel_mm: tuple[float, float] = (2.0, 3.0)) -> SliceStack:
    """Slices at heights, moved by ``shear`` mm per mm of height."""
    up = np.asarray(heights)
    return SliceStack(np.column_stack([5 + shear[0] * up, -7 + shear[1] * up, 11 + up]), AXES, pixel_mm)


def sampled(place: SliceStack, function: object, shape: tuple[int, int] = (9, 11)) -> list[np.ndarray]:
    """Slices that sample a function of the place in mm."""
    i, j = np.indices(shape)
    return [
        function(p[0] + i * place.pixel_mm[0], p[1] + j * place.pixel_mm[1], np.full(shape, p[2])).astype(np.float32)  # type: ignore[operator]
        for p in place.positions
    ]


def ramp(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return 100 + 3 * x - 2 * y + 5 * z


UNEVEN = [0.0, 4, 8, 12, 13, 20, 27, 34]


def test_an_even_straight_stack_is_passed_on_bit_by_bit() -> None:
    random = np.random.RandomState(0)
    slices = [random.normal(size=(5, 4)).astype(np.float32) for _ in range(6)]
    volume, affine, notes = even_grid(stack([0, 5, 10, 15, 20, 25]), slices.__getitem__)
    np.testing.assert_array_equal(volume, np.stack(slices, axis=-1))
    np.testing.assert_array_equal(affine, [[2, 0, 0, 5], [0, 3, 0, -7], [0, 0, 5, 11], [0, 0, 0, 1]])
    assert notes == []


@pytest.mark.parametrize("heights", [[0.0, 4, 8, 12, 16, 20, 24, 28], UNEVEN])
@pytest.mark.parametrize("shear", [(0.0, 0.0), (0.0, -0.335), (0.1, 0.2), (-0.25, 0.0)])
def test_a_ramp_comes_back_exactly_from_a_sheared_and_uneven_stack(heights: list[float], shear: tuple[float, float]) -> None:
    place = stack(heights, shear)
    volume, affine, notes = even_grid(place, sampled(place, ramp).__getitem__)
    x, y, z = (affine[:3, :3] @ np.indices(volume.shape).reshape(3, -1) + affine[:3, 3:]).reshape(3, *volume.shape)
    # voxels whose four corners in both neighbouring slices exist
    inner = np.ones(volume.shape, bool)
    for p in place.positions:
        near = np.abs(z - p[2]) < np.diff(place.heights).max() + 1e-6
        inside = (x >= p[0]) & (x <= p[0] + 8 * 2) & (y >= p[1]) & (y <= p[1] + 10 * 3)
        inner &= ~near | inside
    assert inner.sum() > 200
    np.testing.assert_allclose(volume[inner], ramp(x, y, z)[inner], atol=2e-3)
    assert len(notes) == (shear != (0, 0)) + (heights is UNEVEN)


def test_a_phantom_comes_back_like_by_an_independent_interpolation() -> None:
    def ball(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return 1000 * np.exp(-((x - 13) ** 2 + (y - 8) ** 2 + (z - 25) ** 2) / 200)

    place = stack(list(np.arange(0, 30, 2.5)), (0.0, -0.3))
    slices = sampled(place, ball, (9, 14))
    volume, affine, _ = even_grid(place, slices.__getitem__)
    points = (affine[:3, :3] @ np.indices(volume.shape).reshape(3, -1) + affine[:3, 3:]).T
    sheared = np.eye(4)
    sheared[:3, :3] = np.column_stack([[2, 0, 0], [0, 3, 0], (place.positions[1] - place.positions[0])])
    sheared[:3, 3] = place.positions[0]
    index = np.linalg.inv(sheared) @ np.column_stack([points, np.ones(len(points))]).T
    expected = map_coordinates(np.stack(slices, -1), index[:3], order=1, cval=AIR_HU).reshape(volume.shape)
    inner = (expected > AIR_HU) & (volume > 0)
    assert inner.mean() > 0.5
    np.testing.assert_allclose(volume[inner], expected[inner], atol=1e-2)


def test_no_voxel_is_lost_to_the_shear() -> None:
    place = stack(list(np.arange(0, 40, 4.0)), (0.0, 0.75))  # one pixel of 3 mm per slice
    slices = [np.full((4, 6), 50 + k, np.float32) for k in range(10)]
    volume, affine, _ = even_grid(place, slices.__getitem__)
    assert volume.shape == (4, 15, 10)
    for k in range(10):
        np.testing.assert_array_equal(volume[:, k : k + 6, k], slices[k])
    assert (volume == AIR_HU).sum() == 10 * 9 * 4
    np.testing.assert_array_equal(affine[:3, 3], place.positions[0])


def test_whole_shifts_copy_and_half_shifts_average() -> None:
    pixels = np.array([[1.0, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(shift_slice(pixels, np.array([1.0, 0.0]), np.array([2, 0]), 0), [[0, 0], [1, 2], [3, 4], [0, 0]])
    np.testing.assert_array_equal(shift_slice(pixels, np.array([0.0, 0.5]), np.array([0, 1]), 0), [[0.5, 1.5, 1], [1.5, 3.5, 2]])


def test_the_tilt_is_the_angle_of_the_way_against_the_normal() -> None:
    assert stack([0, 4, 8], (0.0, math.tan(math.radians(18.5)))).tilt_deg == pytest.approx(18.5)
    assert stack([0, 4, 8], (0.0, 0.01)).tilt_deg == 0, "0.03 pixels over the whole stack are rounding"


def test_the_spacing_is_the_finest_that_occurs_repeatedly() -> None:
    assert stack([0, 4, 8, 12, 13, 20, 27, 34]).step_mm == pytest.approx(4), "the single gap of 1 mm does not count"
    assert stack([0, 0.62, 1.25, 1.88, 2.5]).step_mm == pytest.approx(0.625)
    assert stack([0, 0.62, 1.25, 1.88, 2.5]).is_even, "headers round to a hundredth of a millimetre"
    assert not stack([0, 5, 10.2, 15]).is_even


@pytest.mark.parametrize(
    ("heights", "missing"),
    [
        (list(range(10)), []),
        ([0, 1, 2, 4, 5, 6, 7], [2]),
        ([0, 2, 3, 4, 5], [0]),
        ([0, 1, 2, 3, 5], [3]),
        ([0, 1, 2, 3, 5, 6, 8, 9, 10, 11], [3, 5]),
        ([0, 4, 8, 12, 13, 20, 27, 34], []),  # two thicknesses, narrow where they meet
        ([0, 4, 8, 12, 16, 23, 30, 37], []),  # two thicknesses
        ([0, 4, 8, 12, 16, 27, 34, 41], [4]),  # two thicknesses, one slice missing where they meet
        ([0, 1.02, 1.98, 3.03, 4, 5.04], []),
    ],
)
def test_missing_slices_are_told_from_other_thicknesses(heights: list[float], missing: list[int]) -> None:
    assert stack(heights).missing_after() == missing
