"""A simulated dHCP cohort: T2w brains that grow, fold and change contrast from 26 to 45 weeks, in the tree and tables of release 3.

A child keeps its shape, size, folds and ventricles from scan to scan (`neonatal_growth.py`, `neonatal_brain.py`); position, coil and noise
are new in each. It proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.atomic import write_text
from common.data.simulate.anatomy import Anatomy, Array, Grid
from common.data.simulate.folder import publish_cohort
from common.data.simulate.mr_signal import Scanner, Sequence, acquire, signal
from common.data.simulate.neonatal_brain import load_brain_atlas, outline_mm, tissue_shares
from common.data.simulate.neonatal_growth import Newborn, Stage, draw_newborn, stage_at
from common.data.simulate.neonatal_visits import Visit, stream, visits
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "rel3_dhcp_anat_pipeline"
FIELD_MM = (108.5, 145.0, 145.0)
"""Field of view of dHCP: 217 x 290 x 290 voxels of 0.5 mm; as there, larger for a brain that would not fit."""
MARGIN_MM = 14.0
"""Least by which the field is larger than the brain without its warp, turn and shift."""
SUBJECTS = 9999
SCORES = ("1", "1", "1", "2", "2", "3", "1", "2", "4", "1", "1", "3", "2", "1", "Q", "1", "2", "1", "5", "1")


@dataclass(frozen=True)
class CohortStyle:
    """A generator style: the scanner, how far heads are turned, and how often a head circumference is missing."""

    scanner: Scanner = field(
        default_factory=lambda: Scanner((Sequence(12000, 156),), bias=0.03, noise=(0.02, 0.04), thickness_mm=(0.6, 1.4))
    )
    pose_deg: float = 2.0
    missing: float = 0.15


STYLES: dict[str, CohortStyle] = {
    "main": CohortStyle(),
    "shift": CohortStyle(Scanner((Sequence(8000, 110),), bias=0.08, noise=(0.05, 0.08), thickness_mm=(1.5, 2.5)), 6.0, 0.3),
}


@dataclass(frozen=True)
class Scan:
    """One scan: ``image`` ``(X, Y, Z)`` int16 with the head around the brain, ``brain`` uint8, ``label`` uint8 (dHCP's nine tissues),
    ``grid``, the ``newborn`` and its ``stage``, and the circumference of the brain's outline on the grid, cm."""

    image: NDArray[np.int16]
    brain: NDArray[np.uint8]
    label: NDArray[np.uint8]
    grid: Grid
    newborn: Newborn
    stage: Stage
    outline_cm: float

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world, ``(4, 4)``, mm, RAS."""
        out = np.eye(4)
        flip = np.diag([-1.0, -1.0, 1.0])
        out[:3, :3] = flip @ self.grid.direction * np.asarray(self.grid.spacing_mm)
        out[:3, 3] = flip @ self.grid.origin_mm
        return out


def simulate_dhcp(
    out_dir: str | Path, subjects: int = 60, seed: int = 0, spacing_mm: float = 2.0, style: str = "main", repeated: float = 0.1
) -> Path:
    """Write a simulated cohort as ``<out_dir>/rel3_dhcp_anat_pipeline/{sub-*, participants.tsv}`` and ``<out_dir>/combined.tsv``.

    Same arguments give the same bytes; the scans of child ``k`` do not depend on ``subjects``. A complete cohort made with the same
    arguments is reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create, with ``SIMULATED.txt`` in it; may exist when it is empty or holds this very cohort.
        subjects: 1 to 9999; any few in turn cover the whole range of ages.
        seed: >= 0.
        spacing_mm: voxel size, 0.5 (217 x 290 x 290 voxels, as dHCP) to 8; 2 gives 54 x 72 x 72 mostly.
        style: "main", or "shift" (another echo time, more noise, thicker slices, heads turned further; not for training).
        repeated: share of children with two scans, or three (every fourth of them), in [0, 1].

    Returns:
        The folder ``<out_dir>/rel3_dhcp_anat_pipeline``.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    _check(subjects, seed, spacing_mm, style, repeated)
    parameters = {"layout": "dhcp", "generator": GENERATOR_VERSION, "subjects": subjects, "seed": seed, "spacing_mm": spacing_mm}
    parameters |= {"style": style, "repeated": repeated}
    rows: list[dict[str, str]] = []

    def write_subject(folder: Path, index: int) -> list[str]:
        sessions, files = [], []
        for visit in visits(index, seed, style, repeated):
            scan = simulate_scan(visit, seed, spacing_mm, style)
            files += _write(scan, folder / ROOT, *visit.names)
            sessions.append(_row(visit, scan, stream(seed, style, index, f"table {visit.visit}"), STYLES[style]))
        rows.extend(sessions)
        name = f"sub-{sessions[0]['participant_id']}"
        files.append(_write_tsv(folder / ROOT / name / f"{name}_sessions.tsv", sessions, SESSION_COLUMNS))
        if index == subjects - 1:
            first = {row["participant_id"]: row for row in reversed(rows)}
            files.append(_write_tsv(folder / ROOT / "participants.tsv", list(reversed(first.values())), PARTICIPANT_COLUMNS))
            files.append(_write_tsv(folder / "combined.tsv", rows, (*PARTICIPANT_COLUMNS, *SESSION_COLUMNS)))
        return [file.relative_to(folder).as_posix() for file in files]

    return publish_cohort(Path(out_dir), parameters, subjects, write_subject, "T2w brains of newborns (dHCP release 3 layout)") / ROOT


PARTICIPANT_COLUMNS = ("participant_id", "sex", "birth_age", "birth_weight", "singleton")
SESSION_COLUMNS = ("session_id", "scan_age", "scan_head_circumference", "scan_number", "radiology_score", "sedation")


def _check(subjects: int, seed: int, spacing_mm: float, style: str, repeated: float) -> None:
    """Refuse arguments out of range."""
    if style not in STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(STYLES))}.")
    for name, value, low, high in (("subjects", subjects, 1, SUBJECTS), ("seed", seed, 0, 2**32 - 1)):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    for title, number, least, most in (("spacing_mm", spacing_mm, 0.5, 8.0), ("repeated", repeated, 0.0, 1.0)):
        if not least <= number <= most:
            raise UserError(f"{title}: got {number}, expected a number from {least:g} to {most:g}.")


