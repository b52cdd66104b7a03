"""Choose the one series of a head CT that the method can use, and say of every other one why not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.data.dicom_files import dicom_files, series_headers
from common.data.dicom_series import SeriesDescription, describe_series
from common.errors import UserError

Row = dict[str, Any]
"""One series of the manifest: case, series, description, slices, spacing_mm, extent_mm, tilt_deg, decision, reason, folder."""

PLAIN = re.compile(
    r"non?[-_ ]*contrast|without[-_ ]*contrast|w/?o[-_ ]*contrast|non?[-_ ]*ce\b|\bncct\b|unenhanced|pre[-_ ]*contrast", re.I
)
"""Words that say a scan is without contrast, though the word contrast is in them."""

EXCLUDED = (
    ("contrast", re.compile(r"contrast|\bwith (?:and|&)|\bcect\b|\bce\b|c\+|\+c\b", re.I)),
    ("after contrast", re.compile(r"\bpost\b(?![-_ .]*fossa)", re.I)),
    ("angiography", re.compile(r"\bcta\b|angio|\bmip\b|\bcow\b|carotid", re.I)),
    ("bolus or perfusion", re.compile(r"\d+ ?cc ?(/ ?s|sec)|\bctp\b|perfusion|bolus|monitoring", re.I)),
    ("3D rendering", re.compile(r"d3d|\bvrt?\b", re.I)),
    ("localizer", re.compile(r"locali[sz]er|scout|topogram|surview|scanogram|dose", re.I)),
)
"""Descriptions that are never taken, with the word that the manifest gives as the reason."""

BONE = re.compile(r"\bbone|\bedge\b|\blung\b|^[BHJUI][frc]?[67]\d", re.I)
"""Descriptions and kernels of bone reconstructions: noisy in the brain, taken only where nothing else is there."""

NO_AGENT = ("", "no", "none", "n", "no contrast", "without", "0")


def exclusion(text: str) -> str:
    """Why a description is never taken; empty where nothing speaks against it.

    Args:
        text: series description or folder name.
    """
    words = PLAIN.sub(" ", text.replace("_", " "))
    return next((reason for reason, pattern in EXCLUDED if pattern.search(words)), "")


def examine(folder: Path) -> tuple[SeriesDescription, str]:
    """A series in short, and why it cannot be taken (empty where it can).

    Series that their name excludes are not read beyond one header, since CQ500 has 170,000 files; a folder is looked at once per process.
    """
    return _examine(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=10_000)
def _examine(folder: Path, changed: int) -> tuple[SeriesDescription, str]:
    try:
        first = series_headers(folder, limit=1)[0]
    except UserError as error:
        return SeriesDescription(str(folder), "", 0, 0.0, 0.0, 0.0, False, False, "", "", str(error)), str(error)
    reason = next((why for why in (exclusion(folder.name), exclusion(first.description)) if why), "")
    if not reason and first.contrast_agent.lower() not in NO_AGENT:
        reason = f"contrast agent {first.contrast_agent!r} in the header"
    if not reason and first.modality != "CT":
        reason = f"modality {first.modality or 'not named'}"
    if reason:
        count = len(dicom_files(folder))
        short = (str(folder), first.description, count, 0.0, 0.0, 0.0, False, False, first.kernel, first.contrast_agent, reason)
        return SeriesDescription(*short), reason
    series = describe_series(folder)
    if series.problem:
        return series, series.problem.removeprefix(f"{folder}: ")
    return series, "" if series.axial else "not axial (a coronal or sagittal reformat)"


def rank(series: SeriesDescription) -> tuple[bool, bool, float, float, str]:
    """Order of preference, the smallest first: no bone kernel, even slices, thinnest, longest, first by name."""
    bone = bool(BONE.search(series.description) or BONE.search(series.kernel) or BONE.search(Path(series.folder).name))
    return bone, not series.even, round(series.spacing_mm, 2), -series.extent_mm, series.folder


def choose_series(case: str, folders: Sequence[Path], root: Path) -> list[Row]:
    """Rows of the manifest for one scan, of which at most one is kept.

    Args:
        case: id of the scan.
        folders: folders of its series.
        root: folder that the series' names in the manifest start at.

    Returns:
        One row per series in the order given.
    """
    examined = [examine(folder) for folder in folders]
    usable = sorted((series for series, reason in examined if not reason), key=rank)
    best = usable[0] if usable else None
    return [_row(case, series, reason or _preference(series, best), series is best, root) for series, reason in examined]


def _preference(series: SeriesDescription, best: SeriesDescription | None) -> str:
    """Why a usable series is kept, or the other one preferred."""
    if best is None or series is best:
        corrected = [word for word, needed in (("tilt", series.tilt_deg > 0), ("uneven slices", not series.even)) if needed]
        return "the best usable series" + (f"; {' and '.join(corrected)} will be corrected" if corrected else "")
    words = ("bone kernel", "uneven slices", "thicker slices", "shorter", "the other is first by name")
    reason = next(word for word, own, other in zip(words, rank(series), rank(best), strict=True) if own != other)
    return f"{reason}: {Path(best.folder).name} is preferred"


def _row(case: str, series: SeriesDescription, reason: str, kept: bool, root: Path) -> Row:
    return {
        "case": case,
        "series": os.path.relpath(series.folder, root),
        "description": series.description,
        "slices": series.slices,
        "spacing_mm": series.spacing_mm,
        "extent_mm": series.extent_mm,
        "tilt_deg": series.tilt_deg,
        "decision": "kept" if kept else "dropped",
        "reason": reason,
        "folder": series.folder,
    }
