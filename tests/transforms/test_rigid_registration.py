"""Registration of sequences: known transforms come back, also between unlike contrasts, and what lies right is not touched."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from common.data.simulate.brats import simulate_scan
from common.errors import UserError
from common.transforms.register_head import rotation_matrix
from common.transforms.rigid_registration import displacement_mm, foreground, register_sequences, rotation_deg

SEQUENCES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(1, 0, 64)


def pose(scan, angles, shift):
    """World to world: turned about the middle of the volume, then shifted."""
    centre = scan.affine[:3, :3] @ ((np.array(scan.label.shape) - 1) / 2) + scan.affine[:3, 3]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(*angles)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
    return matrix


def moved(scan, name, matrix):
    """The head moved by ``matrix`` on a grid of its own, with thicker slices; by scipy, which the registration does not use."""
    volume = scan.images[SEQUENCES.index(name)].astype(np.float32)
    grid = scan.affine @ np.diag([1.0, 1.0, 1.4, 1.0])
    step = np.linalg.inv(scan.affine) @ np.linalg.inv(matrix) @ grid
    shape = (64, 64, 32)
    result = affine_transform(volume, step[:3, :3], step[:3, 3], output_shape=shape, order=1)
    inside = affine_transform((volume > 0).astype(np.float32), step[:3, :3], step[:3, 3], output_shape=shape, order=1) > 0.5
    return np.where(inside, result, 0), grid


def left_mm(found, true, scan):
    points = np.argwhere(scan.images[1] > 0)[::50] @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    return displacement_mm(found @ np.linalg.inv(true), points @ true[:3, :3].T + true[:3, 3])


@pytest.mark.parametrize(
    "name, angles, shift", [("t1", (7, -5, 9), (6, -8, 5)), ("t2", (-4, 6, -8), (-9, 5, 3)), ("flair", (3, 8, 5), (4, 8, -7))]
)
def test_a_known_transform_between_unlike_contrasts_is_recovered_to_half_a_millimetre(scan, name, angles, shift):
    true = pose(scan, angles, shift)
    found = register_sequences(scan.images[1], scan.affine, *moved(scan, name, true))
    assert not found.kept and found.overlap > 0.9
    assert left_mm(found.matrix, true, scan) < 0.5
    assert found.information > found.header_information
    np.testing.assert_allclose(found.matrix[:3, :3] @ found.matrix[:3, :3].T, np.eye(3), atol=1e-9)  # rigid


def test_a_header_that_puts_the_head_elsewhere_is_mended_from_the_centroids(scan):
    volume, grid = moved(scan, "t1", pose(scan, (2, 1, 3), (3, 0, 2)))
    away = np.eye(4)
    away[:3, 3] = (250, -300, 190)
    found = register_sequences(scan.images[1], scan.affine, volume, away @ grid)
    assert left_mm(found.matrix, away @ pose(scan, (2, 1, 3), (3, 0, 2)), scan) < 0.5
    assert found.header_information == 0


@pytest.mark.parametrize("name", ["t2", "flair"])
def test_sequences_that_lie_right_are_not_moved_at_all(scan, name):
    found = register_sequences(scan.images[1], scan.affine, scan.images[SEQUENCES.index(name)], scan.affine)
    assert found.kept and found.moved_mm < 1.0
    np.testing.assert_array_equal(found.matrix, np.eye(4))


def test_the_same_call_gives_the_same_bits(scan):
    moving = moved(scan, "t1", pose(scan, (3, 0, 2), (5, 0, 0)))
    first, second = (register_sequences(scan.images[1], scan.affine, *moving).matrix for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_volume_without_a_head_is_named(scan):
    with pytest.raises(UserError, match=r"b.nii: no head found in it"):
        register_sequences(scan.images[1], scan.affine, np.zeros((8, 8, 8)), np.diag([4.0, 4.0, 4.0, 1.0]), ("a.nii", "b.nii"))


def test_a_ball_of_noise_in_place_of_a_head_is_doubtful(scan):
    away = np.indices(scan.label.shape) - np.array([32, 32, 20])[:, None, None, None]
    ball = np.random.default_rng(0).uniform(50, 100, scan.label.shape) * ((away**2).sum(0) < 15**2)
    assert register_sequences(scan.images[1], scan.affine, ball, scan.affine).doubtful
    assert not register_sequences(scan.images[1], scan.affine, scan.images[3], scan.affine).doubtful


def test_a_registration_that_turns_the_head_too_far_is_an_error_and_no_result(scan, monkeypatch):
    monkeypatch.setattr("common.transforms.rigid_registration.MAX_ROTATION_DEG", 2.0)
    with pytest.raises(UserError, match=r"moving: could not be registered to fixed: .* rotation by 5 degrees .* --register false"):
        register_sequences(scan.images[1], scan.affine, *moved(scan, "t1", pose(scan, (5, 0, 0), (0, 0, 0))))


def test_noise_in_the_air_is_no_head():
    rng = np.random.default_rng(0)
    volume = np.abs(rng.normal(0, 3, (40, 40, 40)))
    volume[10:30, 10:30, 10:30] += 100
    assert foreground(volume)[10:30, 10:30, 10:30].all()
    assert foreground(volume).sum() < 1.01 * 20**3
    assert not foreground(np.zeros((4, 4, 4))).any()


def test_angle_and_displacement_by_hand():
    turn = np.eye(4)
    turn[:3, :3] = rotation_matrix(0, 0, 90)
    assert rotation_deg(turn) == pytest.approx(90)
    # (1, 0, 0) goes to (0, 1, 0): sqrt(2); the origin stays: mean of both
    assert displacement_mm(turn, np.array([[1.0, 0, 0], [0, 0, 0]])) == pytest.approx(np.sqrt(2) / 2)
