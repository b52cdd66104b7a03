"""A head at registration spacing: nearly RAS order, isotropic, with its foreground. MONAI's ``Orientation`` does not resample."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import affine_transform

from common.transforms.head_masks import bounding_box, dilate, foreground_mask, pool_mean

HEAD_MM: Final = 160.0
"""Height, measured from the vertex, of the part of a head that serves to align centres: what nearly every scan covers."""


@dataclass(frozen=True)
class Head:
    """A head at registration spacing: HU ``(X, Y, Z)``, its affine, its foreground, and the foreground's points ``(N, 3)`` in mm."""

    hu: np.ndarray
    affine: np.ndarray
    mask: np.ndarray
    points: np.ndarray


def prepare_head(hu: np.ndarray, affine: np.ndarray, spacing_mm: float) -> Head:
    """Bring a scan to nearly RAS order and isotropic spacing, with its own axes and coverage, and find its foreground."""
    volume, matrix = to_isotropic_ras(hu, affine, spacing_mm)
    mask = foreground_mask(volume, spacing_mm)
    points = np.argwhere(mask) @ matrix[:3, :3].T + matrix[:3, 3]
    return Head(volume, matrix, mask, points)


def to_isotropic_ras(hu: np.ndarray, affine: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip the axes to the nearest to R, A, S, and resample along them; blocks are averaged first where voxels are finer.

    Args:
        hu: ``(X, Y, Z)``, HU.
        affine: ``(4, 4)``, voxel index to mm, RAS.
        spacing_mm: spacing of the result, mm.

    Returns:
        Volume float32 and its affine; the axes stay oblique where they were, nothing outside the scan is added.
    """
    order, flips = _nearest_axes(affine)
    source = np.transpose(hu, order)
    matrix = np.asarray(affine, dtype=np.float64)[:, [*order, 3]].copy()
    for axis in flips:
        source = np.flip(source, axis)
        matrix[:3, 3] += matrix[:3, axis] * (source.shape[axis] - 1)
        matrix[:3, axis] *= -1
    source, matrix = pool_to(source, matrix, spacing_mm)
    step = np.linalg.norm(matrix[:3, :3], axis=0)
    shape = [max(1, int((size - 1) * length / spacing_mm + 1e-6) + 1) for size, length in zip(source.shape, step, strict=True)]
    scale = spacing_mm / step
    result = affine_transform(source, scale, output_shape=tuple(shape), order=1, mode="nearest", output=np.float32)
    matrix[:3, :3] *= scale
    return result, matrix


def pool_to(hu: np.ndarray, affine: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Average blocks of voxels so that no axis is finer than half of ``spacing_mm``: what keeps a coarser grid free of aliasing."""
    step = np.linalg.norm(affine[:3, :3], axis=0)
    factors = [max(1, int(spacing_mm / size + 0.01)) for size in step]
    matrix = np.asarray(affine, dtype=np.float64).copy()
    matrix[:3, 3] += matrix[:3, :3] @ [(factor - 1) / 2 for factor in factors]
    matrix[:3, :3] *= factors
    return pool_mean(hu, factors), matrix


def coarser(head: Head) -> Head:
    """The head at 4 mm or coarser."""
    if np.linalg.norm(head.affine[:3, 0]) > 3.9:
        return head
    return prepare_head(head.hu, head.affine, 4.0)


def upper_centre(points: np.ndarray) -> np.ndarray:
    """Middle of the upper head, which does not depend on where a scan is cut below.

    Args:
        points: of the foreground, ``(N, 3)``, mm, RAS.

    Returns:
        ``(3,)`` mm: mid-points of left-right and front-back extent (0.5th to 99.5th percentile) of the upper 100 mm, and 80 mm below the
        vertex.
    """
    top = float(np.percentile(points[:, 2], 99.9))
    upper = points[points[:, 2] > top - 100.0]
    low, high = np.percentile(upper[:, :2], [0.5, 99.5], axis=0)
    return np.array([*((low + high) / 2), top - HEAD_MM / 2])


def head_region(head: Head) -> np.ndarray:
    """The head and 12 mm of air around it, but nothing below its lowest slice, where the scan may just end."""
    step = [float(size) for size in np.linalg.norm(head.affine[:3, :3], axis=0)]
    region = dilate(head.mask, 12.0, step)
    region[:, :, : bounding_box(head.mask)[2].start] = False
    return region


def _nearest_axes(affine: np.ndarray) -> tuple[list[int], list[int]]:
    """Order of the voxel axes nearest to R, A, S, and which of the ordered axes run backwards."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = max(itertools.permutations(range(3)), key=lambda axes: sum(abs(direction[row, axis]) for row, axis in enumerate(axes)))
    return list(order), [row for row, axis in enumerate(order) if direction[row, axis] < 0]
