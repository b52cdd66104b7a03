"""Series of any scanner read as volumes, and cases made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.dataset import find_cases
from common.data.dicom_folders import one_series, read_dicom_inputs
from common.errors import UserError
from common.transforms.load_case import read_volume
from tests.data.dicom_on_disk import oblique, ras, values, write_scan


@pytest.mark.parametrize(("modality", "slope", "intercept"), [("MR", 2, 0), ("CT", 1, -1024)])
def test_an_oblique_series_is_read_with_its_values_and_its_place(tmp_path: Path, modality: str, slope: int, intercept: int) -> None:
    folder = write_scan(tmp_path / "s", values(), oblique(), modality)
    array, affine = read_volume(folder)
    np.testing.assert_array_equal(array, values()[None] * slope + intercept)
    np.testing.assert_allclose(affine, ras(oblique()), atol=1e-5)
    again, _ = read_volume(folder / "0003.dcm")
    np.testing.assert_array_equal(again, array)


def test_padding_of_an_mr_is_0(tmp_path: Path) -> None:
    array, _ = read_volume(write_scan(tmp_path / "s", values(), oblique(), PixelPaddingValue=11))
    assert array[0].ravel()[10] == 0 and array[0].ravel()[11] == 24


def test_two_series_in_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "t1", values(), oblique())
    write_scan(folder, values(), oblique(), SeriesDescription="flair")
    with pytest.raises(UserError, match=r"t1: 2 series are mixed in it: 't1' \(5 files\), 'flair' \(5 files\); expected one"):
        read_volume(folder)


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "s", values((4, 4, 9)), oblique())
    (folder / "0001.dcm").unlink()  # slice 4 of 9
    with pytest.raises(UserError, match=r"1 gap in the series: .* are 6\.00 mm apart, expected 3\.00 mm.*A slice is missing"):
        read_volume(folder)


def test_two_echoes_at_one_place_are_refused(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "s", values(), oblique(), series="1.2.3")
    write_scan(folder, values() + 1, oblique(), series="1.2.3")
    with pytest.raises(UserError, match="lie at one position with different pixels"):
        read_volume(folder)


def test_other_modalities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the modality is PT, expected CT or MR"):
        read_volume(write_scan(tmp_path / "s", values(), oblique(), Modality="PT"))


def test_a_method_with_several_inputs_takes_a_folder_for_each(tmp_path: Path) -> None:
    for case in ("anna", "bert"):
        for name in ("T1", "flair"):
            write_scan(tmp_path / "all" / case / name, values(), oblique())
    expected = [[str(tmp_path / "all" / case / name) for name in ("flair", "T1")] for case in ("anna", "bert")]
    cases = find_cases(tmp_path / "all", "brats", ("flair", "t1"))
    assert [case["id"] for case in cases] == ["anna", "bert"] and [case["image"] for case in cases] == expected
    (one,) = read_dicom_inputs(tmp_path / "all" / "bert", ("flair", "t1"))
    assert one["id"] == "bert" and one["image"] == expected[1]


def test_a_case_without_one_of_its_inputs_is_named(tmp_path: Path) -> None:
    write_scan(tmp_path / "anna" / "t1", values(), oblique())
    with pytest.raises(UserError, match=r"anna: no folder flair; expected one folder with a DICOM series per input: t1, flair"):
        find_cases(tmp_path, "brats", ("t1", "flair"))


def test_of_several_series_of_a_case_none_is_guessed(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        write_scan(tmp_path / "anna" / name, values(), oblique())
    with pytest.raises(UserError, match=r"anna \(2 series: anna/t1, anna/t2; give the folder of one\)"):
        find_cases(tmp_path, "feta", ("t2w",))
    with pytest.raises(UserError, match=r"anna: 2 series in folders below it \(t1, t2\); expected one series"):
        one_series(tmp_path / "anna")
    assert one_series(tmp_path / "anna" / "t2" / "0001.dcm") == str(tmp_path / "anna" / "t2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no DICOM files; expected one series"):
        one_series(tmp_path / "empty")
