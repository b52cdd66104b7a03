from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.table import read_table
from common.errors import UserError

INPUTS = ("adc", "zadc")


@pytest.fixture
def volumes(touch: Callable[..., None]) -> None:
    touch("a,1.nii", "z.nii", "l.nii", "t/own.csv")


def write(folder: Path, text: str, name: str = "own.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_a_row_becomes_a_case(tmp_path: Path, volumes: None) -> None:
    path = write(tmp_path, 'subject,session,adc,zadc,label,age,fold,remark\ns1,v2,"a,1.nii",z.nii,l.nii,3.5,1,fine\n')
    assert read_table(path, INPUTS, labelled=True) == [
        {
            "id": "s1_v2",
            "subject": "s1",
            "image": [str(tmp_path / "a,1.nii"), str(tmp_path / "z.nii")],
            "label": str(tmp_path / "l.nii"),
            "fold": 1,
            "age": 3.5,
        }
    ]


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("own.csv", "subject,ADC,ZADC\r\ns1,z.nii,z.nii\r\n\r\n", "utf-8-sig"),
        ("own.csv", "Subject;adc;zadc\ns1;z.nii;z.nii", "utf-8"),
        ("own.tsv", "zadc\tsubject\tadc\nz.nii\ts1\tz.nii\n", "utf-8"),
        ("own.csv", "subject,session,adc,zadc,label,age\ns1,n/a, z.nii ,z.nii,,NA\n", "utf-8"),
    ],
)
def test_what_spreadsheets_write_is_read_alike(tmp_path: Path, volumes: None, name: str, text: str, encoding: str) -> None:
    write(tmp_path, text, name, encoding)
    assert read_table(tmp_path, INPUTS) == [{"id": "s1", "subject": "s1", "image": [str(tmp_path / "z.nii")] * 2}]


def test_relative_paths_start_at_the_table(tmp_path: Path, volumes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "t", "subject,image\ns1,../z.nii\n")
    monkeypatch.chdir(tmp_path)
    assert read_table("t", INPUTS)[0]["image"] == str(tmp_path / "z.nii")


def test_the_order_of_the_inputs_is_the_callers(tmp_path: Path, volumes: None) -> None:
    path = write(tmp_path, "subject,zadc,adc\ns1,z.nii,l.nii\n")
    assert read_table(path, ("adc", "zadc"))[0]["image"] == [str(tmp_path / "l.nii"), str(tmp_path / "z.nii")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,adc\ns1,z.nii\n", r"no column zadc; found subject, adc\. Expected subject, session"),
        ("id,adc,zadc\ns1,z.nii,z.nii\n", "no column subject; found id, adc, zadc"),
        ("subject,adc,zadc\n", r"own\.csv: no rows"),
        ("subject,adc,zadc\ns1,z.nii,\n", r"line 2: the column zadc is empty"),
        ("subject,adc,zadc\ns1,a,1.nii,z.nii\n", r"line 2 has 4 cells, the header 3; put cells that hold commas in double quotes"),
        ("subject,adc,zadc\ns1,gone.nii,z.nii\n", r"line 2: names gone\.nii, but"),
        ("subject,adc,adc\ns1,z.nii,z.nii\n", "the column adc occurs twice"),
        ("subject,adc,zadc,fold\ns1,z.nii,z.nii,-1\n", "line 2: the fold '-1' is not an integer"),
        ("subject,adc,zadc,age\ns1,z.nii,z.nii,two\n", "line 2: the age 'two' is not a number"),
        ("subject,adc,zadc\ns1,z.nii,z.nii\ns1,l.nii,z.nii\n", "the case s1 occurs more than once; give each visit its own id or session"),
    ],
)
def test_mistakes_name_the_table_and_the_line(tmp_path: Path, volumes: None, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path, text), INPUTS)


def test_a_foreign_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a table in UTF-8"):
        read_table(write(tmp_path, "subject,adc,zadc\nMüller,z,z\n", encoding="latin-1"), INPUTS)


def test_a_folder_must_hold_exactly_one_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.csv or \.tsv file"):
        read_table(tmp_path, INPUTS)
    write(tmp_path, "x", "a.csv")
    write(tmp_path, "x", "b.tsv")
    with pytest.raises(UserError, match=r"2 tables \(a\.csv, b\.tsv\); expected one"):
        read_table(tmp_path, INPUTS)
