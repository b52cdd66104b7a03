"""One simulated head CT: a person, what happened to the head, and the scanner, put together."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Anatomy, Array, Grid
from common.data.simulate.ct_scanner import Scanner, add_noise, add_table, draw_grid, harden
from common.data.simulate.fracture import FracturePlan, add_fracture, plan_fracture
from common.data.simulate.haemorrhage import BleedPlan, Mixture, add_bleed, mass_effect, plan_bleed
from common.data.simulate.head import HeadVoxels, render_head, sample_person
from common.data.simulate.person import Person, draw_person, hurt

CELLS = (
    *((1, 1, 1, 4), (1, 1, 0, 3), (1, 0, 1, 7), (1, 0, 0, 6)),
    *((0, 1, 1, 16), (0, 1, 0, 16), (0, 0, 1, 13)),
)
"""Fracture, bleed left, bleed right, number of cases: table 2 of the paper without its healthy cell."""
SIDES = {-1: "left", 1: "right", 0: "both"}


@dataclass(frozen=True)
class CohortStyle:
    """A generator style: the scanner, the mixture of bleeds, and the people's ages."""

    scanner: Scanner = field(default_factory=Scanner)
    bleeds: Mixture = field(default_factory=Mixture)
    age: tuple[float, float] = (18.0, 88.0)


STYLES: dict[str, CohortStyle] = {
    "main": CohortStyle(),
    "shift": CohortStyle(
        Scanner(
            (3.8, 5.6),
            (0.3, 0.5),
            0.35,
            2.0,
            6.0,
            14.0,
            (("SIEMENS", "SOMATOM Definition AS"), ("Philips", "Brilliance 16")),
            ("H30s", "UB"),
        ),
        Mixture((0.25, 0.42, 0.05, 0.20, 0.08), 0.25, 0.8, (52.0, 72.0)),
        (30.0, 92.0),
    ),
}


@dataclass(frozen=True)
class Lesion:
    """One lesion of the truth: ``kind`` (IPH, SDH, EDH, SAH, IVH, linear, depressed, base), ``side`` ("left", "right"), volume in ml,
    density minus that of the tissue it replaced (HU), whether it is isodense, and gap and length of a fracture (mm; 0 otherwise)."""

    kind: str
    side: str
    volume_ml: float
    contrast_hu: float
    isodense: bool
    gap_mm: float = 0.0
    length_mm: float = 0.0


