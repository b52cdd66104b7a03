import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import UserError
from common.metrics.surface import surface_agreement

MASKS = st.tuples(*[arrays(bool, (4, 5, 3), fill=st.nothing())] * 2)
SPACING = (0.7, 1.0, 2.5)


def voxels(*positions, shape=(8, 6, 5)):
    mask = np.zeros(shape, dtype=bool)
    for position in positions:
        mask[position] = True
    return mask


def cube(low, high, shape=(24, 24, 24)):
    mask = np.zeros(shape, dtype=bool)
    mask[low:high, low:high, low:high] = True
    return mask


def test_two_voxels_two_mm_apart():
    # Surfels sit on the 8 corners of a voxel, all of one area. Voxel A spans x = 1.5..2.5, voxel B 3.5..4.5 (mm).
    # A's corners at 1.5 are 2 mm from B's nearest corner (3.5), those at 2.5 are 1 mm away: directed means (4*2 + 4*1)/8 = 1.5,
    # and the same back. So MASD = 1.5; half of the surfels are within 1 mm, all within 2 mm; the 95th percentile is 2.
    measured = surface_agreement(voxels((2, 2, 2)), voxels((4, 2, 2)), (1.0, 1.0, 1.0))
    assert measured["masd_mm"] == pytest.approx(1.5)
    assert measured["nsd"] == 1.0
    assert measured["hd95_mm"] == pytest.approx(2.0)
    assert surface_agreement(voxels((2, 2, 2)), voxels((4, 2, 2)), (1.0, 1.0, 1.0), tolerance_mm=1.0)["nsd"] == pytest.approx(0.5)
    assert surface_agreement(voxels((2, 2, 2)), voxels((4, 2, 2)), (1.0, 1.0, 1.0), tolerance_mm=0.5)["nsd"] == 0.0


def test_distances_are_in_mm_along_the_axis_they_lie_on():
    # One step along Z at 5 mm: corners at 5 and 0 mm (the voxels share a face): (4*5 + 4*0)/8 = 2.5.
    along_z = surface_agreement(voxels((2, 2, 2)), voxels((2, 2, 3)), (1.0, 1.0, 5.0))
    assert along_z["masd_mm"] == pytest.approx(2.5) and along_z["nsd"] == pytest.approx(0.5) and along_z["hd95_mm"] == pytest.approx(5.0)
    # One step along X at 1 mm: (4*1 + 4*0)/8 = 0.5.
    assert surface_agreement(voxels((2, 2, 2)), voxels((3, 2, 2)), (1.0, 1.0, 5.0))["masd_mm"] == pytest.approx(0.5)


def test_a_voxel_missed_far_away_counts_in_one_direction_only():
    # Truth: voxels at x = 1 and x = 5; prediction: x = 1 alone. Prediction to truth: 0. Truth to prediction: 8 corners at 0, and of the
    # far voxel (4.5..5.5) 4 corners at 3 and 4 at 4 mm from the near one's 1.5: (8*0 + 4*3 + 4*4)/16 = 1.75. MASD = (1.75 + 0)/2.
    # NSD at 2 mm: 8 of 16 + 8 of 8 = 16/24.
    measured = surface_agreement(voxels((1, 2, 2), (5, 2, 2)), voxels((1, 2, 2)), (1.0, 1.0, 1.0))
    assert measured["masd_mm"] == pytest.approx(0.875)
    assert measured["nsd"] == pytest.approx(16 / 24)


@pytest.mark.parametrize("step_mm", [0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 2.0000000105])
def test_a_surfel_at_the_tolerance_agrees_whatever_the_rounding(step_mm):
    steps = round(2.0 / step_mm)
    apart = surface_agreement(voxels((0, 1, 1), shape=(22, 3, 3)), voxels((steps, 1, 1), shape=(22, 3, 3)), (step_mm, 1.0, 1.0))
    assert apart["nsd"] == 1.0


