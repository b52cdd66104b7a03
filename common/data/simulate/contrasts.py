"""A simulated set for pre-training: CT and four MR contrasts of the same heads, with one list per modality (MONAI has phantoms of none).

Per person a head CT with skull on its own grid and thickness, and T1, T1 with contrast medium, T2 and FLAIR, skull-stripped on the grid of
BraTS2021; two of five have a glioma in all five. It proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.atomic import write_csv, write_json
from common.data.simulate.anatomy import Anatomy, Array, Grid, SmoothField, load_template, sample_volume
from common.data.simulate.brats import STYLES as MR_STYLES
from common.data.simulate.brats import mix
from common.data.simulate.ct_scanner import Scanner as CTScanner
from common.data.simulate.ct_scanner import add_noise, add_table, harden
from common.data.simulate.folder import publish_cohort
from common.data.simulate.glioma import Glioma, GliomaPlan, grow, plan_glioma
from common.data.simulate.head import HeadVoxels, render_head, sample_person
from common.data.simulate.head_ct import STYLES as CT_STYLES
from common.data.simulate.mr_signal import Scanner, Tissue, acquire, draw_tissues, signal
from common.data.simulate.person import Person, Push, draw_person, hurt
from common.data.simulate.soft_shapes import share
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "contrasts"
MODALITIES = ("ct", "t1", "t1ce", "t2", "flair")
"""Names of images and lists."""
SUBJECTS = 9999
MR_FIELD_MM, CT_FIELD_MM = (240.0, 240.0, 155.0), (240.0, 240.0, 190.0)
"""Fields of view: that of BraTS, and one with room for skull and skin."""
THICKNESS = (1.0, 2.5)
"""Thinnest and thickest slice of a CT, in units of the voxel size in plane."""
VALIDATION_EVERY = 8
"""The second of each so many subjects is for validation."""
TUMOUR_SHARE, TUMOUR_ML = 0.4, (2.0, 60.0)
TUMOUR_HU = {"oedema": -9.0, "core": 4.0, "necrosis": -16.0}
"""What each part of a tumour adds to the brain it replaces, HU."""
MR_NOISE = {"main": (0.01, 0.03), "shift": (0.03, 0.06)}
"""Noise of the MR in units of white matter's signal, less than in `brats.py`: a network that reconstructs cannot learn noise."""
GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Subject:
    """One person: ``ct`` ``(X, Y, Z)`` int16 in HU on ``ct_grid``, ``mr`` ``(4, X, Y, Z)`` int16 (t1, t1ce, t2, flair; 0 outside the brain)
    and ``label`` uint8 (BraTS: 0, 1, 2, 4) on ``mr_grid``, the ``person``, and the tumour's volume, ml (0 for none)."""

    ct: NDArray[np.int16]
    mr: NDArray[np.int16]
    label: NDArray[np.uint8]
    ct_grid: Grid
    mr_grid: Grid
    person: Person
    tumour_ml: float


