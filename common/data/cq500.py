"""Read CQ500 as unpacked: one non-contrast series per scan, and the majority of its three readers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.atomic import write_csv
from common.data.cases import Case, Finding, finish_cases, is_simulated, some
from common.data.cq500_reads import FINDINGS, case_number, other_findings, read_reads, truth_of
from common.data.dicom_files import dicom_folders
from common.data.series_choice import Row, choose_series
from common.errors import UserError

TREE = """CQ500/
  reads.csv                       (R1:ICH, R1:BleedLocation-Left, ... of three readers; not needed for inference)
  CQ500CT<n> CQ500CT<n>/
    Unknown Study/                (may be absent)
      <series description>/       CT000000.dcm, CT000001.dcm, ..."""

PUBLIC_SCANS = 491
"""Scans of the public release (Chilamkurthy et al. 2018)."""

_logger = logging.getLogger("brain_bundles")


def case_folders(root: str | os.PathLike[str]) -> dict[int, list[Path]]:
    """Folders of every scan by its number: those at or at most three levels below ``root`` whose names tell it, the outermost only."""
    folder = Path(os.path.abspath(root))
    own = case_number(folder.name)
    if own is not None:
        return {own: [folder]}
    found: dict[int, list[Path]] = {}
    level = [folder]
    for _ in range(3):
        children = sorted(path for place in level for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        numbers = [case_number(path.name) for path in children]
        for path, number in zip(children, numbers, strict=True):
            if number is not None:
                found.setdefault(number, []).append(path)
        level = [path for path, number in zip(children, numbers, strict=True) if number is None]
    return dict(sorted(found.items()))


def is_cq500(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like CQ500: folders named after its scans, or its reads.csv."""
    folder = Path(dataset_dir)
    return folder.is_dir() and (bool(case_folders(folder)) or _is_reads(folder / "reads.csv"))


