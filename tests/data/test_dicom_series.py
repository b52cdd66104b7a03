from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.dicom_files import series_headers
from common.data.dicom_series import describe_series, read_series
from common.errors import UserError
from tests.data.ct_on_disk import head_like, places, straight, tilted, write_series

HEIGHTS = np.arange(26) * 5.0


def test_values_are_in_hu_exactly_and_slices_in_the_order_of_their_places(tmp_path: Path) -> None:
    slices = head_like()
    order = np.random.RandomState(0).permutation(26)
    positions = straight(HEIGHTS)
    folder = write_series(tmp_path / "s", [slices[k] for k in order], [positions[k] for k in order])
    volume, affine, notes = read_series(folder)
    np.testing.assert_array_equal(volume, np.stack(slices, axis=-1).astype(np.float32))
    np.testing.assert_allclose(affine, [[-2, 0, 0, 20], [0, -2, 0, 30], [0, 0, 5, 0], [0, 0, 0, 1]], atol=1e-9)
    assert volume.dtype == np.float32
    assert notes == []


def test_a_regular_series_is_read_as_by_monai(tmp_path: Path) -> None:
    from monai.data import ITKReader

    folder = write_series(tmp_path / "s", head_like(), straight(HEIGHTS), pixel_mm=(1.5, 2.5))
    reader = ITKReader()
    array, meta = reader.get_data(reader.read(str(folder)))
    volume, affine, _ = read_series(folder)
    np.testing.assert_array_equal(volume, array)
    np.testing.assert_allclose(affine, meta["affine"], atol=1e-6)


def test_a_tilted_scan_of_two_thicknesses_is_brought_onto_an_even_right_angled_grid(tmp_path: Path) -> None:
    heights = [*np.arange(14) * 4.22, *(13 * 4.22 + 1.14 + np.arange(14) * 7.38)]
    positions, axes = tilted(heights, 18.5)
    slices = []
    for position in positions:
        x, y, z = np.moveaxis(places((20, 60), position, axes, 2.0), -1, 0)
        slices.append(2 * x - 1.5 * y + 3 * z)
    volume, affine, notes = read_series(write_series(tmp_path / "s", slices, positions, axes))
    steps = affine[:3, :3].T @ affine[:3, :3]
    np.testing.assert_allclose(steps, np.diag(np.diag(steps)), atol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(steps)), [2, 2, 4.002], atol=1e-3)
    assert notes == [
        "gantry tilt of 18.5 degrees removed by shifting the slices in their planes",
        "uneven slices (1.08 to 7.00 mm apart) interpolated to 4 mm",
    ]
    x, y, z = (affine[:3, :3] @ np.indices(volume.shape).reshape(3, -1) + affine[:3, 3:]).reshape(3, *volume.shape)
    expected = -2 * x + 1.5 * y + 3 * z  # RAS
    middle = volume[:, 30:55]  # where all slices have voxels
    np.testing.assert_allclose(middle, expected[:, 30:55], atol=1.0)  # pixels are stored as integers
    assert abs(float((middle - expected[:, 30:55]).mean())) < 0.05


def test_pixels_outside_the_field_of_view_are_air(tmp_path: Path) -> None:
    slices = head_like()
    for pixels in slices:
        pixels[0, 0] = 976  # stored 2000
    tags = {"0028|0120": "2000", "0028|0103": "1"}
    volume, _, _ = read_series(write_series(tmp_path / "s", slices, straight(HEIGHTS), tags=tags))
    assert (volume[0, 0] == -1024).all()
    assert volume[5, 5, 0] == 900


def test_other_files_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", head_like(), straight(HEIGHTS))
    for name in ("README.md", "DICOMDIR", ".DS_Store", "LICENSE"):
        (folder / name).write_text("text")
    assert len(series_headers(folder)) == 26
    assert read_series(folder)[0].shape == (20, 24, 26)


