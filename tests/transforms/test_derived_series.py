from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from common.data.dicom_source import source_images
from common.errors import UserError
from common.transforms.derived_series import save_derived_series
from common.transforms.dicom_segmentation import Algorithm
from common.transforms.load_case import read_volume
from tests.data.dicom_on_disk import FRAME, PATIENT, STUDY, oblique, ras, values, write_scan

MAKER = Algorithm("brain_autoencoder", "0.1.0")


def anomaly(shape: tuple[int, int, int] = (4, 9, 6)) -> np.ndarray:
    return np.random.RandomState(0).randn(*shape).astype(np.float32) * 3


def save(tmp_path: Path, volume: np.ndarray, affine: np.ndarray, modality: str = "MR", **tags: Any) -> tuple[Path, list[Any]]:
    sources = source_images(write_scan(tmp_path / "source", values(), oblique(), modality, **tags))
    return save_derived_series(volume, affine, (0, 2), sources, tmp_path / "out" / "a_dicom", MAKER, "anomaly map", number=2), sources


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("turn", [1, -1])
def test_a_map_comes_back_from_monais_reader_and_ours_within_half_a_step(tmp_path: Path, modality: str, turn: int) -> None:
    from monai.data import ITKReader

    affine = ras(oblique((0.7, 0.9, 2.2), (3, 4, 5))) @ np.diag([1, 1, turn, 1])
    folder, _ = save(tmp_path, anomaly(), affine, modality)
    step = np.ptp(anomaly()) / 65535
    reader = ITKReader()
    theirs, meta = reader.get_data(reader.read(str(folder)))
    ours, grid = read_volume(folder)
    for array, found in ((ours[0], grid), (theirs, meta["affine"])):
        back = array[:, :, ::turn]
        np.testing.assert_allclose(back, anomaly(), atol=step * 0.51)
        start = found @ [0, 0, 0 if turn == 1 else array.shape[2] - 1, 1]
        np.testing.assert_allclose(start, affine[:, 3], atol=1e-4)
        np.testing.assert_allclose(found[:3, :3] @ np.diag([1, 1, turn]), affine[:3, :3], atol=1e-4)


def test_slices_belong_to_the_patient_and_refer_to_the_slices_they_lie_between(tmp_path: Path) -> None:
    folder, sources = save(
        tmp_path, anomaly((7, 6, 4)), ras(oblique((1.5, 1.25, 3.0)) @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]]))
    )
    files: list[Any] = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    assert [path.name for path in sorted(folder.iterdir())] == [f"{number:04d}.dcm" for number in range(1, 5)]
    for index, file in enumerate(files):
        assert (str(file.PatientName), file.StudyInstanceUID, file.FrameOfReferenceUID, file.SeriesNumber) == (PATIENT, STUDY, FRAME, 9002)
        assert file.ImageType == ["DERIVED", "SECONDARY", "OTHER"] and file.InstanceNumber == index + 1
        found = {item.ReferencedSOPInstanceUID for item in file.SourceImageSequence}
        assert found == {sources[index].SOPInstanceUID, sources[index + 1].SOPInstanceUID}
        assert file.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert len({file.SeriesInstanceUID for file in files}) == 1 and len({file.SOPInstanceUID for file in files}) == 4
    assert files[0].SeriesInstanceUID != sources[0].SeriesInstanceUID


def test_it_says_that_it_is_research_who_made_it_and_how_to_show_it(tmp_path: Path) -> None:
    file: Any = pydicom.dcmread(save(tmp_path, anomaly(), ras(oblique()))[0] / "0001.dcm")
    assert file.SeriesDescription == "Research output - not for clinical use: anomaly map"
    assert "Brain Bundles brain_autoencoder 0.1.0" in file.DerivationDescription and "not for clinical use" in file.ImageComments
    assert (file.WindowCenter, file.WindowWidth, file.RescaleType, file.ContentQualification) == (1, 2, "US", "RESEARCH")
    assert (file.VOILUTFunction, file.ScanningSequence, file.SequenceVariant) == ("LINEAR_EXACT", "RM", "NONE"), "the source names none"
    mapping = file.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.RealWorldValueSlope == pytest.approx(float(file.RescaleSlope), rel=1e-12)
    assert mapping.RealWorldValueIntercept == pytest.approx(float(file.RescaleIntercept), rel=1e-12)


def test_a_constant_map_and_a_second_run_are_no_problem(tmp_path: Path) -> None:
    save(tmp_path, np.full((4, 9, 6), -2.5, np.float32), ras(oblique()))
    (tmp_path / "source").rename(tmp_path / "first")
    folder, _ = save(tmp_path, np.full((4, 9, 3), 7.25, np.float32), ras(oblique()))
    np.testing.assert_allclose(read_volume(folder)[0], 7.25)
    assert len(list(folder.iterdir())) == 3, "the first run's slices are gone"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_dicom"]


def test_values_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 voxels that are no numbers; expected one finite 3D volume"):
        save(tmp_path, np.array([np.nan, np.inf, 0])[:, None, None] * np.ones((3, 1, 1)), np.eye(4))
    assert not (tmp_path / "out").exists()


def test_a_failure_in_the_middle_leaves_the_series_of_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sources = save(tmp_path, anomaly(), ras(oblique()))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(self: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(OSError, match="No space left"):
        save_derived_series(anomaly(), ras(oblique()), (0, 2), sources, folder, MAKER)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    assert [path.name for path in folder.parent.iterdir()] == ["a_dicom"]