@dataclass(frozen=True)
class Scan:
    """A simulated head CT; arrays are ``(X, Y, Z)`` on ``grid`` (ITK's convention: left, back, up).

    Attributes:
        grid: where.
        hu: what the scanner stores, float32, whole HU from -1024 to 3071.
        clean: the same without noise.
        truth: uint8, 0 nothing, 1 haemorrhage, 2 fracture.
        structures: uint8, 0 background, 1 other head tissue, 2 skull, 3 brain left, 4 brain right.
        vessels: share of vessels, float32 (what contrast medium would fill).
        lesions: the truth as a list.
        noise_hu, grain_px: of this scan.
        person: who.
        scanner: with what.
    """

    grid: Grid
    hu: Array
    clean: Array
    truth: NDArray[np.uint8]
    structures: NDArray[np.uint8]
    vessels: Array
    lesions: tuple[Lesion, ...]
    noise_hu: float
    grain_px: float
    person: Person
    scanner: Scanner

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world, ``(4, 4)``, mm, RAS."""
        out = np.eye(4)
        out[:3, :3] = self.grid.direction * np.asarray(self.grid.spacing_mm)
        out[:3, 3] = self.grid.origin_mm
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ out

    @property
    def findings(self) -> dict[str, int]:
        """``bleed_left``, ``bleed_right`` and ``fracture``, 0 or 1."""
        bleeds = {lesion.side for lesion in self.lesions if not lesion.gap_mm}
        fracture = any(lesion.gap_mm for lesion in self.lesions)
        return {"bleed_left": int("left" in bleeds), "bleed_right": int("right" in bleeds), "fracture": int(fracture)}


def stream(seed: int, style: str, index: int, abnormal: bool, name: str) -> np.random.Generator:
    """The source of chance of one purpose for one subject."""
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, int(abnormal), zlib.crc32(name.encode())])


def cell_of(seed: int, index: int) -> tuple[int, int, int]:
    """Fracture, bleed left, bleed right of abnormal subject ``index``: 65 in turn have the composition of the paper's table 2.

    Any first few are spread over the cells in proportion.
    """
    turns = []
    for number, (fracture, left, right, count) in enumerate(CELLS):
        start = np.random.default_rng([seed, 2, number]).uniform(0.2, 0.8)
        turns += [((k + start) / count, number, (fracture, left, right)) for k in range(count)]
    return sorted(turns)[index % len(turns)][2]


def simulate_scan(index: int, seed: int, size: int = 128, slice_mm: float = 3.0, style: str = "main", abnormal: bool = False) -> Scan:
    """Simulate one head CT; it depends on nothing but the arguments.

    Args:
        index: which subject among the healthy or among the abnormal, >= 0.
        seed: of the cohort.
        size: voxels in plane; 128 gives about 1.9 mm, 512 about 0.47 mm.
        slice_mm: distance and thickness of the slices.
        style: key of ``STYLES``.
        abnormal: with bleeds and fractures as ``cell_of`` says, or healthy.
    """
    look = STYLES[style]
    grid = draw_grid(stream(seed, style, index, abnormal, "grid"), size, slice_mm)
    body = stream(seed, style, index, abnormal, "body")
    anatomy = Anatomy.draw(body, scale=0.91, warp_mm=2.8, length_mm=30.0, pose_deg=5.0)
    person = draw_person(body, look.age)
    bleeds, fractures = _plan(stream(seed, style, index, abnormal, "lesions"), cell_of(seed, index), look.bleeds) if abnormal else ([], [])
    person = hurt(
        person,
        tuple(f.swelling for f in fractures if f.swelling),
        tuple(mass_effect(b) for b in bleeds),
        tuple(f.dent for f in fractures if f.dent),
    )
    voxels = sample_person(person, anatomy, grid)
    healthy = render_head(person, voxels)
    hu, truth, lesions = _injure(healthy, voxels, person, bleeds, fractures, grid)
    return _acquire(stream(seed, style, index, abnormal, "scanner"), look.scanner, hu, truth, lesions, voxels, person, grid)


def _plan(rng: np.random.Generator, cell: tuple[int, int, int], mixture: Mixture) -> tuple[list[BleedPlan], list[FracturePlan]]:
    """Fractures and bleeds of a cell; half of the first bleeds on the fractured side lie under the fracture."""
    sides = [side for side, wanted in ((-1, cell[1]), (1, cell[2])) if wanted]
    fractures = []
    if cell[0]:
        side = sides[rng.integers(len(sides))] if sides and rng.random() < 0.7 else int(rng.choice([-1, 1]))
        fractures = [plan_fracture(rng, side)]
    bleeds = []
    for side in sides:
        near = fractures[0].centre if fractures and fractures[0].side == side and rng.random() < 0.5 else None
        bleeds.append(plan_bleed(rng, side, mixture, near))
        if rng.random() < 0.25:
            bleeds.append(plan_bleed(rng, side, mixture))
    return bleeds, fractures


def _injure(
    hu: Array, voxels: HeadVoxels, person: Person, bleeds: list[BleedPlan], fractures: list[FracturePlan], grid: Grid
) -> tuple[Array, NDArray[np.uint8], tuple[Lesion, ...]]:
    """Add bleeds, then fractures; a bleed with no room (outside the scan) becomes a small one in the brain of its side."""
    truth = np.zeros(len(hu), np.uint8)
    lesions = []
    for plan in bleeds:
        before, was = hu, truth == 1
        hu, volume = add_bleed(plan, hu, truth, voxels, person)
        if not volume:
            plan = replace(plan, kind="IPH", centre=(plan.side * 30.0, -10.0, 20.0), radii=(9.0, 9.0, 9.0), volume_ml=3.0)
            hu, volume = add_bleed(plan, hu, truth, voxels, person)
        new = (truth == 1) & ~was
        contrast = float(np.mean(hu[new] - before[new])) if new.any() else 0.0
        lesions.append(Lesion(plan.kind, SIDES[plan.side], round(volume, 3), round(contrast, 2), plan.isodense))
    for crack in fractures:
        before = hu
        hu = add_fracture(crack, hu, truth, voxels, grid.spacing_mm)
        new = truth == 2
        contrast = float(np.mean(hu[new] - before[new])) if new.any() else 0.0
        volume = round(float(new.sum()) * voxels.voxel_ml, 3)
        lesions.append(
            Lesion(crack.kind, SIDES[crack.side], volume, round(contrast, 2), False, round(crack.gap_mm, 2), round(crack.length_mm, 1))
        )
    return hu, truth, tuple(lesions)


def _acquire(
    rng: np.random.Generator, scanner: Scanner, hu: Array, truth: NDArray[np.uint8], lesions: tuple[Lesion, ...], voxels: HeadVoxels,
    person: Person, grid: Grid,
) -> Scan:  # fmt: skip
    """Beam hardening, table, calibration and noise."""
    hu = harden(hu, voxels, float(rng.uniform(0.3, 1) * scanner.cupping_hu), float(rng.uniform(0.3, 1) * scanner.band_hu))
    clean = voxels.fill(hu, -1000.0)
    if scanner.blur_px:
        from scipy.ndimage import gaussian_filter

        clean = gaussian_filter(clean, (scanner.blur_px, scanner.blur_px, 0))
    clean = add_table(rng, clean, voxels.inside, grid) + np.float32(scanner.offset_hu * np.clip(rng.standard_normal(), -2, 2))
    noise = float(rng.uniform(*scanner.noise_hu) * np.sqrt(3.0 / grid.spacing_mm[2]))
    grain = float(rng.uniform(*scanner.kernel_px))
    return Scan(
        grid, add_noise(rng, clean, noise, grain), clean, voxels.fill(truth), _structures(voxels), voxels.fill(voxels.head[4]), lesions,
        noise, grain, person, scanner,
    )  # fmt: skip


def _structures(voxels: HeadVoxels) -> NDArray[np.uint8]:
    """0 background, 1 other head tissue, 2 skull, 3 brain left, 4 brain right."""
    names = np.ones(len(voxels.points), np.uint8)
    names[(voxels.hull >= 0) & (voxels.hull < voxels.skull_mm)] = 2
    brain = (voxels.hull < 0) & (voxels.points[:, 2] > -75.0)
    names[brain] = np.where(voxels.points[brain, 0] < 0, 3, 4)
    names[brain & (voxels.head[3] * (1 - voxels.tissue[0] - voxels.tissue[1]) > 0.3)] = 2
    names[voxels.outer > 0] = 0
    return voxels.fill(names)
