"""Read one head CT in HU on an even, orthogonal grid, whatever it came as; MONAI's readers check neither unit nor geometry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.cases import volume_suffix
from common.data.dicom_files import is_dicom_file
from common.data.dicom_series import MIN_EXTENT_MM, MIN_SLICES, read_series
from common.data.slice_stack import SliceStack, even_grid
from common.errors import UserError

HU_RANGE = (-1024.0, 3071.0)
"""Values outside are clipped: what 12 bits hold after the usual intercept. In prepared heads the lowest marks all that is no head."""

AIR_BELOW_HU = -300.0
BONE_ABOVE_HU = 300.0
"""A head CT in HU has voxels below the first (air) and above the second (bone); one without is windowed, scaled or something else."""

RIGHT_ANGLE_TOLERANCE = 1e-3
"""Largest cosine between two axes that count as being at right angles (0.06 degrees)."""


@dataclass(frozen=True)
class HeadCT:
    """A head CT in memory.

    Args:
        hu: ``(X, Y, Z)``, float32, HU, clipped to ``HU_RANGE``.
        affine: voxel index to mm, RAS, ``(4, 4)``, float64; axes at right angles.
        notes: what was corrected on the way, in words.
    """

    hu: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...]


def read_head_ct(path: str | os.PathLike[str], min_slices: int = MIN_SLICES, min_extent_mm: float = MIN_EXTENT_MM) -> HeadCT:
    """Read a head CT; gantry tilt and uneven slices are corrected, what cannot be used is refused.

    Args:
        path: folder of one DICOM series, one of its files, or a ``.nii``, ``.nii.gz``, ``.mha``, ``.nrrd`` file with HU.
        min_slices: DICOM series of fewer slices are refused.
        min_extent_mm: volumes that cover less along any axis are refused, mm.

    Returns:
        The volume; its voxels are the file's own where nothing had to be corrected.

    Raises:
        UserError: missing or damaged files, not one 3D volume, not HU, NaN, too small, or a geometry beyond repair.
    """
    source = series_folder(path)
    if source.is_dir():
        hu, affine, notes = read_series(source, min_slices, min_extent_mm)
    else:
        hu, affine = _read_file(source)
        check_hu(hu, os.fspath(source))
        hu, affine, notes = straighten(hu, affine, os.fspath(source))
    check_hu(hu, os.fspath(source))
    _check_extent(hu, affine, source, min_extent_mm)
    return HeadCT(np.clip(hu, *HU_RANGE, out=hu), affine, tuple(notes))


def series_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a DICOM file, or the path itself."""
    source = Path(path).expanduser()
    return source.parent if source.is_file() and not volume_suffix(source) and is_dicom_file(source) else source


def _read_file(source: Path) -> tuple[np.ndarray, np.ndarray]:
    from common.transforms.load_case import check_finite, read_volume

    array, affine = read_volume(source)
    if len(array) != 1:
        raise UserError(f"{source}: {len(array)} volumes in one file, expected one 3D head CT. Save the non-contrast one by itself.")
    check_finite(array, os.fspath(source))
    return array[0], affine


def check_hu(hu: np.ndarray, name: str) -> None:
    """Voxels must be Hounsfield units of a head with air around it and bone in it.

    Raises:
        UserError: no air, or no bone; the text says what the values look like.
    """
    low, high = float(hu.min()), float(hu.max())
    if low < AIR_BELOW_HU and high > BONE_ABOVE_HU:
        return
    if low >= 0 and high > 1000:
        advice = "stored values without their intercept? Subtract 1024 (or apply the header's slope and intercept)"
    elif low >= 0:
        advice = "a windowed or scaled picture? Export the original CT, not a window of it"
    else:
        advice = "clipped to a window, or not a CT? Export the original CT"
    raise UserError(
        f"{name}: values from {low:g} to {high:g}, which are not Hounsfield units of a head; expected air below {AIR_BELOW_HU:g} and bone"
        f" above {BONE_ABOVE_HU:g}. {advice}."
    )


def _check_extent(hu: np.ndarray, affine: np.ndarray, source: Path, min_extent_mm: float) -> None:
    extent = np.array(hu.shape) * np.linalg.norm(affine[:3, :3], axis=0)
    if extent.min() < min_extent_mm:
        shown = " x ".join(f"{value:.0f}" for value in extent)
        raise UserError(
            f"{source}: covers {shown} mm, expected at least {min_extent_mm:g} mm along every axis. Give a scan of the whole head."
        )


def sheared_axis(affine: np.ndarray) -> int | None:
    """Axis along which the slices of a volume wander, as after a tilted gantry; None where all axes are at right angles.

    Args:
        affine: voxel index to mm, ``(4, 4)``.

    Returns:
        The axis which is not at right angles to the other two, and of two such axes that with the wider steps (slices are thicker than
        pixels); -1 where no two axes are at right angles.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / steps
    right = {pair: abs(float(axes[:, pair[0]] @ axes[:, pair[1]])) <= RIGHT_ANGLE_TOLERANCE for pair in ((0, 1), (0, 2), (1, 2))}
    if all(right.values()):
        return None
    candidates = [3 - sum(pair) for pair in right if right[pair]]
    return max(candidates, key=lambda axis: (round(float(steps[axis]), 6), axis), default=-1)


def straighten(volume: np.ndarray, affine: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Remove the shear of a volume, as dcm2niix leaves it in the affine of a scan with gantry tilt.

    Args:
        volume: ``(X, Y, Z)``, float32, HU.
        affine: voxel index to mm, ``(4, 4)``.
        name: file, for errors.

    Returns:
        Volume, affine with axes at right angles, and notes; both unchanged where there is no shear.

    Raises:
        UserError: an affine that is no grid, or sheared along more than one axis.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(f"{name}: its affine is not invertible, expected a voxel grid in mm; correct the header or convert the scan again.")
    axis = sheared_axis(affine)
    if axis is None:
        return volume, affine, []
    if axis < 0:
        raise UserError(f"{name}: sheared along more than one axis, expected right angles or a gantry tilt (one axis); resample it first.")
    order = [*(other for other in range(3) if other != axis), axis]
    steps = affine[:3, order]
    pixel = np.linalg.norm(steps[:, :2], axis=0)
    row, column = (steps[:, :2] / pixel).T
    normal = np.cross(row, column) * np.sign(np.linalg.det(steps))
    normal /= np.linalg.norm(normal)
    # the two in-plane axes are at right angles within the tolerance; the second is made exactly so
    axes = np.array([row, np.cross(normal, row) * np.sign(np.linalg.det(steps)), normal])
    slices = np.moveaxis(volume, axis, -1)
    positions = affine[:3, 3] + np.arange(slices.shape[-1])[:, None] * steps[:, 2]
    even, corrected, notes = even_grid(SliceStack(positions, axes, (float(pixel[0]), float(pixel[1]))), lambda k: slices[..., k])
    back = np.argsort(order)
    corrected[:3, :3] = corrected[:3, :3][:, back]
    return np.transpose(even, back), corrected, notes