def simulate_scan(visit: Visit, seed: int, spacing_mm: float = 2.0, style: str = "main") -> Scan:
    """Simulate one scan; it depends on nothing but the arguments.

    Args:
        visit: child, scan and ages.
        seed: of the cohort.
        spacing_mm: voxel size, isotropic.
        style: key of ``STYLES``.
    """
    look, atlas = STYLES[style], load_brain_atlas()
    newborn = draw_newborn(stream(seed, style, visit.subject, "child"), visit.ages[0])
    stage = stage_at(newborn, visit.age, atlas.outline_cm)
    rng = stream(seed, style, visit.subject, f"scan {visit.visit}")
    grid = _grid(rng, spacing_mm, stage.scale * newborn.stretch * atlas.extent_mm + MARGIN_MM)
    positions = _anatomy(rng, newborn, stage, look.pose_deg).to_template(grid, centre_mm=(0.0, -18.0, 4.0))
    hull = atlas.sample(positions, 0, 1)[0]
    brain = hull < 0
    step = spacing_mm / stage.scale
    shares, labels = tissue_shares(newborn, stage, positions[brain], step / 2)
    (sequence,) = look.scanner.sequences
    level = {name: np.float32(signal(tissue, sequence)) for name, tissue in stage.tissues.items()}
    clean = _outside(hull * np.float32(stage.scale), level, spacing_mm)
    clean[brain] = sum(part * level[name] for name, part in shares.items())
    everywhere = np.ones(brain.shape, np.bool_)
    image = acquire(rng, clean.ravel(), everywhere, positions.reshape(-1, 3), float(level["white"]), look.scanner, spacing_mm)
    label = np.zeros(brain.shape, np.uint8)
    label[brain] = labels
    return Scan(image, brain.astype(np.uint8), label, grid, newborn, stage, outline_mm(brain, grid.spacing_mm) / 10.0)


