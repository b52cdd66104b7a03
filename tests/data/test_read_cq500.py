from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.__main__ import main
from common.data.check import check_dataset
from common.data.cq500 import is_cq500, read_cq500, selection_manifest, write_manifest
from common.data.cq500_reads import case_number, read_reads, truth_of
from common.data.dataset import detect_form, find_cases, is_simulated
from common.errors import UserError
from tests.data.ct_on_disk import head_like, straight, write_series

ITEMS = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "BleedLocation-Right", "ChronicBleed", "Fracture",
         "CalvarialFracture", "OtherFracture", "MassEffect", "MidlineShift")  # fmt: skip


def write_reads(file: Path, **scans: dict[str, str]) -> Path:
    """reads.csv of scans ``n0``, ``n1``, ...: item -> answers of the readers such as "011"; 0 where not named."""
    header = ["name", "Category", *(f"R{reader}:{item}" for reader in (1, 2, 3) for item in ITEMS)]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        for name, items in scans.items():
            row = {f"R{reader}:{item}": items.get(item, "000")[reader - 1].strip() for reader in (1, 2, 3) for item in ITEMS}
            writer.writerow({"name": f"CQ500-CT-{name[1:]}", "Category": "B1", **row})
    return file


def write_scan(folder: Path, step: float = 5.0) -> Path:
    slices = [np.pad(pixels, 24, constant_values=-1000) for pixels in head_like((12, 12))]
    return write_series(folder, slices, straight(np.arange(26) * step))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three scans: healthy, bleeding on the right, and one whose only series has contrast."""
    root = tmp_path / "CQ500"
    write_scan(root / "CQ500CT0 CQ500CT0" / "Unknown Study" / "CT Plain")
    write_scan(root / "CQ500CT0 CQ500CT0" / "Unknown Study" / "CT PLAIN THIN", 4.0)
    write_scan(root / "CQ500CT12 CQ500CT12" / "CT 5mm")  # without the middle folder
    write_scan(root / "CQ500CT7 CQ500CT7" / "Unknown Study" / "CT POST CONTRAST")
    write_reads(
        root / "reads.csv",
        n0={"MassEffect": "110", "ICH": "100"},
        n12={"ICH": "111", "BleedLocation-Right": "101", "BleedLocation-Left": "010", "CalvarialFracture": "110"},
        n7={},
        n99={},
    )
    return root


def test_a_tree_gives_one_series_per_scan_and_the_majority_of_the_readers(tree: Path) -> None:
    assert is_cq500(tree) and detect_form(tree, "cq500") == "layout"
    first, second = find_cases(tree, "cq500", ("ct",), labelled=True)
    assert first == {
        "id": "CQ500-CT-0",
        "subject": "CQ500-CT-0",
        "image": [str(tree / "CQ500CT0 CQ500CT0" / "Unknown Study" / "CT PLAIN THIN")],
        "findings": {"bleed_left": 0, "bleed_right": 0, "fracture": 0},
        "reads": {"bleed_left": [0, 0, 0], "bleed_right": [0, 0, 0], "fracture": [0, 0, 0]},
        "healthy": True,
    }
    assert second["findings"] == {"bleed_left": 0, "bleed_right": 1, "fracture": 0}
    assert second["reads"]["bleed_right"] == [1, 0, 1]
    assert second["healthy"] is False


def test_the_fracture_column_is_an_option_and_health_looks_at_any_fracture(tree: Path) -> None:
    assert read_cq500(tree, fracture_column="CalvarialFracture")[1]["findings"]["fracture"] == 1
    answers = {item: [0, 0, 0] for item in ITEMS} | {"Fracture": [1, 1, 0]}
    truth = truth_of(answers, "CalvarialFracture")
    assert (truth["findings"]["fracture"], truth["healthy"]) == (0, False)
    with pytest.raises(UserError, match="fracture_column: got 'Skull'; expected Fracture or CalvarialFracture"):
        read_cq500(tree, fracture_column="Skull")


@pytest.mark.parametrize("item", ["ICH", "SDH", "BleedLocation-Left", "ChronicBleed", "Fracture"])
def test_any_bleeding_or_fracture_seen_by_two_readers_is_not_healthy(item: str) -> None:
    blank = {name: [0, 0, 0] for name in ITEMS}
    assert truth_of(blank)["healthy"] is True
    assert truth_of(blank | {item: [0, 1, 0]})["healthy"] is True
    assert truth_of(blank | {item: [0, 1, 1]})["healthy"] is False
    assert truth_of(blank | {"MassEffect": [1, 1, 1]})["healthy"] is True
    del blank["ICH"]
    assert "healthy" not in truth_of(blank)


@pytest.mark.parametrize("root", [".", "CQ500CT0 CQ500CT0", ".."])
def test_the_folder_above_and_one_scan_alone_are_read_too(tree: Path, root: str) -> None:
    cases = read_cq500(tree / root)
    assert cases[0]["id"] == "CQ500-CT-0"
    assert cases[0]["healthy"] is True
    assert len(cases) == (1 if root.startswith("CQ") else 2)


def test_archives_unpacked_one_level_deeper_are_joined(tmp_path: Path) -> None:
    write_scan(tmp_path / "CQ500-CT-3" / "CQ500CT3 CQ500CT3" / "Unknown Study" / "CT Plain")
    write_scan(tmp_path / "B2" / "CQ500CT4 CQ500CT4" / "Unknown Study" / "CT Plain")
    assert [case["id"] for case in read_cq500(tmp_path)] == ["CQ500-CT-3", "CQ500-CT-4"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("CQ500CT12 CQ500CT12", 12), ("CQ500-CT-12", 12), ("cq500_ct_3", 3), ("CQ500 CT 4", 4), ("CQ500CT0", 0), ("CT12", None), ("x", None)],
)
def test_scans_are_joined_by_the_digits_of_their_names(name: str, number: int | None) -> None:
    assert case_number(name) == number


def test_without_reads_there_are_cases_but_no_findings(tree: Path) -> None:
    (tree / "reads.csv").unlink()
    cases = read_cq500(tree)
    assert [sorted(case) for case in cases] == [["id", "image", "subject"]] * 2
    with pytest.raises(
        UserError, match=r"(?s)no reads\.csv in it, which holds the readers' findings; put CQ500's reads\.csv.*Unknown Study/"
    ):
        read_cq500(tree, labelled=True)


def test_scans_that_are_not_in_reads_are_left_out_where_findings_are_needed(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_reads(tree / "reads.csv", n12={})
    with caplog.at_level(logging.WARNING):
        assert [case["id"] for case in read_cq500(tree, labelled=True)] == ["CQ500-CT-12"]
    assert "1 scans are not in reads.csv, left out: CQ500-CT-0" in caplog.text
    assert "1 scans without a usable series are left out: CQ500-CT-7" in caplog.text
    assert len(read_cq500(tree)) == 2


def test_simulated_truth_is_attached_and_the_cohort_known_from_an_image(tree: Path) -> None:
    (tree / "truth").mkdir()
    (tree / "truth" / "CQ500-CT-12.nii.gz").touch()
    (tree / "SIMULATED.txt").touch()
    healthy, bleeding = read_cq500(tree)
    assert "truth" not in healthy
    assert bleeding["truth"] == str(tree / "truth" / "CQ500-CT-12.nii.gz")
    assert is_simulated(healthy["image"][0]) and is_simulated(tree)


def test_the_manifest_tells_of_every_series(tree: Path, tmp_path: Path) -> None:
    rows = selection_manifest(tree)
    assert [(row["case"], Path(row["series"]).name, row["decision"], row["reason"]) for row in rows] == [
        ("CQ500-CT-0", "CT PLAIN THIN", "kept", "the best usable series"),
        ("CQ500-CT-0", "CT Plain", "dropped", "thicker slices: CT PLAIN THIN is preferred"),
        ("CQ500-CT-7", "CT POST CONTRAST", "dropped", "contrast"),
        ("CQ500-CT-12", "CT 5mm", "kept", "the best usable series"),
    ]
    assert (rows[0]["slices"], rows[0]["spacing_mm"], rows[0]["extent_mm"]) == (26, 4.0, 104.0)
    lines = write_manifest(rows, tmp_path / "m.csv").read_text().splitlines()
    assert lines[0] == "case,series,description,slices,spacing_mm,extent_mm,tilt_deg,decision,reason"
    assert str(tree) not in "".join(lines)


def test_the_check_counts_explains_and_writes_the_manifest(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = "\n".join(f"{finding.level}: {finding.text}" for finding in check_dataset("cq500", tree))
    for line in (
        "note: 3 scans; the public release has 491",
        "note: 1 scans in reads.csv without a folder: CQ500-CT-99",
        "ok: 4 series, 2 kept, one per scan",
        "note: case CQ500-CT-7: left out, CQ500CT7 CQ500CT7/Unknown Study/CT POST CONTRAST: contrast",
        "note: case CQ500-CT-0: counts as healthy (no bleeding, no fracture) with MassEffect",
        "ok: 1 healthy of 2 cases with readers; 0 bleed_left, 1 bleed_right, 0 fracture",
        "ok: 2 of 2 complete cases can be used",
    ):
        assert line in texts, line
    assert main(["check", "cq500", str(tree)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Wrote cq500_series.csv"
    assert main(["check", "cq500", str(tree), "--manifest", "own/m.csv"]) == 0
    assert len((tmp_path / "own" / "m.csv").read_text().splitlines()) == 5


def test_the_check_names_a_damaged_slice_and_goes_on(tree: Path) -> None:
    file = tree / "CQ500CT12 CQ500CT12" / "CT 5mm" / "CT000003.dcm"
    content = bytearray(file.read_bytes())
    file.write_bytes(content[: len(content) - 3000])
    texts = [finding.text for finding in check_dataset("cq500", tree)]
    assert any("CQ500-CT-12: left out" in text and "CT000003.dcm" in text and "damaged" in text for text in texts)
    assert "1 of 1 complete cases can be used" in texts


def test_mistakes_in_reads_name_the_line(tmp_path: Path) -> None:
    file = write_reads(tmp_path / "reads.csv", n1={"ICH": "1x0"})
    with pytest.raises(UserError, match=r"reads\.csv: line 2: ICH is 'x'; expected 0 or 1 from every reader"):
        read_reads(file)
    file.write_text(write_reads(file, n1={}).read_text() + "CQ500-CT-1,B1\n")
    with pytest.raises(UserError, match="line 3: 'CQ500-CT-1' is there twice"):
        read_reads(file)
    file.write_text("name,R1:ICH\nCQ500-CT-1,0\n")
    with pytest.raises(UserError, match=r"no column R1:BleedLocation-Left, .* Expected the reads.csv of CQ500"):
        read_reads(file)


def test_an_answer_that_is_missing_leaves_the_item_out(tmp_path: Path) -> None:
    answers = read_reads(write_reads(tmp_path / "reads.csv", n1={"Fracture": "1 1"}))[1]
    assert "Fracture" not in answers
    assert "healthy" not in truth_of(answers) and set(truth_of(answers)["findings"]) == {"bleed_left", "bleed_right"}


def test_other_folders_are_refused_with_the_tree(tmp_path: Path, touch: Callable[..., None]) -> None:
    touch("photos/a.jpg")
    assert not is_cq500(tmp_path)
    with pytest.raises(UserError, match=r"(?s)no scans of CQ500: it holds photos\. Expected\nCQ500/.*CQ500CT<n> CQ500CT<n>/"):
        read_cq500(tmp_path)
    with pytest.raises(UserError, match="gone: no such folder; expected"):
        read_cq500(tmp_path / "gone")
    (tmp_path / "CQ500CT1 CQ500CT1").mkdir()
    with pytest.raises(UserError, match=r"no scan has a series that can be used: no DICOM files\. Run: python -m common.data check cq500"):
        read_cq500(tmp_path)