def simulate_contrasts(out_dir: str | Path, subjects: int = 24, seed: int = 0, spacing_mm: float = 2.0, style: str = "main") -> Path:
    """Write a simulated set as ``<out_dir>/contrasts/{sub-0001/sub-0001_{ct,t1,t1ce,t2,flair,seg}.nii.gz, ..., ct.json, t1.json, ...}``.

    A list ``<modality>.json`` has the keys ``training`` and ``validation`` with entries ``{"image", "modality", "subject"}``; a subject
    is in the same part of all lists. ``subjects.csv`` holds age, slice thickness and tumour volume. Same arguments give the same bytes;
    subject ``k`` and its part do not depend on ``subjects``. A complete set made with the same arguments is reused.

    Args:
        out_dir: folder to create, with ``SIMULATED.txt`` in it; may exist when it is empty or holds this very set.
        subjects: 2 to 9999, so that neither part is empty.
        seed: >= 0.
        spacing_mm: voxel size of MR, and of CT in plane, 1 to 8; 1 gives BraTS's 240 x 240 x 155, 2 gives 120 x 120 x 78.
        style: "main", or "shift" (other scanners, older people; not for training).

    Returns:
        The folder ``<out_dir>/contrasts``.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    _check(subjects, seed, spacing_mm, style)
    parameters = {"layout": "contrasts", "generator": GENERATOR_VERSION, "subjects": subjects, "seed": seed}
    parameters |= {"spacing_mm": float(spacing_mm), "style": style}
    rows: list[dict[str, Any]] = []

    def write_subject(folder: Path, index: int) -> list[str]:
        one = simulate_subject(index, seed, spacing_mm, style)
        name = f"sub-{index + 1:04d}"
        files = _write(one, folder / ROOT / name, name)
        part = "validation" if index % VALIDATION_EVERY == 1 else "training"
        facts = {"age": f"{one.person.age:.1f}", "ct_slice_mm": f"{one.ct_grid.spacing_mm[2]:.3f}", "tumour_ml": f"{one.tumour_ml:.2f}"}
        rows.append({"subject": name, "part": part, **facts})
        if index == subjects - 1:
            files += [*_write_lists(folder / ROOT, rows), write_csv(folder / ROOT / "subjects.csv", rows)]
        return [file.relative_to(folder).as_posix() for file in files]

    what = "CT, T1, T1 with contrast medium, T2 and FLAIR of the same heads (lists per modality)"
    return publish_cohort(Path(out_dir), parameters, subjects, write_subject, what) / ROOT


def _check(subjects: int, seed: int, spacing_mm: float, style: str) -> None:
    """Refuse arguments out of range."""
    if style not in MR_STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(MR_STYLES))}.")
    for name, value, low, high in (("subjects", subjects, 2, SUBJECTS), ("seed", seed, 0, 2**32 - 1)):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    if not 1.0 <= spacing_mm <= 8.0:
        raise UserError(f"spacing_mm: got {spacing_mm}, expected a number from 1 to 8.")


def _rng(seed: int, style: str, index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, zlib.crc32(f"contrasts {stream}".encode())])


def simulate_subject(index: int, seed: int, spacing_mm: float = 2.0, style: str = "main") -> Subject:
    """Simulate one person's five images; they depend on nothing but the arguments.

    Args:
        index: which person, >= 0.
        seed: of the set.
        spacing_mm: voxel size of MR, and of CT in plane.
        style: "main" or "shift".
    """
    body = _rng(seed, style, index, "body")
    anatomy = Anatomy.draw(body, scale=0.91, warp_mm=2.8, length_mm=30.0, pose_deg=3.0)
    person = draw_person(body, CT_STYLES[style].age)
    plan = _plan(seed, style, index)
    if plan:
        push = Push(tuple(float(v) for v in plan.centre), (0.0, 0.0, 0.0), plan.push_mm, 1.3 * plan.radius_mm + 5.0)  # type: ignore[arg-type]
        person = hurt(person, (), (push,), ())
    scan = _rng(seed, style, index, "grids")
    ct_grid = _grid(scan, CT_FIELD_MM, spacing_mm, spacing_mm * float(scan.uniform(*THICKNESS)), -4.0)
    mr_grid = _grid(scan, MR_FIELD_MM, spacing_mm, spacing_mm, -10.0)
    ct = _ct(_rng(seed, style, index, "ct"), CT_STYLES[style].scanner, person, anatomy, ct_grid, plan)
    scanner = replace(MR_STYLES[style].scanner, noise=MR_NOISE[style])
    mr, label = _mr(_rng(seed, style, index, "mr"), scanner, person, anatomy, mr_grid, plan)
    return Subject(ct, mr, label, ct_grid, mr_grid, person, float((label > 0).sum() * spacing_mm**3 / 1000.0))


def _plan(seed: int, style: str, index: int) -> GliomaPlan | None:
    """The tumour of a person, or None; whom it strikes, and volumes, are spread evenly over persons in turn (golden-ratio sequence)."""
    turn = float((_rng(seed, style, 0, "tumours").random() + GOLDEN * index) % 1.0)
    if turn >= TUMOUR_SHARE:
        return None
    low, high = np.log(TUMOUR_ML)
    return plan_glioma(_rng(seed, style, index, "tumour"), float(np.exp(low + (high - low) * turn / TUMOUR_SHARE)))


def _grid(rng: np.random.Generator, field_mm: tuple[float, float, float], spacing_mm: float, slice_mm: float, middle_mm: float) -> Grid:
    """Grid of a field of view whose middle lies ``middle_mm`` above the head's origin, within 3 mm."""
    spacing = (spacing_mm, spacing_mm, slice_mm)
    shape = (round(field_mm[0] / spacing_mm), round(field_mm[1] / spacing_mm), round(field_mm[2] / slice_mm))
    middle = rng.uniform(-3.0, 3.0, 3) + np.array([0.0, 0.0, middle_mm])
    return Grid(shape, spacing, middle - (np.array(shape) - 1) / 2 * np.array(spacing), np.eye(3))


def _tumour(plan: GliomaPlan | None, points: Array, grey: Array, white: Array, voxel_ml: float) -> Glioma:
    """The tumour on these voxels; nothing without a plan."""
    if plan:
        return grow(plan, points, grey, white, voxel_ml)
    none = np.zeros(len(points), np.float32)
    return Glioma(none.astype(np.uint8), none, none, none)


