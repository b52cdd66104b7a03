from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data import dataset
from common.data.dataset import detect_form, find_cases, is_simulated, open_dataset
from common.errors import UserError

BONBID = (
    "1ADC_ss/MGHNICU_010-VISIT_01-ADC_ss.mha",
    "2Z_ADC/Zmap_MGHNICU_010-VISIT_01-ADC_smooth2mm_clipped10.mha",
    "3LABEL/MGHNICU_010-VISIT_01_lesion.mha",
)


def test_every_form_is_detected_by_its_mark(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("b/1ADC_ss/x", "d/dataset.json", "t/own.csv", "s/sub-01/x", "p/a.nii.gz", "j/list.json")
    forms = {"b": "layout", "d": "datalist", "t": "table", "s": "bids", "p": "volumes"}
    assert {name: detect_form(tmp_path / name) for name in forms} == forms
    files = {"t/own.csv": "table", "p/a.nii.gz": "volume", "j/list.json": "datalist"}
    assert {name: detect_form(tmp_path / name) for name in files} == files


def test_the_public_layout_wins_over_other_files_in_it(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*BONBID, "notes.csv", "dataset.json")
    assert detect_form(tmp_path, "bonbid") == "layout"
    assert detect_form(tmp_path, None) == "datalist"


def test_all_forms_of_the_same_data_give_the_same_images(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*BONBID, "table/.keep", "json/.keep")
    expected = find_cases(tmp_path, labelled=True)
    (case,) = expected
    (tmp_path / "table" / "t.csv").write_text(f"subject,adc,zadc,label\nx,{case['image'][0]},{case['image'][1]},{case['label']}\n")
    (tmp_path / "json" / "dataset.json").write_text(json.dumps({"training": expected}))
    (from_table,) = find_cases(tmp_path / "table", labelled=True)
    assert (from_table["image"], from_table["label"]) == (case["image"], case["label"])
    assert find_cases(tmp_path / "json", labelled=True) == expected


def test_a_folder_of_4d_files_and_a_single_file_are_read(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii.gz", "b.mha", ".hidden.mha", "notes.txt")
    assert [(case["id"], case["image"]) for case in find_cases(tmp_path)] == [
        ("a", str(tmp_path / "a.nii.gz")),
        ("b", str(tmp_path / "b.mha")),
    ]
    assert [case["id"] for case in find_cases(tmp_path / "b.mha")] == ["b"]
    with pytest.raises(UserError, match="2 of 2 cases have no label"):
        find_cases(tmp_path, labelled=True)


def test_bids_trees_are_read_with_the_inputs_as_suffixes(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-1/dwi/sub-1_adc.nii", "sub-1/dwi/sub-1_zadc.nii")
    assert [case["id"] for case in find_cases(tmp_path)] == ["sub-1"]


def test_a_wrong_folder_shows_what_is_there_and_what_is_accepted(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("photos/a.jpg", "readme.md")
    with pytest.raises(
        UserError, match=r"(?s)holds photos/, readme\.md\. Accepted are.*1ADC_ss/.*dataset\.json.*\.csv.*sub-<name>.*4D volumes"
    ):
        find_cases(tmp_path)
    with pytest.raises(UserError, match=r"photos has no form .*: holds a\.jpg"):
        find_cases(tmp_path / "photos", layout=None)
    with pytest.raises(UserError, match=r"neither \.json, \.csv, \.tsv nor a volume"):
        find_cases(tmp_path / "readme.md")
    with pytest.raises(UserError, match="gone does not exist"):
        find_cases(tmp_path / "gone")
    with pytest.raises(UserError, match="layout: got 'btcv_typo'; expected one of"):
        find_cases(tmp_path, layout="btcv_typo")


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_without_data_a_cohort_is_simulated(
    tmp_path: Path, touch: Callable[..., None], monkeypatch: pytest.MonkeyPatch, nothing: str
) -> None:
    from common.data.simulate import cohort

    touch(*BONBID)
    calls = []
    monkeypatch.setattr(cohort, "ensure_cohort", lambda layout, root, **parameters: calls.append((layout, root, parameters)) or tmp_path)
    cases = open_dataset(nothing, "bonbid", ("adc", "zadc"), tmp_path / "sim", {"subjects": 3})
    assert calls == [("bonbid", tmp_path / "sim", {"subjects": 3})]
    assert [case["id"] for case in cases] == ["MGHNICU_010-VISIT_01"]


def test_data_that_was_simulated_is_announced(tmp_path: Path, touch: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    touch(*(f"c/BONBID2023_Train/{name}" for name in BONBID))
    with caplog.at_level(logging.WARNING, dataset.__name__):
        open_dataset(tmp_path / "c", "bonbid", ("adc", "zadc"), tmp_path)
        assert not caplog.records
        touch("c/SIMULATED.txt")
        open_dataset(tmp_path / "c" / "BONBID2023_Train", "bonbid", ("adc", "zadc"), tmp_path)
    assert "holds no patients" in caplog.text
    assert is_simulated(tmp_path / "c") and not is_simulated(tmp_path / "elsewhere" / "data")
