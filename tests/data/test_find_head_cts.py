from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.dataset import detect_form, find_cases
from common.data.splits import fingerprints
from common.data.table import read_table
from common.errors import UserError
from tests.data.ct_on_disk import head_like, straight, write_series

FINDINGS = ("bleed_left", "bleed_right", "fracture")


def cases_of(path: Path, labelled: bool = False) -> dict[str, list[str]]:
    return {case["id"]: case["image"] for case in find_cases(path, "cq500", ("ct",), labelled)}


def scan(folder: Path, step: float = 5.0, **options: object) -> Path:
    return write_series(folder, head_like((8, 8)), straight(np.arange(26) * step), **options)  # type: ignore[arg-type]


def test_one_series_folder_one_of_its_files_and_a_folder_of_them_are_read(tmp_path: Path) -> None:
    first, second = scan(tmp_path / "all" / "anna"), scan(tmp_path / "all" / "bert" / "study" / "CT")
    assert detect_form(first, "cq500") == detect_form(tmp_path / "all", "cq500") == "dicom"
    assert cases_of(first) == cases_of(first / "CT000004.dcm") == {"anna": [str(first)]}
    assert cases_of(tmp_path / "all") == {"anna": [str(first)], "bert": [str(second)]}


def test_of_several_series_of_a_case_one_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, step in (("CT Plain", 5.0), ("CT Thin", 4.0), ("CT Contrast", 4.0)):
        scan(tmp_path / "anna" / name, step)
    scan(tmp_path / "bert" / "CTA")
    scan(tmp_path / "bert" / "CT contrast")
    assert cases_of(tmp_path) == {"anna": [str(tmp_path / "anna" / "CT Thin")]}
    assert "1 folders without a usable series are left out: bert (contrast, angiography)" in caplog.text
    (tmp_path / "only").mkdir()
    (tmp_path / "bert").rename(tmp_path / "only" / "bert")
    with pytest.raises(UserError, match=r"only: no folder has a series that can be used: bert \(contrast, angiography\)"):
        cases_of(tmp_path / "only")


def test_plain_files_need_no_suffix_and_may_lie_beside_dicom_folders(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii.gz", "b.mha", "c.nrrd")
    folder = scan(tmp_path / "d")
    assert cases_of(tmp_path) == {
        "a": [str(tmp_path / "a.nii.gz")],
        "b": [str(tmp_path / "b.mha")],
        "c": [str(tmp_path / "c.nrrd")],
        "d": [str(folder)],
    }
    assert cases_of(tmp_path / "a.nii.gz") == {"a": [str(tmp_path / "a.nii.gz")]}


def test_names_with_the_input_are_read_as_before(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("x_ct.nii.gz", "y_ct.nii.gz")
    assert list(cases_of(tmp_path)) == ["x", "y"]
    touch("z.nii.gz")
    assert list(cases_of(tmp_path)) == ["x_ct", "y_ct", "z"]


def test_dicom_is_refused_where_a_method_has_several_inputs(tmp_path: Path) -> None:
    folder = scan(tmp_path / "anna")
    with pytest.raises(UserError, match=r"holds DICOM series, but the method has the inputs adc, zadc; give each a folder of its name"):
        find_cases(folder, "bonbid", ("adc", "zadc"))


def test_findings_of_a_table_say_who_is_healthy(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii")
    file = tmp_path / "own.csv"
    rows = ["s1,a.nii,0,0,0,", "s2,a.nii,1,0,,", "s3,a.nii,0,,0,", "s4,a.nii,,,,1", "s5,a.nii,0,0,0,0"]
    file.write_text("subject,CT,bleed_left,bleed_right,fracture,Healthy\n" + "\n".join(rows) + "\n")
    cases = find_cases(file, "cq500", ("ct",))
    assert [case.get("healthy") for case in cases] == [True, False, None, True, False]
    assert [case.get("findings") for case in cases] == [
        {"bleed_left": 0, "bleed_right": 0, "fracture": 0},
        {"bleed_left": 1, "bleed_right": 0},
        {"bleed_left": 0, "fracture": 0},
        None,
        {"bleed_left": 0, "bleed_right": 0, "fracture": 0},
    ]
    assert "findings" not in read_table(file, ("ct",))[0], "other layouts pass them over"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("s1,a.nii,2,0,0,", r"own\.csv: line 2: bleed_left is '2'; expected 0 or 1, or an empty cell"),
        ("s1,a.nii,1,0,0,1", "line 2: healthy is 1, but so is bleed_left; correct one of them"),
    ],
)
def test_findings_that_cannot_be_are_refused(tmp_path: Path, touch: Callable[..., None], row: str, message: str) -> None:
    touch("a.nii")
    (tmp_path / "own.csv").write_text(f"subject,ct,bleed_left,bleed_right,fracture,healthy\n{row}\n")
    with pytest.raises(UserError, match=message):
        find_cases(tmp_path, "cq500", ("ct",))


def test_findings_are_asked_for_where_they_are_needed(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii", "b.nii")
    with pytest.raises(
        UserError, match=r"2 of 2 cases have no findings: a, b\. Give them in a table: .* bleed_left, bleed_right, fracture"
    ):
        find_cases(tmp_path, "cq500", ("ct",), labelled=True)


def test_cases_survive_a_datalist(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii", "t.nii.gz")
    case = {
        "id": "a",
        "subject": "s",
        "image": [str(tmp_path / "a.nii")],
        "findings": {"fracture": 1},
        "reads": {"fracture": [1, 1, 0]},
        "healthy": False,
        "truth": str(tmp_path / "t.nii.gz"),
    }
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [case]}))
    assert find_cases(tmp_path, "cq500", ("ct",), labelled=True) == [case]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [case | {"healthy": "yes"}]}))
    with pytest.raises(UserError, match='"healthy" is yes; expected a bool'):
        find_cases(tmp_path, "cq500", ("ct",))


def test_a_series_is_known_again_wherever_it_lies_and_told_from_others(tmp_path: Path) -> None:
    import shutil

    first = scan(tmp_path / "a")
    shutil.copytree(first, tmp_path / "moved")
    other = write_series(tmp_path / "c", [pixels + 1 for pixels in head_like((8, 8))], straight(np.arange(26) * 5.0))
    marks = fingerprints([{"image": [str(folder)]} for folder in (first, tmp_path / "moved", other)])
    assert marks[0] == marks[1] != marks[2]
    assert all(len(mark) == 16 for mark in marks)
