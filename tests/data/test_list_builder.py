from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.__main__ import main
from common.data.list_builder import build_list, write_list
from common.data.list_split import draw_validation
from common.data.modality_lists import read_modality_lists
from common.errors import UserError
from tests.data.ct_on_disk import straight, write_series

UIDS = [f"1.3.6.1.4.1.14519.5.2.1.{n}" for n in range(9)]
MINIMUM = 3


def series(folder: Path, patient: str, uid: str, seed: int = 0, count: int = 3, **tags: str) -> Path:
    """A series of small slices with its patient and UID in the headers."""
    slices = list(np.random.default_rng(seed).integers(-1000, 1000, (count, 6, 5)).astype(float))
    header = {"0010|0020": patient, "0020|000e": uid, **{key.replace("_", "|"): value for key, value in tags.items()}}
    return write_series(folder, slices, straight(5.0 * np.arange(count)), tags=header)


def mhd(folder: Path, name: str, seed: int) -> None:
    """A volume as LUNA16 has them: a header and a .raw file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mhd").write_text(f"NDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = {name}.raw\n")
    (folder / f"{name}.raw").write_bytes(np.random.default_rng(seed).integers(0, 99, 64).astype(np.int16).tobytes())


def files(place: Path, *names: str) -> None:
    """Files of unlike content."""
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)


def built(folder: Path, modality: str = "ct", **options: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    options = {"validation": 0, "min_slices": MINIMUM, **options}
    return build_list(folder, modality, tell=lines.append, **options), lines


def images(content: dict[str, Any], folder: Path, part: str = "training") -> list[str]:
    return [str(Path(entry["image"]).relative_to(folder)) for entry in content[part]]


# ------------------------------------------------------------------------------------------------------------------------ split


def test_whole_subjects_validate_in_the_share_asked_for() -> None:
    names = [f"p{n}" for n in range(40)] * 2
    chosen = {share: draw_validation(names, share, 1) for share in (0, 0.001, 0.05, 0.25)}
    assert [len(subjects) for subjects in chosen.values()] == [0, 1, 2, 10]
    assert chosen[0.001] <= chosen[0.05] <= chosen[0.25] <= set(names)
    assert draw_validation(reversed(names), 0.25, 1) == chosen[0.25] != draw_validation(names, 0.25, 2)


def test_one_more_subject_moves_at_most_one_other() -> None:
    names = [f"p{n}" for n in range(40)]
    for seed in range(5):
        before, after = draw_validation(names, 0.25, seed), draw_validation([*names, "new"], 0.25, seed)
        assert len(before ^ after) <= 2


def test_subjects_of_other_lists_stay_in_their_part() -> None:
    names, known = [f"p{n}" for n in range(10)], {"p0": "validation", "p1": "training", "elsewhere": "validation"}
    for seed in range(20):
        chosen = draw_validation(names, 0.3, seed, known=known)
        assert len(chosen) == 3 and "p0" in chosen and not {"p1", "elsewhere"} & chosen


def test_impossible_shares_are_errors() -> None:
    with pytest.raises(UserError, match="validation: got 5; expected a share of the subjects from 0 to below 1"):
        draw_validation(["a", "b"], 5)
    with pytest.raises(UserError, match=r"tree: 1 subject \(a\), of which a share of 0\.05 cannot validate; set validation to 0"):
        draw_validation(["a", "a"], 0.05, where="tree")


# ------------------------------------------------------------------------------------------------------------------------ DICOM


def test_a_dicom_tree_is_split_by_patient_with_one_entry_per_series(tmp_path: Path) -> None:
    for n in range(4):
        series(tmp_path / f"P{n}" / "study" / "s1", f"HN-{n}", UIDS[n], seed=n)
    series(tmp_path / "P0" / "study" / "s2", "HN-0", UIDS[5], seed=5)
    content, lines = built(tmp_path, validation=0.25)
    assert (len(content["training"]) + len(content["validation"]), content["left_out"]) == (5, [])
    sides = {part: {entry["subject"] for entry in content[part]} for part in ("training", "validation")}
    assert sides["training"] | sides["validation"] == {"HN-0", "HN-1", "HN-2", "HN-3"} and len(sides["validation"]) == 1
    assert not sides["training"] & sides["validation"]
    entries = {entry["id"]: entry for entry in content["training"] + content["validation"]}
    assert set(entries) == {"HN-0_01", "HN-0_02", "HN-1", "HN-2", "HN-3"}
    assert entries["HN-0_02"]["series_uid"] == UIDS[5] and entries["HN-0_02"]["modality"] == "ct"
    assert lines[-1].startswith("validation: ") and lines[-1].endswith("of 1 patients")


def test_one_patient_in_two_folders_is_one_patient(tmp_path: Path) -> None:
    for n, patient in enumerate("aab"):
        series(tmp_path / f"visit{n}", patient, UIDS[n], seed=n)
    content, _ = built(tmp_path)
    assert [entry["subject"] for entry in content["training"]] == ["a", "a", "b"]
    by_folder, _ = built(tmp_path, subject=r"(visit\d)")
    assert [entry["subject"] for entry in by_folder["training"]] == ["visit0", "visit1", "visit2"]


def test_what_is_no_scan_of_the_modality_is_left_out_with_a_line(tmp_path: Path) -> None:
    series(tmp_path / "a" / "good", "a", UIDS[0], seed=0)
    series(tmp_path / "a" / "mr", "a", UIDS[1], seed=1, **{"0008_0060": "MR"})
    series(tmp_path / "a" / "scout", "a", UIDS[2], seed=2, **{"0008_0008": "ORIGINAL\\PRIMARY\\LOCALIZER"})
    series(tmp_path / "a" / "short", "a", UIDS[3], seed=3, count=2)
    series(tmp_path / "b" / "mixed", "b", UIDS[4], seed=4)
    other = series(tmp_path / "c", "b", UIDS[5], seed=5)
    shutil.move(str(other / "CT000000.dcm"), tmp_path / "b" / "mixed" / "X.dcm")
    shutil.rmtree(other)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    content, lines = built(tmp_path)
    assert images(content, tmp_path) == ["a/good"]
    assert {row["image"] for row in content["left_out"]} == {"a/mr", "a/scout", "a/short", "b/mixed", "d"}
    text = "\n".join(lines)
    assert "LEFT OUT  a/mr: the header's modality is MR, expected CT" in text
    assert "a/scout: a localizer" in text and "a/short: 2 slices, expected at least 3 (min_slices)" in text
    assert "b/mixed: 2 series are mixed in the folder" in text and "d: " in text


def test_a_pattern_chooses_among_the_series_of_a_patient(tmp_path: Path) -> None:
    for n, name in enumerate(("T1 pre", "T1 post GD", "T2")):
        series(tmp_path / "a" / str(n), "a", UIDS[n], seed=n, **{"0008_0060": "MR", "0008_103e": name})
    content, lines = built(tmp_path, "t1ce", series="t1.*gd")
    assert images(content, tmp_path) == ["a/1"] and content["training"][0]["modality"] == "t1ce"
    assert "LEFT OUT  a/2: neither its description 'T2' nor its path fits 't1.*gd'" in lines


# ------------------------------------------------------------------------------------------------------------------- duplicates


def test_a_series_that_lies_twice_in_a_tree_is_taken_once(tmp_path: Path) -> None:
    series(tmp_path / "a" / "s", "a", UIDS[0])
    shutil.copytree(tmp_path / "a" / "s", tmp_path / "b" / "copy")
    content, lines = built(tmp_path)
    assert images(content, tmp_path) == ["a/s"]
    assert lines[0] == f"LEFT OUT  b/copy: duplicate, series {UIDS[0]} is a/s"


def test_a_luna16_file_that_is_a_lidc_idri_series_is_left_out(tmp_path: Path) -> None:
    series(tmp_path / "LIDC-IDRI" / "LIDC-IDRI-0001" / "s", "LIDC-IDRI-0001", UIDS[0])
    mhd(tmp_path / "LUNA16" / "subset0", UIDS[0], 0)
    mhd(tmp_path / "LUNA16" / "subset1", UIDS[1], 1)
    mhd(tmp_path / "LUNA16" / "seg-lungs-LUNA16", UIDS[1], 2)
    content, lines = built(tmp_path)
    assert images(content, tmp_path) == ["LIDC-IDRI/LIDC-IDRI-0001/s", f"LUNA16/subset1/{UIDS[1]}.mhd"]
    assert content["training"][1]["subject"] == UIDS[1]
    origin = "LIDC-IDRI/LIDC-IDRI-0001/s (a LUNA16 file that is a LIDC-IDRI series)"
    assert f"LEFT OUT  LUNA16/subset0/{UIDS[0]}.mhd: duplicate, series {UIDS[0]} is {origin}" in lines
    assert any("a label by its name (seg-lungs-LUNA16)" in line for line in lines)


def test_a_list_built_before_leaves_out_its_scans_and_keeps_its_patients_apart(tmp_path: Path) -> None:
    for n in range(4):
        series(tmp_path / "LIDC" / str(n), f"L{n}", UIDS[n], seed=n)
        series(tmp_path / "more" / str(n), f"L{n}", UIDS[n + 4], seed=n + 4)
    mhd(tmp_path / "LUNA16", UIDS[2], 0)
    mhd(tmp_path / "LUNA16", UIDS[8], 1)
    first = write_list(built(tmp_path / "LIDC", validation=0.5, seed=5)[0], tmp_path / "lidc.json")
    held_out = {entry["subject"] for entry in json.loads(first.read_text())["validation"]}
    content, lines = built(tmp_path / "LUNA16", against=[first])
    assert images(content, tmp_path / "LUNA16") == [f"{UIDS[8]}.mhd"]
    assert f"series {UIDS[2]} is LIDC/2 of lidc.json (a LUNA16 file that is a LIDC-IDRI series)" in lines[0]
    for seed in range(6):
        more, _ = built(tmp_path / "more", validation=0.5, seed=seed, against=[first])
        assert {entry["subject"] for entry in more["validation"]} == held_out
    with pytest.raises(UserError, match=r"against: .*gone\.json is not a list that this command wrote"):
        built(tmp_path / "LUNA16", against=[tmp_path / "gone.json"])


def test_copies_of_files_are_known_by_their_content_and_mhd_by_its_data_file(tmp_path: Path) -> None:
    files(tmp_path, "a/x.nii.gz", "b/y.nii.gz")
    shutil.copy(tmp_path / "a" / "x.nii.gz", tmp_path / "c.nii.gz")
    mhd(tmp_path / "m", "one", 7)
    mhd(tmp_path / "m", "two", 7)
    mhd(tmp_path / "m", "three", 8)
    mhd(tmp_path / "m", "zero", 9)
    (tmp_path / "m" / "zero.raw").unlink()
    content, lines = built(tmp_path)
    assert len(content["training"]) == 4
    assert "LEFT OUT  a/x.nii.gz: duplicate, same content as c.nii.gz" in lines
    assert "LEFT OUT  m/two.mhd: duplicate, same content as m/one.mhd" in lines
    assert "LEFT OUT  m/zero.mhd: its data file zero.raw is not there" in lines


# ------------------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["a.nii.gz", "b.nii.gz"], ["a", "b"]),
        (["p1/t1.nii.gz", "p1/later/t1.nii.gz", "p2/t1.nii.gz"], ["p1", "p1", "p2"]),
        (["x/sub-1_ses-1_T1w.nii", "y/sub-1_ses-2_T1w.nii"], ["sub-1", "sub-1"]),
    ],
)
def test_subjects_of_files_come_from_names_and_folders(tmp_path: Path, names: list[str], subjects: list[str]) -> None:
    files(tmp_path, *names, ".hidden/z.nii.gz", "._a.nii.gz", "labels/a.nii.gz", "a_seg.nii.gz")
    content, lines = built(tmp_path, "t1")
    assert sorted(entry["subject"] for entry in content["training"]) == subjects
    assert len({entry["id"] for entry in content["training"]}) == len(names)
    assert sum("a label by its name" in line for line in lines) == 2


def test_a_brats_tree_has_one_entry_per_contrast(tmp_path: Path) -> None:
    kinds = ("t1", "t1ce", "t2", "flair", "seg")
    files(tmp_path, *(f"T/BraTS2021_{n:05d}/BraTS2021_{n:05d}_{kind}.nii.gz" for n in range(3) for kind in kinds))
    content, _ = built(tmp_path / "T", "t1,flair")
    assert [entry["id"] for entry in content["training"][:2]] == ["BraTS2021_00000_t1", "BraTS2021_00000_flair"]
    assert len(content["training"]) == 6
    with pytest.raises(UserError, match="got ct for the BraTS tree"):
        built(tmp_path / "T", "ct")
    files(tmp_path, "plain/a.nii.gz")
    with pytest.raises(UserError, match=r"modality: got t1, t2 for .*; expected one"):
        built(tmp_path / "plain", "t1,t2")


def test_mistakes_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: no such folder; expected one with DICOM series"):
        built(tmp_path / "gone")
    files(tmp_path, "p/x_seg.nii.gz")
    with pytest.raises(
        UserError, match=r"nothing in it can be used as ct \(1 scans were left out\)\. Reasons: a label by its name \(x_seg\) \(1\)"
    ):
        built(tmp_path)
    files(tmp_path, "p/x.nii.gz")
    for pattern, message in (("(", "is not a regular expression"), ("x", "has 0 groups, expected one"), ("(q)", "finds no subject in p/x")):
        with pytest.raises(UserError, match=message):
            built(tmp_path, subject=pattern)
    with pytest.raises(UserError, match=r"expected a file that ends in \.json"):
        write_list({}, tmp_path / "list.txt")


# ---------------------------------------------------------------------------------------------------------------------- command


def test_the_command_writes_a_list_that_pre_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path, *(f"data/{name}/scan.nii.gz" for name in "abcdefghij"))
    shutil.copytree(tmp_path / "data" / "a", tmp_path / "data" / "z")
    output = tmp_path / "lists" / "ct.json"
    arguments = ["--modality", "ct", "--output", str(output), "--validation", "0.2", "--seed", "1"]
    assert main(["list", str(tmp_path / "data"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "LEFT OUT  z/scan.nii.gz: duplicate, same content as a/scan.nii.gz" in out and f"Wrote {output}" in out
    split = read_modality_lists(output)
    assert (len(split["train"]), len(split["validate"])) == (8, 2)
    before = output.read_bytes()
    assert main(["list", str(tmp_path / "data"), *arguments]) == 0 and output.read_bytes() == before
    assert main(["list", str(tmp_path / "gone"), *arguments]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert [file.name for file in output.parent.iterdir()] == ["ct.json"]


def test_paths_below_the_list_are_relative_so_that_both_can_be_moved(tmp_path: Path) -> None:
    files(tmp_path, "data/a/scan.nii.gz", "data/b/scan.nii.gz")
    content, _ = built(tmp_path / "data")
    beside = json.loads(write_list(content, tmp_path / "data" / "ct.json").read_text())
    assert [entry["image"] for entry in beside["training"]] == ["a/scan.nii.gz", "b/scan.nii.gz"]
    elsewhere = json.loads(write_list(content, tmp_path / "lists" / "ct.json").read_text())
    assert elsewhere["training"][0]["image"] == str(tmp_path / "data" / "a" / "scan.nii.gz")
    shutil.move(str(tmp_path / "data"), tmp_path / "moved")
    assert len(read_modality_lists(tmp_path / "moved" / "ct.json")["train"]) == 2


def test_several_contrasts_of_a_tree_can_be_asked_for_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path, *(f"T/BraTS2021_{n:05d}/BraTS2021_{n:05d}_{k}.nii.gz" for n in range(3) for k in ("t1", "t1ce", "t2", "flair")))
    assert main(["list", str(tmp_path / "T"), "--modality", "t1,t2", "--output", str(tmp_path / "l.json")]) == 0
    split = read_modality_lists(tmp_path / "l.json")
    assert {case["modality"] for case in split["all"]} == {"t1", "t2"} and len(split["validate"]) == 2
    assert "Wrote" in capsys.readouterr().out
