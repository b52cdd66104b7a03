from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data.bids import read_bids
from common.data.check import check_dataset
from common.data.dataset import detect_form, find_cases
from common.data.decathlon import read_datalist
from common.data.dhcp import FACTS, MASKS, exclude_scores, is_dhcp, read_dhcp
from common.data.table import read_table
from common.errors import UserError

ROOT = "rel3_dhcp_anat_pipeline"
Write = Callable[..., Path]


def stem(subject: str, session: str, root: str = ROOT) -> str:
    return f"{root}/sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"


def tsv(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n")


@pytest.fixture
def tree(tmp_path: Path, touch: Callable[..., None]) -> Path:
    """Two scans of one child and one of another, in the names of release 3, with both kinds of tables."""
    for subject, session in (("CC00063AN06", "15102"), ("CC00063AN06", "00700"), ("CC00050XX01", "7201")):
        touch(*(f"{stem(subject, session)}_{end}.nii.gz" for end in ("desc-restore_T2w", "desc-brain_mask", "desc-biasfield_T2w")))
    touch(f"{stem('CC00050XX01', '7201')}_desc-drawem9_dseg.nii.gz")
    root = tmp_path / ROOT
    tsv(
        root / "participants.tsv", "participant_id gender birth_age birth_weight singleton",
        "CC00063AN06 Female 34.86 1.24 Multiple", "sub-CC00050XX01 Male 42.71 3.53 Single",
    )  # fmt: skip
    tsv(
        root / "sub-CC00063AN06" / "sub-CC00063AN06_sessions.tsv",
        "session_id scan_age scan_head_circumference scan_number radiology_score sedation",
        "15102 35.14 30.7 1 2 0", "00700 41.00 n/a 2 Q 0",
    )  # fmt: skip
    tsv(
        tmp_path / "combined.tsv", "participant_id session_id sex birth_age scan_age scan_head_circumference radiology_score",
        "CC00050XX01 7201 Male 42.71 42.86 37.5 3",
    )  # fmt: skip
    return root


def test_each_scan_is_a_case_with_its_age_and_what_the_tables_say(tree: Path) -> None:
    first, second, third = read_dhcp(tree)
    folder = tree.parent / stem("CC00050XX01", "7201")
    assert first == {
        "id": "CC00050XX01_7201", "subject": "CC00050XX01", "session": "7201", "age": 42.86,
        "image": [f"{folder}_desc-restore_T2w.nii.gz"], "brain": f"{folder}_desc-brain_mask.nii.gz",
        "label": f"{folder}_desc-drawem9_dseg.nii.gz", "head_circumference_cm": 37.5, "sex": "Male", "birth_age": 42.71,
        "radiology_score": "3",
    }  # fmt: skip
    assert [second["session"], third["session"]] == ["00700", "15102"], "ids stay text"
    assert second["subject"] == third["subject"] == "CC00063AN06" and second["age"] == 41.0
    assert "head_circumference_cm" not in second and third["head_circumference_cm"] == 30.7
    assert third["sex"] == "Female" and second["scan_number"] == 2
    assert json.loads(json.dumps(first)) == first


def test_the_tree_is_found_from_folders_above(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x" / "derivatives").mkdir(parents=True)
    moved = tree.rename(tmp_path / "x" / "derivatives" / "dhcp_anat_pipeline")
    expected = [case["id"] for case in read_dhcp(moved)]
    assert len(expected) == 3 and all(is_dhcp(place) for place in (tmp_path, tmp_path / "x"))
    assert [case["id"] for case in read_dhcp(tmp_path)] == [case["id"] for case in read_dhcp(tmp_path / "x")] == expected
    assert detect_form(tmp_path, "dhcp") == "layout" and find_cases(tmp_path, "dhcp", ("t2w",)) == read_dhcp(moved)


@pytest.mark.parametrize("end", MASKS)
def test_all_names_of_the_mask_are_known_and_the_first_wins(tree: Path, end: str, touch: Callable[..., None]) -> None:
    mask = tree.parent / f"{stem('CC00050XX01', '7201')}_desc-brain_mask.nii.gz"
    touch(f"{stem('CC00050XX01', '7201')}_{MASKS[-1]}.nii.gz")
    renamed = mask.rename(mask.with_name(mask.name.replace(MASKS[0], end)))
    assert read_dhcp(tree)[0]["brain"] == str(renamed)


def test_a_scan_without_image_mask_or_age_is_named(tree: Path) -> None:
    (tree.parent / f"{stem('CC00050XX01', '7201')}_desc-brain_mask.nii.gz").unlink()
    with pytest.raises(UserError, match=r"1 of 3 scans are incomplete: CC00050XX01_7201: no mask of the brain \(tried desc-brain_mask, "):
        read_dhcp(tree)
    (tree.parent / "combined.tsv").unlink()
    with pytest.raises(UserError, match=r"no scan_age in sub-CC00050XX01_sessions\.tsv or combined\.tsv"):
        read_dhcp(tree)
    tsv(tree.parent / "combined.tsv", "participant_id session_id scan_age", "CC00050XX01 7201 old")
    with pytest.raises(UserError, match=r"combined\.tsv: line 2: the age 'old' is not a number"):
        read_dhcp(tree)


def test_wrong_folders_show_the_expected_tree(tmp_path: Path, touch: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"(?s)it is empty\. Expected.*sub-<subject>_ses-<session>_desc-restore_T2w\.nii\.gz"):
        read_dhcp(tmp_path)
    touch("sub-1/anat/sub-1_T2w.nii.gz")
    assert not is_dhcp(tmp_path) and detect_form(tmp_path, "dhcp") == "bids"
    with pytest.raises(UserError, match="no such folder; expected"):
        read_dhcp(tmp_path / "nowhere")
    touch(*(f"{stem('A', '1', f'{root}_dhcp_anat_pipeline')}_desc-restore_T2w.nii.gz" for root in ("rel2", "rel3")))
    with pytest.raises(UserError, match=r"holds 2 dHCP trees \(rel2_dhcp_anat_pipeline, rel3_dhcp_anat_pipeline\); give one"):
        read_dhcp(tmp_path)


def test_scores_are_left_out_on_request(tree: Path) -> None:
    cases = read_dhcp(tree)
    assert [case["session"] for case in exclude_scores(cases)] == ["7201", "15102"]
    assert exclude_scores(cases, ()) == cases
    assert exclude_scores([{"id": "x"}]) == [{"id": "x"}], "a case without a score stays"
    with pytest.raises(UserError, match="got 2, 3, Q; all 3 cases have one"):
        exclude_scores(cases, (2, 3, "q"))  # type: ignore[arg-type]


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-2.0, 2.0, 2.0, 1.0])), path)


