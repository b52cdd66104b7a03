"""A simulated IXI: T1 of whole heads from three sites, and the spreadsheet of ages, sexes and ethnicity (MONAI has no phantom of it).

The heads are `t1_head.py`'s, the people `ixi_table.py`'s. An addition to IXI's layout: folders ``brains/`` (masks of the brain) and
``lesions/`` (masks of what `t1_lesions.py` inserted into a share of the people). It proves that code works; it never supports a clinical
claim. The best Dice of one threshold on intensities scaled per volume, bright or dim, over all lesions lies in ``TRIVIAL_DICE``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.atomic import write_csv
from common.data.simulate.anatomy import Anatomy, Grid
from common.data.simulate.folder import publish_cohort
from common.data.simulate.ixi_table import Volunteer, stream, table_rows, volunteer
from common.data.simulate.person import Person, draw_person
from common.data.simulate.t1_head import T1Scanner, draw_levels, render_t1, scan_t1
from common.data.simulate.t1_lesions import CORE, KINDS, insert_lesions
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT, TABLE = "IXI-T1", "IXI.csv"
FIELD_MM = 240.0
"""Field of view along P and S: 256 voxels of 0.9375 mm."""
SLICE_RATIO = 1.28
"""Distance of sagittal slices in units of the voxel size in plane: 1.2 mm at 0.9375 mm."""
WIDTHS_MM = {180.0: 0.87, 175.2: 0.13}
"""Extents along R, 150 and 146 slices of 1.2 mm, and their share of volumes."""
SUBJECTS = 800
LESION_ML = (1.0, 40.0)
"""Smallest and largest volume of a patient's lesions; volumes between are log-uniform."""
TRIVIAL_DICE = (0.02, 0.3)
AXES = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""Columns: directions of the voxel axes P, S, R in patient space (left, back, up)."""
STYLES: dict[str, dict[str, T1Scanner]] = {
    "main": {
        "Guys": T1Scanner(1.5, 9.8, 4.6, 30.0, 0.06, (0.03, 0.05)),
        "HH": T1Scanner(3.0, 9.6, 4.6, 28.0, 0.12, (0.02, 0.04)),
        "IOP": T1Scanner(1.5, 12.0, 5.0, 35.0, 0.08, (0.04, 0.06)),
    },
    "shift": dict.fromkeys(("Guys", "HH", "IOP"), T1Scanner(3.0, 7.5, 3.2, 20.0, 0.18, (0.06, 0.1), 0.05)),
}


@dataclass(frozen=True)
class Scan:
    """One volume: ``image`` ``(P, S, R)`` int16, ``brain`` and ``lesion`` uint8 (lesion all 0 in the healthy), ``grid``, who it is
    (``one``), the ``person``'s anatomy, and the ``kind`` of lesion ("" in the healthy)."""

    image: NDArray[np.int16]
    brain: NDArray[np.uint8]
    lesion: NDArray[np.uint8]
    grid: Grid
    one: Volunteer
    person: Person
    kind: str

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world, ``(4, 4)``, mm, RAS."""
        out, flip = np.eye(4), np.diag([-1.0, -1.0, 1.0])
        out[:3, :3] = flip @ self.grid.direction * np.asarray(self.grid.spacing_mm)
        out[:3, 3] = flip @ self.grid.origin_mm
        return out


def simulate_ixi(
    out_dir: str | Path, subjects: int = 60, seed: int = 0, spacing_mm: float = 3.75, style: str = "main", patients: float = 0.2
) -> Path:
    """Write a simulated cohort as ``<out_dir>/{IXI.csv, IXI-T1/{IXI002-Guys-0828-T1.nii.gz, ..., brains/, lesions/}}``.

    Same arguments give the same bytes; the files of person ``k`` do not depend on ``subjects``. A complete cohort made with the same
    arguments is reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create, with ``SIMULATED.txt`` in it; may exist when it is empty or holds this very cohort.
        subjects: 1 to 800.
        seed: >= 0.
        spacing_mm: voxel size in plane, 0.9375 (256 x 256 x 150 voxels, as IXI) to 8; slices are 1.28 times as thick. 1.875 gives
            128 x 128 x 75, 3.75 gives 64 x 64 x 38.
        style: "main", or "shift" (one more scanner: less contrast, more noise and bias; not for training).
        patients: share of people with lesions, in [0, 1].

    Returns:
        The folder ``<out_dir>/IXI-T1``; the table lies one level up.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    _check(subjects, seed, spacing_mm, style, patients)
    parameters = {"layout": "ixi", "generator": GENERATOR_VERSION, "subjects": subjects, "seed": seed}
    parameters |= {"spacing_mm": float(spacing_mm), "style": style, "patients": float(patients)}
    people: list[Volunteer] = []

    def write_subject(folder: Path, index: int) -> list[str]:
        scan = simulate_scan(index, seed, spacing_mm, style, patients)
        files = _write(scan, folder / ROOT)
        people.append(scan.one)
        if index == subjects - 1:
            files.append(write_csv(folder / TABLE, table_rows(people)))
        return [file.relative_to(folder).as_posix() for file in files]

    return publish_cohort(Path(out_dir), parameters, subjects, write_subject, "T1 of whole heads (IXI layout)") / ROOT


