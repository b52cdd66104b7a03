"""A simulated BraTS2020 cohort: four skull-stripped sequences with a glioma, in the tree of the public archive (design.md section 6).

The brains are ICBM152 deformed, the tissues' signals follow relaxation times (`mr_signal.py`), the tumours `glioma.py`; lesions of white
matter and caps of the ventricles are bright in FLAIR and no tumour. It proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.atomic import write_csv
from common.data.brats import SEQUENCES
from common.data.simulate.anatomy import Anatomy, Array, Grid, SmoothField, load_template, sample_volume
from common.data.simulate.folder import publish_cohort
from common.data.simulate.glioma import Glioma, GliomaPlan, displaced, grow, plan_glioma
from common.data.simulate.head_atlas import load_head_atlas
from common.data.simulate.mr_signal import Scanner, Sequence, Tissue, acquire, draw_tissues, signal
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "MICCAI_BraTS2020_TrainingData"
FIELD_MM, DEPTH_MM = 240.0, 155.0
"""Field of view of BraTS in plane and along the third axis: 240 x 240 x 155 voxels of 1 mm."""
CASES = 369
GOLDEN = 0.6180339887


@dataclass(frozen=True)
class CohortStyle:
    """A generator style: the scanner, the tumours, and what else is bright in FLAIR.

    Attributes:
        scanner: sequences and artefacts.
        volume_ml: smallest and largest whole tumour; volumes between are log-uniform.
        faint: smallest density of oedema.
        caps: largest share of gliosis beside the ventricles.
        lesions: most foci of gliosis in white matter.
    """

    scanner: Scanner = field(default_factory=Scanner)
    volume_ml: tuple[float, float] = (1.0, 120.0)
    faint: float = 0.45
    caps: float = 1.0
    lesions: int = 10


STYLES: dict[str, CohortStyle] = {
    "main": CohortStyle(),
    "shift": CohortStyle(
        Scanner((Sequence(450, 10), Sequence(4000, 85), Sequence(8000, 130, 2250)), 0.85, 0.05, 0.14, (0.05, 0.12), (3.0, 6.5)),
        (1.0, 60.0),
        0.35,
        1.0,
        16,
    ),
}


@dataclass(frozen=True)
class Scan:
    """One case: ``images`` ``(4, X, Y, Z)`` int16 in the order t1, t1ce, t2, flair (0 outside the brain), ``label`` ``(X, Y, Z)`` uint8
    (0, 1, 2, 4), ``spacing_mm`` (isotropic) and the tumour's plan."""

    images: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing_mm: float
    plan: GliomaPlan

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world, ``(4, 4)``, mm, RAS: that of BraTS (left, back, up; y from 239)."""
        out = np.diag([-self.spacing_mm, -self.spacing_mm, self.spacing_mm, 1.0])
        out[1, 3] = FIELD_MM - 1.0
        return out


def simulate_brats(out_dir: str | Path, subjects: int = 40, seed: int = 0, size: int = 64, style: str = "main") -> Path:
    """Write a simulated cohort as ``<out_dir>/MICCAI_BraTS2020_TrainingData/{BraTS20_Training_001, ..., name_mapping.csv}``.

    Same arguments give the same bytes; case ``k`` does not depend on ``subjects``. A complete cohort made with the same arguments is
    reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create, with ``SIMULATED.txt`` in it; may exist when it is empty or holds this very cohort.
        subjects: 1 to 369; any few in turn cover the whole range of tumour volumes.
        seed: >= 0.
        size: voxels in plane, 16 to 240; 240 gives BraTS's 240 x 240 x 155 at 1 mm, 64 gives 64 x 64 x 41 at 3.75 mm.
        style: "main", or "shift" (another scanner, smaller and fainter tumours, more lesions of white matter; not for training).

    Returns:
        The folder ``<out_dir>/MICCAI_BraTS2020_TrainingData``.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    _check(subjects, seed, size, style)
    parameters = {"layout": "brats", "generator": GENERATOR_VERSION, "subjects": subjects, "seed": seed, "size": size, "style": style}
    rows: list[dict[str, str]] = []

    def write_subject(folder: Path, index: int) -> list[str]:
        scan = simulate_scan(index, seed, size, style)
        name = f"BraTS20_Training_{index + 1:03d}"
        files = _write(scan, folder / ROOT / name, name)
        earlier = dict.fromkeys(
            [f"BraTS_{year}_subject_ID" for year in (2017, 2018)] + ["TCGA_TCIA_subject_ID", "BraTS_2019_subject_ID"], "NA"
        )
        rows.append({"Grade": "HGG" if scan.plan.enhancing else "LGG", **earlier, "BraTS_2020_subject_ID": name})
        if index == subjects - 1:
            files.append(write_csv(folder / ROOT / "name_mapping.csv", rows))
        return [file.relative_to(folder).as_posix() for file in files]

    what = "four MR sequences with a glioma (BraTS2020 layout)"
    return publish_cohort(Path(out_dir), parameters, subjects, write_subject, what) / ROOT


