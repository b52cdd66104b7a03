"""Ellipsoids of known perimeter, what is not the head, and agreement by hand."""

import math

import numpy as np
import pytest
from scipy.special import ellipe

from common.errors import UserError
from common.metrics.head_circumference import (
    circumference_agreement,
    ellipse_perimeter_mm,
    head_circumference_cm,
    head_mask,
    hull_perimeter_mm,
    slice_perimeter_cm,
)


def perimeter_cm(a, b):
    """Exact perimeter of an ellipse with semi-axes a >= b in mm, by the complete elliptic integral."""
    return 4 * a * ellipe(1 - (b / a) ** 2) / 10


def ellipsoid(semi_axes, spacing, margin=4):
    """Voxels whose centre lies inside, centred between voxels."""
    sides = [2 * math.ceil(a / s) + 2 * margin for a, s in zip(semi_axes, spacing, strict=True)]
    grids = np.meshgrid(*[(np.arange(n) - n / 2 + 0.5) * s for n, s in zip(sides, spacing, strict=True)], indexing="ij")
    return (sum((g / a) ** 2 for g, a in zip(grids, semi_axes, strict=True)) <= 1).astype(np.float32)


@pytest.mark.parametrize("outline", ["hull", "ellipse"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.3, 2.0)], ids=str)
def test_an_ellipsoid_has_the_perimeter_of_its_largest_slice(outline, spacing):
    brain = ellipsoid((40, 50, 45), spacing)
    found = head_circumference_cm(brain, spacing, outline=outline)
    # less than a percent; the moving mean over 5 slices of 2 mm alone takes 0.4 % of it
    assert found == pytest.approx(perimeter_cm(50, 40), rel=8e-3)


def test_the_hull_comes_closer_from_below_as_voxels_get_smaller():
    disc = [hull_perimeter_mm(ellipsoid((30, 30), (s, s)) > 0, (s, s)) for s in (4.0, 2.0, 1.0, 0.5)]
    truth = 2 * math.pi * 30
    assert disc == sorted(disc) and disc[-1] < truth and disc[-1] == pytest.approx(truth, rel=4e-3)


def test_twice_the_spacing_is_twice_the_circumference_and_intensity_does_not_matter():
    brain = ellipsoid((12, 15, 10), (1, 1, 1))
    once = head_circumference_cm(brain, (1, 1, 1))
    assert head_circumference_cm(brain, (2, 2, 2)) == pytest.approx(2 * once)
    assert head_circumference_cm(0.3 * brain, (1, 1, 1)) == pytest.approx(once)


def test_a_rectangle_by_hand():
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:6, 3:10] = True
    # centres span 3 x 6 pixels of 2 x 0.5 mm: 2 * (6 + 3)
    assert hull_perimeter_mm(mask, (2.0, 0.5)) == pytest.approx(18)
    notched = mask.copy()
    notched[3, 3:8] = False  # a sulcus does not lengthen a tape
    assert hull_perimeter_mm(notched, (2.0, 0.5)) == pytest.approx(18)
    assert slice_perimeter_cm(mask, (2.0, 0.5)) == pytest.approx(1.8)


def test_lines_points_and_nothing_have_an_outline_too():
    mask = np.zeros((6, 6), dtype=bool)
    assert hull_perimeter_mm(mask, (1, 1)) == 0 and ellipse_perimeter_mm(mask, (1, 1)) == 0
    mask[2, 1] = True
    assert hull_perimeter_mm(mask, (1, 1)) == 0
    mask[2, 1:5] = True
    assert hull_perimeter_mm(mask, (1, 1)) == pytest.approx(6), "there and back"
    assert math.isnan(head_circumference_cm(np.zeros((6, 6, 6)), (1, 1, 1))), "no head has no circumference"
    assert math.isnan(slice_perimeter_cm(np.zeros((6, 6)), (1, 1)))


def test_holes_do_not_change_the_ellipse():
    mask = ellipsoid((20, 14), (1, 1)) > 0
    holed = mask.copy()
    holed[20:28, 16:20] = False
    assert ellipse_perimeter_mm(holed, (1, 1)) == ellipse_perimeter_mm(mask, (1, 1))
    assert ellipse_perimeter_mm(mask, (1, 1)) == pytest.approx(10 * perimeter_cm(20, 14), rel=5e-3)