def _check(subjects: int, seed: int, spacing_mm: float, style: str, patients: float) -> None:
    """Refuse arguments out of range."""
    if style not in STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(STYLES))}.")
    for name, value, low, high in (("subjects", subjects, 1, SUBJECTS), ("seed", seed, 0, 2**32 - 1)):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    for title, number, least, most in (("spacing_mm", spacing_mm, 0.9375, 8.0), ("patients", patients, 0.0, 1.0)):
        if not least <= number <= most:
            raise UserError(f"{title}: got {number}, expected a number from {least:g} to {most:g}.")


def simulate_scan(index: int, seed: int, spacing_mm: float = 3.75, style: str = "main", patients: float = 0.2) -> Scan:
    """Simulate one person's T1; it depends on nothing but the arguments.

    Args:
        index: which person, >= 0.
        seed: of the cohort.
        spacing_mm: voxel size in plane.
        style: key of ``STYLES``.
        patients: share of people with lesions; who has them follows, healthy people do not change with it.
    """
    one = volunteer(index, seed, style, patients)
    body = stream(seed, style, index, "body")
    anatomy = Anatomy.draw(body, scale=0.93 if one.sex == "m" else 0.89, warp_mm=2.8, length_mm=30.0, pose_deg=3.0)
    person = draw_person(body, (one.age, one.age))
    grid, scanner = _grid(stream(seed, style, index, "grid"), spacing_mm), STYLES[style][one.site]
    chance = stream(seed, style, index, "scanner")
    head = render_t1(person, anatomy, grid, draw_levels(chance, scanner))
    lesion: NDArray[np.uint8] = np.zeros(grid.shape, np.uint8)
    kind = ""
    if one.patient:
        pathology = stream(seed, style, index, "lesions")
        kind, volume = KINDS[int(pathology.integers(len(KINDS)))], float(np.exp(pathology.uniform(*np.log(LESION_ML))))
        found = insert_lesions(pathology, head, kind, volume)
        head = replace(head, signal=found.signal)
        lesion = head.voxels.fill((found.part >= CORE).astype(np.uint8))
    image = scan_t1(chance, head, scanner, anatomy, grid)
    return Scan(image, head.voxels.fill(head.brain.astype(np.uint8)), lesion, grid, one, person, kind)


def _grid(rng: np.random.Generator, spacing_mm: float) -> Grid:
    """Grid of the field of view; the head lies within 3 mm of its place, the neck at the lower border."""
    slice_mm = SLICE_RATIO * spacing_mm
    width = float(rng.choice(list(WIDTHS_MM), p=list(WIDTHS_MM.values())))
    shape = (round(FIELD_MM / spacing_mm), round(FIELD_MM / spacing_mm), round(width / slice_mm))
    spacing = (spacing_mm, spacing_mm, slice_mm)
    middle = rng.uniform(-3.0, 3.0, 3) + np.array([0.0, -6.0, -35.0])
    return Grid(shape, spacing, middle - AXES @ ((np.array(shape) - 1) / 2 * np.array(spacing)), AXES)


def _write(scan: Scan, root: Path) -> list[Path]:
    """Write image, mask of the brain and, of a patient, mask of the lesions."""
    import nibabel

    stem = scan.one.stem
    volumes = {f"{stem}.nii.gz": scan.image, f"brains/{stem}-brain.nii.gz": scan.brain}
    volumes |= {f"lesions/{stem}-lesion.nii.gz": scan.lesion} if scan.one.patient else {}
    files = []
    for name, values in volumes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(values, scan.affine)
        image.header.set_xyzt_units("mm")
        files.append(root / name)
        nibabel.save(image, files[-1])
    return files
