"""A map as a derived DICOM series of single slices, since ``highdicom`` has no class for CT and MR images.

A Parametric Map would hold floats and units, but few viewers open one (3D Slicer by an extension, most archives' viewers not at all).
Slices of the source's own kind open everywhere, and the rescale slope carries the values. They are marked as derived, with rescale type US
(unspecified) in place of HU, and for research.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.dicom_source import RESEARCH, description, frames_of, normal_of, planes_lps
from common.data.segments import Code
from common.errors import UserError
from common.transforms.dicom_segmentation import MANUFACTURER, SERIES_NUMBER, Algorithm, concept, import_highdicom

if TYPE_CHECKING:
    from pydicom import Dataset

KINDS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
"""Storage class by modality."""

OF_THE_SCAN = {
    "CT": ("KVP",),
    "MR": (
        "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength",
        "MagneticFieldStrength",
    ),
}  # fmt: skip
"""What a CT or MR image must say of its scan; copied, without a value where the source has none."""

RESEARCH_SCAN = {"ScanningSequence": "RM", "SequenceVariant": "NONE"}
"""What an MR must say where its source does not: research mode, no variant."""

STEPS = 65535
"""Largest stored value."""


def save_derived_series(
    volume: np.ndarray,
    affine: np.ndarray,
    window: tuple[float, float],
    sources: Sequence[Dataset],
    folder: str | os.PathLike[str],
    algorithm: Algorithm,
    what: str = "map",
    unit: Code = ("1", "UCUM", "no units"),
    number: int = 1,
) -> Path:
    r"""Write a map as a series of the source's modality, in its frame of reference, on the map's own grid.

    .. math:: x = \text{slope} \cdot \text{stored} + \text{intercept}, \qquad \text{slope} = (x_{max} - x_{min}) / 65535

    Args:
        volume: ``(X, Y, Z)``, float, finite.
        affine: voxel index to mm, RAS, ``(4, 4)``, axes at right angles.
        window: lowest and highest value shown.
        sources: headers as ``common.data.dicom_source.source_images`` reads them.
        folder: gets the files ``0001.dcm``, ...; it appears whole or not at all, in place of one of that name.
        algorithm: what made the map.
        what: it shows, for the description of the series.
        unit: of the values, a code of UCUM.
        number: of the result among those of a case, from 1.

    Returns:
        ``folder``.

    Raises:
        UserError: ``highdicom`` is not installed, not one finite 3D volume, or a source that is neither CT nor MR.
    """
    hd = import_highdicom(folder)
    modality = str(sources[0].Modality)
    if volume.ndim != 3 or not np.isfinite(volume).all() or modality not in KINDS:
        raise UserError(
            f"{folder}: got shape {volume.shape}, modality {modality}, {int((~np.isfinite(volume)).sum())} voxels that are no numbers;"
            " expected one finite 3D volume made from CT or MR."
        )
    low, high = float(volume.min()), float(volume.max())
    # decimal texts of 16 characters: rounded first, so that what is written is what was computed with
    slope = float(f"{max((high - low) / STEPS, 1e-9):.9g}")
    intercept = float(f"{low:.9g}")
    planes, turned = planes_lps(volume.shape, affine)
    stored = np.clip(np.rint((frames_of(volume, turned) - intercept) / slope), 0, STEPS).astype(np.uint16)
    series, content = hd.UID(), _shared(sources[0], window, slope, intercept, what, unit, algorithm)
    content["SeriesNumber"] = SERIES_NUMBER + number
    images = [_slice(frame, planes, index, series, sources, content) for index, frame in enumerate(stored)]
    return _write_folder(images, Path(folder))


def _shared(
    source: Any, window: tuple[float, float], slope: float, intercept: float, what: str, unit: Code, algorithm: Algorithm
) -> dict[str, Any]:
    """Attributes that are alike in all slices."""
    import highdicom as hd

    mapping = hd.pm.RealWorldValueMapping("RESEARCH", what[:64], concept(unit), (0, STEPS), slope, intercept)
    shared = {name: source.get(name) for name in ("BodyPartExamined", "Laterality", "FrameOfReferenceUID") if source.get(name)}
    return shared | {name: source.get(name) or RESEARCH_SCAN.get(name) for name in OF_THE_SCAN[str(source.Modality)]} | {
        "PatientPosition": source.get("PatientPosition"),
        "PositionReferenceIndicator": source.get("PositionReferenceIndicator"),
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL" if source.Modality == "CT" else "OTHER"],
        "DerivationDescription": f"{algorithm.text}: {what}. {RESEARCH}.",
        "SeriesDescription": description(what),
        "ManufacturerModelName": algorithm.name,
        "SoftwareVersions": algorithm.version,
        "ImageComments": RESEARCH,
        "AcquisitionNumber": None,
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
        "RescaleType": "US",
        "WindowCenter": float(f"{(window[0] + window[1]) / 2:.9g}"),
        "WindowWidth": float(f"{max(window[1] - window[0], 1e-9):.9g}"),
        "VOILUTFunction": "LINEAR_EXACT",  # the plain one knows no window below 1
        "RealWorldValueMappingSequence": [mapping],
    }  # fmt: skip


def _slice(
    frame: np.ndarray, planes: np.ndarray, index: int, series: str, sources: Sequence[Any], content: dict[str, Any]
) -> Dataset:  # fmt: skip
    """One image."""
    import highdicom as hd

    source, steps = sources[0], np.linalg.norm(planes[:3, :3], axis=0)
    image: Any = hd.base.SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=series,
        series_number=content["SeriesNumber"],
        sop_instance_uid=hd.UID(),
        sop_class_uid=KINDS[str(source.Modality)],
        instance_number=index + 1,
        modality=str(source.Modality),
        manufacturer=MANUFACTURER,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_qualification="RESEARCH",
        specific_character_set=source.get("SpecificCharacterSet"),
        **{_parameter(name): source.get(name) for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID")},
        **{_parameter(name): source.get(name) for name in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")},
    )
    image.copy_patient_and_study_information(source)
    position = planes[:3, 3] + index * planes[:3, 0]
    for name, value in content.items():
        setattr(image, name, value)
    image.ImagePositionPatient = _decimals(position)
    image.ImageOrientationPatient = _decimals([*(planes[:3, 2] / steps[2]), *(planes[:3, 1] / steps[1])])
    image.PixelSpacing = _decimals([steps[1], steps[2]])  # between rows, then between columns
    image.SliceThickness = image.SpacingBetweenSlices = _decimals([steps[0]])[0]
    image.Rows, image.Columns = frame.shape
    image.SourceImageSequence = _contributing(position, sources, float(steps[0]))
    image.PixelData = frame.tobytes()
    return image


def _contributing(position: np.ndarray, sources: Sequence[Any], step: float) -> list[Dataset]:
    """References to the slices that a derived one lies between: those nearer than its spacing, or the nearest."""
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    normal = normal_of(sources[0])
    away = [abs(float(np.dot(np.asarray(source.ImagePositionPatient, float) - position, normal))) for source in sources]
    limit = max(step, min(away)) * (1 + 1e-6)
    items = []
    for source, distance in zip(sources, away, strict=True):
        if distance <= limit:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
            purpose = codes.DCM.SourceImageForImageProcessingOperation
            item.PurposeOfReferenceCodeSequence = [concept((purpose.value, purpose.scheme_designator, purpose.meaning))]
            items.append(item)
    return items


def _write_folder(images: Sequence[Any], folder: Path) -> Path:
    """Write into a folder of a temporary name, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (folder.with_name(f".{os.getpid()}.{mark}{folder.name}") for mark in ("", "old."))
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for number, image in enumerate(images, 1):
            image.save_as(temporary / f"{number:04d}.dcm")
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _decimals(values: Sequence[float] | np.ndarray) -> list[Any]:
    """Numbers as DICOM's decimal texts of at most 16 characters."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(value), auto_format=True) for value in values]


def _parameter(keyword: str) -> str:
    """Name of highdicom's parameter for an attribute: ``PatientID`` is ``patient_id``."""
    text = keyword.replace("ID", "Id")
    return "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in text).lstrip("_")
