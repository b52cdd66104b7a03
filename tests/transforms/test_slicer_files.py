from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.segments import read_segments
from common.errors import UserError
from common.transforms.slicer_files import save_map_nrrd, save_segmentation_nrrd, window_of
from tests.data.dicom_on_disk import oblique, ras

SEGMENTS = read_segments(
    {
        "1": {
            "name": "right kidney",
            "colour": [255, 0, 51],
            "code": ["64033007", "SCT", "Kidney"],
            "modifier": ["24028007", "SCT", "Right"],
        },
        "3": {"name": "liver", "colour": [0, 128, 0], "code": ["10200004", "SCT", "Liver"]},
    }
)
SHAPE = (7, 6, 5)


def mask() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2, 3], array[5, 0:2, 4] = 1, 9
    return array


def test_a_segmentation_is_read_back_by_slicerio_and_by_nrrd(tmp_path: Path) -> None:
    import nrrd
    import slicerio

    path = save_segmentation_nrrd(mask(), ras(oblique()), SEGMENTS, tmp_path / "new" / "a.seg.nrrd", "for research")
    read = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(read["voxels"], mask())
    np.testing.assert_allclose(read["ijkToLPS"], oblique(), atol=1e-12)
    kidney, liver, other = read["segments"]
    assert [(one["name"], one["labelValue"]) for one in read["segments"]] == [("right kidney", 1), ("liver", 3), ("label 9", 9)]
    assert kidney["terminology"]["type"] == ["SCT", "64033007", "Kidney"]
    assert kidney["terminology"]["typeModifier"] == ["SCT", "24028007", "Right"]
    assert liver["terminology"]["category"] == ["SCT", "91723000", "Anatomical Structure"]
    np.testing.assert_allclose(kidney["color"], [1, 0, 0.2])
    assert kidney["extent"] == [1, 3, 2, 2, 3, 3] and other["extent"] == [5, 5, 0, 1, 4, 4]
    array, header = nrrd.read(str(path))
    np.testing.assert_array_equal(array, mask())
    assert header["space"] == "left-posterior-superior" and header["content"] == "for research"
    assert header["Segment0_Tags"].startswith("TerminologyEntry:") and "64033007" in header["Segment0_Tags"]


def test_codes_stand_where_slicer_looks_for_them(tmp_path: Path) -> None:
    import nrrd

    header = nrrd.read_header(str(save_segmentation_nrrd(mask(), ras(oblique()), SEGMENTS, tmp_path / "a.seg.nrrd")))
    entry = "SCT^91723000^Anatomical Structure~SCT^64033007^Kidney~SCT^24028007^Right~"
    assert entry in header["Segment0_Tags"], "scheme, then value, then meaning"


def test_an_empty_mask_keeps_its_segments(tmp_path: Path) -> None:
    import slicerio

    path = save_segmentation_nrrd(np.zeros(SHAPE, np.uint8), np.eye(4), SEGMENTS, tmp_path / "a.seg.nrrd")
    read = slicerio.read_segmentation(str(path))
    assert slicerio.segment_names(read) == ["right kidney", "liver"] and not read["voxels"].any()


def test_a_map_is_read_back_by_nrrd_and_by_itk_with_its_window(tmp_path: Path) -> None:
    import nrrd

    from common.transforms.load_case import read_volume

    values = np.random.RandomState(0).rand(*SHAPE).astype(np.float32)
    path = save_map_nrrd(values, ras(oblique()), (0, 0.75), tmp_path / "a.map.nrrd", "an error", "Inferno", "mm")
    array, header = nrrd.read(str(path))
    np.testing.assert_array_equal(array, values)
    found = {key: header[key] for key in ("WindowMin", "WindowMax", "ColorTable", "Unit", "content")}
    assert found == {"WindowMin": "0", "WindowMax": "0.75", "ColorTable": "Inferno", "Unit": "mm", "content": "an error"}
    again, affine = read_volume(path)
    np.testing.assert_array_equal(again[0], values)
    np.testing.assert_allclose(affine, ras(oblique()), atol=1e-12)


def test_the_window_of_a_map_holds_all_but_its_outliers() -> None:
    values = np.zeros(100_001)
    values[:100_000] = np.linspace(1, 2, 100_000)
    assert window_of(values) == pytest.approx((0, 1.999), abs=1e-3)
    assert window_of(-values)[0] == pytest.approx(-1.99, abs=1e-3) and window_of(-values)[1] == pytest.approx(-1.001, abs=1e-3)
    assert window_of(np.zeros(5)) == (0, 1) == window_of(np.array([0, np.nan]))


def test_names_and_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.nrrd: got shape .*a name that ends in \.seg\.nrrd"):
        save_segmentation_nrrd(mask(), np.eye(4), SEGMENTS, tmp_path / "a.nrrd")
    with pytest.raises(UserError, match=r"got shape \(2, 7, 6, 5\); expected one 3D volume"):
        save_map_nrrd(np.zeros((2, *SHAPE)), np.eye(4), (0, 1), tmp_path / "a.nrrd")
    assert not list(tmp_path.iterdir())