def test_the_check_tells_what_is_odd_and_what_is_missing(tree: Path) -> None:
    brain = np.zeros((6, 7, 8), np.uint8)
    brain[2:4, 2:5, 2:6] = 1
    flat = np.full(brain.shape, 100, np.int16)
    for subject, session, mask in (
        ("CC00063AN06", "15102", brain),
        ("CC00063AN06", "00700", brain * 0),
        ("CC00050XX01", "7201", 1 - brain),
    ):
        write(tree.parent / f"{stem(subject, session)}_desc-restore_T2w.nii.gz", flat + np.arange(8, dtype=np.int16) * (session == "7201"))
        write(tree.parent / f"{stem(subject, session)}_desc-brain_mask.nii.gz", mask)
    write(tree.parent / f"{stem('CC00050XX01', '7201')}_desc-drawem9_dseg.nii.gz", brain * 9)
    tsv(tree / "sub-CC00050XX01" / "sub-CC00050XX01_sessions.tsv", "session_id scan_age", "ses-7201 428.6")
    findings = list(check_dataset("dhcp", tree))
    notes = "\n".join(finding.text for finding in findings if finding.level == "note")
    assert not [finding for finding in findings if finding.level == "error"]
    for words in (
        "3 scans; the third release has 887",
        "case CC00050XX01_7201: age 428.6; expected 20 to 50 weeks",
        "1 of 3 scans have no head circumference",
        "CC00063AN06_15102: hardly any contrast in the brain; is it a bias field",
        "CC00063AN06_00700: the mask of the brain covers 0.0 %",
        "CC00050XX01_7201: the brain touches the border",
    ):
        assert words in notes, words
    assert "cases without a label" not in notes, "labels are optional"
    assert any(finding.text == "subjects with several scans: 1 with 2" for finding in findings)


# ------------------------------------------------------------------------------------------------- the same keys from other forms


def test_tables_bids_trees_and_datalists_give_the_same_keys(tmp_path: Path, touch: Callable[..., None]) -> None:
    image, mask = "sub-A/ses-1/anat/sub-A_ses-1_T2w.nii.gz", "derivatives/bet/sub-A/ses-1/anat/sub-A_ses-1_desc-brain_mask.nii.gz"
    touch(f"b/{image}", f"b/{mask}")
    tsv(tmp_path / "b" / "participants.tsv", "participant_id sex age", "sub-A Male 0.1")
    tsv(tmp_path / "b" / "sub-A" / "sub-A_sessions.tsv", "session_id scan_age head_circumference", "ses-1 31.5 28.2")
    (tmp_path / "t.csv").write_text(f"subject,session,age,T2w,mask,Head_Circumference,sex\nsub-A,ses-1,31.5,b/{image},b/{mask},28.2,Male\n")
    item = {"id": "sub-A_ses-1", "subject": "sub-A", "age": 31.5, "image": [f"b/{image}"], "brain": f"b/{mask}", "sex": "Male"}
    (tmp_path / "l.json").write_text(json.dumps({"training": [item | {"head_circumference_cm": 28.2}]}))
    facts = ("brain", *FACTS)
    (expected,) = read_table(tmp_path / "t.csv", ("T2w",), facts=facts)
    assert expected["brain"] == str(tmp_path / "b" / mask) and expected["head_circumference_cm"] == 28.2 and expected["age"] == 31.5
    assert read_bids(tmp_path / "b", ("T2w",), facts=facts) == read_datalist(tmp_path / "l.json", facts=facts) == [expected]
    assert "brain" not in read_table(tmp_path / "t.csv", ("T2w",))[0], "only those who ask get them"


def test_a_head_circumference_that_is_no_number_names_the_line(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a.nii")
    (tmp_path / "t.csv").write_text("subject,t2w,head_circumference\nx,a.nii,35 cm\n")
    with pytest.raises(UserError, match=r"t\.csv: line 2: head_circumference is '35 cm'; expected a number, or an empty cell"):
        find_cases(tmp_path / "t.csv", "dhcp", ("t2w",))
