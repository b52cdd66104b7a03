"""The answers of CQ500's three readers: reads.csv, the majority, and who is healthy."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.data.cases import some
from common.errors import UserError

READERS = ("R1", "R2", "R3")
BLEEDING = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "BleedLocation-Right", "ChronicBleed")
"""Items of reads.csv that make a scan not healthy, with ``Fracture``."""
OTHER = ("MassEffect", "MidlineShift")
"""Items that are neither bleeding nor fracture; a scan with only these counts as healthy and is noted."""
FINDINGS = {"bleed_left": "BleedLocation-Left", "bleed_right": "BleedLocation-Right", "fracture": "Fracture"}

_CASE = re.compile(r"CQ500[-_ ]?CT[-_ ]?(\d+)", re.IGNORECASE)


def case_number(name: str) -> int | None:
    """Number of a scan from a folder's name or a cell: 12 for ``CQ500CT12 CQ500CT12`` and for ``CQ500-CT-12``; None for other names."""
    match = _CASE.match(name.strip())
    return int(match[1]) if match else None


def read_reads(file: str | os.PathLike[str]) -> dict[int, dict[str, list[int]]]:
    """Answers of the three readers.

    Args:
        file: ``reads.csv``: name, Category, and ``R1:<item>``, ``R2:<item>``, ``R3:<item>`` for every item, each 0 or 1.

    Returns:
        ``{number of the scan: {item: [R1, R2, R3]}}``; an item without all three answers is left out.

    Raises:
        UserError: columns are missing, a scan occurs twice, or a cell is neither 0 nor 1; the text names the line.
    """
    path = Path(file)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        header = [(name or "").strip() for name in reader.fieldnames or []]
        needed = ["name", *(f"{who}:{item}" for who in READERS for item in ("ICH", *FINDINGS.values()))]
        missing = [name for name in needed if name not in header]
        if missing:
            raise UserError(f"{path}: no column {some(missing)}; found {some(header, 8)}. Expected the reads.csv of CQ500.")
        reader.fieldnames = header
        result: dict[int, dict[str, list[int]]] = {}
        for row in reader:
            number = case_number(row["name"] or "")
            if number is None or number in result:
                what = "not a name such as CQ500-CT-0" if number is None else "there twice"
                raise UserError(f"{path}: line {reader.line_num}: {row['name']!r} is {what}; correct the line.")
            result[number] = _answers(row, header, f"{path}: line {reader.line_num}")
    return result


def _answers(row: Mapping[str, str | None], header: list[str], where: str) -> dict[str, list[int]]:
    answers: dict[str, list[int]] = {}
    for item in (name[3:] for name in header if name.startswith("R1:")):
        cells = [(row.get(f"{who}:{item}") or "").strip() for who in READERS]
        wrong = next((cell for cell in cells if cell not in ("", "0", "1")), None)
        if wrong is not None:
            raise UserError(f"{where}: {item} is {wrong!r}; expected 0 or 1 from every reader.")
        if all(cells):
            answers[item] = [int(cell) for cell in cells]
    return answers


def majority(answers: list[int]) -> int:
    """1 where more than half of the readers say 1, else 0."""
    return int(2 * sum(answers) > len(answers))


def truth_of(answers: Mapping[str, list[int]], fracture_column: str = "Fracture") -> dict[str, Any]:
    """What the readers say of one scan, as the keys of a case.

    Args:
        answers: ``{item: [R1, R2, R3]}``.
        fracture_column: item that is the finding ``fracture``: ``Fracture`` or ``CalvarialFracture``.

    Returns:
        ``findings`` and ``reads`` of the items that are there. ``healthy`` (where ICH, both sides and Fracture are there) is true when
        the majority sees none of ``BLEEDING`` and no ``Fracture`` of any kind; ``OTHER`` does not count.
    """
    columns = {**FINDINGS, "fracture": fracture_column}
    known = {name: answers[item] for name, item in columns.items() if item in answers}
    truth: dict[str, Any] = {"findings": {name: majority(reads) for name, reads in known.items()}, "reads": known}
    if {"ICH", *FINDINGS.values()} <= set(answers):
        truth["healthy"] = not any(majority(answers[item]) for item in (*BLEEDING, "Fracture") if item in answers)
    return truth


def other_findings(answers: Mapping[str, list[int]]) -> list[str]:
    """Items of ``OTHER`` that the majority sees."""
    return [item for item in OTHER if item in answers and majority(answers[item])]
