"""Read folders of evaluations that are to be compared: their rows by case and their summaries, all on the same cases."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError


class Evaluated(NamedTuple):
    """One evaluation.

    Attributes:
        name: of the run.
        folder: where it was written.
        rows: of ``metrics.csv``, one per case, sorted by ``id``; values as text.
        summary: ``summary.json``.
    """

    name: str
    folder: Path
    rows: list[dict[str, str]]
    summary: dict[str, Any]


def read_evaluations(runs: str | Sequence[str]) -> list[Evaluated]:
    """Read evaluations of one data set.

    Args:
        runs: folders with ``metrics.csv`` and ``summary.json``, separated by commas; ``NAME=FOLDER`` names one.

    Raises:
        UserError: a folder without an evaluation, two runs of one name, or runs on different cases.
    """
    # `fire` turns "a,b" into a tuple when both are plain words and leaves it a string otherwise.
    parts = [part for part in runs.split(",") if part] if isinstance(runs, str) else [str(part) for part in runs]
    named = [part.split("=", 1) if "=" in part else [Path(part).resolve().name, part] for part in parts]
    names = [name for name, _ in named]
    if not names or len(set(names)) < len(names):
        raise UserError(f"runs: got {', '.join(names) or 'none'}, expected folders with different names. Name them: A=FOLDER,B=FOLDER")
    read = [_read(name, Path(folder)) for name, folder in named]
    first = {row["id"] for row in read[0].rows}
    for run in read[1:]:
        if odd := sorted(first ^ {row["id"] for row in run.rows}):
            raise UserError(f"runs: {run.name} and {read[0].name} were not measured on the same cases: {', '.join(odd[:5])} only in one.")
    return read


def _read(name: str, folder: Path) -> Evaluated:
    files = {kind: folder / kind for kind in ("metrics.csv", "summary.json")}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise UserError(
            f"runs: {folder} has no {' and no '.join(missing)}, expected the output_dir of an evaluation. Run evaluate.json first."
        )
    with files["metrics.csv"].open(encoding="utf-8", newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["id"])
    return Evaluated(name, folder, rows, json.loads(files["summary.json"].read_text(encoding="utf-8")))
