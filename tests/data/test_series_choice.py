from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.series_choice import choose_series, exclusion
from tests.data.ct_on_disk import head_like, straight, tilted, write_series


@pytest.mark.parametrize(
    "text",
    ["CT Plain", "CT PLAIN THIN", "CT 0.625mm", "CT PRE CONTRAST THIN", "HEAD W/O CONTRAST", "NON CONTRAST 5mm", "CT Non_Contrast Head",
     "Head without contrast", "NCCT", "CT POST FOSSA", "CT posterior fossa", "CT Bone", "Unknown"],
)  # fmt: skip
def test_names_of_plain_scans_are_taken(text: str) -> None:
    assert exclusion(text) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CT POST CONTRAST", "contrast"),
        ("CT 55mm Contrast", "contrast"),
        ("Head with and without contrast", "contrast"),
        ("CT Head C+", "contrast"),
        ("CT_POST_5mm", "after contrast"),
        ("CTA Head", "angiography"),
        ("ANGIO thin", "angiography"),
        ("CT 4cc sec 150cc D3D on-2", "bolus or perfusion"),
        ("CT D3D", "3D rendering"),
        ("Topogram 0.6", "localizer"),
        ("CT Scout", "localizer"),
        ("Localiser", "localizer"),
    ],
)
def test_names_that_speak_against_a_series_are_excluded_with_the_reason(text: str, reason: str) -> None:
    assert exclusion(text) == reason


def series(root: Path, name: str, step: float, count: int = 30, **options: object) -> Path:
    return write_series(root / name, head_like((8, 8), count), straight(np.arange(count) * step), **options)  # type: ignore[arg-type]


def choice(root: Path, *folders: Path) -> dict[str, tuple[str, str]]:
    return {row["series"]: (row["decision"], row["reason"]) for row in choose_series("x", folders, root)}


def test_the_thinnest_usable_series_is_kept_and_every_other_one_has_its_reason(tmp_path: Path) -> None:
    folders = [
        series(tmp_path, "CT Plain", 5.0),
        series(tmp_path, "CT PLAIN THIN", 4.0),
        series(tmp_path, "CT Bone", 3.7),
        series(tmp_path, "CT 1mm kernel", 3.6, tags={"0018|1210": "H70h"}),
        series(tmp_path, "CT Contrast", 3.5),
        series(tmp_path, "CT IV", 3.5, tags={"0018|0010": "OMNIPAQUE"}),
        series(tmp_path, "CT short", 2.0),
        series(tmp_path, "Scout", 5.0, count=2),
        series(tmp_path, "Monitor", 5.0, count=2),
        write_series(tmp_path / "Sagittal", head_like((8, 8)), [(k * 5.0, 0, 0) for k in range(26)], ((0.0, 1, 0), (0.0, 0, -1))),
    ]
    found = choice(tmp_path, *folders)
    assert found == {
        "CT Plain": ("dropped", "thicker slices: CT PLAIN THIN is preferred"),
        "CT PLAIN THIN": ("kept", "the best usable series"),
        "CT Bone": ("dropped", "bone kernel: CT PLAIN THIN is preferred"),
        "CT 1mm kernel": ("dropped", "bone kernel: CT PLAIN THIN is preferred"),
        "CT Contrast": ("dropped", "contrast"),
        "CT IV": ("dropped", "contrast agent 'OMNIPAQUE' in the header"),
        "CT short": ("dropped", "the slices cover 60 mm, expected at least 100 mm. Give a scan of the whole head."),
        "Scout": ("dropped", "localizer"),
        "Monitor": ("dropped", "2 slices, expected at least 20; a localizer or a part of a scan? Give the whole series."),
        "Sagittal": ("dropped", "not axial (a coronal or sagittal reformat)"),
    }


def test_a_bone_kernel_is_taken_where_nothing_else_is_there(tmp_path: Path) -> None:
    assert choice(tmp_path, series(tmp_path, "CT Bone", 5.0))["CT Bone"][0] == "kept"


def test_even_slices_are_preferred_and_corrections_are_announced(tmp_path: Path) -> None:
    positions, axes = tilted([*np.arange(15) * 3.0, *(45 + np.arange(15) * 6.0)], 12)
    messy = write_series(tmp_path / "CT messy", head_like((8, 8), 30), positions, axes)
    assert choice(tmp_path, messy)["CT messy"] == ("kept", "the best usable series; tilt and uneven slices will be corrected")
    assert choice(tmp_path, messy, series(tmp_path, "CT thick", 5.0))["CT messy"] == ("dropped", "uneven slices: CT thick is preferred")


def test_a_series_that_was_mended_is_looked_at_again(tmp_path: Path) -> None:
    folder = series(tmp_path, "CT", 5.0)
    (folder / "CT000005.dcm").rename(tmp_path / "kept")
    assert choice(tmp_path, folder)["CT"][0] == "dropped"
    (tmp_path / "kept").rename(folder / "CT000005.dcm")
    assert choice(tmp_path, folder)["CT"][0] == "kept"