def _is_reads(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        return "R1:" in stream.readline()


def find_reads(root: str | os.PathLike[str]) -> Path | None:
    """``reads.csv`` in the folder, beside it or one level below; None where there is none."""
    folder = Path(os.path.abspath(root))
    places = [folder, folder.parent, *sorted(path for path in folder.iterdir() if path.is_dir() and case_number(path.name) is None)]
    return next((place / "reads.csv" for place in places if _is_reads(place / "reads.csv")), None)


def selection_manifest(root: str | os.PathLike[str]) -> list[Row]:
    """Every series of every scan: kept or dropped, and why.

    Args:
        root: folder of the tree.

    Returns:
        One row per series, sorted by scan: case, series (folder below ``root``), description, slices, spacing_mm, extent_mm, tilt_deg,
        decision ("kept" or "dropped"), reason. At most one series of a scan is kept.
    """
    from tqdm import tqdm

    folder = Path(os.path.abspath(root))
    rows: list[Row] = []
    for number, folders in tqdm(case_folders(folder).items(), desc="Choosing series", leave=False, disable=None):
        rows += choose_series(f"CQ500-CT-{number}", [path for place in folders for path in dicom_folders(place)], folder)
    return rows


def write_manifest(rows: list[Row], path: str | os.PathLike[str]) -> Path:
    """Write the manifest as CSV, without the absolute folders; returns the path."""
    return write_csv(path, [{key: value for key, value in row.items() if key != "folder"} for row in rows])


def read_cq500(dataset_dir: str | os.PathLike[str], labelled: bool = False, fracture_column: str = "Fracture") -> list[Case]:
    """Cases of a CQ500 tree, one per scan, each with the one series that was chosen.

    Args:
        dataset_dir: folder with ``reads.csv`` and the scans' folders, or one scan's folder.
        labelled: whether every case must have findings; scans that are not in reads.csv are then left out.
        fracture_column: item that is the finding ``fracture``: ``Fracture`` (recommended) or ``CalvarialFracture``.

    Returns:
        Cases sorted by id, ``image`` = [folder of the series], with ``findings``, ``reads`` and ``healthy`` where the readers are known,
        and ``truth`` where ``<root>/truth/<id>.nii.gz`` exists (simulated cohorts).

    Raises:
        UserError: the folder is missing or of another layout, reads.csv is missing or damaged, or no scan has a usable series.

    Source: CQ500 (Chilamkurthy et al. 2018); rule of choice from methods/position_regression.md, section 1.
    """
    folder = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    if fracture_column not in ("Fracture", "CalvarialFracture"):
        raise UserError(f"fracture_column: got {fracture_column!r}; expected Fracture or CalvarialFracture.")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected\n{TREE}")
    if not case_folders(folder):
        found = some(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")), 8)
        raise UserError(f"{folder}: no scans of CQ500: it {'holds ' + found if found else 'is empty'}. Expected\n{TREE}")
    file = find_reads(folder)
    if file is None and labelled:
        raise UserError(f"{folder}: no reads.csv in it, which holds the readers' findings; put CQ500's reads.csv beside the scans.\n{TREE}")
    reads = read_reads(file) if file else {}
    rows = selection_manifest(folder)
    kept = [row for row in rows if row["decision"] == "kept"]
    if not kept:
        reasons = some((f"{row['series']}: {row['reason']}" for row in rows), 3) or "no DICOM files"
        raise UserError(f"{folder}: no scan has a series that can be used: {reasons}. Run: python -m common.data check cq500 {folder}")
    _tell_left_out(folder, {str(row["case"]) for row in rows} | {f"CQ500-CT-{n}" for n in case_folders(folder)}, kept)
    root = file.parent if file else folder
    cases = [_case(row, reads, root, fracture_column) for row in kept]
    bare = [case["id"] for case in cases if "findings" not in case]
    if bare and (labelled or reads):
        _logger.warning("%s: %d scans are not in reads.csv%s: %s", folder, len(bare), ", left out" if labelled else "", some(bare))
    return finish_cases([case for case in cases if not labelled or "findings" in case], folder)


def _tell_left_out(folder: Path, names: set[str], kept: list[Row]) -> None:
    lost = sorted(names - {str(row["case"]) for row in kept})
    if lost:
        _logger.warning(
            "%s: %d scans without a usable series are left out: %s. python -m common.data check cq500 tells why.",
            folder,
            len(lost),
            some(lost),
        )


def _case(row: Row, reads: Mapping[int, Mapping[str, list[int]]], root: Path, fracture_column: str) -> Case:
    name = str(row["case"])
    case: Case = {"id": name, "subject": name, "image": [str(row["folder"])]}
    answers = reads.get(case_number(name) or 0)
    if answers:
        case.update(truth_of(answers, fracture_column))
    truth = root / "truth" / f"{name}.nii.gz"
    if truth.is_file():
        case["truth"] = str(truth)
    return case


def check_cq500(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Counts, readers and the choice of series, and the cases that a run would read."""
    folder = Path(os.path.abspath(dataset_dir))
    scans, file = case_folders(folder), find_reads(folder)
    level = "ok" if len(scans) == PUBLIC_SCANS or is_simulated(folder) else "note"
    findings = [Finding(level, f"{len(scans)} scans; the public release has {PUBLIC_SCANS}")]
    reads = read_reads(file) if file else {}
    if file is None:
        findings.append(Finding("note", "no reads.csv: fine for inference, not for evaluation"))
    for what, numbers in (("in reads.csv without a folder", set(reads) - set(scans)), ("not in reads.csv", set(scans) - set(reads))):
        if reads and numbers:
            findings.append(Finding("note", f"{len(numbers)} scans {what}: {some(f'CQ500-CT-{number}' for number in sorted(numbers))}"))
    rows = selection_manifest(folder)
    findings += _check_choice(rows, scans)
    cases = read_cq500(folder)
    for case in cases:
        others = other_findings(reads.get(case_number(case["id"]) or 0, {})) if case.get("healthy") else []
        if others:
            findings.append(Finding("note", f"case {case['id']}: counts as healthy (no bleeding, no fracture) with {', '.join(others)}"))
    known = [case for case in cases if "healthy" in case]
    counts = ", ".join(f"{sum(case['findings'].get(name, 0) for case in known)} {name}" for name in FINDINGS)
    findings.append(Finding("ok", f"{sum(case['healthy'] for case in known)} healthy of {len(known)} cases with readers; {counts}"))
    return findings, cases


def _check_choice(rows: list[Row], scans: Mapping[int, list[Path]]) -> list[Finding]:
    kept = {row["case"] for row in rows if row["decision"] == "kept"}
    findings = [Finding("ok", f"{len(rows)} series, {len(kept)} kept, one per scan")]
    for number in scans:
        name = f"CQ500-CT-{number}"
        if name not in kept:
            own = some((f"{row['series']}: {row['reason']}" for row in rows if row["case"] == name), 3)
            findings.append(Finding("note", f"case {name}: left out, {own or 'no DICOM files'}"))
    return findings


def look_at(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
    """Shape, spacing in mm and corrections of a case's head CT."""
    from common.data.head_ct import read_head_ct

    image = case["image"]
    scan = read_head_ct(image if isinstance(image, str) else image[0])
    return scan.hu.shape, tuple(float(step) for step in np.linalg.norm(scan.affine[:3, :3], axis=0)), list(scan.notes)
