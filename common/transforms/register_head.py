"""Rigid registration of one head to another, from several starts and with a check. MONAI has none that needs no training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import map_coordinates

from common.transforms.head_volume import Head, coarser, head_region, prepare_head, upper_centre
from common.transforms.itk_registration import BINS, WINDOW_HU, optimise_rigid

MIN_OVERLAP: Final = 0.6
MAX_ROTATION_DEG: Final = 60.0


@dataclass(frozen=True)
class Rigid:
    """Outcome of a rigid registration.

    Attributes:
        matrix: ``(4, 4)`` float64, maps world of the fixed image (reference) to world of the moving image (source), mm, RAS.
        metric: mutual information of the two heads under ``matrix``, nat, >= 0; higher is better.
        start_metric: the same under the alignment of centres alone.
        overlap: share of the smaller head that the other one covers, in [0, 1].
        rotation_deg: angle of the rotation, degrees.
        ok: False where registration failed and ``matrix`` is the alignment of centres.
        reason: why it failed; empty where it did not.
    """

    matrix: np.ndarray
    metric: float
    start_metric: float
    overlap: float
    rotation_deg: float
    ok: bool
    reason: str


def register_rigid(
    fixed_hu: np.ndarray,
    fixed_affine: np.ndarray,
    moving_hu: np.ndarray,
    moving_affine: np.ndarray,
    spacing_mm: float = 4.0,
    seed: int = 0,
) -> Rigid:
    """Rigid transform that maps the fixed head onto the moving one.

    Both are brought to RAS order and ``spacing_mm``; starts differ in pitch, roll and yaw, each with the vertices and mid-points of the
    upper heads aligned; the two best go through ITK (Mattes mutual information, Euler angles, two resolutions, one thread). The outcome
    is bit-equal for the same input and ``seed``.

    Args:
        fixed_hu: reference, ``(X, Y, Z)``, HU.
        fixed_affine: ``(4, 4)``, voxel index to mm, RAS.
        moving_hu: source, ``(X, Y, Z)`` in any orientation, HU.
        moving_affine: ``(4, 4)``, voxel index to mm, RAS.
        spacing_mm: spacing at which to register, mm.
        seed: of the sample points.

    Returns:
        The transform and how good it is. Where it did not work out (no head, too little overlap, a rotation above 60 degrees, a metric
        worse than at the start) ``ok`` is False and the matrix aligns centres.
    """
    return register_heads(prepare_head(fixed_hu, fixed_affine, spacing_mm), prepare_head(moving_hu, moving_affine, spacing_mm), seed)


def register_heads(fixed: Head, moving: Head, seed: int = 0) -> Rigid:
    """:func:`register_rigid` of heads that are prepared already, as where one reference meets many scans."""
    if not fixed.mask.any() or not moving.mask.any():
        which = "moving" if fixed.mask.any() else "fixed"
        return Rigid(np.eye(4), 0.0, 0.0, 0.0, 0.0, False, f"no head found in the {which} image")
    points = sample_points(fixed, seed)
    centred = align_centres(fixed, moving, np.eye(3))
    start_metric = information(points, moving, centred)
    spacing = float(np.linalg.norm(fixed.affine[:3, 0]))
    low = (coarser(fixed), coarser(moving))  # smoothing by 8 mm takes seconds on finer grids
    coarse = [optimise_rigid(*low, start, 1 if spacing > 6.0 else 2, 8.0, seed) for start in _best_starts(fixed, moving, points)]
    best = max(coarse, key=lambda matrix: information(points, moving, matrix))
    fine = optimise_rigid(fixed, moving, best, 1, 0.5 * spacing, seed)
    best = max((centred, best, fine), key=lambda matrix: information(points, moving, matrix))
    return _judge(fixed, moving, centred, start_metric, best, information(points, moving, best))


def align_centres(fixed: Head, moving: Head, rotation: np.ndarray) -> np.ndarray:
    """Matrix ``(4, 4)`` of a rotation ``(3, 3)`` that brings the upper heads' mid-points together; see :func:`upper_centre`."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    here, there = upper_centre(fixed.points), upper_centre(moving.points @ rotation)
    matrix[:3, 3] = rotation @ (there - here)
    return matrix


