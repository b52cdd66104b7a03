"""IXI's spreadsheet of people: age, sex and ethnicity by number, from .xls, .xlsx or .csv (no reader in MONAI; pandas is no dependency)."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common.data.cases import Case, some
from common.data.scan_facts import EMPTY
from common.errors import UserError

COLUMNS: Final = {"ethnicity": "ETHNIC_ID", "sex": "SEX_ID", "age": "AGE"}
"""Facts and the beginning of their columns; the public file writes ``SEX_ID (1=m, 2=f)``."""
SEXES: Final = {1: "m", 2: "f"}
ENDINGS: Final = (".csv", ".xlsx", ".xls")
"""Forms of the spreadsheet, the first that is there wins: who saved a CSV wants it read."""
_logger = logging.getLogger("brain_bundles")


@dataclass
class People:
    """What a spreadsheet says.

    Attributes:
        facts: by number (``IXI_ID``) those of ``age`` (years), ``sex`` ("m", "f") and ``ethnicity`` (code, 1 is white) that are known.
        rows: number of rows.
        repeated: numbers with several equal rows.
        contradicted: numbers whose rows say different things; what they disagree on is not in ``facts``.
    """

    facts: dict[int, Case] = field(default_factory=dict)
    rows: int = 0
    repeated: list[int] = field(default_factory=list)
    contradicted: list[int] = field(default_factory=list)


def find_people(root: Path) -> Path | None:
    """The spreadsheet ``IXI.csv``, ``IXI.xlsx`` or ``IXI.xls`` in a folder or one level up; None where there is none."""
    for folder in (root, Path(root).absolute().parent):
        there = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
        found = next((there[f"ixi{ending}"] for ending in ENDINGS if f"ixi{ending}" in there), None)
        if found is not None:
            return found
    return None


def read_people(file: Path) -> People:
    """Facts of all people; rows of one number are put together, with a warning where they contradict each other.

    In coded columns 0 is missing, as in an empty cell.

    Args:
        file: the spreadsheet; of a workbook the first sheet.

    Raises:
        UserError: a file that cannot be read here (the text says what to install), columns that are missing, or a cell that is no number.
    """
    header, *rows = _sheet(file)
    places = _columns(header, file)
    people, said = People(rows=len(rows)), dict[int, list[Case]]()
    for line, row in enumerate(rows, start=2):
        cells = {name: row[place] if place < len(row) else "" for name, place in places.items()}
        number = _number(cells.pop("IXI_ID"), "IXI_ID", f"{file}: row {line}")
        if number is not None:
            said.setdefault(int(number), []).append(_facts(cells, f"{file}: row {line}"))
    for number, several in said.items():
        values = {name: {facts[name] for facts in several if name in facts} for name in COLUMNS}
        people.facts[number] = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
        if any(len(found) > 1 for found in values.values()):
            people.contradicted.append(number)
        elif len(several) > 1:
            people.repeated.append(number)
    if people.contradicted:
        _logger.warning(
            "%s: %d numbers have rows that contradict each other; age, sex and ethnicity are taken only where they agree: %s",
            *(file, len(people.contradicted), some(f"IXI{number:03d}" for number in people.contradicted)),
        )
    return people


def _facts(cells: dict[str, Any], where: str) -> Case:
    """What one row knows."""
    numbers = {name: _number(cells[name], COLUMNS[name], where) for name in COLUMNS}
    known: Case = {name: value for name, value in numbers.items() if value}  # 0 is missing
    if "sex" in known:
        if known["sex"] not in SEXES:
            raise UserError(f"{where}: SEX_ID is {known['sex']:g}; expected 1 (m), 2 (f), or 0 where it is not known.")
        known["sex"] = SEXES[int(known["sex"])]
    if "ethnicity" in known:
        known["ethnicity"] = int(known["ethnicity"])
    return known


def _columns(header: Sequence[Any], file: Path) -> dict[str, int]:
    """Place of each column that is wanted."""
    names = [str(cell or "").split("(")[0].strip().upper() for cell in header]
    wanted = {"IXI_ID": "IXI_ID", **COLUMNS}
    missing = [column for column in wanted.values() if column not in names]
    if missing:
        raise UserError(f"{file}: no column {some(missing)}; found {some(filter(None, names), 14)}. Expected IXI's own table.")
    return {name: names.index(column) for name, column in wanted.items()}


def _number(cell: Any, column: str, where: str) -> float | None:
    """A cell as a number, None where it is empty."""
    text = str("" if cell is None else cell).strip()
    if text.lower() in EMPTY:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {column} is {text!r}; expected a number, or an empty cell where it is not known.")
    return value


def _sheet(file: Path) -> list[list[Any]]:
    """Rows of the first sheet, the header first; blank rows are left out."""
    rows = {".csv": _read_csv, ".xlsx": _read_xlsx, ".xls": _read_xls}[file.suffix.lower()](file)
    rows = [row for row in rows if any(str("" if cell is None else cell).strip() for cell in row)]
    if len(rows) < 2:
        raise UserError(f"{file}: no rows; expected IXI's table with a header and one row per person.")
    return rows


def _read_csv(file: Path) -> list[list[Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a table in UTF-8 ({error}); save it as CSV in UTF-8.") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


def _read_xls(file: Path) -> list[list[Any]]:
    try:
        import xlrd
    except ImportError as error:
        raise _no_engine(file, "xlrd") from error
    try:
        sheet = xlrd.open_workbook(str(file)).sheet_by_index(0)
    except (xlrd.XLRDError, OSError) as error:
        raise UserError(f"{file}: not a workbook that can be read ({error}); save its first sheet as IXI.csv.") from error
    return [sheet.row_values(row) for row in range(sheet.nrows)]


def _read_xlsx(file: Path) -> list[list[Any]]:
    try:
        import openpyxl
    except ImportError as error:
        raise _no_engine(file, "openpyxl") from error
    try:
        sheet = openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets[0]
    except Exception as error:  # its errors are those of zip and XML, of many kinds
        raise UserError(f"{file}: not a workbook that can be read ({error}); save its first sheet as IXI.csv.") from error
    return [list(row) for row in sheet.iter_rows(values_only=True)]


def _no_engine(file: Path, package: str) -> UserError:
    return UserError(
        f"{file}: reading a {file.suffix} needs {package}, which is not installed: pip install {package}, or open the file in any"
        f" spreadsheet program and save its first sheet as {file.with_name('IXI.csv')}."
    )
