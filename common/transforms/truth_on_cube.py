"""A simulated case's truth on the reference cube; MONAI's nearest resampling would lose fractures thinner than a voxel."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform

from common.transforms.head_volume import pool_to
from common.transforms.load_case import read_volume

HAEMORRHAGE, FRACTURE = 1, 2
"""Labels of a simulated case's truth."""


def resample_truth(path: str, target_affine: np.ndarray, n: int, spacing_mm: float) -> np.ndarray:
    """Resample a simulated case's truth to the cube.

    A voxel is haemorrhage where at least half of it bleeds; it is fracture where any source voxel that is one lies in it, since a
    fracture is thinner than the voxel and would vanish.

    Args:
        path: label file, 0 nothing, 1 haemorrhage, 2 fracture.
        target_affine: ``(4, 4)``, voxel index of the cube to world, mm.
        n: side of the cube, voxels.
        spacing_mm: spacing of the cube, mm.

    Returns:
        ``(n, n, n)`` uint8.
    """
    array, affine = read_volume(path)
    labels = array[0]
    bleeding, pooled = pool_to(labels == HAEMORRHAGE, affine, spacing_mm)
    to_source = np.linalg.inv(pooled) @ target_affine
    bleeds = affine_transform(bleeding, to_source[:3, :3], to_source[:3, 3], output_shape=(n, n, n), order=1)
    fractures = _hits(labels == FRACTURE, np.linalg.inv(affine) @ target_affine, n)
    return np.where(fractures, FRACTURE, np.where(bleeds >= 0.5, HAEMORRHAGE, 0)).astype(np.uint8)


def _hits(mask: np.ndarray, to_source: np.ndarray, n: int) -> np.ndarray:
    """Cube voxels whose middle lies in the mask, or which hold the middle of one of its voxels: ``(n, n, n)`` bool."""
    nearest = affine_transform(mask.astype(np.uint8), to_source[:3, :3], to_source[:3, 3], output_shape=(n, n, n), order=0) > 0
    to_cube = np.linalg.inv(to_source)
    index = np.rint(np.argwhere(mask) @ to_cube[:3, :3].T + to_cube[:3, 3]).astype(int)
    inside = index[((index >= 0) & (index < n)).all(axis=1)]
    nearest[tuple(inside.T)] = True
    return nearest
