"""A simulated FeTA cohort: reconstructed T2w scans of fetal brains with seven tissues, in FeTA's BIDS-like tree (none comes with MONAI).

The brains are `fetal_brain.py`'s; four of ten are pathological (wide ventricles or a small cerebellum). Cortex, deep grey matter,
cerebellum and brainstem have about one intensity, so that only place and shape tell them apart (a test holds the band of the trivial rule).
It proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from common.atomic import write_csv, write_json, write_text
from common.data.simulate.anatomy import Anatomy, Array, Grid
from common.data.simulate.fetal_brain import AGES, PATHOLOGIES, Fetus, draw_fetus, fetal_shares
from common.data.simulate.folder import publish_cohort
from common.data.simulate.mr_signal import Scanner, Sequence, acquire, signal
from common.data.simulate.neonatal_brain import load_brain_atlas
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "feta_2.1"
FIELD_MM = 128.0
"""Field of view along each axis: 256 voxels of 0.5 mm."""
SUBJECTS = 999
PATHOLOGICAL, IRTK = 0.4, 0.4
"""Shares of pathological brains and of irtk's reconstructions."""
RIM_MM = (2.0, 5.0)
"""Thinnest and thickest rim of skull and maternal tissue that irtk's reconstructions keep around the brain; mial's keep none."""
GOLDEN = 0.6180339887


@dataclass(frozen=True)
class CohortStyle:
    """A generator style: the scanner, how far fetuses are turned, and the motion between slices that reconstruction leaves, mm."""

    scanner: Scanner
    pose_deg: float = 5.0
    motion_mm: tuple[float, float] = (0.3, 1.2)


STYLES: dict[str, CohortStyle] = {
    "main": CohortStyle(Scanner((Sequence(12000, 140),), bias=0.12, noise=(0.03, 0.07), thickness_mm=(0.6, 1.5))),
    "shift": CohortStyle(Scanner((Sequence(12000, 100),), bias=0.2, noise=(0.06, 0.12), thickness_mm=(1.2, 2.5)), 12.0, (0.8, 2.0)),
}


@dataclass(frozen=True)
class Scan:
    """One scan: ``image`` ``(X, Y, Z)`` int16, 0 outside, ``label`` uint8 (FeTA's 0 to 7), ``spacing_mm`` (isotropic), world position of
    voxel (0, 0, 0) ``origin_mm`` (RAS), the ``fetus``, and ``method``, "mial" or "irtk"."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing_mm: float
    origin_mm: NDArray[np.float64]
    fetus: Fetus
    method: str

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world, ``(4, 4)``, mm, RAS."""
        out = np.diag([self.spacing_mm] * 3 + [1.0])
        out[:3, 3] = self.origin_mm
        return out


