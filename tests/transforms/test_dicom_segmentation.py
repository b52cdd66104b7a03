from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from common.data.dicom_source import source_images
from common.data.segments import read_segments
from common.errors import UserError
from common.transforms.dicom_segmentation import Algorithm, save_dicom_segmentation
from common.transforms.load_case import read_volume
from tests.data.dicom_on_disk import FRAME, PATIENT, STUDY, oblique, ras, values, write_scan

SEGMENTS = read_segments(
    {
        "1": {
            "name": "right kidney",
            "colour": [255, 0, 51],
            "code": ["64033007", "SCT", "Kidney"],
            "modifier": ["24028007", "SCT", "Right"],
        },
        "2": {"name": "spleen", "colour": [9, 9, 9], "code": ["78961009", "SCT", "Spleen"]},
        "4": {"name": "liver", "colour": [0, 128, 0], "code": ["10200004", "SCT", "Liver"]},
    }
)
SHAPE = (7, 6, 5)


def mask(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.RandomState(0).choice([0, 0, 0, 1, 4], shape).astype(np.uint8)


def voxels_of(path: Path, affine: np.ndarray, shape: tuple[int, int, int], names: dict[str, int]) -> np.ndarray:
    """The mask as pydicom reads it alone: each frame's pixels put where its position, axes and spacing say (affine in LPS)."""
    file: Any = pydicom.dcmread(path)
    result = np.zeros(shape, np.uint8)
    shared = file.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    labels = {int(item.SegmentNumber): names[item.SegmentLabel] for item in file.SegmentSequence}
    for frame, item in zip(file.pixel_array, file.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        lines, columns = np.nonzero(frame)
        places = position + columns[:, None] * between_columns * row + lines[:, None] * between_rows * column
        index = np.linalg.solve(affine[:3, :3], (places - affine[:3, 3]).T)
        assert np.abs(index - index.round()).max(initial=0) < 1e-3, "a pixel between the voxels"
        result[tuple(index.round().astype(int))] = labels[int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
    return result


def save(tmp_path: Path, array: np.ndarray, affine: np.ndarray, **tags: Any) -> tuple[Path, list[Any]]:
    sources = source_images(write_scan(tmp_path / "source", values(), oblique(), **tags))
    path = tmp_path / "out" / "a.dcm"
    return save_dicom_segmentation(array, affine, SEGMENTS, sources, path, Algorithm("ladp", "0.1.0"), "organs"), sources


NAMES = {"right kidney": 1, "spleen": 2, "liver": 4}


def test_every_voxel_lies_where_it_lay_and_refers_to_the_slice_below_it(tmp_path: Path) -> None:
    affine = read_volume(write_scan(tmp_path / "source", values(), oblique()))[1]
    (tmp_path / "source").rename(tmp_path / "other")
    path, sources = save(tmp_path, mask(), affine)
    np.testing.assert_array_equal(voxels_of(path, oblique(), SHAPE, NAMES), mask())
    file: Any = pydicom.dcmread(path)
    for item in file.PerFrameFunctionalGroupsSequence:
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        uid = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        (source,) = (image for image in sources if image.SOPInstanceUID == uid)
        np.testing.assert_allclose(position, np.array(source.ImagePositionPatient, float), atol=1e-4)
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == sources[0].SeriesInstanceUID


@pytest.mark.parametrize("flips", product((1, -1), repeat=3), ids=str)
def test_another_grid_than_the_sources_keeps_its_place(tmp_path: Path, flips: tuple[int, int, int]) -> None:
    affine = oblique((0.7, 0.9, 2.2), (3, 4, 5)) @ np.diag([*flips, 1])
    path, _ = save(tmp_path, mask((4, 9, 3)), ras(affine))
    np.testing.assert_array_equal(voxels_of(path, affine, (4, 9, 3), NAMES), mask((4, 9, 3)))


def test_highdicom_reads_the_same_volume(tmp_path: Path) -> None:
    path, _ = save(tmp_path, mask(), ras(oblique()))
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    index = np.argwhere(volume.array > 0)
    places = volume.map_indices_to_reference(index)
    voxels = np.linalg.solve(oblique()[:3, :3], (places - oblique()[:3, 3]).T).round().astype(int)
    result = np.zeros(SHAPE, np.uint8)
    result[tuple(voxels)] = np.array([0, 1, 2, 4])[volume.array[tuple(index.T)].astype(int)]
    np.testing.assert_array_equal(result, mask())


def test_names_codes_colours_and_the_maker_are_in_the_file(tmp_path: Path) -> None:
    file: Any = pydicom.dcmread(save(tmp_path, mask(), ras(oblique()))[0])
    kidney, spleen, liver = file.SegmentSequence
    assert [item.SegmentNumber for item in file.SegmentSequence] == [1, 2, 3] and spleen.SegmentLabel == "spleen"
    assert liver.SegmentDescription == "Research output - not for clinical use; value 4 of the mask"
    code = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    maker = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (maker.AlgorithmName, maker.AlgorithmVersion, kidney.SegmentAlgorithmType) == ("ladp", "0.1.0", "AUTOMATIC")
    np.testing.assert_allclose(
        highdicom.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue).to_rgb(), [255, 0, 51], atol=2
    )
    assert (file.SeriesDescription, file.ContentLabel) == ("Research output - not for clinical use: organs", "RESEARCH")
    assert (file.SegmentationType, file.Modality, file.ContentQualification) == ("BINARY", "SEG", "RESEARCH")


def test_patient_study_and_space_are_those_of_the_source(tmp_path: Path) -> None:
    path, sources = save(tmp_path, mask(), ras(oblique()))
    file: Any = pydicom.dcmread(path)
    assert (str(file.PatientName), file.PatientID, file.StudyInstanceUID, file.FrameOfReferenceUID) == (PATIENT, "planted-id", STUDY, FRAME)
    assert (file.AccessionNumber, file.PatientBirthDate, file.PatientSex, file.StudyDate) == ("planted-acc", "19700102", "F", "20200304")
    assert file.SeriesInstanceUID != sources[0].SeriesInstanceUID and file.SeriesNumber == 9001


def test_an_anonymised_source_will_do(tmp_path: Path) -> None:
    gone = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
    )
    path, _ = save(tmp_path, mask(), ras(oblique()), **gone)
    assert pydicom.dcmread(path).PatientName == ""


def test_a_mask_without_a_lesion_is_a_whole_file_too(tmp_path: Path) -> None:
    path, _ = save(tmp_path, np.zeros(SHAPE, np.uint8), ras(oblique()))
    assert not pydicom.dcmread(path).pixel_array.any()


def test_what_is_no_mask_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got shape \(1, 7, 6, 5\) and 3 segments; expected one 3D mask"):
        save(tmp_path, mask()[None], ras(oblique()))
    assert not (tmp_path / "out").exists()
