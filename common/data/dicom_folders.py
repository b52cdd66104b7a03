"""Head CTs in plain DICOM folders: one series, or one folder per case, with one series chosen where a case has several."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from common.data.cases import Case, some
from common.data.dicom_files import dicom_folders, holds_dicom, is_dicom_file
from common.data.series_choice import choose_series
from common.errors import UserError

_logger = logging.getLogger("brain_bundles")


def any_dicom(root: Path) -> bool:
    """Whether a folder or one below it holds DICOM files."""
    return next(dicom_folders(root), None) is not None


def read_dicom_folders(path: Path) -> list[Case]:
    """Cases of DICOM folders.

    Args:
        path: a folder with one series, a file of it, or a folder with one folder per case (with the series directly in it, or below).

    Returns:
        One case per folder, named after it; where a case has several series, the one that ``choose_series`` keeps. Empty where there
        are none.

    Raises:
        UserError: cases with several series of which none can be used, and no other case.
    """
    if path.is_file():
        return [_case(path.parent, path.parent.resolve().name)] if is_dicom_file(path) else []
    if holds_dicom(path):
        return [_case(path, path.resolve().name)]
    cases, lost = [], []
    for child in sorted(place for place in path.iterdir() if place.is_dir() and not place.name.startswith(".")):
        series = list(dicom_folders(child))
        if len(series) > 1:
            rows = choose_series(child.name, series, path)
            kept = [Path(row["folder"]) for row in rows if row["decision"] == "kept"]
            if not kept:
                lost.append(f"{child.name} ({some((row['reason'] for row in rows), 2)})")
            for row in rows:
                _logger.info("%s: %s, %s: %s", child.name, row["series"], row["decision"], row["reason"])
            series = kept
        cases += [_case(folder, child.name) for folder in series]
    if lost and not cases:
        raise UserError(f"{path}: no folder has a series that can be used: {some(lost, 3)}.")
    if lost:
        _logger.warning("%s: %d folders without a usable series are left out: %s", path, len(lost), some(lost))
    return cases


def _case(folder: Path, name: str) -> Case:
    return {"id": name, "subject": name, "image": [os.path.abspath(folder)]}
