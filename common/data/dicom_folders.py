"""Scans in plain DICOM folders: one series, one folder per case, or one folder per case and input."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from common.data.cases import Case, some
from common.data.dicom_files import dicom_folders, holds_dicom, is_dicom_file
from common.data.series_choice import choose_series
from common.errors import UserError

_logger = logging.getLogger("brain_bundles")


def any_dicom(root: Path) -> bool:
    """Whether a folder or one below it holds DICOM files."""
    return next(dicom_folders(root), None) is not None


def read_dicom_folders(path: Path, head_ct: bool = True) -> list[Case]:
    """Cases of DICOM folders.

    Args:
        path: a folder with one series, a file of it, or a folder with one folder per case (with the series directly in it, or below).
        head_ct: where a case has several series, take the one that ``choose_series`` keeps: the plain head CT. Otherwise such a case is
            refused, since names of series do not tell one contrast from another for sure.

    Returns:
        One case per folder, named after it. Empty where there are none.

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
            rows = choose_series(child.name, series, path) if head_ct else _unchosen(series, path)
            kept = [Path(row["folder"]) for row in rows if row["decision"] == "kept"]
            if not kept:
                lost.append(f"{child.name} ({some((row['reason'] for row in rows), 2)})")
            for row in rows if head_ct else ():
                _logger.info("%s: %s, %s: %s", child.name, row["series"], row["decision"], row["reason"])
            series = kept
        cases += [_case(folder, child.name) for folder in series]
    if lost and not cases:
        raise UserError(f"{path}: no folder has a series that can be used: {some(lost, 3)}.")
    if lost:
        _logger.warning("%s: %d folders without a usable series are left out: %s", path, len(lost), some(lost))
    return cases


def read_dicom_inputs(path: Path, inputs: Sequence[str]) -> list[Case]:
    """Cases of a method with several inputs: a folder per input, named after it, with one series in it or below.

    Args:
        path: a case with such folders (``t1/``, ``flair/``, ...), or a folder with one folder per case.
        inputs: names of the inputs in channel order; capitals make no difference.

    Returns:
        One case per folder that has a folder of each input. Empty where there are none.

    Raises:
        UserError: a case that has folders of some inputs but not of all, or several series of one input.
    """
    places = [path] if _by_name(path).keys() & {name.lower() for name in inputs} else [place for place in path.iterdir() if place.is_dir()]
    cases = []
    for place in sorted(places):
        folders = _by_name(place)
        missing = [name for name in inputs if name.lower() not in folders]
        if len(missing) == len(inputs):
            continue
        if missing:
            raise UserError(f"{place}: no folder {some(missing)}; expected one folder with a DICOM series per input: {', '.join(inputs)}.")
        name = place.resolve().name
        cases.append({"id": name, "subject": name, "image": [one_series(folders[each.lower()]) for each in inputs]})
    return cases


def one_series(path: Path) -> str:
    """Absolute path of the one folder at or below a path that holds DICOM files; of a DICOM file its folder.

    Raises:
        UserError: none, or several.
    """
    found = list(dicom_folders(path)) if path.is_dir() else [path.parent] if is_dicom_file(path) else []
    if len(found) == 1:
        return os.path.abspath(found[0])
    names = some((os.path.relpath(folder, path) for folder in found), 3)
    what = f"{len(found)} series in folders below it ({names})" if found else "no DICOM files"
    raise UserError(f"{path}: {what}; expected one series. Give the folder with its files.")


def _by_name(path: Path) -> dict[str, Path]:
    """Folders in a folder by their names in small letters."""
    return {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")}


def _unchosen(series: Sequence[Path], root: Path) -> list[dict[str, str]]:
    """Rows that say of each of several series that none is chosen."""
    names = some((os.path.relpath(folder, root) for folder in series), 3)
    reason = f"{len(series)} series: {names}; give the folder of one"
    return [{"folder": str(folder), "decision": "dropped", "reason": reason} for folder in series[:1]]


def _case(folder: Path, name: str) -> Case:
    return {"id": name, "subject": name, "image": [os.path.abspath(folder)]}