def test_localizers_and_exact_copies_are_left_out(tmp_path: Path) -> None:
    slices, positions = head_like(), straight(HEIGHTS)
    folder = write_series(tmp_path / "s", slices, positions)
    write_series(folder, slices[3:5], positions[3:5], start=50)
    write_series(
        folder, [np.zeros((9, 9))], [(0.0, 0, 0)], ((0.0, 1, 0), (0, 0, -1)), tags={"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}, start=90
    )
    volume, _, notes = read_series(folder)
    np.testing.assert_array_equal(volume, np.stack(slices, axis=-1))
    assert notes == ["1 localizer images left out", "2 copies of slices left out"]


def missing(folder: Path) -> None:
    (folder / "CT000011.dcm").unlink()


def doubled(folder: Path) -> None:
    write_series(folder, [head_like()[0]], straight(HEIGHTS)[4:5], start=70)


def turned(folder: Path) -> None:
    write_series(folder, [head_like()[0]], [(0.0, 0, 500)], ((0.0, 1, 0), (0, 0, -1)), start=70)


def resized(folder: Path) -> None:
    write_series(folder, [np.zeros((9, 9))], [(0.0, 0, 500)], start=70)


def mixed(folder: Path) -> None:
    write_series(folder, head_like()[:2], straight([200, 205]), tags={"0020|000e": "9.9", "0008|103e": "CT Bone"}, start=70)


def truncated(folder: Path) -> None:
    file = folder / "CT000002.dcm"
    file.write_bytes(file.read_bytes()[:400])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"s: 1 gap in the series: CT000010\.dcm and CT000012\.dcm are 10\.00 mm apart, expected 5\.00 mm.*A slice is missing"),
        (doubled, r"CT000004\.dcm and CT000070\.dcm lie at one position with different pixels; expected one slice per position.*Keep one"),
        (turned, r"mixed orientations: CT000000\.dcm has 20 x 24 pixels of 2 mm, axes 1\.00 0\.00.*CT000070\.dcm has .* axes 0\.00 1\.00"),
        (resized, r"mixed image sizes: CT000000\.dcm has 20 x 24 pixels.*CT000070\.dcm has 9 x 9 pixels.*Remove the images"),
        (mixed, r"2 series are mixed in it: 's' \(26 files\), 'CT Bone' \(2 files\); expected one\. Sort them into folders"),
        (truncated, r"CT000002\.dcm: .*(damaged).*(remove it|Get it again)"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_the_file_and_the_way_out(tmp_path: Path, damage: object, message: str) -> None:
    folder = write_series(tmp_path / "s", head_like(), straight(HEIGHTS))
    damage(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        read_series(folder)


@pytest.mark.parametrize(
    ("count", "step", "tags", "message"),
    [
        (12, 10.0, {}, "12 slices, expected at least 20; a localizer or a part of a scan"),
        (26, 2.0, {}, "the slices cover 52 mm, expected at least 100 mm. Give a scan of the whole head"),
        (26, 5.0, {"0008|0060": "MR"}, r"CT000000\.dcm: the modality is MR, expected CT"),
        (26, 5.0, {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}, r"a localizer \(scout view\), found 26 of them; expected axial CT slices"),
        (26, 0.0, {}, "all slices lie at one position|different pixels"),
    ],
)
def test_what_is_no_head_ct_is_refused(tmp_path: Path, count: int, step: float, tags: dict[str, str], message: str) -> None:
    folder = write_series(tmp_path / "s", head_like(count=count), straight(np.arange(count) * step), tags=tags)
    with pytest.raises(UserError, match=message):
        read_series(folder)
    short = describe_series(folder)
    assert short.problem.startswith(str(folder))
    assert (short.spacing_mm, short.extent_mm) == (step, step * count), "measured all the same"


def test_limits_are_arguments(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", head_like(count=4), straight(np.arange(4) * 5.0))
    assert read_series(folder, min_slices=4, min_extent_mm=20)[0].shape == (20, 24, 4)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no DICOM files in it \(notes\.txt\); expected those of one series"):
        read_series(tmp_path)
    with pytest.raises(UserError, match="gone: no such folder"):
        read_series(tmp_path / "gone")


def test_a_series_is_described_from_its_headers(tmp_path: Path) -> None:
    positions, axes = tilted(HEIGHTS, 10)
    tags = {"0018|1210": "H31s", "0018|0010": "NONE", "0008|103e": "CT Plain"}
    short = describe_series(write_series(tmp_path / "s", head_like(), positions, axes, tags=tags))
    assert (short.description, short.slices, short.kernel, short.contrast_agent) == ("CT Plain", 26, "H31s", "NONE")
    assert short.spacing_mm == pytest.approx(5 * np.cos(np.radians(10)), abs=1e-3)
    assert short.extent_mm == pytest.approx(26 * 5 * np.cos(np.radians(10)), abs=0.1)
    assert (short.tilt_deg, short.even, short.axial, short.problem) == (10.0, True, True, "")
