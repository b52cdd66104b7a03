"""Clean label maps: nothing where nothing is wrong, sets of labels that stay, against scipy and MONAI, and holes by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.transforms import FillHoles, KeepLargestConnectedComponent
from scipy import ndimage

from common.errors import UserError
from common.transforms.label_cleanup import CleanUpLabeld, fill_holes, keep_components, smooth, smooth_labels

SPACING = (1.0, 2.0, 0.5)
SHAPE = (9, 7, 8)
LABELS = arrays(np.uint8, SHAPE, elements=st.integers(0, 3)).map(lambda array: torch.from_numpy(array)[None])


def a_volume(seed=0, shape=(24, 14, 30), classes=4):
    """Blobs of several classes, with rough borders."""
    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(classes)])
    return torch.from_numpy(fields.argmax(axis=0).astype(np.uint8))[None]


@given(LABELS)
@settings(deadline=None, max_examples=10)
def test_nothing_changes_by_default_and_at_sigma_0(labels):
    assert torch.equal(CleanUpLabeld("pred")({"pred": labels})["pred"], labels)
    assert torch.equal(smooth_labels(labels, SPACING, 0.0), labels)
    assert torch.equal(keep_components(labels, SPACING), labels)


@given(LABELS, st.sampled_from([0.4, 1.0, 4.0]))
@settings(deadline=None, max_examples=8)
def test_smoothing_keeps_the_set_of_labels_however_strong(labels, sigma):
    found = smooth_labels(labels, SPACING, sigma)
    assert torch.equal(torch.unique(found), torch.unique(labels))
    assert found.dtype == labels.dtype and found.shape == labels.shape


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_smoothing_is_the_largest_smoothed_class_by_scipy(sigma):
    labels = a_volume()
    widths = [sigma / edge for edge in SPACING]
    shares = np.stack(
        [ndimage.gaussian_filter((labels[0].numpy() == k).astype(float), widths, mode="constant", truncate=4) for k in range(4)]
    )
    top = np.sort(shares, axis=0)
    clear = top[-1] - top[-2] > 0.02  # the kernels differ a little, and so do ties
    found = smooth_labels(labels, SPACING, sigma)[0].numpy()
    assert clear.mean() > 0.8
    assert np.array_equal(found[clear], shares.argmax(axis=0)[clear])
    assert (found != labels[0].numpy()).any() or sigma < 1


def test_smoothing_looks_at_millimetres_not_voxels():
    # a plate two voxels thick, across each axis: 2 mm, 4 mm, 1 mm
    thin = {}
    for axis, edge in enumerate(SPACING):
        labels = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
        labels.select(axis + 1, 9).fill_(1)
        labels.select(axis + 1, 10).fill_(1)
        labels[0, 15:, 15:, 15:] = 1  # elsewhere, so that the class cannot vanish
        thin[edge] = int((smooth_labels(labels, SPACING, 1.0)[0, 3:11, 3:11, 3:11] == 1).sum())
    # half of a Gaussian of 1 mm lies within 0.67 mm of its middle: a plate of 1 mm has less, one of 2 or 4 mm more
    assert thin == {1.0: 128, 2.0: 128, 0.5: 0}


def test_smoothing_takes_a_bump_away_and_leaves_a_plane():
    labels = torch.zeros(1, 12, 12, 12, dtype=torch.int16)
    labels[:, :6] = 2
    flat = labels.clone()
    labels[0, 6, 5, 5] = 2
    assert torch.equal(smooth_labels(labels, (1, 1, 1), 1.0), flat)


def test_smoothing_inside_a_box_equals_smoothing_of_all():
    small = a_volume(1, (10, 9, 8))
    framed = torch.nn.functional.pad(small, (1, 1, 1, 1, 1, 1))
    large = torch.nn.functional.pad(framed, (20, 20, 20, 20, 20, 20))
    by_hand = np.stack([smooth((large[0] == k).float(), SPACING, 1.2).numpy() for k in range(4)]).argmax(axis=0)
    found = smooth_labels(large, SPACING, 1.2)[0].numpy()
    assert (found != by_hand).mean() < 1e-4  # the sums of a convolution differ in the last bit


def test_classes_of_a_smoothed_volume_keep_their_sum():
    labels = a_volume()[0]
    total = sum(smooth((labels == k).float(), SPACING, 1.0) for k in range(4))
    assert torch.allclose(total, smooth(torch.ones(labels.shape), SPACING, 1.0), atol=1e-5)


def test_the_largest_component_of_the_chosen_classes_stays_as_in_monai():
    pytest.importorskip("skimage")
    labels = a_volume(2)
    for chosen in ([1], [2, 3], [1, 2, 3]):
        expected = KeepLargestConnectedComponent(applied_labels=chosen)(labels.clone().float())
        assert torch.equal(keep_components(labels, SPACING, chosen).float(), torch.as_tensor(expected))
        assert not torch.equal(expected, labels.float())


def specks():
    """Class 1: 8 and 2 voxels; class 2: one voxel, touching the next by a corner, and one alone."""
    labels = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    labels[0, :2, :2, :2] = 1
    labels[0, 5, 5, 4:6] = 1
    labels[0, 4, 0, 0] = labels[0, 5, 1, 1] = 2
    labels[0, 8, 6, 7] = 2
    return labels


def counts(labels):
    return [int((labels == k).sum()) for k in (1, 2)]


def test_components_below_a_volume_go_and_those_of_exactly_that_volume_stay():
    # a voxel has 1 mm^3
    labels = specks()
    assert counts(keep_components(labels, SPACING, min_ml=0.002)) == [10, 2]
    assert counts(keep_components(labels, SPACING, min_ml=0.0021)) == [8, 0]
    assert counts(keep_components(labels, SPACING, min_ml={1: 0.003})) == [8, 3]
    assert counts(keep_components(labels, [2 * edge for edge in SPACING], min_ml=0.008)) == [10, 3]
    assert counts(keep_components(labels, SPACING, largest=[1, 2])) == [8, 2]
    assert counts(keep_components(labels, SPACING, largest=[2], min_ml=0.005)) == [8, 0]


@given(LABELS)
@settings(deadline=None, max_examples=10)
def test_removal_only_takes_away_and_a_second_time_changes_nothing(labels):
    once = keep_components(labels, SPACING, [1, 3], {2: 0.003})
    assert torch.equal(torch.where(once > 0, labels, 0), once)
    assert torch.equal(keep_components(once, SPACING, [1, 3], {2: 0.003}), once)


def test_a_hole_in_one_class_is_filled_and_nothing_else():
    labels = torch.zeros(1, 11, 11, 12, dtype=torch.uint8)
    labels[0, 1:10, 1:10, 1:10] = 1
    labels[0, 4:7, 4:7, 4:7] = 2
    labels[0, 2, 2, 2] = 0  # in class 1: filled
    labels[0, 5, 5, 5] = 0  # in class 2: filled
    labels[0, 3, 5, 5] = 0  # between both: stays
    expected = labels.clone()
    expected[0, 2, 2, 2], expected[0, 5, 5, 5] = 1, 2
    assert torch.equal(fill_holes(labels), expected)


def test_an_enclosed_class_is_no_hole_though_monai_takes_it_for_one():
    labels = torch.zeros(1, 7, 7, 7, dtype=torch.uint8)
    labels[0, 1:6, 1:6, 1:6] = 1
    labels[0, 3, 3, 3] = 2
    assert torch.equal(fill_holes(labels), labels)
    assert int(FillHoles(applied_labels=[1])(labels.clone())[0, 3, 3, 3]) == 1


def test_a_hole_that_is_open_by_a_corner_or_at_the_edge_stays():
    labels = torch.ones(1, 5, 5, 5, dtype=torch.uint8)
    labels[0, 2, 2, 0] = 0  # at the volume's edge
    assert torch.equal(fill_holes(labels), labels)
    labels = torch.zeros(1, 5, 5, 5, dtype=torch.uint8)
    labels[0, 1:4, 1:4, 1:4] = 1
    labels[0, 2, 2, 2] = 0
    assert int(fill_holes(labels).sum()) == 27
    labels[0, 3, 3, 3] = 0
    assert torch.equal(fill_holes(labels), labels)


def test_the_transform_smooths_then_removes_then_fills_and_keeps_meta_and_other_keys():
    labels = torch.zeros(1, 16, 12, 14, dtype=torch.uint8)
    labels[0, 2:12, 2:10, 2:12] = 1
    labels[0, 6, 6, 6] = 2  # a speck in class 1, whose removal leaves a hole
    affine = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    case = CleanUpLabeld("pred", largest="all", min_ml={"2": 0.002}, holes=True)({"pred": MetaTensor(labels, affine=affine), "id": "a"})
    assert case["id"] == "a" and torch.equal(case["pred"].affine, affine) and case["pred"].dtype == torch.uint8
    assert counts(case["pred"]) == [10 * 8 * 10, 0]


def test_the_spacing_of_plain_labels_comes_from_another_tensor_on_their_grid():
    labels, affine = specks(), torch.diag(torch.tensor([*SPACING, 1], dtype=torch.float64))
    clean = CleanUpLabeld(min_ml=0.0021, spacing_key="brain")
    assert counts(clean({"pred": labels, "brain": MetaTensor(labels, affine=affine)})["pred"]) == [8, 0]
    for other in ({}, {"brain": MetaTensor(labels[..., :3], affine=affine)}):
        with pytest.raises(UserError, match="pred: its spacing is not known; expected a MetaTensor, or a spacing_key"):
            clean({"pred": labels, **other})


def test_an_empty_map_stays_empty():
    labels = torch.zeros(1, 4, 3, 5, dtype=torch.uint8)
    case = CleanUpLabeld(sigma_mm=1.0, largest="all", min_ml=1.0, holes=True)({"pred": MetaTensor(labels)})
    assert not case["pred"].any()


def test_mistakes_are_told():
    labels = specks()
    with pytest.raises(UserError, match="sigma_mm: got -1, expected a number of at least 0"):
        smooth_labels(labels, SPACING, -1)
    with pytest.raises(UserError, match="spacing_mm: got"):
        smooth_labels(labels, (1, 1), 1.0)
    with pytest.raises(UserError, match="largest: got 'liver', expected a list of label numbers"):
        CleanUpLabeld(largest="liver")