def test_specks_and_faint_voxels_are_not_head():
    brain = ellipsoid((12, 15, 10), (1, 1, 1), margin=8)
    other = brain.copy()
    other[0:2, 0:2, :] = 1
    other[(brain == 0) & (other == 0)] = 0.05
    assert np.array_equal(head_mask(other), brain > 0)
    assert head_circumference_cm(other, (1, 1, 1)) == head_circumference_cm(brain, (1, 1, 1))


def test_smoothing_takes_a_single_wide_slice_away():
    brain = ellipsoid((15, 15, 20), (1, 1, 1), margin=6)
    plain = head_circumference_cm(brain, (1, 1, 1))
    brain[:, brain.shape[1] // 2, brain.shape[2] // 2] = 1  # a spike in one slice
    raw, smooth = (head_circumference_cm(brain, (1, 1, 1), smooth_slices=n) for n in (1, 5))
    assert raw - plain > 3 * (smooth - plain) > 0


def test_agreement_by_hand():
    found = circumference_agreement([31.0, 33.0, 36.0, 30.0], [30.0, 33.0, 35.0, math.nan], [36, 38, 40, 37])
    # errors 1, 0, 1: mean 2/3, SD sqrt(((1/3)^2 * 2 + (2/3)^2) / 2) = 0.577
    assert (found["n"], found["left_out"]) == (3, 1)
    assert found["bias_cm"] == pytest.approx(2 / 3) and found["sigma_cm"] == pytest.approx(math.sqrt(1 / 3))
    assert found["slope_cm_per_week"] == pytest.approx(5 / 4) and found["true_slope_cm_per_week"] == pytest.approx(5 / 4)
    assert found["r"] == pytest.approx(np.corrcoef([31, 33, 36], [30, 33, 35])[0, 1])


def test_an_offset_changes_only_the_bias():
    rng = np.random.default_rng(0)
    age = rng.uniform(26, 45, 20)
    truth = 0.8 * age + rng.normal(size=20)
    predicted = truth + rng.normal(size=20)
    one, other = (circumference_agreement(predicted + offset, truth, age) for offset in (0, -3))
    assert other.pop("bias_cm") == pytest.approx(one.pop("bias_cm") - 3)
    assert other == pytest.approx(one)


def test_too_few_or_equal_values_have_no_agreement():
    one = circumference_agreement([30.0], [31.0], [40.0])
    assert one["bias_cm"] == -1 and all(math.isnan(one[key]) for key in ("sigma_cm", "r", "slope_cm_per_week"))
    flat = circumference_agreement([30.0, 30.0], [31.0, 32.0], [40.0, 41.0])
    assert math.isnan(flat["r"]) and flat["slope_cm_per_week"] == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: head_circumference_cm(np.ones((4, 4)), (1, 1, 1)), r"shape \(4, 4\), expected 3 axes"),
        (lambda: head_circumference_cm(np.ones((4, 4, 4)), (1, 1)), r"spacing_mm: got \[1.0, 1.0\], expected 3 positive"),
        (lambda: head_circumference_cm(np.ones((4, 4, 4)), (1, 1, 0)), "spacing_mm: got"),
        (lambda: head_circumference_cm(np.full((4, 4, 4), np.nan), (1, 1, 1)), "64 voxels are NaN or infinite"),
        (lambda: head_circumference_cm(np.ones((4, 4, 4)), (1, 1, 1), threshold=1.0), "threshold: got 1.0"),
        (lambda: head_circumference_cm(np.ones((4, 4, 4)), (1, 1, 1), smooth_slices=0), "smooth_slices: got 0"),
        (lambda: slice_perimeter_cm(np.ones((4, 4)), (1, 1), outline="tape"), "outline: got 'tape', expected one of"),
        (lambda: circumference_agreement([1.0], [1.0, 2.0], [1.0]), r"got \[1, 2, 1\] predictions, truths and ages"),
    ],
)
def test_mistakes_are_named(call, text):
    with pytest.raises(UserError, match=text):
        call()
