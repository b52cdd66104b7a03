"""Rigid registration recovers known poses, repeats to the bit and says when it failed."""

import numpy as np
import pytest

from common.transforms.head_volume import to_isotropic_ras, upper_centre
from common.transforms.register_head import register_rigid, rotation_matrix

CORNERS = np.array([[x, y, z] for x in (-60, 60) for y in (-70, 70) for z in (-40, 70)], dtype=float)


def worst_mm(found, true):
    difference = (found - true)[:3]
    return np.linalg.norm(CORNERS @ difference[:, :3].T + difference[:, 3], axis=1).max()


@pytest.mark.parametrize(
    "angles, shift, spacing",
    [((12, -8, 15), (20, -30, 40), (4, 4, 4)), ((-18, 6, -10), (-35, 10, -20), (2, 2, 5)), ((0, 0, 0), (0, 0, 60), (3, 3, 3))],
)
def test_a_known_pose_is_recovered(phantom, rigid, angles, shift, spacing):
    pose = rigid(*angles, shift)
    moving, moving_affine = phantom(spacing, pose)
    fixed, fixed_affine = phantom()
    found = register_rigid(fixed, fixed_affine, moving, moving_affine, 8.0)
    assert found.ok, found.reason
    assert worst_mm(found.matrix, pose) < 2.5  # a third of a voxel
    assert found.metric > found.start_metric


def test_the_orientation_of_the_voxels_does_not_matter(phantom, rigid):
    pose = rigid(8, 5, -6, (10, 0, -15))
    moving, affine = phantom((4, 4, 4), pose)
    fixed, fixed_affine = phantom()
    lps = affine @ np.array([[-1, 0, 0, moving.shape[0] - 1], [0, -1, 0, moving.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    turned = lps[:, [2, 0, 1, 3]]
    straight = register_rigid(fixed, fixed_affine, moving, affine, 8.0)
    other = register_rigid(fixed, fixed_affine, moving[::-1, ::-1].transpose(2, 0, 1), turned, 8.0)
    assert worst_mm(other.matrix, straight.matrix) < 1e-6


def test_the_same_call_gives_the_same_bits(phantom, rigid):
    moving, affine = phantom((4, 4, 4), rigid(10, 0, 5), size=0.95)
    fixed, fixed_affine = phantom()
    first, second = (register_rigid(fixed, fixed_affine, moving, affine, 8.0) for _ in range(2))
    assert np.array_equal(first.matrix, second.matrix)
    assert first.metric == second.metric


def test_a_scan_cut_short_below_is_aligned_by_its_vertex(phantom, rigid):
    pose = rigid(5, 0, 0, (0, 10, 30))
    moving, affine = phantom((4, 4, 4), pose, bottom_mm=-20.0)
    fixed, fixed_affine = phantom()
    found = register_rigid(fixed, fixed_affine, moving, affine, 8.0)
    assert found.ok, found.reason
    assert worst_mm(found.matrix, pose) < 5


def test_noise_instead_of_a_head_is_flagged_and_centred(phantom):
    fixed, fixed_affine = phantom()
    empty = np.full((40, 40, 40), -1000.0, dtype=np.float32)
    found = register_rigid(fixed, fixed_affine, empty, np.diag([4.0, 4, 4, 1]), 8.0)
    assert not found.ok
    assert found.reason == "no head found in the moving image"


def test_a_head_lying_across_is_flagged(phantom, rigid):
    moving, affine = phantom((4, 4, 4), rigid(0, 0, 100))
    fixed, fixed_affine = phantom()
    found = register_rigid(fixed, fixed_affine, moving, affine, 8.0)
    if not found.ok:
        assert np.array_equal(found.matrix[:3, :3], np.eye(3))
        assert any(text in found.reason for text in ("turned by", "no better", "overlap"))
    assert found.rotation_deg <= 60


def test_isotropic_resampling_keeps_world_positions(rigid):
    affine = rigid(10, 20, -30, (5, 6, 7)) @ np.diag([1.0, 1.5, 5.0, 1.0])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 30, 12)), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    ramp = (world @ [1.0, -2.0, 0.5]).astype(np.float32)
    volume, moved = to_isotropic_ras(ramp, affine, 4.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), -1)
    expected = (index @ moved[:3, :3].T + moved[:3, 3]) @ [1.0, -2.0, 0.5]
    assert np.allclose(np.linalg.norm(moved[:3, :3], axis=0), 4.0)
    assert np.abs(volume - expected)[1:-1, 1:-1, 1:-1].max() < 1e-3


def test_the_upper_centre_does_not_see_the_lower_cut():
    points = np.random.default_rng(0).uniform([-70, -90, -150], [70, 90, 80], (200000, 3))
    low, high = upper_centre(points), upper_centre(points[points[:, 2] > -30])
    assert np.abs(low - high).max() < 1.0
    assert low == pytest.approx([0, 0, 0], abs=1.0)


def test_rotations_are_rotations():
    turned = rotation_matrix(10, -20, 30)
    assert np.allclose(turned @ turned.T, np.eye(3))
    assert np.linalg.det(turned) == pytest.approx(1)
    assert np.allclose(rotation_matrix(90, 0, 0) @ [0, 1, 0], [0, 0, 1])  # pitch: forward turns up