def _ct(
    rng: np.random.Generator, scanner: CTScanner, person: Person, anatomy: Anatomy, grid: Grid, plan: GliomaPlan | None
) -> NDArray[np.int16]:
    """The head in Hounsfield units, with table, beam hardening and noise."""
    voxels = sample_person(person, anatomy, grid)
    hu = render_head(person, voxels)
    inside = voxels.hull < 0
    glioma = _tumour(plan, voxels.points[inside], voxels.tissue[0, inside], voxels.tissue[1, inside], voxels.voxel_ml)
    parts = {"oedema": glioma.whole - glioma.core, "core": glioma.core - glioma.necrosis, "necrosis": glioma.necrosis}
    hu[inside] += sum(np.float32(TUMOUR_HU[name]) * part for name, part in parts.items())
    hu = harden(hu, voxels, float(rng.uniform(0.3, 1) * scanner.cupping_hu), float(rng.uniform(0.3, 1) * scanner.band_hu))
    clean = add_table(rng, voxels.fill(hu, -1000.0), voxels.inside, grid)
    noise = float(rng.uniform(*scanner.noise_hu) * np.sqrt(3.0 / grid.spacing_mm[2]))
    return add_noise(rng, clean, noise, float(rng.uniform(*scanner.kernel_px))).astype(np.int16)


def _mr(
    rng: np.random.Generator, scanner: Scanner, person: Person, anatomy: Anatomy, grid: Grid, plan: GliomaPlan | None
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """The four sequences and the tumour's label."""
    template, voxels = load_template(), sample_person(person, anatomy, grid)
    inside = sample_volume(template.maps[3:], voxels.points, template.first_mm, template.step_mm)[0] > 0.5
    brain = voxels.fill(inside, False)
    points = voxels.points[inside]
    grey, white, near = _parenchyma(person, voxels, inside)
    glioma = _tumour(plan, points, grey, white, voxels.voxel_ml)
    rough = SmoothField.draw(rng, 9.0, 0.5).at(points)[0]
    gliosis = white * np.clip(2.2 * near * (1.0 + rough) - 0.2, 0, 1) * np.float32(min(1.0, person.leukoaraiosis / 4.0))
    drawn = plan or plan_glioma(rng, 1.0)  # of nothing: its texture of oedema is not used
    shares = mix(drawn, points, glioma, grey, white, gliosis, voxels.head[4][inside])
    plain = draw_tissues(rng, scanner)
    uptake = {"vessel": Tissue(350.0, plain["vessel"].t2_ms, plain["vessel"].density)}
    if drawn.enhancing:
        uptake["tumour"] = Tissue(drawn.uptake_t1_ms, plain["tumour"].t2_ms, plain["tumour"].density)
    t1, t2, flair = scanner.sequences
    images = []
    for tissues, sequence in ((plain, t1), (plain | uptake, t1), (plain, t2), (plain, flair)):
        clean = np.sum([part * np.float32(signal(tissues[name], sequence)) for name, part in shares.items()], axis=0)
        images.append(acquire(rng, clean, brain, points, signal(plain["white"], sequence), scanner, grid.spacing_mm[2]))
    label = np.zeros(brain.shape, np.uint8)
    label[brain] = glioma.label
    return np.stack(images), label


def _parenchyma(person: Person, voxels: HeadVoxels, inside: NDArray[np.bool_]) -> Array:
    """Shares of grey and white matter and closeness to a ventricle, ``(3, N)``, with the person's atrophy as in the CT."""
    grey, white, _, near = voxels.tissue[:, inside]
    cover = share(voxels.hull[inside] + np.float32(person.atrophy_mm), np.maximum(voxels.reach[inside], 1.0))
    cover *= np.maximum(1.0 - np.clip(1.0 - grey - white, 0, 1) * np.float32(person.atrophy_mm / 1.5), 0.0)
    return np.stack([grey * cover, white * cover, near])


def _write_lists(root: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """One list per modality; paths start at the lists' folder."""
    files = []
    for modality in MODALITIES:
        content: dict[str, Any] = {"name": f"simulated {modality}", "description": "SIMULATED: these are not patients"}
        for part in ("training", "validation"):
            names = [row["subject"] for row in rows if row["part"] == part]
            content[part] = [{"image": f"{n}/{n}_{modality}.nii.gz", "modality": modality, "subject": n} for n in names]
        files.append(write_json(root / f"{modality}.json", content))
    return files


def _write(one: Subject, folder: Path, name: str) -> list[Path]:
    """Write the five images and the tumour's label."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    volumes = [(one.ct, one.ct_grid), *((image, one.mr_grid) for image in one.mr), (one.label, one.mr_grid)]
    files = []
    for kind, (values, grid) in zip((*MODALITIES, "seg"), volumes, strict=True):
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ grid.direction * np.asarray(grid.spacing_mm)
        affine[:3, 3] = np.array([-1.0, -1.0, 1.0]) * grid.origin_mm
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        files.append(folder / f"{name}_{kind}.nii.gz")
        nibabel.save(image, files[-1])
    return files
