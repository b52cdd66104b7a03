from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from common.data.dicom_source import MAY_BE_EMPTY, description, frames_of, planes_lps, source_images
from common.errors import UserError
from tests.data.dicom_on_disk import PATIENT, oblique, ras, values, write_scan


def test_headers_stand_in_the_order_of_their_places(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "s", values(), oblique())
    write_scan(folder, values()[:, :, :1], oblique(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    images = source_images(folder / "0002.dcm")
    assert [int(image.InstanceNumber) for image in images] == [1, 2, 3, 4, 5]
    assert str(images[0].PatientName) == PATIENT and "PixelData" not in images[0]


def test_what_anonymised_files_lack_is_there_without_a_value(tmp_path: Path) -> None:
    gone = dict.fromkeys(name for name in MAY_BE_EMPTY if name != "ReferringPhysicianName")
    (image, *_) = source_images(write_scan(tmp_path / "s", values(), oblique(), **gone))
    assert all(not image[name].value for name in MAY_BE_EMPTY)


def test_values_that_dicom_does_not_know_are_left_empty(tmp_path: Path) -> None:
    (image, *_) = source_images(write_scan(tmp_path / "s", values(), oblique(), PatientSex="U"))
    assert image.PatientSex == ""


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SeriesInstanceUID": "1.9"}, "2 series in it, expected one"),
        ({"FrameOfReferenceUID": "1.9", "SeriesInstanceUID": "1.2.3"}, "2 frames of reference in it, expected one"),
        ({"FrameOfReferenceUID": None, "SeriesInstanceUID": "1.2.3"}, "1 frames of reference in it, expected one"),
    ],
)
def test_a_result_refers_to_one_series_in_one_space(tmp_path: Path, tags: dict[str, str | None], message: str) -> None:
    folder = write_scan(tmp_path / "s", values(), oblique(), series="1.2.3")
    write_scan(folder, values(), oblique(), **tags)
    with pytest.raises(UserError, match=message):
        source_images(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no DICOM slices with a position"):
        source_images(tmp_path / "none")


@pytest.mark.parametrize("flips", product((1, -1), repeat=3), ids=str)
def test_every_voxel_keeps_its_place_and_slices_rise_along_the_normal(flips: tuple[int, int, int]) -> None:
    affine = ras(oblique()) @ np.diag([*flips, 1])
    volume = values()
    planes, turned = planes_lps(volume.shape, affine)
    frames = frames_of(volume, turned)
    for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
        place = (ras(affine) @ [*index, 1])[:3]
        k, row, column = np.linalg.solve(planes, [*place, 1])[:3].round().astype(int)
        assert frames[k, row, column] == volume[index]
    assert np.dot(planes[:3, 0], np.cross(planes[:3, 2], planes[:3, 1])) > 0


def test_a_description_says_first_that_it_is_for_research() -> None:
    assert description("lesion") == "Research output - not for clinical use: lesion"
    assert len(description("x" * 100)) == 64