def _check(subjects: int, seed: int, size: int, style: str) -> None:
    """Refuse arguments out of range."""
    if style not in STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(STYLES))}.")
    for name, value, low, high in (("subjects", subjects, 1, CASES), ("seed", seed, 0, 2**32 - 1), ("size", size, 16, int(FIELD_MM))):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")


def _rng(seed: int, style: str, index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, zlib.crc32(stream.encode())])


def tumour_volume_ml(seed: int, index: int, style: str) -> float:
    """Volume of the whole tumour of one case: log-uniform; cases in turn are spread evenly over the range (golden-ratio sequence)."""
    low, high = np.log(STYLES[style].volume_ml)
    return float(np.exp(low + (high - low) * ((_rng(seed, style, 0, "volumes").random() + GOLDEN * index) % 1.0)))


def simulate_scan(index: int, seed: int, size: int = 64, style: str = "main") -> Scan:
    """Simulate one case; it depends on nothing but the arguments.

    Args:
        index: which case, >= 0.
        seed: of the cohort.
        size: voxels in plane.
        style: key of ``STYLES``.
    """
    look, spacing = STYLES[style], FIELD_MM / size
    rng = _rng(seed, style, index, "head")
    anatomy = Anatomy.draw(rng, scale=0.93, warp_mm=2.8, length_mm=30.0, pose_deg=1.5)
    plan = plan_glioma(_rng(seed, style, index, "tumour"), tumour_volume_ml(seed, index, style), look.faint)
    template, positions = load_template(), anatomy.to_template(_grid(rng, size), centre_mm=(0.0, -18.0, 4.0))
    brain = sample_volume(template.maps[3:], positions, template.first_mm, template.step_mm)[0] > 0.5
    points = positions[brain]
    before = displaced(plan, points)
    grey, white, _, near = load_head_atlas().sample_tissue(before)
    glioma = grow(plan, points, grey, white, spacing**3 / 1000.0)
    gliosis = _gliosis(_rng(seed, style, index, "gliosis"), look, before, white, near)
    vessels = load_head_atlas().sample_head(before, 7, 9).max(axis=0)
    shares = mix(plan, points, glioma, grey, white, gliosis, vessels)
    images = _scan(_rng(seed, style, index, "scanner"), look.scanner, shares, plan, brain, points, spacing)
    label = np.zeros(brain.shape, np.uint8)
    label[brain] = glioma.label
    return Scan(images, label, spacing, plan)


def _grid(rng: np.random.Generator, size: int) -> Grid:
    """Grid around the head, which lies within 3 mm of its middle (BraTS is registered to an atlas)."""
    shape = (size, size, max(1, round(size * DEPTH_MM / FIELD_MM)))
    spacing = (FIELD_MM / size,) * 3
    return Grid(shape, spacing, rng.uniform(-3.0, 3.0, 3) - (np.array(shape) - 1) / 2 * np.array(spacing), np.eye(3))


