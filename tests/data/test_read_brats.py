from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.brats import SEQUENCES, check_brats, is_brats, read_brats
from common.data.check import check_dataset
from common.data.dataset import detect_form, find_cases
from common.errors import UserError
from common.transforms.same_grid import LoadSameGridd

T = "MICCAI_BraTS2020_TrainingData"
SHAPE = (5, 4, 3)


def files_2020(*numbers: int, root: str = T, suffix: str = ".nii.gz", part: str = "Training", kinds: tuple[str, ...] = ()) -> list[str]:
    names = [f"BraTS20_{part}_{n:03d}" for n in numbers]
    return [f"{root}/{name}/{name}_{kind}{suffix}" for name in names for kind in kinds or (*SEQUENCES, "seg")]


def write_nifti(path: Path, array: np.ndarray) -> str:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    return str(path)


def brain(value: int = 100) -> np.ndarray:
    array = np.zeros(SHAPE, np.int16)
    array[1:4, 1:3] = value
    return array


def tumour(*values: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[2, 1, : len(values)] = values
    return array


# ------------------------------------------------------------------------------------------------------------------- BraTS2020


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_case_holds_the_four_sequences_in_the_papers_order(tmp_path: Path, touch: Callable[..., None], suffix: str) -> None:
    touch(*files_2020(1, suffix=suffix), f"{T}/name_mapping.csv", f"{T}/survival_info.csv")
    (case,) = read_brats(tmp_path / T, labelled=True)
    stem = tmp_path / T / "BraTS20_Training_001" / "BraTS20_Training_001"
    assert case == {
        "id": "BraTS20_Training_001",
        "subject": "BraTS20_Training_001",
        "image": [f"{stem}_{kind}{suffix}" for kind in ("t1", "t1ce", "t2", "flair")],
        "label": f"{stem}_seg{suffix}",
    }
    assert json.loads(json.dumps(case)) == case


def test_the_tree_is_found_from_two_folders_above_to_a_single_case(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_2020(1, 2, root=f"BraTS2020_TrainingData/{T}"))
    root = tmp_path / "BraTS2020_TrainingData" / T
    cases = read_brats(root)
    assert [case["id"] for case in cases] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert read_brats(tmp_path) == read_brats(tmp_path / "BraTS2020_TrainingData") == cases
    assert read_brats(root / "BraTS20_Training_002") == cases[1:]


def test_the_misnamed_mask_of_case_355_is_its_label(tmp_path: Path, touch: Callable[..., None]) -> None:
    mask = f"{T}/BraTS20_Training_355/W39_1998.09.19_Segm.nii"
    touch(*files_2020(354), *files_2020(355, suffix=".nii", kinds=SEQUENCES), mask)
    cases = read_brats(tmp_path, labelled=True)
    assert cases[1]["label"] == str(tmp_path / mask)
    assert any("BraTS20_Training_355: its mask is named W39_1998" in finding.text for finding in check_brats(tmp_path)[0])


def test_the_validation_set_has_no_labels(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_2020(1, 2, root="MICCAI_BraTS2020_ValidationData", part="Validation", kinds=SEQUENCES))
    assert ["label" in case for case in read_brats(tmp_path)] == [False, False]
    with pytest.raises(UserError, match="2 of 2 cases have no label: BraTS20_Validation_001"):
        read_brats(tmp_path, labelled=True)


def test_training_and_validation_side_by_side_are_ambiguous(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_2020(1), *files_2020(1, root="V", part="Validation", kinds=SEQUENCES))
    with pytest.raises(UserError, match=rf"2 BraTS trees \({T}, V\); give one"):
        read_brats(tmp_path)


def test_a_missing_or_double_sequence_names_case_and_file(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files_2020(1, 2))
    (tmp_path / T / "BraTS20_Training_002" / "BraTS20_Training_002_t1ce.nii.gz").unlink()
    with pytest.raises(UserError, match=r"case BraTS20_Training_002: missing BraTS20_Training_002_t1ce\.nii\.gz"):
        read_brats(tmp_path)
    touch(*files_2020(2), f"{T}/BraTS20_Training_002/BraTS20_Training_002_t1ce.nii")
    with pytest.raises(
        UserError, match=r"2 files where one is expected: BraTS20_Training_002_t1ce\.nii, BraTS20_Training_002_t1ce\.nii\.gz"
    ):
        read_brats(tmp_path)


def test_empty_wrong_and_missing_folders_show_the_expected_trees(tmp_path: Path, touch: Callable[..., None]) -> None:
    assert not is_brats(tmp_path) and not is_brats(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"(?s)it is empty\. Expected.*MICCAI_BraTS2020_TrainingData/.*BraTS-GLI-00000-000-.*Task01"):
        read_brats(tmp_path)
    with pytest.raises(UserError, match=r"(?s)no such folder; expected.*BraTS20_Training_001"):
        read_brats(tmp_path / "nowhere")
    touch("photos/a.jpg", "BraTS20_Training_001/readme.txt")
    with pytest.raises(UserError, match=r"(?s)it holds BraTS20_Training_001, photos\. Expected"):
        read_brats(tmp_path)


# --------------------------------------------------------------------------------------------------------------- later releases


def test_brats2021_is_read_by_its_names(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*(f"TrainingData/BraTS2021_00000/BraTS2021_00000_{kind}.nii.gz" for kind in (*SEQUENCES, "seg")))
    (case,) = read_brats(tmp_path, labelled=True)
    assert [Path(file).name for file in case["image"]] == [f"BraTS2021_00000_{kind}.nii.gz" for kind in SEQUENCES]
    assert case["subject"] == "BraTS2021_00000" and "label_map" not in case


def test_brats2023_is_read_by_its_names_and_visits_share_a_subject(tmp_path: Path, touch: Callable[..., None]) -> None:
    names = ["BraTS-GLI-00000-000", "BraTS-GLI-00000-001"]
    touch(*(f"{name}/{name}-{kind}.nii.gz" for name in names for kind in ("t1n", "t1c", "t2w", "t2f", "seg")))
    cases = read_brats(tmp_path, labelled=True)
    assert [Path(file).name[20:] for file in cases[1]["image"]] == ["t1n.nii.gz", "t1c.nii.gz", "t2w.nii.gz", "t2f.nii.gz"]
    assert [case["id"] for case in cases] == names and {case["subject"] for case in cases} == {"BraTS-GLI-00000"}
    (tmp_path / names[0] / f"{names[0]}-t2f.nii.gz").unlink()
    with pytest.raises(UserError, match=r"missing BraTS-GLI-00000-000-t2f\.nii\.gz"):
        read_brats(tmp_path)


def test_label_3_of_brats2023_becomes_4_when_it_is_loaded(tmp_path: Path) -> None:
    stem = tmp_path / "BraTS-GLI-00000-000" / "BraTS-GLI-00000-000"
    for value, kind in enumerate(("t1n", "t1c", "t2w", "t2f"), start=1):
        write_nifti(Path(f"{stem}-{kind}.nii.gz"), brain(value))
    write_nifti(Path(f"{stem}-seg.nii.gz"), tumour(1, 2, 3))
    (case,) = read_brats(tmp_path, labelled=True)
    loaded = LoadSameGridd()(case)
    np.testing.assert_array_equal(loaded["label"].numpy()[0], tumour(1, 2, 4))
    assert [int(channel.max()) for channel in loaded["image"]] == [1, 2, 3, 4]
    assert "label_map" not in loaded, "cases of unlike releases must collate"


# ------------------------------------------------------------------------------------------------------------------ other forms


def test_the_decathlons_order_of_channels_and_labels_is_turned_into_ours(tmp_path: Path) -> None:
    content = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
        "test": [],
    }
    write_nifti(tmp_path / "imagesTr" / "BRATS_001.nii.gz", np.stack([brain(10), brain(20), brain(30), brain(40)], axis=-1))
    write_nifti(tmp_path / "labelsTr" / "BRATS_001.nii.gz", tumour(1, 2, 3))
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert detect_form(tmp_path, "brats") == "layout"
    (case,) = find_cases(tmp_path, "brats", SEQUENCES, labelled=True)
    loaded = LoadSameGridd()(case)
    assert [int(channel.max()) for channel in loaded["image"]] == [20, 30, 40, 10], "t1, t1ce, t2, flair"
    np.testing.assert_array_equal(loaded["label"].numpy()[0], tumour(2, 1, 4))