def simulate_feta(out_dir: str | Path, subjects: int = 40, seed: int = 0, spacing_mm: float = 2.0, style: str = "main") -> Path:
    """Write a simulated cohort as ``<out_dir>/feta_2.1/{sub-001/anat, ..., participants.tsv, dataset_description.json}``.

    A subject has ``sub-001_rec-mial_T2w.nii.gz`` and ``sub-001_rec-mial_dseg.nii.gz``, or the same with ``rec-irtk``.
    ``<out_dir>/truth.csv`` names each pathology. Same arguments give the same bytes; subject ``k`` does not depend on ``subjects``. A
    complete cohort made with the same arguments is reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create, with ``SIMULATED.txt`` in it; may exist when it is empty or holds this very cohort.
        subjects: 1 to 999; any few in turn cover the whole range of ages.
        seed: >= 0.
        spacing_mm: voxel size, 0.5 (256 voxels along each axis, as FeTA) to 4; 2 gives 64.
        style: "main", or "shift" (another echo time, more noise, bias and motion; not for training).

    Returns:
        The folder ``<out_dir>/feta_2.1``.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    _check(subjects, seed, spacing_mm, style)
    parameters = {"layout": "feta", "generator": GENERATOR_VERSION, "subjects": subjects, "seed": seed}
    parameters |= {"spacing_mm": float(spacing_mm), "style": style}
    rows: list[dict[str, str]] = []

    def write_subject(folder: Path, index: int) -> list[str]:
        scan = simulate_scan(index, seed, spacing_mm, style)
        name = f"sub-{index + 1:03d}"
        files = _write(scan, folder / ROOT / name / "anat", f"{name}_rec-{scan.method}")
        rows.append({"participant_id": name, "pathology": scan.fetus.pathology, "age": f"{scan.fetus.age:.1f}"})
        if index == subjects - 1:
            files += [*_write_tables(folder / ROOT, rows), write_csv(folder / "truth.csv", rows)]
        return [file.relative_to(folder).as_posix() for file in files]

    return publish_cohort(Path(out_dir), parameters, subjects, write_subject, "T2w fetal brains (FeTA layout)") / ROOT


def _check(subjects: int, seed: int, spacing_mm: float, style: str) -> None:
    """Refuse arguments out of range."""
    if style not in STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(STYLES))}.")
    for name, value, low, high in (("subjects", subjects, 1, SUBJECTS), ("seed", seed, 0, 2**32 - 1)):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    if not 0.5 <= spacing_mm <= 4.0:
        raise UserError(f"spacing_mm: got {spacing_mm}, expected a number from 0.5 to 4.")


def _rng(seed: int, style: str, index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, zlib.crc32(f"feta {stream}".encode())])


def who(index: int, seed: int, style: str = "main") -> tuple[float, str, str]:
    """Gestational age (weeks, to a tenth), pathology ("" or one of ``PATHOLOGIES``) and reconstruction method of a subject.

    Ages are spread evenly over subjects in turn (golden-ratio sequence); two of five in turn are pathological, the kinds alternating.
    """
    phases = _rng(seed, style, 0, "ages").random(3)
    age = round(AGES[0] + (AGES[1] - AGES[0]) * float((phases[0] + GOLDEN * index) % 1.0), 1)
    before, after = (int(np.floor(k * PATHOLOGICAL + phases[1])) for k in (index, index + 1))
    pathology = PATHOLOGIES[after % len(PATHOLOGIES)] if after > before else ""
    irtk = (0.4 + 0.6 * phases[2] + 0.7548776662 * index) % 1.0 < IRTK  # the first subject is mial's
    return age, pathology, "irtk" if irtk else "mial"


def simulate_scan(index: int, seed: int, spacing_mm: float = 2.0, style: str = "main") -> Scan:
    """Simulate one scan; it depends on nothing but the arguments.

    Args:
        index: which subject, >= 0.
        seed: of the cohort.
        spacing_mm: voxel size, isotropic.
        style: key of ``STYLES``.
    """
    look, (age, pathology, method) = STYLES[style], who(index, seed, style)
    fetus = draw_fetus(_rng(seed, style, index, "fetus"), age, pathology)
    rng = _rng(seed, style, index, "scan")
    grid = _grid(rng, spacing_mm)
    positions = _anatomy(rng, fetus, look.pose_deg).to_template(grid, centre_mm=(0.0, -18.0, 4.0))
    hull = load_brain_atlas().sample(positions, 0, 1)[0] * np.float32(fetus.scale)  # mm of the fetus
    brain = hull < 0
    shares, labels = fetal_shares(fetus, positions[brain], 0.5 * spacing_mm / fetus.scale)
    level = {name: np.float32(signal(tissue, look.scanner.sequences[0])) for name, tissue in fetus.tissues.items()}
    clean = _around(rng, hull, float(level["white"]))
    clean[brain] = sum(part * level[name] for name, part in shares.items())
    rim = float(rng.uniform(*RIM_MM)) if method == "irtk" else 0.0
    seen = brain | (hull < rim)
    blurred = _moved(rng, clean, float(rng.uniform(*look.motion_mm)) / spacing_mm)
    image = acquire(rng, blurred[seen], seen, positions[seen], float(level["white"]), look.scanner, spacing_mm)
    label = np.zeros(brain.shape, np.uint8)
    label[brain] = labels
    return Scan(image, label, spacing_mm, np.array([-1.0, -1.0, 1.0]) * grid.origin_mm, fetus, method)


def _grid(rng: np.random.Generator, spacing_mm: float) -> Grid:
    """A cube with axes to the right, front and top; the head lies within 3 mm of its middle."""
    count = round(FIELD_MM / spacing_mm)
    direction = np.diag([-1.0, -1.0, 1.0])
    half = direction @ np.full(3, (count - 1) / 2 * spacing_mm)
    return Grid((count, count, count), (spacing_mm,) * 3, rng.uniform(-3.0, 3.0, 3) - half, direction)


def _anatomy(rng: np.random.Generator, fetus: Fetus, pose_deg: float) -> Anatomy:
    """Map from patient space to template space."""
    from scipy.spatial.transform import Rotation

    pose = Rotation.from_euler("xyz", pose_deg * np.clip(rng.standard_normal(3), -2, 2), degrees=True).as_matrix()
    flip = np.diag([-1.0, -1.0, 1.0])  # left, back, up (ITK) to right, front, up (MNI)
    return Anatomy(np.diag(1.0 / (fetus.scale * fetus.stretch)) @ flip @ pose, fetus.warp)


def _around(rng: np.random.Generator, hull: Array, white: float) -> Array:
    """Signal outside the brain by distance ``(X, Y, Z)`` in mm: dark skull, then maternal tissue with grain."""
    grain = gaussian_filter(rng.standard_normal(hull.shape, dtype=np.float32), 1.5)
    beyond = np.clip((hull - 1.5) / 2.0, 0.0, 1.0)
    return np.asarray(white * (0.25 + beyond * np.clip(0.45 + 0.15 * grain / grain.std(), 0.1, 1.0)), np.float32)


def _moved(rng: np.random.Generator, clean: Array, motion: float) -> Array:
    """Mean of the volume as three stacks of slices saw it, each moved by about ``motion`` voxels."""
    moves = motion * np.clip(rng.standard_normal((3, 3)), -2, 2)
    moves -= moves.mean(axis=0)
    return np.mean([shift(clean, move, order=1, mode="nearest") for move in moves], axis=0, dtype=np.float32)


def _write(scan: Scan, folder: Path, stem: str) -> list[Path]:
    """Write image and tissues of a scan."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, values in (("T2w", scan.image), ("dseg", scan.label)):
        image = nibabel.Nifti1Image(values, scan.affine)
        image.header.set_xyzt_units("mm")
        files.append(folder / f"{stem}_{kind}.nii.gz")
        nibabel.save(image, files[-1])
    return files


def _write_tables(root: Path, rows: list[dict[str, str]]) -> list[Path]:
    lines = [("participant_id", "Pathology", "Gestational age")]
    lines += [(row["participant_id"], "Pathological" if row["pathology"] else "Neurotypical", row["age"]) for row in rows]
    about: dict[str, Any] = {"Name": "SIMULATED fetal brains in FeTA's layout: these are not patients", "BIDSVersion": "1.4.0"}
    table = write_text(root / "participants.tsv", "".join("\t".join(line) + "\n" for line in lines))
    return [table, write_json(root / "dataset_description.json", about)]