def _gliosis(rng: np.random.Generator, look: CohortStyle, points: Array, white: Array, near: Array) -> Array:
    """Share of gliosis: caps along the ventricles and foci in white matter, none in three heads of ten; ``(N,)`` in [0, 1]."""
    severity = float(np.clip(rng.uniform(-0.5, 1.2), 0, 1))
    rough = SmoothField.draw(rng, 9.0, 0.5).at(points)[0]
    total = severity * look.caps * np.clip(2.2 * near * (1.0 + rough) - 0.2, 0, 1)
    candidates = np.flatnonzero(white > 0.7)
    for place in rng.choice(candidates, round(severity * look.lesions * rng.uniform(0.5, 1.0))) if len(candidates) else []:
        radii = rng.uniform(2.5, 7.0) * np.exp(rng.uniform(-0.3, 0.3, 3)).astype(np.float32)
        distance = np.sum(((points - points[place]) / radii) ** 2, axis=1)
        total = np.maximum(total, rng.uniform(0.6, 1.0) * np.exp(-0.7 * distance**2))
    return (total * white).astype(np.float32)


def mix(plan: GliomaPlan, points: Array, glioma: Glioma, grey: Array, white: Array, gliosis: Array, vessels: Array) -> dict[str, Array]:
    """Shares of the tissues in each voxel, ``(N,)`` each, with sum 1.

    Args:
        plan: density of the oedema, kind of core, texture.
        points: template positions, ``(N, 3)``, mm.
        glioma: shares of whole tumour, core and necrosis.
        grey: share of grey matter without tumour.
        white: share of white matter without tumour.
        gliosis: share of gliosis, part of ``white``.
        vessels: share of vessels and dura.
    """
    density = np.clip(plan.infiltration * (1.0 + 0.15 * plan.texture.at(points)[3]), 0.2, 1.0)
    oedema = (glioma.whole - glioma.core) * density
    rest = 1.0 - glioma.core - oedema
    blood = rest * 0.6 * vessels
    rest = rest - blood
    solid = np.maximum(grey + white, 1.0)
    rotten = glioma.necrosis if plan.enhancing else np.zeros_like(glioma.core)
    shares = {
        "grey": rest * grey / solid,
        "white": rest * (white - gliosis) / solid,
        "lesion": rest * gliosis / solid,
        "fluid": rest * (1.0 - (grey + white) / solid),
        "oedema": oedema,
        "tumour": glioma.core - rotten,
        "necrosis": rotten,
        "vessel": blood,
    }
    return {name: share.astype(np.float32) for name, share in shares.items()}


def _scan(
    rng: np.random.Generator, scanner: Scanner, shares: dict[str, Array], plan: GliomaPlan, brain: NDArray[np.bool_], points: Array,
    spacing: float,
) -> NDArray[np.int16]:  # fmt: skip
    """The four sequences, ``(4, X, Y, Z)``."""
    plain = draw_tissues(rng, scanner)
    uptake = {"vessel": Tissue(350.0, plain["vessel"].t2_ms, plain["vessel"].density)}
    if plan.enhancing:
        uptake["tumour"] = Tissue(plan.uptake_t1_ms, plain["tumour"].t2_ms, plain["tumour"].density)
    t1, t2, flair = scanner.sequences
    texture = SmoothField.draw(rng, 10.0, 0.02, len(SEQUENCES)).at(points)
    images = []
    for number, (tissues, sequence) in enumerate(((plain, t1), (plain | uptake, t1), (plain, t2), (plain, flair))):
        clean = sum(share * np.float32(signal(tissues[name], sequence)) for name, share in shares.items()) * (1.0 + texture[number])
        images.append(acquire(rng, clean, brain, points, signal(plain["white"], sequence), scanner, spacing))
    return np.stack(images)


def _write(scan: Scan, folder: Path, name: str) -> list[Path]:
    """Write the five files of a case."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, values in (*zip(SEQUENCES, scan.images, strict=True), ("seg", scan.label)):
        image = nibabel.Nifti1Image(values, scan.affine)
        image.header.set_xyzt_units("mm")
        files.append(folder / f"{name}_{kind}.nii.gz")
        nibabel.save(image, files[-1])
    return files
