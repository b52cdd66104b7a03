from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.bonbid import read_bonbid
from common.errors import UserError

ADC, ZADC, LABEL = "1ADC_ss", "2Z_ADC", "3LABEL"


def files_of(*visits: str) -> list[str]:
    return [
        name
        for v in visits
        for name in (
            f"T/{ADC}/MGHNICU_{v}-ADC_ss.mha",
            f"T/{ZADC}/Zmap_MGHNICU_{v}-ADC_smooth2mm_clipped10.mha",
            f"T/{LABEL}/MGHNICU_{v}_lesion.mha",
        )
    ]


def test_a_case_holds_exactly_the_agreed_keys_and_absolute_paths(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01"))
    (case,) = read_bonbid(tmp_path / "T", labelled=True)
    assert case == {
        "id": "MGHNICU_010-VISIT_01",
        "subject": "MGHNICU_010",
        "image": [
            str(tmp_path / "T" / ADC / "MGHNICU_010-VISIT_01-ADC_ss.mha"),
            str(tmp_path / "T" / ZADC / "Zmap_MGHNICU_010-VISIT_01-ADC_smooth2mm_clipped10.mha"),
        ],
        "label": str(tmp_path / "T" / LABEL / "MGHNICU_010-VISIT_01_lesion.mha"),
    }
    assert json.loads(json.dumps(case)) == case


def test_the_tree_is_found_from_its_root_and_from_its_parent(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01", "012-VISIT_01"))
    assert read_bonbid(tmp_path / "T") == read_bonbid(tmp_path)


def test_visits_of_one_subject_are_joined_by_subject_and_visit(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_02", "010-VISIT_01", "7-FOLLOW-UP"))
    cases = read_bonbid(tmp_path)
    assert [case["id"] for case in cases] == ["MGHNICU_010-VISIT_01", "MGHNICU_010-VISIT_02", "MGHNICU_7-FOLLOW-UP"]
    assert [case["subject"] for case in cases] == ["MGHNICU_010", "MGHNICU_010", "MGHNICU_7"]
    assert all(case["id"] in path for case in cases for path in [*case["image"], case["label"]])


def test_relative_folders_give_absolute_paths(tmp_path: Path, touch: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    touch(*files_of("010-VISIT_01"))
    monkeypatch.chdir(tmp_path)
    assert read_bonbid("T")[0]["image"][0].startswith(str(tmp_path))


def test_hidden_copies_of_macos_are_ignored(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01"), f"T/{ADC}/._MGHNICU_010-VISIT_01-ADC_ss.mha")
    assert len(read_bonbid(tmp_path)) == 1


def test_a_missing_companion_names_the_case_and_the_file(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01", "012-VISIT_01"))
    (tmp_path / "T" / ZADC / "Zmap_MGHNICU_012-VISIT_01-ADC_smooth2mm_clipped10.mha").unlink()
    with pytest.raises(UserError, match=r"MGHNICU_012-VISIT_01: missing 2Z_ADC/Zmap_MGHNICU_012-VISIT_01-ADC_smooth2mm_clipped10\.mha"):
        read_bonbid(tmp_path)


def test_a_label_without_maps_is_a_missing_companion(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01"), f"T/{LABEL}/MGHNICU_011-VISIT_01_lesion.mha")
    with pytest.raises(UserError, match=r"MGHNICU_011-VISIT_01: missing 1ADC_ss/MGHNICU_011-VISIT_01-ADC_ss\.mha"):
        read_bonbid(tmp_path)


def test_two_files_for_one_map_are_refused(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01"), f"T/{ZADC}/Zmap_MGHNICU_010-VISIT_01-ADC_smooth4mm.mha")
    with pytest.raises(UserError, match=r"2 files where one is expected: Zmap_.*smooth2mm.*, Zmap_.*smooth4mm"):
        read_bonbid(tmp_path)


def test_labels_may_be_absent_for_inference_but_not_for_training(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_of("010-VISIT_01", "012-VISIT_01"))
    (tmp_path / "T" / LABEL / "MGHNICU_012-VISIT_01_lesion.mha").unlink()
    assert ["label" in case for case in read_bonbid(tmp_path)] == [True, False]
    with pytest.raises(UserError, match=r"1 of 2 cases have no label: MGHNICU_012-VISIT_01"):
        read_bonbid(tmp_path, labelled=True)


def test_empty_wrong_and_missing_folders_show_the_expected_tree(tmp_path: Path, touch: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"(?s)it is empty\. Expected.*BONBID2023_Train/.*1ADC_ss/"):
        read_bonbid(tmp_path)
    with pytest.raises(UserError, match=r"(?s)no such folder; expected.*1ADC_ss"):
        read_bonbid(tmp_path / "nowhere")
    touch("photos/a.jpg")
    with pytest.raises(UserError, match=r"(?s)it holds photos\. Expected.*3LABEL"):
        read_bonbid(tmp_path)


def test_a_tree_with_empty_folders_says_so(tmp_path: Path) -> None:
    (tmp_path / ADC).mkdir()
    with pytest.raises(UserError, match=r"no \.mha files in 1ADC_ss"):
        read_bonbid(tmp_path)


def test_two_trees_side_by_side_are_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "a" / ADC).mkdir(parents=True)
    (tmp_path / "b" / ADC).mkdir(parents=True)
    with pytest.raises(UserError, match=r"2 BONBID-HIE trees \(a, b\); give one"):
        read_bonbid(tmp_path)


@pytest.mark.parametrize("given", ["", "input", "input/images"])
def test_the_challenge_containers_input_is_read(tmp_path: Path, touch: Callable[..., None], given: str) -> None:
    touch("input/images/skull-stripped-adc-brain-mri/7f3a.mha", "input/images/z-score-adc/0b1c.mha")
    (case,) = read_bonbid(tmp_path / given)
    images = tmp_path / "input" / "images"
    assert case == {
        "id": "7f3a",
        "subject": "7f3a",
        "image": [str(images / "skull-stripped-adc-brain-mri" / "7f3a.mha"), str(images / "z-score-adc" / "0b1c.mha")],
    }


def test_several_pairs_of_a_container_are_joined_by_name(tmp_path: Path, touch: Callable[..., None]) -> None:
    adc, zadc = "images/skull-stripped-adc-brain-mri", "images/z-score-adc"
    touch(f"{adc}/b.mha", f"{zadc}/b.mha", f"{adc}/MGHNICU_010-VISIT_01-ADC_ss.mha", f"{zadc}/Zmap_MGHNICU_010-VISIT_01-ADC_smooth2mm.mha")
    assert [case["id"] for case in read_bonbid(tmp_path)] == ["MGHNICU_010-VISIT_01", "b"]
    touch(f"{adc}/c.mha")
    with pytest.raises(UserError, match="case c has no file in z-score-adc"):
        read_bonbid(tmp_path)
