"""Resampling onto grids: voxels that fall on voxels keep their values, coarser grids get means, labels their majority."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from common.errors import UserError
from common.transforms.bring_to_grid import BRATS_SHAPE, bring_to_grid, check_affine, head_grid, labels_to_grid
from common.transforms.register_head import rotation_matrix


@pytest.fixture
def volume():
    return np.random.default_rng(3).normal(10, 3, (9, 7, 5)).astype(np.float32)


OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = rotation_matrix(10, 20, -15) @ np.diag([1.1, 0.9, 3.0])
OBLIQUE[:3, 3] = (-20.5, 3.25, 7.125)


def test_on_its_own_grid_nothing_changes(volume):
    np.testing.assert_array_equal(bring_to_grid(volume, OBLIQUE, OBLIQUE, volume.shape), volume)


def test_turned_axes_are_an_exact_copy(volume):
    flip = np.array([[0, -1, 0, 6], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # new (i, j, k) is old (6 - j, i, k)
    turned = bring_to_grid(volume.transpose(1, 0, 2), OBLIQUE, OBLIQUE @ flip, (9, 7, 5))
    np.testing.assert_array_equal(turned, volume[:, ::-1])


def test_a_transform_between_worlds_agrees_with_scipy_point_by_point(volume):
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rotation_matrix(4, -3, 8), (1.5, -2.0, 0.5)
    target, shape = OBLIQUE.copy(), (8, 8, 6)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    points = index @ target[:3, :3].T + target[:3, 3]
    there = points @ world[:3, :3].T + world[:3, 3]
    where = (there - OBLIQUE[:3, 3]) @ np.linalg.inv(OBLIQUE[:3, :3]).T
    inside = np.all((where >= 0) & (where <= np.array(volume.shape) - 1), axis=1).reshape(shape)
    expected = map_coordinates(volume, where.T, order=1).reshape(shape)
    found = bring_to_grid(volume, OBLIQUE, target, shape, world)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    assert inside.sum() > 50 and not found[~inside].any()


def test_a_thick_slice_is_the_mean_of_the_thin_ones():
    thin = np.arange(6, dtype=np.float32)[None, None] * np.ones((2, 2, 1), np.float32)
    thick = np.diag([1.0, 1.0, 3.0, 1.0])
    thick[2, 3] = 1.0  # a slice of 3 mm whose middle lies at 1 mm: thin slices 0, 1, 2; then 3, 4, 5
    np.testing.assert_allclose(bring_to_grid(thin, np.eye(4), thick, (2, 2, 2))[0, 0], [1.0, 4.0])


def test_slabs_do_not_show(volume, monkeypatch):
    coarse = OBLIQUE @ np.diag([2.0, 1.0, 1.7, 1.0])
    whole = bring_to_grid(volume, OBLIQUE, coarse, (4, 7, 3))
    monkeypatch.setattr("common.transforms.bring_to_grid.SLAB_VOXELS", 1)
    np.testing.assert_allclose(bring_to_grid(volume, OBLIQUE, coarse, (4, 7, 3)), whole, atol=1e-5)


def test_a_label_wins_by_its_share_and_keeps_its_type():
    labels = np.array([0, 4, 4, 1, 1, 4, 0, 0, 1], np.uint8).reshape(1, 1, 9)
    thick = np.diag([1.0, 1.0, 3.0, 1.0])
    thick[2, 3] = 1.0
    found = labels_to_grid(labels, np.eye(4), thick, (1, 1, 3))
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [4, 1, 0]  # 0 4 4; 1 1 4; 0 0 1


def test_labels_outside_their_field_of_view_are_background():
    far = np.eye(4)
    far[0, 3] = 100.0
    assert not labels_to_grid(np.full((3, 3, 3), 2, np.uint8), np.eye(4), far, (3, 3, 3)).any()


def test_a_mask_goes_to_a_finer_grid_and_comes_back_the_same():
    labels = np.random.default_rng(0).choice([0, 1, 2, 4], (6, 5, 4)).astype(np.uint8)
    fine = OBLIQUE @ np.diag([1 / 3, 1 / 3, 1 / 3, 1.0])
    fine[:3, 3] -= OBLIQUE[:3, :3] @ np.full(3, 1 / 3)
    inner = labels_to_grid(labels, OBLIQUE, fine, (18, 15, 12))
    assert (labels_to_grid(inner, fine, OBLIQUE, labels.shape)[1:-1, 1:-1, 1:-1] == labels[1:-1, 1:-1, 1:-1]).all()


def test_the_grid_of_a_head_has_the_brain_in_its_middle_and_voxels_on_voxels():
    brain = np.zeros((200, 256, 256), bool)
    brain[30:170, 60:190, 100:240] = True
    scan = np.array([[0, 0, -1.0, 90], [1, 0, 0, -80], [0, -1, 0, 100], [0, 0, 0, 1]])  # odd axes, 1 mm
    affine, shape = head_grid(scan, brain)
    assert shape == BRATS_SHAPE
    np.testing.assert_allclose(affine[:3, :3], np.diag([-1, -1, 1]), atol=1e-12)  # left, back, top, as BraTS
    step = np.linalg.inv(scan) @ affine
    np.testing.assert_allclose(step, np.rint(step), atol=1e-9)
    on_grid = bring_to_grid(brain, scan, affine, shape)
    box = np.argwhere(on_grid > 0)
    np.testing.assert_allclose((box.min(0) + box.max(0)) / 2, (np.array(shape) - 1) / 2, atol=0.5)
    assert on_grid.sum() == brain.sum()
    np.testing.assert_array_equal(labels_to_grid(on_grid.astype(np.uint8), affine, scan, brain.shape), brain)


def test_a_brain_larger_than_the_grid_gets_a_larger_one():
    affine, shape = head_grid(np.eye(4), np.ones((260, 200, 100), bool))
    assert shape == (262, 240, 155)
    assert np.linalg.norm(affine[:3, 0]) == pytest.approx(1)


def test_other_spacings_give_the_same_field_of_view():
    assert head_grid(np.eye(4), np.ones((100, 100, 100), bool), 3.75)[1] == (64, 64, 41)


def test_an_empty_mask_and_a_singular_affine_are_named():
    with pytest.raises(UserError, match="mask of the brain is empty"):
        head_grid(np.eye(4), np.zeros((5, 5, 5), bool))
    with pytest.raises(UserError, match=r"bad.nii: its affine is singular or not finite"):
        check_affine(np.diag([1.0, 1.0, 0.0, 1.0]), "bad.nii")
    with pytest.raises(UserError, match=r"dcm2niix"):
        check_affine(np.full((4, 4), np.nan), "bad.nii")