def _grid(rng: np.random.Generator, spacing_mm: float, needed_mm: NDArray[np.float64]) -> Grid:
    """Grid of dHCP's field of view, axes to the left, front and top; the head lies within 2 mm of its middle."""
    shape = tuple(round(max(pair) / spacing_mm) for pair in zip(FIELD_MM, needed_mm, strict=True))
    direction = np.diag([1.0, -1.0, 1.0])
    half = direction @ ((np.array(shape) - 1) / 2 * spacing_mm)
    return Grid(shape, (spacing_mm,) * 3, rng.uniform(-2.0, 2.0, 3) - half, direction)


def _anatomy(rng: np.random.Generator, newborn: Newborn, stage: Stage, pose_deg: float) -> Anatomy:
    """Map from patient space of one scan to template space: the child's size and shape, the scan's own pose."""
    from scipy.spatial.transform import Rotation

    pose = Rotation.from_euler("xyz", pose_deg * np.clip(rng.standard_normal(3), -2, 2), degrees=True).as_matrix()
    flip = np.diag([-1.0, -1.0, 1.0])  # left, back, up (ITK) to right, front, up (MNI)
    return Anatomy(np.diag(1.0 / (stage.scale * newborn.stretch)) @ flip @ pose, newborn.warp)


def _outside(distance_mm: Array, level: dict[str, Any], spacing_mm: float) -> Array:
    """Signal around the brain: 2.5 mm of bone, 4.5 mm of scalp, air."""
    edge = spacing_mm / 2
    inside = {name: np.clip(0.5 - (distance_mm - depth) / (2 * edge), 0, 1) for name, depth in (("bone", 2.5), ("scalp", 7.0))}
    return np.asarray(inside["bone"] * level["bone"] + (inside["scalp"] - inside["bone"]) * level["scalp"], np.float32)


def _row(visit: Visit, scan: Scan, rng: np.random.Generator, style: CohortStyle) -> dict[str, str]:
    """What the tables say of a scan; the tape measures the head to about 3 mm."""
    child, session = visit.names
    circumference = scan.outline_cm + scan.newborn.scalp_cm + 0.3 * float(np.clip(rng.standard_normal(), -2, 2))
    weight = np.clip(3.4 - 0.19 * (40 - scan.newborn.birth_age) + 0.3 * rng.standard_normal(), 0.5, 5.0)
    return {
        "participant_id": child,
        "sex": scan.newborn.sex,
        "birth_age": f"{scan.newborn.birth_age:.2f}",
        "birth_weight": f"{weight:.2f}",
        "singleton": "S",
        "session_id": session,
        "scan_age": f"{visit.age:.2f}",
        "scan_head_circumference": "" if rng.random() < style.missing else f"{circumference:.1f}",
        "scan_number": str(visit.visit + 1),
        "radiology_score": SCORES[int(rng.integers(len(SCORES)))],
        "sedation": "0",
    }


def _write(scan: Scan, root: Path, child: str, session: str) -> list[Path]:
    """Write image, brain mask and tissue labels of a scan."""
    import nibabel

    stem = f"sub-{child}_ses-{session}"
    folder = root / f"sub-{child}" / f"ses-{session}" / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for ending, values in (("desc-restore_T2w", scan.image), ("desc-brain_mask", scan.brain), ("desc-drawem9_dseg", scan.label)):
        image = nibabel.Nifti1Image(values, scan.affine)
        image.header.set_xyzt_units("mm")
        files.append(folder / f"{stem}_{ending}.nii.gz")
        nibabel.save(image, files[-1])
    return files


def _write_tsv(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...]) -> Path:
    lines = [columns, *(tuple(row[name] for name in columns) for row in rows)]
    return write_text(path, "".join("\t".join(line) + "\n" for line in lines))