def test_a_4d_file_a_datalist_a_table_and_four_named_files_give_one_image(tmp_path: Path) -> None:
    volumes = [brain(value) for value in (1, 2, 3, 4)]
    write_nifti(tmp_path / "one" / "p.nii.gz", np.stack(volumes, axis=-1))
    files = [write_nifti(tmp_path / "four" / f"p_{kind}.nii.gz", v) for kind, v in zip(SEQUENCES, volumes, strict=True)]
    label = write_nifti(tmp_path / "four" / "p_label.nii.gz", tumour(1, 2, 4))
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": files, "label": label}]}))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "t.csv").write_text(f"subject,{','.join(SEQUENCES)},label\np,{','.join(files)},{label}\n")
    images = []
    for place in ("one", "one/p.nii.gz", "four", "list.json", "table"):
        (case,) = find_cases(tmp_path / place, "brats", SEQUENCES)
        loaded = LoadSameGridd()(case)
        images.append(loaded["image"].numpy())
        assert ("label" in loaded) == (not place.startswith("one"))
    assert all(np.array_equal(image, np.stack(volumes)) for image in images)


# ----------------------------------------------------------------------------------------------------------------------- check


def test_the_check_tells_oddities_and_errors_and_goes_on(tmp_path: Path) -> None:
    for number, kinds in ((1, (1, 2, 4)), (2, ()), (3, (1, 3))):
        stem = tmp_path / T / f"BraTS20_Training_{number:03d}" / f"BraTS20_Training_{number:03d}"
        for kind in SEQUENCES:
            write_nifti(Path(f"{stem}_{kind}.nii.gz"), brain() + (number == 2))
        write_nifti(Path(f"{stem}_seg.nii.gz"), tumour(*kinds))
    (tmp_path / T / "BraTS20_Training_001" / "other.nii.gz").touch()
    findings = list(check_dataset("brats", tmp_path))
    errors = [finding.text for finding in findings if finding.level == "error"]
    notes = "\n".join(finding.text for finding in findings if finding.level == "note")
    assert len(errors) == 2 and "label values 3 in 1 voxels; expected only (0, 1, 2, 4)" in errors[0]
    assert errors[1] == "2 of 3 complete cases can be used; 1 labels are empty"
    assert "other.nii.gz: ignored" in notes
    assert "BraTS20_Training_002: 100 % of the voxels are not 0" in notes
    assert "3 case folders BraTS20_Training...; the public release has 369" in notes