def test_conventions_for_empty_masks():
    nothing, something = voxels(), voxels((2, 2, 2))
    assert surface_agreement(nothing, nothing, SPACING) == {"masd_mm": 0.0, "nsd": 1.0, "hd95_mm": 0.0}
    for pair in ((nothing, something), (something, nothing)):
        measured = surface_agreement(*pair, SPACING)
        assert math.isnan(measured["masd_mm"]) and math.isnan(measured["hd95_mm"]) and measured["nsd"] == 0.0


@settings(deadline=None, max_examples=25)
@given(MASKS)
def test_agreement_is_symmetric_bounded_and_perfect_with_itself(pair):
    there, back = surface_agreement(*pair, SPACING), surface_agreement(*pair[::-1], SPACING)
    for name, value in there.items():
        assert value == pytest.approx(back[name], nan_ok=True)
        assert math.isnan(value) or value >= 0
    assert there["nsd"] <= 1
    assert surface_agreement(pair[0], pair[0], SPACING) == {"masd_mm": 0.0, "nsd": 1.0, "hd95_mm": 0.0}


@settings(deadline=None, max_examples=25)
@given(MASKS, st.permutations(range(3)), st.integers(0, 2))
def test_agreement_moves_with_flips_axis_order_and_padding(pair, order, axis):
    expected = surface_agreement(*pair, SPACING)
    turned = [np.flip(mask.transpose(order), axis) for mask in pair]
    assert surface_agreement(*turned, [SPACING[i] for i in order]) == pytest.approx(expected, nan_ok=True)
    padded = [np.pad(mask, ((1, 0), (0, 3), (2, 2))) for mask in pair]
    assert surface_agreement(*padded, SPACING) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=15)
@given(MASKS)
def test_distances_scale_with_the_spacing(pair):
    small, large = (surface_agreement(*pair, np.multiply(SPACING, k), tolerance_mm=2.0 * k) for k in (1, 3))
    assert large["masd_mm"] == pytest.approx(3 * small["masd_mm"], nan_ok=True)
    assert large["nsd"] == pytest.approx(small["nsd"])


@pytest.mark.parametrize("seed", range(4))
def test_surface_dice_agrees_with_monai_on_subvoxel_surfaces(seed):
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_surface_dice

    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, 9, 8, 7)) < 0.2
    two_classes = [torch.from_numpy(np.stack([~mask, mask]))[None] for mask in (prediction, truth)]
    theirs = float(compute_surface_dice(*two_classes, class_thresholds=[1.2], spacing=SPACING, use_subvoxels=True))
    assert surface_agreement(truth, prediction, SPACING, tolerance_mm=1.2)["nsd"] == pytest.approx(theirs, abs=1e-5)


def test_distances_agree_with_monai_on_nested_cubes():
    # Parallel faces 4 mm apart: both tools measure 4 mm from the inner cube; going out, edges and corners are weighted differently.
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_average_surface_distance

    outer, inner = cube(2, 22), cube(6, 18)
    masks = [torch.from_numpy(mask)[None, None] for mask in (inner, outer)]
    theirs = float(compute_average_surface_distance(*masks, include_background=True, symmetric=True))
    assert surface_agreement(outer, inner, (1.0, 1.0, 1.0))["masd_mm"] == pytest.approx(theirs, rel=0.05)


def test_a_bad_tolerance_or_spacing_is_refused():
    mask = voxels((1, 1, 1))
    with pytest.raises(UserError, match="tolerance_mm: got -1"):
        surface_agreement(mask, mask, SPACING, tolerance_mm=-1)
    with pytest.raises(UserError, match="spacing_mm: got"):
        surface_agreement(mask, mask, (1.0, 1.0))


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "surface_distance", None)
    with pytest.raises(UserError, match="pip install surface-distance"):
        surface_agreement(voxels((1, 1, 1)), voxels((1, 1, 2)), SPACING)
