"""A simulated BONBID-HIE cohort in the layout of the public training archive (methods: design.md section 6).

The brains are ICBM152 deformed and shrunk to neonatal size with neonatal ADC (`adc.py`), the lesions follow the known patterns of
hypoxic-ischaemic injury (`hie.py`). It proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.data.simulate.adc import ScanStyle, Voxels, acquire, build_norm, draw_healthy, smooth_inside
from common.data.simulate.anatomy import Anatomy, Array, Grid, load_template, sample_slices
from common.data.simulate.folder import publish_cohort
from common.data.simulate.hie import LesionPlan, lesion_mask, lower_adc, plan_lesion
from common.data.simulate.lookalikes import add_lookalikes
from common.errors import UserError

GENERATOR_VERSION = "2"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "BONBID2023_Train"
_NAMES = {
    "adc": "1ADC_ss/{}-ADC_ss.mha",
    "zadc": "2Z_ADC/Zmap_{}-ADC_smooth2mm_clipped10.mha",
    "label": "3LABEL/{}_lesion.mha",
}
_FIVES = (("small", "small", "small", "medium", "large"), ("small", "small", "small", "medium", "none"))
_LAST_FIVES = (("small", "small", "medium", "medium", "large"), ("small", "small", "small", "medium", "none"))


@dataclass(frozen=True)
class CohortStyle:
    """A generator style: the scanner, the lesions' depth, and how strata of lesion load are mixed.

    Attributes:
        scan: tissue values, artefacts and noise of the patients' scanner; the norm is always scanned with the main style.
        depth: smallest and largest relative fall of ADC in a lesion's core.
        fives: four tuples of five strata; each block of 20 subjects takes them in turn, shuffled within each five.
    """

    scan: ScanStyle = field(default_factory=ScanStyle)
    depth: tuple[float, float] = (0.2, 0.46)
    fives: tuple[tuple[str, ...], ...] = (*_FIVES, *_LAST_FIVES)


NORM = replace(ScanStyle(), spread=0.036, noise=54.0, misregistration_mm=1.6)
"""Scanner and spread of the healthy controls behind Z_ADC, the same for every style; controls lie a little stiller than patients."""

STYLES: dict[str, CohortStyle] = {
    "main": CohortStyle(),
    "shift": CohortStyle(
        replace(
            ScanStyle(),
            white=1580.0,
            grey=1200.0,
            noise=85.0,
            gain=0.02,
            bias=0.03,
            misregistration_mm=2.2,
            ghost=0.4,
            thickness_mm=(3.0, 7.0),
        ),
        (0.2, 0.42),
        (_FIVES[0], _FIVES[1], _LAST_FIVES[0], _LAST_FIVES[0]),
    ),
}


@dataclass(frozen=True)
class Scan:
    """One visit: its grid, the three images ``(X, Y, Z)`` (float32, float32, uint8)."""

    grid: Grid
    adc: Array
    zadc: Array
    label: np.ndarray


def simulate_bonbid(
    out_dir: str | Path,
    subjects: int = 40,
    seed: int = 0,
    size: int = 64,
    slices: tuple[int, int] = (10, 16),
    style: str = "main",
) -> Path:
    """Write a simulated cohort as ``<out_dir>/BONBID2023_Train/{1ADC_ss,2Z_ADC,3LABEL}`` and ``<out_dir>/SIMULATED.txt``.

    Same arguments give the same bytes; subject ``k`` does not depend on ``subjects``. A complete cohort made with the same arguments is
    reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create; may exist when it is empty or holds this very cohort.
        subjects: 1 to 499. Of each ten in turn, five or six have a lesion < 1 % of the brain, two or three 1-5 %, one > 5 %, one none
            ("shift": half < 1 %, one in twenty none). One in twenty has a second visit, where the lesion is fainter.
        seed: >= 0.
        size: voxels in plane, 16 to 512; 64 gives about 2 mm, 128 and more give 0.8 to 1 mm.
        slices: fewest and most slices, both >= 1.
        style: "main", or "shift" (another scanner, lesion mixture and registration; not for training).

    Returns:
        The folder ``<out_dir>/BONBID2023_Train``.

    Raises:
        UserError: an argument is out of range, the folder holds something else, or nilearn is missing.
    """
    slices = _check(subjects, seed, size, slices, style)
    parameters = {
        "layout": "bonbid",
        "generator": GENERATOR_VERSION,
        "subjects": subjects,
        "seed": seed,
        "size": size,
        "slices": list(slices),
        "style": style,
    }

    def write_subject(folder: Path, index: int) -> list[str]:
        identity = f"MGHNICU_{_number(seed, index):03d}"
        names = []
        for visit in range(2 if has_second_visit(seed, index) else 1):
            scan = simulate_scan(index, seed, size, slices, style, visit)
            names += _write(scan, folder / ROOT, f"{identity}-VISIT_{visit + 1:02d}")
        return [f"{ROOT}/{name}" for name in names]

    return (
        publish_cohort(Path(out_dir), parameters, subjects, write_subject, "neonatal ADC and Z_ADC with HIE lesions (BONBID-HIE layout)")
        / ROOT
    )


def _check(subjects: int, seed: int, size: int, slices: tuple[int, int], style: str) -> tuple[int, int]:
    """Refuse arguments out of range; returns slices as two integers."""
    if style not in STYLES:
        raise UserError(f"style: got {style!r}, expected one of {', '.join(sorted(STYLES))}.")
    for name, value, low, high in (("subjects", subjects, 1, 499), ("seed", seed, 0, 2**32 - 1), ("size", size, 16, 512)):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    if len(slices) != 2 or not 1 <= slices[0] <= slices[1] <= 256:
        raise UserError(f"slices: got {slices}, expected (fewest, most) with 1 <= fewest <= most <= 256.")
    return int(slices[0]), int(slices[1])


def _rng(seed: int, style: str, index: int, stream: str, visit: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, zlib.crc32(stream.encode()), visit])


def _number(seed: int, index: int) -> int:
    """Subject number 1-999 with gaps, as in the public archive."""
    return 1 + 2 * index + int(_rng(seed, "", index, "number").integers(2))


def has_second_visit(seed: int, index: int) -> bool:
    """Whether subject ``index`` was scanned twice: one among the first ten of every twenty."""
    return index % 20 == int(_rng(seed, "", index // 20, "second visit").integers(10))


def stratum_of(seed: int, index: int, style: str) -> str:
    """Stratum of lesion load of subject ``index``: "none", "small", "medium" or "large"."""
    five = STYLES[style].fives[(index // 5) % 4]
    return five[_rng(seed, style, index // 5, "strata").permutation(5)[index % 5]]


def simulate_scan(index: int, seed: int, size: int, slices: tuple[int, int], style: str, visit: int = 0, lesion: bool = True) -> Scan:
    """Simulate one visit of one subject.

    Args:
        index: which subject, >= 0.
        seed: of the cohort.
        size: voxels in plane.
        slices: fewest and most slices.
        style: key of ``STYLES``.
        visit: 0, or 1 for the follow-up.
        lesion: False leaves the lesion out (healthy controls in tests).
    """
    look = STYLES[style]
    anatomy = Anatomy.draw(_rng(seed, style, index, "anatomy"))
    stratum = stratum_of(seed, index, style) if lesion else "none"
    plan = None if stratum == "none" else plan_lesion(_rng(seed, style, index, "lesion"), stratum, look.depth)
    rng = _rng(seed, style, index, "scan", visit)
    grid = draw_grid(rng, size, slices, look.scan.thickness_mm)
    points, step = anatomy.to_template(grid), anatomy.slice_step(grid)
    brain = sample_slices(load_template().maps[3:], points, step)[0] > 0.5
    start, stop = _bounding_box(brain)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    voxels = Voxels(brain[box], points[brain], step, grid.spacing_mm)
    images = _scan_brain(rng, _rng(seed, style, index, "body"), voxels, plan, look.scan, visit)
    return Scan(grid, *(_uncrop(image, grid.shape, box) for image in images))


def draw_grid(rng: np.random.Generator, size: int, slices: tuple[int, int], thickness_mm: tuple[float, float]) -> Grid:
    """Draw an oblique grid around the head: spacing, slice thickness, tilt and place vary."""
    from scipy.spatial.transform import Rotation

    count = int(rng.integers(slices[0], slices[1] + 1))
    field_of_view, fine = rng.uniform(125.0, 133.0), rng.uniform(0.8, 1.0)
    step = round(max(field_of_view / size, fine), 4)
    thickness = round(float(np.clip(rng.uniform(62.0, 76.0) / count, *thickness_mm)), 3)
    tilt = Rotation.from_euler("xyz", rng.uniform([-12, -4, -5], [12, 4, 5]), degrees=True).as_matrix()
    spacing = (step, step, thickness)
    shape = (size, size, count)
    middle = (np.asarray(shape) - 1) / 2 * np.asarray(spacing)
    return Grid(shape, spacing, rng.uniform(-2.0, 2.0, 3) - tilt @ middle, tilt)


def _bounding_box(mask: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    found = np.argwhere(mask)
    return tuple(found.min(0)), tuple(found.max(0) + 1)


def _uncrop(values: np.ndarray, shape: tuple[int, int, int], box: tuple[slice, ...]) -> np.ndarray:
    out = np.zeros(shape, values.dtype)
    out[box] = values
    return out


def _scan_brain(
    rng: np.random.Generator, body: np.random.Generator, voxels: Voxels, plan: LesionPlan | None, scan: ScanStyle, visit: int
) -> tuple[Array, Array, np.ndarray]:
    """ADC, Z and label of one brain; ``body`` repeats the same person at each visit, ``rng`` is the scan's own chance."""
    person = draw_healthy(body, voxels, scan)
    tissues = sample_slices(load_template().maps, person.points, voxels.slice_step, voxels.samples)
    adc = add_lookalikes(rng, person.adc, person.points, tissues[2], voxels, scan.ghost)
    mask = np.zeros(voxels.brain.shape, bool)
    if plan is not None:
        mask = lesion_mask(plan, person.points, tissues, voxels, 0.85 if visit else 1.0)
        adc = lower_adc(adc, mask, plan, person.points, tissues[2], voxels, 0.7 if visit else 1.0)
    adc = np.maximum(acquire(rng, adc, voxels, scan), np.float32(1.0))  # 0 is kept for the outside
    norm = build_norm(rng, voxels, NORM)
    return voxels.fill(adc), voxels.fill(norm.z_score(smooth_inside(adc, voxels))), mask.astype(np.uint8)


def _write(scan: Scan, root: Path, identity: str) -> list[str]:
    """Write the three images of a visit; returns their names relative to ``root``."""
    import itk

    names = []
    for key, values in (("adc", scan.adc), ("zadc", scan.zadc), ("label", scan.label)):
        image = itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0)))
        image.SetSpacing(scan.grid.spacing_mm)
        image.SetOrigin([float(v) for v in scan.grid.origin_mm])
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(scan.grid.direction)))
        name = _NAMES[key].format(identity)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        itk.imwrite(image, str(root / name), compression=True)
        names.append(name)
    return names
