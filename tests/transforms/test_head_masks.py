"""Masks of a head CT: what is inside, what is not, at every spacing."""

import numpy as np
import pytest
from scipy import ndimage

from common.transforms import head_masks as masks

SPACINGS = [2.0, 4.0, 8.0]


@pytest.fixture(scope="module", params=SPACINGS)
def head(request, phantom):
    spacing = request.param
    hu, affine = phantom((spacing,) * 3)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in hu.shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return hu, spacing, points, masks.structures(hu, spacing)


def volume_cc(mask, spacing):
    return mask.sum() * spacing**3 / 1000


def test_the_table_is_no_head_and_the_sinus_is(head):
    _, spacing, points, labels = head
    assert (labels > 0)[np.abs(points - [0, 80, -30]).max(-1) < spacing].all()
    assert not (labels > 0)[points[..., 1] < -122].any()
    # ellipsoid 76 x 95 x 85 mm, cut 75 mm below its middle: 4/3 pi abc (1 - share of the cap below) = 2,559 cc
    assert volume_cc(labels > 0, spacing) == pytest.approx(2559, rel=0.08)


def test_brain_is_the_inside_of_the_skull(head):
    _, spacing, points, labels = head
    brain = labels >= masks.BRAIN_LEFT
    inside = (points / [64, 83, 73]) ** 2
    assert brain[(inside.sum(-1) < 0.55) & (points[..., 2] > -45)].all()
    assert not brain[((points / [70, 89, 79]) ** 2).sum(-1) > 1.2].any()
    assert volume_cc(brain, spacing) == pytest.approx(1624, rel=0.25 if spacing == 8 else 0.08)  # 4/3 pi 64 83 73 mm3


def test_left_is_where_x_is_negative(head):
    _, _, points, labels = head
    assert (points[..., 0][labels == masks.BRAIN_LEFT] < 0).all()
    assert (points[..., 0][labels == masks.BRAIN_RIGHT] > 0).all()


def test_skull_is_the_shell_and_holds_the_fracture_gap(phantom):
    hu, affine = phantom((2.0,) * 3)
    hu[:, 64:65, 90:] = np.where(hu[:, 64:65, 90:] > 300, 40.0, hu[:, 64:65, 90:])  # a gap of 2 mm over the vertex
    labels = masks.structures(hu, 2.0)
    assert (labels[64, 64, :] == masks.SKULL).any()
    assert (labels[64, 64, 64:100] == masks.BRAIN_RIGHT).mean() > 0.9
    assert affine.shape == (4, 4)


def test_a_missing_bone_flap_does_not_empty_the_brain(phantom):
    hu, _ = phantom((4.0,) * 3)
    whole = masks.brain_mask(hu, 4.0)
    hu[45:, 20:40, 30:50] = np.where(hu[45:, 20:40, 30:50] > 300, 30.0, hu[45:, 20:40, 30:50])
    assert masks.brain_mask(hu, 4.0).sum() == pytest.approx(whole.sum(), rel=0.1)


def test_a_calcification_deep_inside_is_no_skull(phantom):
    hu, _ = phantom((4.0,) * 3)
    hu[32:34, 32:34, 32:34] = 600.0
    labels = masks.structures(hu, 4.0)
    assert (labels[32:34, 32:34, 32:34] >= masks.BRAIN_LEFT).all()


def test_an_empty_scan_has_no_head():
    assert not masks.structures(np.full((20, 24, 18), -1000.0, dtype=np.float32), 4.0).any()
    assert not masks.brain_mask(np.full((20, 24, 18), -1000.0, dtype=np.float32), (1.0, 1.0, 5.0)).any()


def test_unequal_spacing_gives_the_same_head(phantom):
    thick = masks.foreground_mask(phantom((2.0, 2.0, 5.0))[0], (2.0, 2.0, 5.0))
    even = masks.foreground_mask(phantom((2.0, 2.0, 2.0))[0], 2.0)
    assert thick.sum() * 20 == pytest.approx(even.sum() * 8, rel=0.05)


def test_pooling_takes_block_means_and_unpooling_repeats_them():
    array = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    pooled = masks.pool_mean(array, (2, 2, 2))
    assert pooled.shape == (1, 2, 3)
    assert pooled[0, 0, 0] == array[:2, :2, :2].mean()
    assert pooled[0, 0, 2] == array[:2, :2, 4].mean()  # the edge repeated
    assert np.array_equal(masks.unpool(pooled, (2, 2, 2), array.shape)[..., 4], np.repeat(pooled[0, :, 2], 2)[None].repeat(2, 0))


def test_holes_are_filled_as_scipy_does():
    mask = np.random.default_rng(0).random((12, 14, 10)) > 0.25
    assert np.array_equal(masks.fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_the_largest_component_is_a_copy_and_the_bone_threshold_falls_with_spacing():
    mask = np.ones((3, 3, 3), dtype=bool)
    largest = masks.largest_component(mask)
    mask[:] = False
    assert largest.all()
    assert [masks.skull_threshold(s) for s in (0.5, 1, 2, 4, 8)] == [300, 300, 260, 180, 120]
