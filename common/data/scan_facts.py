"""What a scan may carry beside its images (brain mask, head circumference, sex, ...), read alike from tables, BIDS trees and datalists."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from common.data.cases import Case, existing
from common.errors import UserError

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "brain": ("brain", "mask", "brain_mask"),
    "head_circumference_cm": ("head_circumference_cm", "head_circumference", "scan_head_circumference"),
    "birth_age": ("birth_age",),
    "sex": ("sex", "gender"),
    "ethnicity": ("ethnicity", "ethnic_id"),
    "site": ("site", "hospital", "scanner"),
    "radiology_score": ("radiology_score",),
    "scan_number": ("scan_number",),
}
"""Facts that a reader may be asked for, and the columns that give them, the first that is there; capitals do not matter."""
NUMBERS: Final = {"head_circumference_cm": float, "birth_age": float, "scan_number": int, "ethnicity": int}
EMPTY: Final = ("", "n/a", "na", "nan", "none")


def scan_facts(cells: Mapping[str, Any], wanted: Sequence[str], folder: Path, where: str) -> Case:
    """Facts of one scan, as far as its row knows them.

    Args:
        cells: cell (text, number or None) by name of the column.
        wanted: some of ``NAMES``.
        folder: where relative paths start.
        where: file and line, for errors.

    Returns:
        ``brain`` (absolute path), ``head_circumference_cm`` and ``birth_age`` (float; weeks), ``scan_number`` and ``ethnicity`` (int),
        ``sex``, ``site`` and ``radiology_score`` (text as it stands there; see ``sex_letter``); what is not known is absent.

    Raises:
        UserError: a file that does not exist, or a number that is none.
    """
    known = {str(name).strip().lower(): str(cell).strip() for name, cell in cells.items() if cell is not None}
    facts: Case = {}
    for name in wanted:
        column = next((column for column in NAMES[name] if known.get(column, "").lower() not in EMPTY), None)
        if column is None:
            continue
        cell = known[column]
        facts[name] = existing(cell, folder, where) if name == "brain" else _number(cell, name, column, where) if name in NUMBERS else cell
    return facts


def _number(cell: str, name: str, column: str, where: str) -> float | int:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {column} is {cell!r}; expected a number, or an empty cell where it is not known.")
    return NUMBERS[name](value)


def read_tsv(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows of a table as BIDS writes them, all cells as text, with their line numbers; empty where there is no such file.

    Raises:
        UserError: not a table in UTF-8.
    """
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(enumerate(csv.DictReader(stream, delimiter="\t"), start=2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a table in UTF-8 with columns parted by tabs ({error}).") from error
    return [(number, {key.strip(): (cell or "").strip() for key, cell in row.items() if key}) for number, row in rows]


def sex_letter(text: Any) -> str | None:
    """Sex as "m" or "f" from its common spellings (M, male, man, F, female, woman; capitals do not matter), None from any other."""
    word = str(text if text is not None else "").strip().lower()
    return "m" if word in ("m", "male", "man") else "f" if word in ("f", "female", "woman") else None


def bare_id(text: str, prefix: str) -> str:
    """An id without its prefix: ``sub-CC00050XX01`` and ``CC00050XX01`` are one; ids stay text, zeros in front included."""
    return text.strip().removeprefix(prefix)
