"""Against all pairs of border voxels, computed here, and MONAI's own definition beside it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.metrics import compute_hausdorff_distance
from scipy.spatial.distance import cdist

from common.errors import UserError
from common.metrics.hausdorff_union import HD95Metric, border, hd95_mm

SPACING = (1.0, 2.0, 0.5)
SHAPE = (6, 5, 4)
MASKS = arrays(bool, SHAPE)


def naive_border(mask):
    """Voxels with a face neighbour outside, by looking at each."""
    padded = np.pad(mask, 1)
    found = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        place = voxel + 1
        steps = [np.eye(3, dtype=int)[axis] * sign for axis in range(3) for sign in (-1, 1)]
        found[tuple(voxel)] = any(not padded[tuple(place + step)] for step in steps)
    return found


def pairwise(truth, prediction, spacing):
    points = [np.argwhere(naive_border(mask)) * np.array(spacing) for mask in (truth, prediction)]
    distances = cdist(*points)
    return distances.min(axis=1), distances.min(axis=0)


@given(MASKS, MASKS)
@settings(deadline=None, max_examples=40)
def test_it_is_the_percentile_over_all_pairs_of_border_voxels(truth, prediction):
    if not truth.any() or not prediction.any():
        return
    both = np.concatenate(pairwise(truth, prediction, SPACING))
    assert hd95_mm(truth, prediction, SPACING) == pytest.approx(np.percentile(both, 95))


@given(MASKS, MASKS)
@settings(deadline=None, max_examples=20)
def test_the_option_is_the_larger_of_the_two_percentiles(truth, prediction):
    if not truth.any() or not prediction.any():
        return
    expected = max(np.percentile(part, 95) for part in pairwise(truth, prediction, SPACING))
    assert hd95_mm(truth, prediction, SPACING, "larger") == pytest.approx(expected, abs=1e-5)


@given(MASKS, MASKS)
@settings(deadline=None, max_examples=20)
def test_it_is_symmetric_and_scales_with_the_spacing(truth, prediction):
    found = hd95_mm(truth, prediction, SPACING)
    assert hd95_mm(prediction, truth, SPACING) == pytest.approx(found)
    assert hd95_mm(truth, prediction, [3 * edge for edge in SPACING]) == pytest.approx(3 * found)


def test_the_two_definitions_differ_where_one_surface_has_a_far_part():
    truth = np.zeros((40, 9, 9), dtype=bool)
    truth[:5, :5, :5] = True
    prediction = truth.copy()
    prediction[39, 8, 5:9] = True  # four voxels of 102 on both surfaces together are below 5 %, on one alone above
    prediction[38, 8, 5:7] = True
    spacing = (1.0, 1.0, 1.0)
    assert hd95_mm(truth, prediction, spacing) == 0
    assert hd95_mm(truth, prediction, spacing, "larger") > 0
    pair = [mask[None, None].astype(np.float32) for mask in (prediction, truth)]
    monai = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
    assert hd95_mm(truth, prediction, spacing, "larger") == pytest.approx(float(monai))


def test_a_shift_by_hand():
    truth, prediction = np.zeros((9, 5, 5), dtype=bool), np.zeros((9, 5, 5), dtype=bool)
    truth[1, 2, 2] = prediction[4, 2, 2] = True
    assert hd95_mm(truth, prediction, (1.5, 1, 1)) == pytest.approx(4.5)
    assert hd95_mm(truth, truth, (1.5, 1, 1)) == 0


@pytest.mark.parametrize("definition", ["union", "larger"])
def test_empty_masks_have_defined_distances(definition):
    empty, full = np.zeros((4, 3, 2), dtype=bool), np.ones((4, 3, 2), dtype=bool)
    assert hd95_mm(empty, empty, SPACING, definition) == 0
    # between the centres of opposite corners: 3 x 1 mm, 2 x 2 mm, 1 x 0.5 mm
    for pair in ((empty, full), (full, empty)):
        assert hd95_mm(*pair, SPACING, definition) == pytest.approx(math.sqrt(9 + 16 + 0.25))


@given(MASKS)
@settings(deadline=None, max_examples=20)
def test_the_border_ends_at_the_edge_of_the_volume(mask):
    assert np.array_equal(border(mask), naive_border(mask))


def test_mistakes_are_told():
    mask = np.ones((2, 2, 2), dtype=bool)
    with pytest.raises(UserError, match="definition: got 'max', expected one of"):
        hd95_mm(mask, mask, SPACING, "max")
    with pytest.raises(UserError, match="spacing_mm"):
        hd95_mm(mask, mask, (1, 1))
    with pytest.raises(UserError, match="got shape"):
        hd95_mm(mask, mask[:1], SPACING)


def test_the_metric_of_an_engine_is_the_mean_over_the_cases_on_the_grid_of_the_truth():
    rng = np.random.default_rng(0)
    pairs = rng.random((2, 2, 2, *SHAPE)) > 0.8  # cases, (truth, prediction), channels
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    metric = HD95Metric()
    metric([torch.from_numpy(pair[1]).float() for pair in pairs], [MetaTensor(pair[0].astype(np.float32), affine=affine) for pair in pairs])
    by_hand = [hd95_mm(pair[0].any(axis=0), pair[1].any(axis=0), SPACING) for pair in pairs]
    assert float(metric.aggregate()) == pytest.approx(np.mean(by_hand))
    plain = HD95Metric()
    plain(*(torch.from_numpy(pairs[:1, side]).float() for side in (1, 0)))
    assert float(plain.aggregate()) == pytest.approx(hd95_mm(*pairs[0].any(axis=1), (1, 1, 1)))
