"""Headers of the series that a result was made from, for the DICOM objects that refer to it; ITK's readers keep no whole header."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.dicom_files import dicom_files
from common.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

RESEARCH = "Research output - not for clinical use"
"""Begins the description of every series that is written."""

LONG_STRING = 64
"""Characters that DICOM allows a description."""

MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Attributes of patient and study that every DICOM object holds, without a value where there is none; anonymised files lack some."""


def source_images(source: str | os.PathLike[str]) -> list[Dataset]:
    """Headers of the slices of a series, without pixels, in the order of their places along the normal.

    Args:
        source: folder with the files of one series, or one of its files.

    Returns:
        pydicom data sets, localizers left out. What the standard demands and these files lack is there without a value.

    Raises:
        UserError: pydicom is not installed, no slices, several series, or no frame of reference, without which nothing can be placed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UserError(f'{source}: DICOM output needs pydicom and highdicom; install them: pip install "brain-bundles[dicom]".') from error
    folder = Path(source).parent if Path(source).is_file() else Path(source)
    images = []
    for file in dicom_files(folder):
        image = pydicom.dcmread(file, stop_before_pixels=True)
        if "LOCALIZER" not in "\\".join(image.get("ImageType") or []).upper() and "ImagePositionPatient" in image:
            images.append(image)
    if not images:
        raise UserError(f"{folder}: no DICOM slices with a position in it, to which a DICOM result could refer.")
    for name, what in (("SeriesInstanceUID", "series"), ("FrameOfReferenceUID", "frames of reference")):
        found = {str(image.get(name) or "") for image in images}
        if len(found) > 1 or "" in found:
            raise UserError(f"{folder}: {len(found - {''})} {what} in it, expected one; a DICOM result refers to exactly one.")
    first, normal = images[0], normal_of(images[0])
    for image in images:
        image.ImageOrientationPatient = first.ImageOrientationPatient  # scanners round it differently from slice to slice
        _complete(image)
    return sorted(images, key=lambda image: float(np.dot(np.asarray(image.ImagePositionPatient, float), normal)))


def normal_of(image: Any) -> np.ndarray:
    """Unit vector at right angles to a slice, ``(3,)``, LPS."""
    row, column = np.asarray(image.ImageOrientationPatient, float).reshape(2, 3)
    normal: np.ndarray = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _complete(image: Any) -> None:
    """Empty values for what is missing or would be refused by ``highdicom``, in place."""
    from pydicom.valuerep import DA, TM

    for name in MAY_BE_EMPTY:
        value = image.get(name)
        try:
            fits = value is None or name[-4:] not in ("Date", "Time") or bool(DA(value) if name.endswith("Date") else TM(value))
        except ValueError:
            fits = False
        if value is None or not fits or (name == "PatientSex" and value not in ("M", "F", "O")):
            setattr(image, name, "")


def description(what: str) -> str:
    """Text of at most 64 characters that says first that a series is for research."""
    return f"{RESEARCH}: {what}"[:LONG_STRING]


def planes_lps(shape: Sequence[int], affine: np.ndarray) -> tuple[np.ndarray, bool]:
    """A volume's grid as DICOM counts it.

    Args:
        shape: ``(X, Y, Z)``.
        affine: voxel index to mm, RAS, ``(4, 4)``.

    Returns:
        Affine ``(4, 4)`` from (slice, row, column) to mm, LPS, slices rising along the normal of their planes; and whether the slices of
        the volume stand in the other order.
    """
    world = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
    planes = world[:, [2, 1, 0, 3]]
    # the normal is row times column, as the standard has it; row runs along the columns' index
    turned = bool(np.dot(planes[:3, 0], np.cross(planes[:3, 2], planes[:3, 1])) < 0)
    if turned:
        planes[:3, 3] += (shape[2] - 1) * planes[:3, 0]
        planes[:3, 0] *= -1
    return planes, turned


def frames_of(volume: np.ndarray, turned: bool) -> np.ndarray:
    """A volume ``(X, Y, Z)`` as frames ``(slice, row, column)``; ``turned`` as ``planes_lps`` has it."""
    frames = np.ascontiguousarray(np.transpose(volume, (2, 1, 0)))
    return frames[::-1] if turned else frames
