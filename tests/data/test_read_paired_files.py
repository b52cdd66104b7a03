from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.dataset import find_cases
from common.errors import UserError


def test_files_are_joined_by_the_last_word_of_their_names(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("sub-1_ses-2_ADC.nii.gz", "sub-1_ses-2_zadc.nii.gz", "P1-adc.mha", "P1-zadc.mha", "P1_label.mha", "._P1_adc.mha")
    first, second = find_cases(tmp_path)
    label = str(tmp_path / "P1_label.mha")
    assert first == {"id": "P1", "subject": "P1", "image": [str(tmp_path / f"P1-{name}.mha") for name in ("adc", "zadc")], "label": label}
    assert (second["id"], second["subject"]) == ("sub-1_ses-2", "sub-1") and "label" not in second
    with pytest.raises(UserError, match="1 of 2 cases have no label: sub-1_ses-2"):
        find_cases(tmp_path, labelled=True)


def test_the_order_of_the_inputs_is_the_methods(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("a_t1.nii", "a_flair.nii")
    (case,) = find_cases(tmp_path, layout=None, inputs=("t1", "flair"))
    assert [Path(path).name for path in case["image"]] == ["a_t1.nii", "a_flair.nii"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a_adc.nii", "a_zadc.nii", "b_adc.nii"], r"not exactly one file for b \(zadc\); expected .* <case>_adc\.nii\.gz and <case>_zadc"),
        (["a_adc.nii", "a_adc.mha", "a_zadc.nii"], r"not exactly one file for a \(adc\)"),
        (["a_adc.nii", "a_zadc.nii", "a_label.nii", "a_label.mha"], r"not exactly one file for a \(label\)"),
        (["a_adc.nii", "a_zadc.nii", "b.nii"], r"the names b\.nii end otherwise"),
    ],
)
def test_incomplete_or_mixed_folders_are_refused(tmp_path: Path, touch: Callable[..., None], names: list[str], message: str) -> None:
    touch(*names)
    with pytest.raises(UserError, match=message):
        find_cases(tmp_path)


def test_other_names_are_4d_files(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("zadc.nii", "head.nii", "head_label.nii")
    assert [case["image"] for case in find_cases(tmp_path)] == [str(tmp_path / f"{name}.nii") for name in ("head", "head_label", "zadc")]
