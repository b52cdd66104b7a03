"""Volumes and labels onto another grid, averaged where that is coarser; MONAI's ``SpatialResample`` aliases there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.ndimage import affine_transform

from common.errors import UserError
from common.transforms.align_brain import grid_affine, own_axes, snapped
from common.transforms.head_masks import pool_mean

SLAB_VOXELS: Final = 8_000_000
"""Voxels that are interpolated at a time, so that memory is bounded."""
BRATS_SHAPE: Final = (240, 240, 155)
"""Grid of BraTS at 1 mm, axes to the left, back and top; the brain's box lies within 3 mm of its middle (the one public case at hand)."""


def check_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """An affine that can be inverted.

    Raises:
        UserError: a singular affine, or one that is not finite; the text names the file.
    """
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise UserError(
            f"{name}: its affine is singular or not finite:\n{np.array2string(matrix, precision=4)}\nThe header says nothing about where"
            " the voxels lie: convert the scan again from DICOM (dcm2niix)."
        )
    return matrix


def bring_to_grid(
    volume: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    shape: Sequence[int],
    world: np.ndarray | None = None,
    order: int = 1,
) -> np.ndarray:
    """Resample a volume onto a grid in one interpolation; 0 outside its field of view.

    Where a step of the grid spans several voxels of the source (a thick slice), the mean over the step is taken.

    Args:
        volume: ``(X, Y, Z)``, any number type.
        source: its affine, ``(4, 4)``, mm.
        target: affine of the grid, ``(4, 4)``, mm.
        shape: sides of the grid, voxels.
        world: ``(4, 4)``, world of the grid to world of the volume; None where they are one.
        order: 0 nearest neighbour (then nothing is averaged), 1 linear.

    Returns:
        ``shape`` float32. Voxels that fall on voxels keep their values exactly.
    """
    step = np.linalg.inv(source) @ (np.eye(4) if world is None else world) @ target
    whole = np.rint(step)
    step = np.where(np.abs(step - whole) < 1e-6, whole, step)  # else rounding puts the outermost voxels outside
    factors = [max(1, min(16, round(float(np.abs(step[:3, axis]).max())))) if order else 1 for axis in range(3)]
    fine = step.copy()
    fine[:3, :3] /= factors
    fine[:3, 3] -= step[:3, :3] @ [(factor - 1) / (2 * factor) for factor in factors]
    values, result = np.asarray(volume, np.float32), np.empty(tuple(shape), np.float32)
    depth = max(1, SLAB_VOXELS // max(1, shape[0] * shape[1] * math.prod(factors)))
    for first in range(0, shape[2], depth):
        last = min(first + depth, shape[2])
        sides = tuple(n * factor for n, factor in zip((*shape[:2], last - first), factors, strict=True))
        offset = fine[:3, 3] + fine[:3, 2] * first * factors[2]
        slab = affine_transform(values, fine[:3, :3], offset, output_shape=sides, order=order, cval=0.0, output=np.float32)
        result[..., first:last] = pool_mean(slab, factors)
    return result


def labels_to_grid(
    labels: np.ndarray, source: np.ndarray, target: np.ndarray, shape: Sequence[int], world: np.ndarray | None = None
) -> np.ndarray:
    """Resample a label volume: each voxel gets the label with the largest share of it (the smaller number where two are equal).

    Args:
        labels: ``(X, Y, Z)`` integers; 0 is background and what lies outside.
        source: see :func:`bring_to_grid`, as ``target``, ``shape`` and ``world``.
        target: see there.
        shape: see there.
        world: see there.

    Returns:
        ``shape``, of the labels' type.
    """
    numbers = np.array([0, *(number for number in np.unique(labels) if number)], labels.dtype)
    shares = np.stack([bring_to_grid(labels == number, source, target, shape, world) for number in numbers])
    shares[0] = 1.0 - shares[1:].sum(axis=0)  # background is also what lies outside the labels' field of view
    return numbers[shares.argmax(axis=0)]


def head_grid(
    affine: np.ndarray, brain: np.ndarray, spacing_mm: float = 1.0, shape_mm: Sequence[float] = BRATS_SHAPE
) -> tuple[np.ndarray, tuple[int, ...]]:
    """A grid like that of BraTS around a brain: axes nearest to left, back and top, the brain's box in the middle.

    The axes stay the scan's own, so that nothing is turned; where they and the spacing agree, voxels fall on voxels.

    Args:
        affine: of the scan, ``(4, 4)``, mm.
        brain: ``(X, Y, Z)`` bool on it.
        spacing_mm: of the grid, isotropic.
        shape_mm: sides of the grid; longer ones where the brain is larger.

    Returns:
        Affine and sides of the grid.

    Raises:
        UserError: an empty mask.
    """
    where = np.argwhere(brain)
    if not len(where):
        raise UserError("the mask of the brain is empty; look at it, or give another one.")
    axes = own_axes(affine) @ np.diag([-1.0, -1.0, 1.0])
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.ptp(where, axis=0) + 1) + where.min(axis=0) - 0.5
    local = (corners @ affine[:3, :3].T + affine[:3, 3]) @ axes
    pose = np.eye(4)
    pose[:3, :3] = axes
    pose[:3, 3] = axes @ ((local.min(axis=0) + local.max(axis=0)) / 2)
    sides = np.maximum(np.asarray(shape_mm, float), np.ptp(local, axis=0) + 2 * spacing_mm)
    shape = tuple(int(side) for side in np.rint(sides / spacing_mm))
    return snapped(grid_affine(pose, shape, spacing_mm), affine), shape
