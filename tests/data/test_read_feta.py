from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.check import check_dataset
from common.data.dataset import detect_form, find_cases
from common.data.feta import TISSUES, is_feta, read_feta, read_participants
from common.errors import UserError

HEADER = "participant_id\tPathology\tGestational age\n"


def files(*numbers: int, rec: str = "mial", root: str = "feta_2.1", ends: tuple[str, ...] = ("T2w", "dseg")) -> list[str]:
    return [f"{root}/sub-{n:03d}/anat/sub-{n:03d}_rec-{rec}_{end}.nii.gz" for n in numbers for end in ends]


def write_nifti(path: Path, array: np.ndarray, spacing: float = 0.5) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1.0])), path)


def labels(*values: int) -> np.ndarray:
    array = np.zeros((5, 4, 3), np.uint8)
    array.flat[: len(values)] = values
    return array


def test_a_case_holds_image_label_age_and_pathology(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(1), *files(2, rec="irtk"))
    (tmp_path / "feta_2.1" / "participants.tsv").write_text(HEADER + "sub-001\tNeurotypical\t24.4\nsub-002\tPathological\tn/a\n")
    first, second = read_feta(tmp_path / "feta_2.1", labelled=True)
    stem = str(tmp_path / "feta_2.1" / "sub-001" / "anat" / "sub-001_rec-mial")
    assert first == {
        "id": "sub-001",
        "subject": "sub-001",
        "modality": "t2",
        "image": [f"{stem}_T2w.nii.gz"],
        "label": f"{stem}_dseg.nii.gz",
        "age": 24.4,
        "pathology": "Neurotypical",
    }
    assert second["image"][0].endswith("sub-002_rec-irtk_T2w.nii.gz") and second["label"].endswith("sub-002_rec-irtk_dseg.nii.gz")
    assert "age" not in second and second["pathology"] == "Pathological"
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize(
    "header",
    ["Participant_ID\tPATHOLOGY\tGestational Age", "participant_id\tpathology\tgestational_age [weeks]", "participant_id\tPathology\tGA"],
)
def test_columns_are_matched_without_capitals_spaces_and_signs(tmp_path: Path, header: str) -> None:
    (tmp_path / "participants.tsv").write_text(f"{header}\n001\tNeurotypical\t24,5\n")
    assert read_participants(tmp_path) == {"001": {"age": 24.5, "pathology": "Neurotypical"}}


def test_a_table_of_another_kind_and_an_age_that_is_none_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("name\tage\nsub-001\t24\n")
    with pytest.raises(UserError, match=r"participants\.tsv: no column participant_id; found name, age"):
        read_participants(tmp_path)
    (tmp_path / "participants.tsv").write_text(HEADER + "sub-001\tNeurotypical\told\n")
    with pytest.raises(UserError, match=r"participants\.tsv: line 2: the age 'old' is not a number"):
        read_participants(tmp_path)


def test_the_tree_is_found_up_to_two_folders_below(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(3, 1, root="data/feta_2.1"))
    assert read_feta(tmp_path) == read_feta(tmp_path / "data") == read_feta(tmp_path / "data" / "feta_2.1")
    assert [case["id"] for case in read_feta(tmp_path)] == ["sub-001", "sub-003"]
    assert detect_form(tmp_path, "feta") == "layout"
    assert find_cases(tmp_path, "feta", ("t2w",), labelled=True) == read_feta(tmp_path)
    touch(*files(1, root="data/feta_2.2"))
    with pytest.raises(UserError, match=r"holds 2 FeTA trees \(feta_2\.1, feta_2\.2\); give one"):
        read_feta(tmp_path / "data")


def test_a_tree_with_sessions_is_not_feta(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz")
    assert not is_feta(tmp_path)
    with pytest.raises(UserError, match=r"(?s)not a FeTA tree: it holds sub-01\. Expected.*sub-001_rec-mial_dseg"):
        read_feta(tmp_path)


def test_labels_are_needed_for_training_only(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(1), *files(2, ends=("T2w",)))
    assert ["label" in case for case in read_feta(tmp_path)] == [True, False]
    with pytest.raises(UserError, match="1 of 2 cases have no label: sub-002"):
        read_feta(tmp_path, labelled=True)


def test_two_reconstructions_a_mixed_pair_and_a_missing_image_are_named(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(1), *files(1, rec="irtk", ends=("T2w",)), *files(2, ends=("T2w",)), *files(2, rec="irtk", ends=("dseg",)))
    touch(*files(3, ends=("dseg",)))
    with pytest.raises(UserError) as caught:
        read_feta(tmp_path)
    text = str(caught.value)
    assert "3 of 3 subjects cannot be read" in text
    assert "sub-001: 2 files where one is expected: sub-001_rec-irtk_T2w.nii.gz, sub-001_rec-mial_T2w.nii.gz; keep one" in text
    assert "sub-002: image and label are of different reconstructions: sub-002_rec-mial_T2w.nii.gz and sub-002_rec-irtk_dseg" in text
    assert "sub-003: no sub-003_rec-<mial or irtk>_T2w.nii.gz" in text


def test_the_check_names_labels_grids_spacing_and_ages(tmp_path: Path) -> None:
    root = tmp_path / "feta_2.1"
    whole, image = labels(*range(8)), np.full((5, 4, 3), 7, np.float32)
    for n, (label, spacing) in enumerate([(whole, 0.5), (labels(9), 0.5), (whole, 0.6), (labels(1, 2), 0.5), (None, 5.0)], start=1):
        stem = root / f"sub-00{n}" / "anat" / f"sub-00{n}_rec-mial"
        write_nifti(Path(f"{stem}_T2w.nii.gz"), image, 5.0 if n == 5 else 0.5)
        if label is not None:
            write_nifti(Path(f"{stem}_dseg.nii.gz"), label, spacing)
    (root / "participants.tsv").write_text(HEADER + "sub-001\tNeurotypical\t24\nsub-002\tNeurotypical\t240\n")
    findings = list(check_dataset("feta", root))
    errors = [finding.text for finding in findings if finding.level == "error"]
    notes = "\n".join(finding.text for finding in findings if finding.level == "note")
    assert len(errors) == 3 and errors[-1].startswith("3 of 5 complete cases can be used")
    assert "sub-002" in errors[0] and "label values 9 in 1 voxels; expected only (0, 1, 2, 3, 4, 5, 6, 7)" in errors[0]
    assert "sub-003" in errors[1] and "its grid differs" in errors[1]
    assert "sub-004: the label has no white matter" in notes and "the label has no grey matter" not in notes
    assert "sub-005: spacing 5 x 5 x 5 mm; expected about 0.5" in notes
    assert "1 cases without a label (fine for inference, not for training): sub-005" in notes
    assert "sub-002: age 240; expected 18 to 42 weeks" in notes
    assert "age: 2 of 5 cases have one" in notes and "5 subjects; the public releases have 80 (2021) and 120 (2022)" in notes


def test_the_tissues_are_numbered_without_gaps() -> None:
    assert list(TISSUES.values()) == list(range(1, 8))
