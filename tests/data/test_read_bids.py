from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.bids import read_bids
from common.errors import UserError

INPUTS = {"adc": "adc", "zadc": "zadc"}


def test_sessions_labels_and_ages_are_joined(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(
        "sub-02/dwi/sub-02_adc.nii.gz",
        "derivatives/zscore/sub-02/dwi/sub-02_zadc.nii.gz",
        "sub-01/ses-b/dwi/sub-01_ses-b_adc.nii.gz",
        "sub-01/ses-b/dwi/sub-01_ses-b_zadc.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "derivatives/manual/sub-01/ses-b/dwi/sub-01_ses-b_space-orig_label-lesion_desc-x_mask.nii.gz",
        "derivatives/manual/sub-01/ses-b/dwi/sub-01_ses-b_label-brain_mask.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t89+\tF\nsub-02\tn/a\tM\n")
    first, second = read_bids(tmp_path, INPUTS)
    dwi = tmp_path / "sub-01" / "ses-b" / "dwi"
    assert first == {
        "id": "sub-01_ses-b",
        "subject": "sub-01",
        "image": [str(dwi / "sub-01_ses-b_adc.nii.gz"), str(dwi / "sub-01_ses-b_zadc.nii.gz")],
        "label": str(tmp_path / "derivatives/manual/sub-01/ses-b/dwi/sub-01_ses-b_space-orig_label-lesion_desc-x_mask.nii.gz"),
        "age": 89.0,
    }
    assert second["id"] == second["subject"] == "sub-02"
    assert second["image"][1] == str(tmp_path / "derivatives/zscore/sub-02/dwi/sub-02_zadc.nii.gz")
    assert "label" not in second and "age" not in second


def test_ends_choose_among_files_of_one_suffix(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(
        "sub-1/dwi/sub-1_desc-raw_adc.nii", "sub-1/dwi/sub-1_desc-z_adc.nii", "sub-1/dwi/sub-1_desc-z_adc.json", "sub-1/dwi/sub-1_dseg.nii"
    )
    (case,) = read_bids(tmp_path, {"adc": "desc-raw_adc", "zadc": "desc-z_adc"}, labelled=True)
    assert [Path(path).name for path in case["image"]] == ["sub-1_desc-raw_adc.nii", "sub-1_desc-z_adc.nii"]
    assert Path(case["label"]).name == "sub-1_dseg.nii"


def test_sessions_without_any_input_are_no_cases(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-1/dwi/sub-1_adc.nii", "sub-2/anat/sub-2_T1w.nii")
    assert [case["id"] for case in read_bids(tmp_path, ["adc"])] == ["sub-1"]


def test_several_fitting_files_a_missing_input_and_no_fit_are_errors(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-1/dwi/sub-1_run-1_adc.nii", "sub-1/dwi/sub-1_zadc.nii")
    with pytest.raises(UserError, match=r"no file fits the inputs; expected sub-\*/.*_T1w\.nii\.gz.* Found the suffixes adc, zadc"):
        read_bids(tmp_path, ["T1w"])
    with pytest.raises(UserError, match=r"1 of 1 cases have no label: sub-1"):
        read_bids(tmp_path, INPUTS, labelled=True)
    touch("sub-1/dwi/sub-1_run-2_adc.nii")
    with pytest.raises(UserError, match=r"sub-1 has 2 files that end in adc: sub-1_run-1_adc\.nii, sub-1_run-2_adc\.nii; keep one"):
        read_bids(tmp_path, INPUTS)
    touch("sub-0/dwi/sub-0_zadc.nii")
    with pytest.raises(UserError, match=r"sub-0 has no adc file: expected sub-0_\.\.\._adc\.nii\.gz"):
        read_bids(tmp_path, INPUTS)


def test_a_file_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub-1" / "dwi").mkdir(parents=True)
    try:
        (tmp_path / "sub-1" / "dwi" / "sub-1_adc.nii.gz").symlink_to(tmp_path / "gone")
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(UserError, match=r"sub-1_adc\.nii\.gz: a link to a file that is not here; fetch it"):
        read_bids(tmp_path, ["adc"])


def test_an_age_that_is_no_number_names_the_line(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-1/dwi/sub-1_adc.nii")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\tyoung\n")
    with pytest.raises(UserError, match=r"participants\.tsv: line 2: the age 'young' is not a number"):
        read_bids(tmp_path, ["adc"])