def sample_points(fixed: Head, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in mm of the fixed head and a rim of air around it, off the grid, and the windowed HU there."""
    indices = np.argwhere(head_region(fixed))
    generator = np.random.default_rng(seed)
    chosen = indices[generator.permutation(len(indices))[:6000]] + generator.uniform(-0.5, 0.5, (min(len(indices), 6000), 3))
    values = map_coordinates(fixed.hu, chosen.T, order=1, mode="nearest")
    return chosen @ fixed.affine[:3, :3].T + fixed.affine[:3, 3], _binned(values)


def _binned(values: np.ndarray) -> np.ndarray:
    low, high = WINDOW_HU
    return np.clip((values - low) / (high - low) * BINS, 0, BINS - 1).astype(np.int64)


def information(points: tuple[np.ndarray, np.ndarray], moving: Head, matrix: np.ndarray) -> float:
    """Mutual information (nat) over the sample points that fall into the moving scan; 0 where fewer than a quarter do."""
    to_voxel = np.linalg.inv(moving.affine) @ matrix
    where = (points[0] @ to_voxel[:3, :3].T + to_voxel[:3, 3]).T
    inside = np.all((where >= 0) & (where <= np.array(moving.hu.shape)[:, None] - 1), axis=0)
    if inside.mean() < 0.25:
        return 0.0
    values = _binned(map_coordinates(moving.hu, where[:, inside], order=1))
    joint = np.bincount(points[1][inside] * BINS + values, minlength=BINS * BINS).reshape(BINS, BINS) / inside.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / independent[filled])).sum())


def _best_starts(fixed: Head, moving: Head, points: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """The two best of 31 starts: turned by up to 30 degrees about the world's axes or the scan's own."""
    own = moving.affine[:3, :3] / np.linalg.norm(moving.affine[:3, :3], axis=0)
    turns = [rotation_matrix(pitch, roll, yaw) for pitch in (-30, -15, 0, 15, 30) for roll in (-12, 0, 12) for yaw in (-15, 15)]
    if np.linalg.det(own) > 0:
        left, _, right = np.linalg.svd(own)  # the affine of a NIfTI file is orthogonal to single precision only
        turns.append(left @ right)
    starts = [align_centres(fixed, moving, turn) for turn in (np.eye(3), *turns)]
    ranked = sorted(range(len(starts)), key=lambda index: -information(points, moving, starts[index]))
    return [starts[index] for index in ranked[:2]]


def rotation_matrix(pitch_deg: float, roll_deg: float, yaw_deg: float) -> np.ndarray:
    """Rotation ``(3, 3)``: roll about A, then pitch about R, then yaw about S, degrees."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))) for angle in (pitch_deg, roll_deg, yaw_deg))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def _judge(fixed: Head, moving: Head, centred: np.ndarray, start_metric: float, best: np.ndarray, metric: float) -> Rigid:
    """Accept the best transform, or fall back to the aligned centres and say why."""
    angle = float(np.rad2deg(np.arccos(np.clip((np.trace(best[:3, :3]) - 1) / 2, -1, 1))))
    overlap = overlap_share(fixed, moving, best)
    reason = ""
    if metric <= start_metric:
        reason = f"no better than aligned centres (mutual information {metric:.3f})"
    elif angle > MAX_ROTATION_DEG:
        reason = f"turned by {angle:.0f} degrees, more than {MAX_ROTATION_DEG:.0f}"
    elif overlap < MIN_OVERLAP:
        reason = f"the heads overlap by {overlap:.2f} of the smaller one, less than {MIN_OVERLAP}"
    if reason:
        return Rigid(centred, start_metric, start_metric, overlap_share(fixed, moving, centred), 0.0, False, reason)
    return Rigid(best, metric, start_metric, overlap, angle, True, "")


def overlap_share(fixed: Head, moving: Head, matrix: np.ndarray) -> float:
    """Share of the smaller head that the other covers, in [0, 1]."""
    to_voxel = np.linalg.inv(moving.affine) @ matrix
    where = (fixed.points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).T
    hits = map_coordinates(moving.mask.astype(np.uint8), where, order=0, mode="constant").sum()
    return float(hits) / max(1, min(len(fixed.points), len(moving.points)))
