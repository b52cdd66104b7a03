from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from common.data.bids import read_bids
from common.data.check import check_dataset
from common.data.dataset import detect_form, find_cases, get_layout
from common.data.decathlon import read_datalist
from common.data.ixi import FACTS, index_cases, is_ixi, read_ixi
from common.data.ixi_people import find_people, read_people
from common.data.scan_facts import sex_letter
from common.data.table import read_table
from common.errors import UserError

Touch = Callable[..., None]
HEADER = 'IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,WEIGHT,ETHNIC_ID,MARITAL_ID,OCCUPATION_ID,QUALIFICATION_ID,DOB,DATE_AVAILABLE,STUDY_DATE,AGE'


def row(number: int, sex: int = 1, ethnicity: int = 1, age: str = "") -> str:
    return f"{number},{sex},170,0,{ethnicity},0,0,0,1970-01-01,1,2005-11-18,{age}"


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


@pytest.fixture
def tree(tmp_path: Path, touch: Touch) -> Path:
    """Three volumes of two sites, masks of one, and a table with a row too many."""
    names = ("IXI002-Guys-0828-T1", "IXI012-HH-1211-T1", "IXI131-HH-1527-T1")
    touch(*(f"IXI-T1/{name}.nii.gz" for name in names), "IXI-T1/IXI002-Guys-0828-T2.nii.gz", "IXI-T1/._IXI002-Guys-0828-T1.nii.gz")
    touch("IXI-T1/brains/IXI002-Guys-0828-T1-brain.nii.gz", "IXI-T1/lesions/IXI131-HH-1527-T1-lesion.nii.gz")
    table(tmp_path / "IXI.csv", row(2, 2, 1, "35.80"), row(12, 1, 3, ""), row(12, 1, 3, ""), row(700, 2, 1, "50.0"))
    return tmp_path / "IXI-T1"


def test_each_volume_is_a_case_with_what_the_spreadsheet_says(tree: Path) -> None:
    first, second, third = read_ixi(tree)
    assert first == {
        "id": "IXI002-Guys-0828-T1", "subject": "IXI002", "image": [str(tree / "IXI002-Guys-0828-T1.nii.gz")], "site": "Guys",
        "age": 35.8, "sex": "f", "ethnicity": 1, "brain": str(tree / "brains" / "IXI002-Guys-0828-T1-brain.nii.gz"),
    }  # fmt: skip
    assert (second["sex"], second["ethnicity"], "age" in second) == ("m", 3, False)
    assert third["label"] == str(tree / "lesions" / "IXI131-HH-1527-T1-lesion.nii.gz")
    assert not {"age", "sex", "ethnicity"} & set(third) and third["site"] == "HH"
    assert json.loads(json.dumps(first)) == first


