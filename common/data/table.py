"""Read own data from a CSV or TSV: one row per case, one column per input."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from common.data.cases import Case, existing, finish_cases, parse_age, parse_fold, some
from common.data.scan_facts import EMPTY, scan_facts
from common.errors import UserError


def read_table(
    path: str | os.PathLike[str], inputs: Sequence[str], labelled: bool = False, findings: Sequence[str] = (), facts: Sequence[str] = ()
) -> list[Case]:
    """Cases of a table with the columns ``subject``, optional ``session``, one per input (or ``image``, a file that holds all inputs),
    and optional ``label``, ``age``, ``fold``. Other columns are ignored; capitals do not matter.

    Args:
        path: the table, or a folder that holds exactly one; relative paths in it start at the table's folder. UTF-8, with or without
            byte order mark; columns parted by tab (``.tsv``), comma or semicolon; cells with such a sign in double quotes.
        inputs: names of the columns with the inputs, in the method's channel order.
        labelled: whether every case must have a label.
        findings: names of optional columns with what readers found, 0 or 1; where there are any, also ``healthy``. A case is healthy where
            that column says so, and without it where all findings are known and 0.
        facts: what else to take from optional columns, such as ``brain`` (a file; the column may be called ``mask``) and
            ``head_circumference_cm`` (or ``head_circumference``); see ``common.data.scan_facts``.

    Returns:
        Cases sorted by id, ``<subject>`` or ``<subject>_<session>``.

    Raises:
        UserError: columns, cells or files are missing; the text names the table and the line.
    """
    file = find_table(path)
    header, rows = _read_rows(file)
    whole = "image" in header and not all(name.lower() in header for name in inputs)
    needed = ["subject", *(["image"] if whole else [name.lower() for name in inputs])]
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(
            f"{file}: no column {some(missing)}; found {some(header, 20)}. Expected subject, session (optional), {', '.join(inputs)}"
            " (or image: a 4D file that holds them all), label, age and fold (optional)."
        )
    cases = []
    for number, row in rows:
        where = f"{file}: line {number}"
        cases.append(_case(row, needed[1:], whole, file, number) | _findings(row, findings, where))
        cases[-1] |= scan_facts(row, facts, file.parent, where)
    return finish_cases(cases, file, labelled)


def find_table(path: str | os.PathLike[str]) -> Path:
    """The table itself: a file, or the only one in a folder.

    Raises:
        UserError: none, or several.
    """
    place = Path(path)
    if place.is_file():
        return place
    tables = sorted(file for file in place.glob("*") if file.suffix.lower() in (".csv", ".tsv") and not file.name.startswith("."))
    if len(tables) != 1:
        found = f"{len(tables)} tables ({some(table.name for table in tables)})" if tables else "no .csv or .tsv file"
        raise UserError(f"{place}: {found}; expected one, or give the path of the table itself.")
    return tables[0]


def _read_rows(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header in lower case, and rows with their line numbers; blank lines are left out."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=_delimiter(file, first))
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a table in UTF-8 ({error}); save it as CSV in UTF-8.") from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if len(lines) < 2:
        raise UserError(f"{file}: no rows; expected a header and one row per case.")
    header = [cell.lower() for cell in lines[0][1]]
    double = sorted({name for name in header if name and header.count(name) > 1})
    if double:
        raise UserError(f"{file}: the column {some(double)} occurs twice; rename or remove one.")
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise UserError(
                f"{file}: line {number} has {len(cells)} cells, the header {len(header)}; put cells that hold commas in double quotes."
            )
    return header, [(number, dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))) for number, cells in lines[1:]]


def _delimiter(file: Path, first: str) -> str:
    if file.suffix.lower() == ".tsv" or "\t" in first:
        return "\t"
    # spreadsheets in many languages write semicolons
    return ";" if first.count(";") > first.count(",") else ","


def _case(row: dict[str, str], columns: Sequence[str], whole: bool, file: Path, number: int) -> Case:
    where = f"{file}: line {number}"
    cells = {name: cell for name, cell in row.items() if cell.lower() not in EMPTY}
    empty = [name for name in ("subject", *columns) if name not in cells]
    if empty:
        raise UserError(f"{where}: the column {some(empty)} is empty; every case needs all inputs.")
    files = [existing(cells[name], file.parent, where) for name in columns]
    subject = cells["subject"]
    case: Case = {
        "id": "_".join([subject, cells["session"]] if "session" in cells else [subject]).replace("/", "-"),
        "subject": subject,
        "image": files[0] if whole else files,
    }
    if "label" in cells:
        case["label"] = existing(cells["label"], file.parent, where)
    if "fold" in cells:
        case["fold"] = parse_fold(cells["fold"], where)
    if "age" in cells:
        case["age"] = parse_age(cells["age"], where)
    return case


def _findings(row: dict[str, str], names: Sequence[str], where: str) -> Case:
    """``findings`` and ``healthy`` of a row, as far as it knows them."""
    cells = {name: row.get(name.lower(), "").lower() for name in (*names, "healthy")} if names else {}
    known = {name: _yes_or_no(cell, name, where) for name, cell in cells.items() if cell not in EMPTY}
    healthy = known.pop("healthy", None)
    if healthy and any(known.values()):
        raise UserError(f"{where}: healthy is 1, but so is {some(name for name in known if known[name])}; correct one of them.")
    if healthy is None and (any(known.values()) or (names and len(known) == len(names))):
        healthy = int(not any(known.values()))
    return ({"findings": known} if known else {}) | ({"healthy": bool(healthy)} if healthy is not None else {})


def _yes_or_no(cell: str, name: str, where: str) -> int:
    values = {"1": 1, "1.0": 1, "yes": 1, "true": 1, "0": 0, "0.0": 0, "no": 0, "false": 0}
    if cell not in values:
        raise UserError(f"{where}: {name} is {cell!r}; expected 0 or 1, or an empty cell where it is not known.")
    return values[cell]
