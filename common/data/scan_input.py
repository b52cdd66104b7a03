"""One scan of a hospital, checked: a file or a DICOM series, with what was corrected, and b-values; ``ITKReader`` looks at none of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from common.data.cases import VOLUME_SUFFIXES, volume_suffix
from common.data.dicom_files import is_dicom_file
from common.data.dicom_folders import one_series
from common.data.dicom_series import CT_OR_MR, read_series
from common.errors import UserError

MIN_SLICES, MIN_EXTENT_MM = 8, 60.0
"""Fewer slices, or a lower stack, hold no brain."""


def read_scan(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read one 3D scan.

    Args:
        path: a volume (``.nii.gz``, ``.nii``, ``.mha``, ``.nrrd``), a folder with one DICOM series, or a file of it.

    Returns:
        Voxels ``(X, Y, Z)`` float32, affine ``(4, 4)`` (voxel to mm, RAS), and notes on corrections.

    Raises:
        UserError: no such path, several volumes or series, a missing slice, voxels that are no numbers.
    """
    source = Path(path).expanduser()
    volumes, affine, notes = read_volumes(source)
    if len(volumes) != 1:
        raise UserError(
            f"{source}: {len(volumes)} volumes in one file, expected one 3D scan. A diffusion series is given by --dwi; of others save one"
            " volume by itself."
        )
    return volumes[0], affine, notes


def read_volumes(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a scan of one or several volumes ``(N, X, Y, Z)``; see :func:`read_scan`."""
    from common.transforms.bring_to_grid import check_affine
    from common.transforms.load_case import check_finite, read_volume

    source = Path(path).expanduser()
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the path (relative paths start at {os.getcwd()}).")
    if volume_suffix(source):
        array, affine = read_volume(source)
        notes: list[str] = []
    else:
        volume, affine, notes = _read_dicom(source)
        array = volume[None]
    check_finite(array, os.fspath(source))
    if min(array.shape[1:]) < 2:
        raise UserError(f"{source}: an image of {' x '.join(map(str, array.shape[1:]))} voxels; expected a volume with several slices.")
    return array, check_affine(affine, os.fspath(source)), notes


def _read_dicom(source: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A series of slices on an even grid, with what was corrected."""
    if source.is_file() and not is_dicom_file(source):
        raise UserError(f"{source}: neither a volume ({' '.join(VOLUME_SUFFIXES)}) nor DICOM; convert it to NIfTI (dcm2niix).")
    try:
        return read_series(one_series(source), MIN_SLICES, MIN_EXTENT_MM, CT_OR_MR)
    except UserError as error:
        raise UserError(
            f"{error} Of a diffusion or multi-frame series dcm2niix makes a NIfTI (with a .bval file), which can be given."
        ) from None


def read_bvals(path: str | os.PathLike[str], volumes: int, name: str) -> list[float]:
    """b-values of a series from an FSL text file.

    Args:
        path: ``.bval`` file: numbers parted by blanks, s/mm2.
        volumes: how many the series has.
        name: of the series, for errors.

    Raises:
        UserError: no such file, not numbers, or not one per volume.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the b-values of {name} as dcm2niix writes them, or give them by --bvals FILE.")
    try:
        values = [float(word) for word in file.read_text(encoding="utf-8").replace(",", " ").split()]
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a list of b-values ({error}); expected numbers parted by blanks.") from error
    if len(values) != volumes:
        raise UserError(
            f"{file}: {len(values)} b-values, but {name} has {volumes} volumes; expected one per volume. Is it this series' file?"
        )
    return values


def bvals_beside(path: str | os.PathLike[str]) -> Path:
    """Where dcm2niix puts the b-values of a series: its name with ``.bval``."""
    source = Path(path).expanduser()
    return source.with_name(source.name[: len(source.name) - len(volume_suffix(source))] + ".bval")