def test_what_is_missing_or_double_is_one_line(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_ixi(tree)
    (line,) = [record.message for record in caplog.records if record.name == "brain_bundles"]
    assert line.endswith(
        "IXI-T1: 1 volumes without a row; 1 numbers without a volume; 1 numbers with equal rows; 2 volumes without age; 1 volumes without"
        " sex; 1 volumes without ethnicity"
    )


def test_the_folder_above_is_taken_too_and_two_such_folders_are_named(tree: Path, touch: Touch) -> None:
    assert is_ixi(tree.parent) and detect_form(tree.parent, "ixi") == "layout"
    assert find_cases(tree.parent, "ixi", ("t1",)) == read_ixi(tree)
    touch("again/IXI002-Guys-0828-T1.nii.gz")
    with pytest.raises(UserError, match=r"holds 2 IXI T1 trees \(IXI-T1, again\); give one of them"):
        read_ixi(tree.parent)


def test_the_spreadsheet_is_found_in_the_folder_or_above_and_a_csv_wins(tree: Path) -> None:
    assert find_people(tree) == tree.parent / "IXI.csv"
    (tree.parent / "IXI.xls").touch()
    assert find_people(tree) == tree.parent / "IXI.csv", "who saved a CSV wants it read"
    table(tree / "ixi.csv", row(2))
    assert find_people(tree) == tree / "ixi.csv"


def test_a_folder_without_a_spreadsheet_is_read_and_says_so(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree.parent / "IXI.csv").unlink()
    with caplog.at_level(logging.INFO):
        assert all("age" not in case for case in read_ixi(tree))
    assert "no IXI.xls, IXI.xlsx or IXI.csv beside or above the volumes" in caplog.text


def test_other_folders_show_the_tree_that_was_expected(tmp_path: Path, touch: Touch) -> None:
    touch("x/IXI002-Guys-0828-T2.nii.gz", "x/IXI2-Guys-0828-T1.nii.gz")
    assert not is_ixi(tmp_path)
    with pytest.raises(UserError, match=r"not IXI's T1: it holds IXI002-Guys-0828-T2.nii.gz, IXI2-.*Expected\nIXI-T1/ "):
        read_ixi(tmp_path / "x")
    with pytest.raises(UserError, match="no such folder; expected\nIXI-T1/"):
        read_ixi(tmp_path / "nowhere")


def test_lesions_of_all_can_be_asked_for(tree: Path) -> None:
    with pytest.raises(UserError, match="2 of 3 cases have no label"):
        read_ixi(tree, labelled=True)


# ----------------------------------------------------------------------------------------------------------- the spreadsheet


def test_rows_that_contradict_keep_what_they_agree_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(5, 1, 1, "30.0"), row(5, 1, 3, "31.5"), row(6, 2, 1, "40"), row(6, 2, 0, ""), row(7, 1, 1, "20"), row(7, 1, 1, "20.0")]
    with caplog.at_level(logging.WARNING):
        people = read_people(table(tmp_path / "IXI.csv", *rows))
    assert people.facts[5] == {"sex": "m"}, "age and ethnicity differ"
    assert people.facts[6] == {"sex": "f", "ethnicity": 1, "age": 40.0}, "a cell that is missing contradicts nothing"
    assert (people.contradicted, people.repeated, people.rows) == ([5], [6, 7], 6)
    assert "1 numbers have rows that contradict each other; age, sex and ethnicity are taken only where they agree: IXI005" in caplog.text


def test_zero_is_missing_in_coded_columns_and_empty_cells_in_all(tmp_path: Path) -> None:
    people = read_people(table(tmp_path / "IXI.csv", row(5, 0, 0, "0"), row(6, 2, 4, "n/a"), ",,,,,,,,,,,"))
    assert people.facts == {5: {}, 6: {"sex": "f", "ethnicity": 4}}


def test_semicolons_and_decimal_commas_of_other_languages_are_read(tmp_path: Path) -> None:
    file = tmp_path / "IXI.csv"
    file.write_text(HEADER.replace(",", ";") + "\n" + row(5, 1, 1, "30,5").replace(",", ";", 11) + "\n")
    assert read_people(file).facts == {5: {"sex": "m", "ethnicity": 1, "age": 30.5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IXI_ID,AGE\n2,30\n", r"no column ETHNIC_ID, SEX_ID; found IXI_ID, AGE. Expected IXI's own table"),
        (f"{HEADER}\n{row(2, 3)}\n", "row 2: SEX_ID is 3; expected 1"),
        (f"{HEADER}\n{row(2, 1, 1, 'old')}\n", "row 2: AGE is 'old'; expected a number, or an empty cell"),
        (f"{HEADER}\n", "no rows; expected IXI's table"),
    ],
)
def test_mistakes_in_the_spreadsheet_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "IXI.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_people(tmp_path / "IXI.csv")


@pytest.mark.parametrize(("ending", "package"), [("xls", "xlrd"), ("xlsx", "openpyxl")])
def test_a_workbook_without_its_reader_says_what_to_install(
    ending: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"IXI.{ending}").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"needs {package}, which is not installed: pip install {package}, or open .* as .*IXI.csv"):
        read_people(tmp_path / f"IXI.{ending}")


