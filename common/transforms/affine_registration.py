"""An atlas onto a scan by an affine transform (ITK); ``register_sequences`` turns and shifts only, MONAI's needs training."""

from __future__ import annotations

import numpy as np

from common.errors import UserError
from common.transforms.head_volume import Head
from common.transforms.itk_registration import optimise_affine
from common.transforms.register_head import information, sample_points
from common.transforms.rigid_registration import sequence_head

MAX_SCALE = 2.0
"""A larger change of any length is no registration: a neonate's brain has two thirds of an adult's diameter."""


def register_atlas(
    scan: np.ndarray,
    scan_affine: np.ndarray,
    atlas: np.ndarray,
    atlas_affine: np.ndarray,
    names: tuple[str, str] = ("scan", "atlas"),
    spacing_mm: float = 4.0,
    seed: int = 0,
) -> np.ndarray:
    """Affine transform from the world of a scan to that of an atlas of the same contrast.

    The boxes of both heads give the start, so that size and place may differ.

    Args:
        scan: ``(X, Y, Z)``, 0 outside the brain.
        scan_affine: ``(4, 4)``, voxel index to mm, RAS.
        atlas: mean of the atlas, 0 outside the brain.
        atlas_affine: its affine.
        names: of both files, for errors.
        spacing_mm: at which to register, mm.
        seed: of the sample points.

    Returns:
        ``(4, 4)`` float64, mm.

    Raises:
        UserError: no brain in one of them, or a transform that cannot be right.
    """
    fixed, moving = (sequence_head(*pair, spacing_mm) for pair in ((scan, scan_affine), (atlas, atlas_affine)))
    for name, head in zip(names, (fixed, moving), strict=True):
        if not head.mask.any():
            raise UserError(f"{name}: no brain found in it (no voxel above 0 in one piece); expected 0 outside the brain only.")
    points = sample_points(fixed, seed)
    start = _boxes(fixed, moving)
    coarse = optimise_affine(fixed, moving, start, 1, spacing_mm, seed)
    fine = optimise_affine(fixed, moving, coarse, 1, 0.0, seed)
    best = max((np.eye(4), start, coarse, fine), key=lambda matrix: information(points, moving, matrix))
    scales = np.linalg.svd(best[:3, :3])[1]
    if scales.max() > MAX_SCALE or scales.min() < 1 / MAX_SCALE or np.linalg.det(best[:3, :3]) <= 0:
        shown = ", ".join(f"{scale:.2f}" for scale in scales)
        raise UserError(
            f"{names[1]}: could not be registered to {names[0]}: lengths would change by factors {shown} (allowed"
            f" {1 / MAX_SCALE:g} to {MAX_SCALE:g}). Is the atlas of this age and contrast, with 0 outside the brain?"
        )
    return best


def _boxes(fixed: Head, moving: Head) -> np.ndarray:
    """Brings the heads' boxes (1st to 99th percentile along the world's axes) onto each other."""
    (low, high), (moving_low, moving_high) = (np.percentile(head.points, [1, 99], axis=0) for head in (fixed, moving))
    matrix = np.eye(4)
    scale = (moving_high - moving_low) / np.maximum(high - low, 1.0)
    matrix[:3, :3] = np.diag(scale)
    matrix[:3, 3] = (moving_low + moving_high) / 2 - scale * (low + high) / 2
    return matrix
