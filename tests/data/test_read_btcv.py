from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.btcv import ORGANS, is_btcv, read_btcv
from common.data.check import check_dataset
from common.data.dataset import detect_form, find_cases
from common.errors import UserError

RAW = "Abdomen/RawData/Training"


def files(*numbers: int, root: str = RAW, images: str = "img", labels: str | None = "label") -> list[str]:
    names = [f"{root}/{images}/img{n:04d}.nii.gz" for n in numbers]
    return names + ([f"{root}/{labels}/label{n:04d}.nii.gz" for n in numbers] if labels else [])


def write_nifti(path: Path, array: np.ndarray, step: float = 1.0) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([step, step, 3.0, 1.0])), path)


def test_image_and_label_are_joined_by_their_number_with_gaps(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(21, 1, 40), f"{RAW}/img/readme.txt")
    cases = read_btcv(tmp_path, labelled=True)
    folder = tmp_path / RAW
    assert cases[1] == {
        "id": "img0021",
        "subject": "img0021",
        "modality": "ct",
        "image": [str(folder / "img" / "img0021.nii.gz")],
        "label": str(folder / "label" / "label0021.nii.gz"),
    }
    assert [case["id"] for case in cases] == ["img0001", "img0021", "img0040"]
    assert json.loads(json.dumps(cases)) == cases


@pytest.mark.parametrize("place", ["", "Abdomen", "Abdomen/RawData", RAW, f"{RAW}/img", f"{RAW}/label"])
def test_any_level_of_the_tree_may_be_given(tmp_path: Path, touch: Callable[..., None], place: str) -> None:
    touch(*files(1, 2), *files(61, root="Abdomen/RawData/Testing", labels=None))
    assert [case["id"] for case in read_btcv(tmp_path / place, labelled=True)] == ["img0001", "img0002"]
    assert detect_form(tmp_path / place, "btcv") == "layout"
    assert find_cases(tmp_path / place, "btcv", ("ct",), labelled=True) == read_btcv(tmp_path)


def test_the_scans_without_labels_are_read_from_their_own_folder(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(1), *files(61, 62, root="Abdomen/RawData/Testing", labels=None))
    assert [case["id"] for case in read_btcv(tmp_path / "Abdomen/RawData/Testing")] == ["img0061", "img0062"]
    with pytest.raises(UserError, match="2 of 2 cases have no label: img0061, img0062"):
        read_btcv(tmp_path / "Abdomen/RawData/Testing", labelled=True)


def test_monais_folders_are_read_with_and_without_a_list(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(1, 4, root="m", images="imagesTr", labels="labelsTr"))
    bare = read_btcv(tmp_path / "m", labelled=True)
    assert [case["id"] for case in bare] == ["img0001", "img0004"]
    entry = {"image": "imagesTr/img0004.nii.gz", "label": "labelsTr/label0004.nii.gz"}
    content = json.dumps({"modality": {"0": "CT"}, "training": [], "validation": [entry]})
    (tmp_path / "m" / "dataset_0.json").write_text(content)
    (case,) = read_btcv(tmp_path / "m", labelled=True)
    assert case == {**bare[1], "fold": 0}
    (tmp_path / "m" / "dataset_1.json").write_text(content)
    with pytest.raises(UserError, match=r"2 datalists \(dataset_0\.json, dataset_1\.json\); give the path of one"):
        read_btcv(tmp_path / "m")
    (from_list,) = find_cases(tmp_path / "m" / "dataset_0.json", "btcv", ("ct",), labelled=True)
    assert (from_list["modality"], from_list["label"]) == ("ct", bare[1]["label"])


def test_a_dataset_json_is_read_as_a_datalist(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch(*files(1, root="m", images="imagesTr", labels="labelsTr"), "m/dataset.json")
    assert not is_btcv(tmp_path / "m") and detect_form(tmp_path / "m", "btcv") == "datalist"


def test_double_files_and_wrong_folders_are_errors(tmp_path: Path, touch: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"(?s)not a BTCV tree: it is empty\. Expected.*label0001.*imagesTr"):
        read_btcv(tmp_path)
    with pytest.raises(UserError, match=r"(?s)no such folder; expected.*RawData"):
        read_btcv(tmp_path / "gone")
    touch(*files(1), f"{RAW}/img/img0001.nii")
    with pytest.raises(UserError, match=r"2 files where one is expected: img0001\.nii, img0001\.nii\.gz\. Keep one of each"):
        read_btcv(tmp_path)
    touch(*files(1, root="other/RawData/Training"))
    with pytest.raises(UserError, match="holds 2 BTCV trees"):
        read_btcv(tmp_path)


def test_the_check_names_labels_grids_units_and_lonely_labels(tmp_path: Path) -> None:
    root = tmp_path / RAW
    hu = np.full((5, 4, 3), -1000, np.int16)
    hu[1:4] = 400
    whole = np.zeros((5, 4, 3), np.uint8)
    whole.flat[:14] = range(14)
    fourteen = np.full((5, 4, 3), 14, np.uint8)
    for n, (image, label, step) in enumerate(
        [(hu, whole, 1), (hu, fourteen, 1), (hu, whole, 2), (abs(hu), whole * (whole != 4), 1)], start=1
    ):
        write_nifti(root / "img" / f"img{n:04d}.nii.gz", image)
        write_nifti(root / "label" / f"label{n:04d}.nii.gz", label, step)
    write_nifti(root / "label" / "label0009.nii.gz", whole)
    findings = list(check_dataset("btcv", tmp_path))
    errors = [finding.text for finding in findings if finding.level == "error"]
    notes = "\n".join(finding.text for finding in findings if finding.level == "note")
    assert "label0009.nii.gz: a label without an image; expected img0009.nii.gz" in errors[0]
    assert "img0002" in errors[1] and "label values 14 in 60 voxels" in errors[1]
    assert "img0003" in errors[2] and "its grid differs" in errors[2]
    assert errors[3].startswith("2 of 4 complete cases can be used") and len(errors) == 4
    assert "img0004: values from 400 to 1000; expected Hounsfield units" in notes
    assert "img0004: the label has no gallbladder" in notes
    assert "4 scans; the public training release has 30" in notes


def test_the_organs_are_numbered_without_gaps() -> None:
    assert list(ORGANS.values()) == list(range(1, 14))