def test_a_workbook_is_read_with_its_numbers_as_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        HEADER.replace('"SEX_ID (1=m, 2=f)"', "SEX_ID").split(","),
        [2.0, 2.0, 164.0, 58.0, 1.0, 4.0, 1.0, 5.0, 26000.0, 1.0, 38674.0, 35.80013689],
    ]
    sheet = SimpleNamespace(nrows=2, row_values=cells.__getitem__)
    book = SimpleNamespace(sheet_by_index=lambda number: sheet)
    monkeypatch.setitem(sys.modules, "xlrd", SimpleNamespace(open_workbook=lambda path: book, XLRDError=KeyError))
    (tmp_path / "IXI.xls").touch()
    assert read_people(tmp_path / "IXI.xls").facts == {2: {"sex": "f", "ethnicity": 1, "age": 35.80013689}}


# ------------------------------------------------------------------------------------------------------------ own data and check


def test_own_data_give_the_same_facts_by_table_bids_and_datalist(tmp_path: Path, touch: Touch) -> None:
    facts = get_layout("ixi").facts
    assert set(FACTS) - {"age"} < set(facts), "the age is read by all forms in any case"
    touch("a.nii.gz", "m.nii.gz", "bids/sub-01/anat/sub-01_t1.nii.gz")
    (tmp_path / "cases.csv").write_text("subject,t1,age,gender,ethnicity,site,mask\nA,a.nii.gz,34,F,1,Leeds,m.nii.gz\nB,a.nii.gz,,,,,\n")
    first, second = read_table(tmp_path / "cases.csv", ("t1",), facts=facts)
    assert {key: first[key] for key in FACTS} == {"age": 34.0, "sex": "F", "ethnicity": 1, "site": "Leeds"}
    assert first["brain"] == str(tmp_path / "m.nii.gz") and not {*FACTS, "brain"} & set(second)
    (tmp_path / "bids" / "participants.tsv").write_text("participant_id\tage\tsex\tethnicity\tsite\nsub-01\t34\tF\t1\tLeeds\n")
    (case,) = read_bids(tmp_path / "bids", ("t1",), facts=facts)
    assert {key: case[key] for key in FACTS} == {key: first[key] for key in FACTS}
    item = {"image": "a.nii.gz", "age": 34, "sex": "F", "ethnicity": 1, "site": "Leeds", "brain": "m.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [item]}))
    (case,) = read_datalist(tmp_path, facts=facts)
    assert {key: case[key] for key in FACTS} == {key: first[key] for key in FACTS}


def test_spellings_of_sex_become_one_letter() -> None:
    assert [sex_letter(text) for text in ("M", "male", "m", "F", "Female", "woman", "", None, "1", "other")] == [
        *"mmmfff", None, None, None, None,
    ]  # fmt: skip


def test_the_check_counts_volumes_and_looks_at_each(tmp_path: Path) -> None:
    psr = np.array([[0, 0, 1.2, 0], [-0.94, 0, 0, 0], [0, 0.94, 0, 0], [0, 0, 0, 1]])
    for name, values, affine in (
        ("IXI002-Guys-0828-T1", np.arange(60), psr),
        ("IXI012-HH-1211-T1", np.zeros(60), np.diag([2.0, 1, 1, 1])),
    ):
        nibabel.save(nibabel.Nifti1Image(values.reshape(5, 4, 3).astype(np.int16), affine), tmp_path / f"{name}.nii.gz")
    table(tmp_path / "IXI.csv", row(2, 2, 1, "35.8"), row(12, 1, 1, "12"))
    texts = [f"{finding.level}: {finding.text}" for finding in check_dataset("ixi", tmp_path)]
    assert "note: 2 volumes; the public release has 581" in texts
    assert "note: case IXI012-HH-1211-T1: age 12; expected 18 to 90 years" in texts
    assert "ok: sites: Guys (1), HH (1)" in texts
    odd = [text for text in texts if "case IXI012-HH-1211-T1: " in text][1:]
    assert [text.split(": ")[2].split(";")[0] for text in odd] == ["spacing 2 x 1 x 1 mm", "voxel axes RAS", "the image is empty"]
    assert not any("case IXI002" in text for text in texts)
    assert len(index_cases(tmp_path)[0]) == 2
