from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.data.decathlon import read_datalist
from common.data.splits import split_cases
from common.errors import UserError


def write(folder: Path, content: Any) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_relative_paths_start_at_the_json_and_fold_and_age_are_kept(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("images/a_adc.nii.gz", "images/a_z.nii.gz", "labels/a.nii.gz")
    item = {"image": ["./images/a_adc.nii.gz", "images/a_z.nii.gz"], "label": "labels/a.nii.gz", "fold": 2, "age": 3, "id": "a"}
    path = write(tmp_path, {"name": "own", "training": [item]})
    expected = {
        "id": "a",
        "subject": "a",
        "image": [str(tmp_path / "images" / "a_adc.nii.gz"), str(tmp_path / "images" / "a_z.nii.gz")],
        "label": str(tmp_path / "labels" / "a.nii.gz"),
        "fold": 2,
        "age": 3.0,
    }
    assert read_datalist(path) == read_datalist(tmp_path) == [expected]


def test_a_bare_path_is_a_case_and_test_lists_are_read_for_inference_only(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("tr.nii.gz", "tr_l.nii.gz", "te.nii.gz")
    path = write(tmp_path, {"training": [{"image": "tr.nii.gz", "label": "tr_l.nii.gz"}], "test": ["./te.nii.gz"]})
    assert [case["id"] for case in read_datalist(path)] == ["te", "tr"]
    assert read_datalist(path)[0]["image"] == str(tmp_path / "te.nii.gz")
    assert [case["id"] for case in read_datalist(path, labelled=True)] == ["tr"]


def test_a_validation_list_becomes_fold_0(tmp_path: Path, touch: Callable[..., None]) -> None:
    names = ["a.nii", "b.nii", "c.nii"]
    touch(*names)
    items = [{"image": name, "label": name} for name in names]
    cases = read_datalist(write(tmp_path, {"training": items[:2], "validation": items[2:]}), labelled=True)
    split = split_cases(cases, fold=0)
    assert [case["id"] for case in split["train"]] == ["a", "b"]
    assert [case["id"] for case in split["validate"]] == ["c"]


def test_equal_file_names_in_subject_folders_get_ids_from_their_paths(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("s1/t1.nii.gz", "s2/t1.nii.gz")
    cases = read_datalist(write(tmp_path, {"training": ["s1/t1.nii.gz", "s2/t1.nii.gz"]}))
    assert [case["id"] for case in cases] == ["s1-t1", "s2-t1"]


def test_sessions_of_bids_like_names_share_their_subject(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz")
    cases = read_datalist(write(tmp_path, {"training": ["sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz"]}))
    assert {case["subject"] for case in cases} == {"sub-01"}


def test_one_case_listed_twice_is_refused(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii")
    with pytest.raises(UserError, match="the case a occurs more than once"):
        read_datalist(write(tmp_path, {"training": ["a.nii"], "test": ["a.nii"]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": []}, r"dataset\.json: no cases; expected"),
        (["a.nii"], r"holds a list; expected an object"),
        ({"training": {"image": "a.nii"}}, "'training' is a dict; expected a list"),
        ({"training": [{"label": "a.nii"}]}, r'training\[0\]: no "image"'),
        ({"training": [{"image": "gone.nii"}]}, r"training\[0\]: names gone\.nii, but .* does not exist"),
        ({"training": [{"image": "a.nii", "label": ["a.nii", "a.nii"]}]}, '"label" is .*; expected one path'),
        ({"training": [{"image": "a.nii", "fold": "x"}]}, "the fold 'x' is not an integer"),
        ({"training": [{"image": "a.nii", "age": "old"}]}, "the age 'old' is not a number"),
    ],
)
def test_mistakes_name_the_entry(tmp_path: Path, touch: Callable[..., None], content: Any, message: str) -> None:
    touch("a.nii")
    with pytest.raises(UserError, match=message):
        read_datalist(write(tmp_path, content))


def test_missing_labels_and_broken_json_are_errors(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii")
    with pytest.raises(UserError, match="1 of 1 cases have no label: a"):
        read_datalist(write(tmp_path, {"training": ["a.nii"]}), labelled=True)
    (tmp_path / "dataset.json").write_text('{"training": [')
    with pytest.raises(UserError, match=r"dataset\.json: not a JSON file"):
        read_datalist(tmp_path)


def test_the_modality_is_the_entrys_the_lists_or_the_callers(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii", "b.nii")
    own = {"image": "a.nii", "modality": "t1"}
    assert "modality" not in read_datalist(write(tmp_path, {"training": ["a.nii"]}))[0]
    assert [c["modality"] for c in read_datalist(write(tmp_path, {"modality": "t2", "training": [own, "b.nii"]}))] == ["t1", "t2"]
    assert [c["modality"] for c in read_datalist(write(tmp_path, {"training": ["a.nii", "b.nii"]}), modality="ct")] == ["ct", "ct"]
    assert read_datalist(write(tmp_path, {"training": [own]}), modality="T1")[0]["modality"] == "T1"
    with pytest.raises(UserError, match=r"dataset\.json: the modality of a is 't1' in the file, but the caller says 'ct'"):
        read_datalist(write(tmp_path, {"training": [own]}), modality="ct")


def test_the_decathlons_object_counts_where_it_names_one_built_in_modality(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii")
    found = {
        names: read_datalist(write(tmp_path, {"modality": dict(enumerate(names)), "training": ["a.nii"]}))[0].get("modality")
        for names in (("CT",), ("MRI",), ("FLAIR", "T1w"))
    }
    assert found == {("CT",): "ct", ("MRI",): None, ("FLAIR", "T1w"): None}
    assert read_datalist(write(tmp_path, {"modality": {"0": "CT"}, "training": ["a.nii"]}), modality="us")[0]["modality"] == "us"


def test_only_the_sections_asked_for_are_read(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii", "b.nii", "c.nii")
    path = write(tmp_path, {"training": ["a.nii"], "validation": ["b.nii"], "test": ["c.nii"]})
    assert [case["id"] for case in read_datalist(path, sections=("training", "validation"))] == ["a", "b"]
