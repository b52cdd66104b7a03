"""CT and MR series on disk, written with pydicom alone, so that readers and writers are checked by another's hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
STUDY, FRAME = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"
PATIENT = "Planted^Name"


def oblique(
    spacing: tuple[float, float, float] = (1.5, 1.25, 3.0), origin: tuple[float, float, float] = (-31.5, 12.25, 40.0)
) -> np.ndarray:
    """An affine ``(4, 4)``, voxel index to mm, LPS, turned about all axes, slices rising along the normal."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10.1, -20.7, 35.3], degrees=True).as_matrix() * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def write_scan(folder: Path, volume: np.ndarray, affine: np.ndarray, modality: str = "MR", series: str | None = None, **tags: Any) -> Path:
    """Write a volume ``(X, Y, Z)`` of integers, with its affine in LPS, as one file per slice; names say nothing about the order.

    Args:
        folder: gets the files.
        volume: stored values; CT with intercept -1024, MR with slope 2.
        affine: voxel index to mm, LPS.
        modality: "CT" or "MR".
        series: UID; None makes one.
        tags: attributes over those written by default; None removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = (affine[:3, :2] / steps[:2]).T
    series, start = series or generate_uid(), len(list(folder.iterdir()))
    for index in range(volume.shape[2]):
        image: Any = pydicom.Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CLASSES[modality]
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = STUDY, series, FRAME
        image.ImageType, image.Modality, image.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], modality, folder.name
        image.PatientName, image.PatientID, image.PatientSex, image.PatientBirthDate = PATIENT, "planted-id", "F", "19700102"
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20200304", "101112", "7", "planted-acc"
        image.SeriesNumber, image.InstanceNumber = 3, index + 1
        image.ImagePositionPatient = [float(value) for value in affine[:3, 3] + index * affine[:3, 2]]
        image.ImageOrientationPatient = [float(value) for value in [*row, *column]]
        image.PixelSpacing, image.SliceThickness = [float(steps[1]), float(steps[0])], float(steps[2])
        image.RescaleSlope, image.RescaleIntercept = (1, -1024) if modality == "CT" else (2, 0)
        image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = (
            volume.shape[1],
            volume.shape[0],
            1,
            "MONOCHROME2",
        )
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = volume[:, :, index].T.astype(np.uint16).tobytes()
        for name, value in tags.items():
            setattr(image, name, value) if value is not None else delattr(image, name)
        image.save_as(folder / f"{start + (7 * index) % volume.shape[2]:04d}.dcm", enforce_file_format=True)
    return folder


def values(shape: tuple[int, int, int] = (7, 6, 5)) -> np.ndarray:
    """Stored values, a different one in every voxel."""
    return np.arange(1, 1 + int(np.prod(shape))).reshape(shape)


def ras(affine: np.ndarray) -> np.ndarray:
    """An affine from LPS to RAS, or back."""
    result: np.ndarray = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return result
