"""A simulated CQ500 cohort: head CTs as DICOM series in the tree of the public archive, with ``reads.csv`` (methods: design.md section 6).

The heads are ICBM152 brains in a skull and scalp of our making (`head.py`), the findings follow `haemorrhage.py` and `fracture.py`. It
proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from common.atomic import write_csv, write_text
from common.data.simulate.ct_series import write_case
from common.data.simulate.folder import publish_cohort
from common.data.simulate.head_ct import STYLES, Lesion, Scan, simulate_scan, stream
from common.data.simulate.readers import draw_reads, table_row
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "CQ500"
CASES = 491
"""Cases of the public archive, numbered from 0."""


def simulate_cq500(
    out_dir: str | Path, healthy: int = 40, abnormal: int = 20, seed: int = 1, size: int = 128, slice_mm: float = 3.0, style: str = "main"
) -> Path:
    """Write a simulated cohort as ``<out_dir>/CQ500/{CQ500CT12 CQ500CT12, ..., reads.csv, truth}`` and ``<out_dir>/SIMULATED.txt``.

    Same arguments give the same bytes; a case does not depend on how many others there are. A complete cohort made with the same arguments
    is reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create; may exist when it is empty or holds this very cohort.
        healthy: cases without bleed and fracture.
        abnormal: cases with; composed as table 2 of the paper (bleeds left, right, both; with and without fracture).
        seed: >= 0.
        size: voxels in plane, 32 to 512; 128 gives about 1.9 mm.
        slice_mm: slice thickness and distance of the plain thin series, 0.5 to 10.
        style: "main", or "shift" (other scanners, people and bleeds; not for training).

    Returns:
        The folder ``<out_dir>/CQ500``. ``truth/CQ500-CT-12.nii.gz`` is on the grid of the plain thin series (0 nothing, 1 haemorrhage, 2
        fracture), ``truth/lesions.csv`` lists the lesions.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    _check(healthy, abnormal, seed, size, slice_mm, style)
    parameters = {
        "layout": "cq500",
        "generator": GENERATOR_VERSION,
        "healthy": healthy,
        "abnormal": abnormal,
        "seed": seed,
        "size": size,
        "slice_mm": float(slice_mm),
        "style": style,
    }
    rows: dict[int, dict[str, str | int]] = {}
    lesions: dict[int, list[dict[str, object]]] = {}

    def write_subject(folder: Path, place: int) -> list[str]:
        sick = place >= healthy
        index = place - healthy if sick else place
        number = case_number(seed, index, sick)
        scan = simulate_scan(index, seed, size, slice_mm, style, sick)
        case = f"CQ500-CT-{number}"
        files = write_case(folder / ROOT, number, scan, stream(seed, style, index, sick, "series"), f"{seed}/{style}")
        files.append(_write_truth(scan, folder / ROOT / "truth" / f"{case}.nii.gz"))
        reads = draw_reads(stream(seed, style, index, sick, "readers"), scan)
        batch = "B1" if stream(seed, style, index, sick, "batch").random() < 214 / CASES else "B2"
        rows[number] = table_row(case, batch, reads)
        lesions[number] = [{"id": case, **asdict(lesion)} for lesion in scan.lesions]
        if place == healthy + abnormal - 1:
            files += _write_tables(folder / ROOT, rows, lesions)
        return [file.relative_to(folder).as_posix() for file in files]

    what = "head CT with haemorrhages and fractures (CQ500 layout)"
    return publish_cohort(Path(out_dir), parameters, healthy + abnormal, write_subject, what) / ROOT


def _check(healthy: int, abnormal: int, seed: int, size: int, slice_mm: float, style: str) -> None:
    """Refuse arguments out of range."""
    if style not in STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(STYLES))}.")
    limits = (("healthy", healthy, 0, CASES), ("abnormal", abnormal, 0, CASES), ("seed", seed, 0, 2**32 - 1), ("size", size, 32, 512))
    for name, value, low, high in limits:
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    if not 1 <= healthy + abnormal <= CASES:
        raise UserError(f"healthy + abnormal: got {healthy + abnormal}, expected 1 to {CASES} cases.")
    if not 0.5 <= slice_mm <= 10:
        raise UserError(f"slice_mm: got {slice_mm}, expected a slice thickness from 0.5 to 10 mm.")


def case_number(seed: int, index: int, abnormal: bool) -> int:
    """Number of a case in the archive, 0 to 490; it tells nothing about the findings."""
    order = np.random.default_rng([seed, 500]).permutation(CASES)
    return int(order[CASES - 1 - index] if abnormal else order[index])


def _write_truth(scan: Scan, path: Path) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(scan.truth, scan.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def _write_tables(root: Path, rows: dict[int, dict[str, str | int]], lesions: dict[int, list[dict[str, object]]]) -> list[Path]:
    reads = write_csv(root / "reads.csv", [rows[number] for number in sorted(rows)])
    listed = [lesion for number in sorted(lesions) for lesion in lesions[number]]
    path = root / "truth" / "lesions.csv"
    if not listed:  # a table without rows still has its columns
        return [reads, write_text(path, ",".join(["id", *(f.name for f in fields(Lesion))]) + "\n")]
    return [reads, write_csv(path, listed)]
