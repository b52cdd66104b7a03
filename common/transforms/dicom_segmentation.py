"""A mask as a DICOM Segmentation that refers to its source series, by ``highdicom``; MONAI writes no DICOM."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.atomic import write_atomic
from common.data.dicom_source import RESEARCH, description, frames_of, planes_lps
from common.data.segments import Code, Segment, segments_of
from common.errors import UserError

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

MANUFACTURER = "Brain Bundles"
SERIES_NUMBER = 9000
"""Series numbers of results begin behind this, out of the way of those of scanners."""


@dataclass(frozen=True)
class Algorithm:
    """Who made a result: name of the bundle and version of the collection."""

    name: str
    version: str

    @property
    def text(self) -> str:
        """Name and version in one line."""
        return f"{MANUFACTURER} {self.name} {self.version}"


def save_dicom_segmentation(
    mask: np.ndarray,
    affine: np.ndarray,
    segments: Sequence[Segment],
    sources: Sequence[Dataset],
    path: str | os.PathLike[str],
    algorithm: Algorithm,
    what: str = "segmentation",
    number: int = 1,
) -> Path:
    """Write a mask as one DICOM Segmentation file, in the frame of reference of its source, on its own grid.

    Values become segments 1, 2, ... in their order, for the standard allows no gaps; the description of each names its value. The type is
    BINARY, which every viewer with segmentations reads; the newer label maps few do.

    Args:
        mask: ``(X, Y, Z)``, integer, 0 is background.
        affine: voxel index to mm, RAS, ``(4, 4)``, axes at right angles; need not be the grid of the source's slices.
        segments: of the values.
        sources: headers as ``common.data.dicom_source.source_images`` reads them.
        path: of the file, which appears whole or not at all.
        algorithm: what made the mask.
        what: it shows, for the description of the series.
        number: of the result among those of a case, from 1.

    Raises:
        UserError: ``highdicom`` is not installed, a mask that is not 3D, or without any segment.
    """
    hd = import_highdicom(path)
    rows = segments_of(mask, segments)
    if mask.ndim != 3 or not rows:
        raise UserError(f"{path}: got shape {mask.shape} and {len(rows)} segments; expected one 3D mask and at least one segment.")
    planes, turned = planes_lps(mask.shape, affine)
    table = np.zeros(rows[-1].value + 1, np.uint8 if len(rows) < 256 else np.uint16)
    table[[segment.value for segment in rows]] = np.arange(1, len(rows) + 1)
    volume = hd.Volume(frames_of(table[mask], turned), planes, "PATIENT", frame_of_reference_uid=sources[0].FrameOfReferenceUID)
    result = hd.seg.Segmentation(
        source_images=list(sources),
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(segment, place, algorithm) for place, segment in enumerate(rows, 1)],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER + number,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.version,
        content_label="RESEARCH",
        content_description=description(what),
        content_creator_name=MANUFACTURER.replace(" ", "^"),
        series_description=description(what),
        content_qualification="RESEARCH",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    return write_atomic(path, result.save_as)


def import_highdicom(path: str | os.PathLike[str]):  # type: ignore[no-untyped-def]
    """``highdicom``, or the error that says how to get it."""
    try:
        import highdicom
    except ImportError as error:
        raise UserError(f'{path}: DICOM output needs highdicom; install it: pip install "brain-bundles[dicom]".') from error
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # its warnings quote names of patients
    return highdicom


def _describe(segment: Segment, number: int, algorithm: Algorithm) -> SegmentDescription:
    """One item of the segment sequence."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    item = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.code),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name, family=codes.DCM.ArtificialIntelligence, version=algorithm.version, source=MANUFACTURER
        ),
        tracking_uid=hd.UID(),
        tracking_id=f"{algorithm.name} {segment.name}"[:64],
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    item.SegmentDescription = f"{RESEARCH}; value {segment.value} of the mask"
    if segment.modifier:
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept(segment.modifier)]
    return item


def concept(code: Code):  # type: ignore[no-untyped-def]
    """A code as DICOM writes it."""
    import highdicom as hd

    return hd.sr.CodedConcept(value=code[0], scheme_designator=code[1], meaning=code[2])
