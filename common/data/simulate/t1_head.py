"""A head in T1-weighted MR, skull, fat and face included: what each site's scanner makes of `head.py`'s head (MONAI has no phantom of it).

Source: T1 of grey and white matter at 3 T as in `mr_signal.py`; T1 of fat and marrow 260-400 ms, muscle 1000-1400 ms, vitreous as water
(common textbook ranges); cortical bone and air give no signal. Flip angles are chosen for the contrast of a T1 with preparation pulse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Anatomy, Array, Grid, load_template, sample_volume
from common.data.simulate.head import HeadVoxels, sample_person
from common.data.simulate.mr_signal import TISSUES as BRAIN_TISSUES
from common.data.simulate.mr_signal import Scanner as Coil
from common.data.simulate.mr_signal import Tissue, acquire
from common.data.simulate.person import Person
from common.data.simulate.soft_shapes import share

OUTER = {
    "fat": Tissue(330, 60, 0.55),
    "marrow": Tissue(380, 50, 0.45),
    "muscle": Tissue(1200, 35, 0.62),
    "skin": Tissue(900, 30, 0.7),
    "dura": Tissue(1100, 40, 0.65),
}
"""Tissues around the brain at 3 T; the densities of fat and marrow are lowered so that they are as bright as in common T1 scans."""
FACE_HU = (-1000.0, -250.0, -110.0, -50.0, 5.0, 40.0, 110.0, 300.0, 900.0, 1300.0)
"""Values of the CT face, and below what lies there in MR: (tissue, share of its signal)."""
FACE = (
    *(("fat", 0.0), ("fat", 0.0), ("fat", 1.0), ("fat", 0.8), ("fluid", 1.0)),
    *(("muscle", 1.0), ("muscle", 1.0), ("marrow", 0.7), ("marrow", 0.3), ("marrow", 0.0)),
)


@dataclass(frozen=True)
class T1Scanner:
    """How a site's T1 looks.

    Attributes:
        field_tesla: 1.5 or 3; T1 is shorter by a fifth at 1.5.
        repetition_ms, echo_ms, flip_deg: of the spoiled gradient echo.
        bias: largest root mean square of the multiplicative field, share.
        noise: smallest and largest standard deviation of the noise in units of white matter's signal, at a voxel of 1 mm3.
        spread: between-subject standard deviation of every T1, share.
    """

    field_tesla: float
    repetition_ms: float
    echo_ms: float
    flip_deg: float
    bias: float
    noise: tuple[float, float]
    spread: float = 0.03


def spoiled_echo(tissue: Tissue, scanner: T1Scanner) -> float:
    r"""Signal of a spoiled gradient echo.

    .. math:: S = \rho\,\sin\alpha\,\frac{1 - E_1}{1 - \cos\alpha\,E_1}\,e^{-TE/T_2}, \qquad E_1 = e^{-TR/T_1}

    Args:
        tissue: relaxation times (at 3 T) and proton density.
        scanner: timing, flip angle and field.

    Returns:
        Signal in units of the fully recovered water, in [0, 1].

    Source: the steady state of spoiled gradient echoes (Ernst), as in common textbooks of MR.
    """
    factor = 1.0 if scanner.field_tesla >= 2 else 0.8
    recovery, flip = np.exp(-scanner.repetition_ms / (factor * tissue.t1_ms)), np.radians(scanner.flip_deg)
    steady = np.sin(flip) * (1 - recovery) / (1 - np.cos(flip) * recovery)
    return float(tissue.density * steady * np.exp(-scanner.echo_ms / tissue.t2_ms))


@dataclass(frozen=True)
class T1Head:
    """The head's voxels on a grid: ``signal`` of each without coil and noise and its ``brain`` (bool), both ``(N,)``; shares ``grey`` and
    ``white``; closeness ``near`` to a ventricle; ``levels`` by tissue."""

    voxels: HeadVoxels
    signal: Array
    brain: NDArray[np.bool_]
    grey: Array
    white: Array
    near: Array
    levels: dict[str, np.float32]


def draw_levels(rng: np.random.Generator, scanner: T1Scanner) -> dict[str, np.float32]:
    """One person's signals on one scanner, by tissue."""
    levels = {}
    for name, tissue in (BRAIN_TISSUES | OUTER).items():
        factor = 1 + scanner.spread * float(np.clip(rng.standard_normal(), -2, 2))
        levels[name] = np.float32(spoiled_echo(replace(tissue, t1_ms=tissue.t1_ms * factor), scanner))
    return levels


def render_t1(person: Person, anatomy: Anatomy, grid: Grid, levels: dict[str, np.float32]) -> T1Head:
    """Signal of a head without coil, noise and lesions: from the outside in air, scalp, face, skull, fluid, brain.

    Args:
        person: thickness of the layers, atrophy, ventricles, white matter.
        anatomy: size, pose and deformation.
        grid: where.
        levels: signal by tissue (``draw_levels``).
    """
    voxels = sample_person(person, anatomy, grid)
    face_hu, face, air, base = voxels.head[:4]
    grey, white, near = _parenchyma(person, voxels)
    signal = _scalp(person, voxels, levels)
    ladder = np.array([np.float32(part) * levels[name] for name, part in FACE], np.float32)
    signal += face * (np.interp(face_hu, FACE_HU, ladder).astype(np.float32) - signal)
    bone = share(voxels.hull - voxels.skull_mm, voxels.reach)
    signal += bone * (_skull(voxels, levels) - signal)
    signal *= 1 - air * share(-(voxels.hull - 1.5), voxels.reach)
    inside = share(voxels.hull, voxels.reach)
    signal += inside * (_brain(person, voxels, levels, grey, white, near, base) - signal)
    signal *= share(voxels.outer, voxels.reach)
    template = load_template()
    brain = sample_volume(template.maps[3:], voxels.points, template.first_mm, template.step_mm)[0] > 0.5
    brain &= voxels.hull < -np.float32(person.atrophy_mm)
    return T1Head(voxels, signal.astype(np.float32), brain, grey, white, near, levels)


def scan_t1(rng: np.random.Generator, head: T1Head, scanner: T1Scanner, anatomy: Anatomy, grid: Grid) -> NDArray[np.int16]:
    """Coil, noise and unit: the stored image, ``(X, Y, Z)`` int16, arbitrary units, noise in the air too.

    Noise per voxel falls with the square root of its volume, to an eighth of the stated one at most.
    """
    volume_mm3 = float(np.prod(grid.spacing_mm))
    weaken = max(0.125, min(1.0, volume_mm3**-0.5))
    noise = (scanner.noise[0] * weaken, scanner.noise[1] * weaken)
    coil = Coil((), bias=scanner.bias, noise=noise, thickness_mm=(0.6 * grid.spacing_mm[2], 1.0 * grid.spacing_mm[2]))
    everywhere = np.ones(grid.shape, np.bool_)
    clean, points = head.voxels.fill(head.signal).ravel(), anatomy.to_template(grid).reshape(-1, 3)
    return acquire(rng, clean, everywhere, points, float(head.levels["white"]), coil, grid.spacing_mm[2])


def _parenchyma(person: Person, voxels: HeadVoxels) -> tuple[Array, Array, Array]:
    """Shares of grey and white matter with the person's atrophy, and closeness to a ventricle."""
    grey, white, _, near = voxels.tissue
    cover = share(voxels.hull + np.float32(person.atrophy_mm), np.maximum(voxels.reach, 1.0))
    cover = cover * np.maximum(1.0 - np.clip(1.0 - grey - white, 0, 1) * np.float32(person.atrophy_mm / 1.5), 0.0)
    return grey * cover, white * cover, near


def _scalp(person: Person, voxels: HeadVoxels, levels: dict[str, np.float32]) -> Array:
    """Skin, fat below it, then muscle and galea."""
    depth = -voxels.outer
    fat_mm = np.float32(person.scalp_mm * person.fat_share)
    fat = share(1.8 - depth, voxels.reach) * share(depth - 1.8 - fat_mm, voxels.reach)
    skin = share(depth - 1.8, voxels.reach)
    under = levels["muscle"] * (1 + np.float32(0.05) * voxels.texture)
    result: Array = under + fat * (levels["fat"] - under) + skin * (levels["skin"] - under)
    return result.astype(np.float32)


def _skull(voxels: HeadVoxels, levels: dict[str, np.float32]) -> Array:
    """Two dark tables with fatty marrow between where the skull is thick enough."""
    middle = np.abs(voxels.hull - 0.5 * voxels.skull_mm)
    table = np.clip(0.30 * voxels.skull_mm, 1.1, 2.2)
    spongy = share(middle - (0.5 * voxels.skull_mm - table), voxels.reach)
    result: Array = (spongy * levels["marrow"] * (1 + np.float32(0.15) * voxels.texture)).astype(np.float32)
    return result


def _brain(person: Person, voxels: HeadVoxels, levels: dict[str, np.float32], grey: Array, white: Array, near: Array, base: Array) -> Array:
    """What lies inside the skull: brain and fluid, age's dim white matter by the ventricles, sheets, vessels, bone of the base."""
    vessels, dura = voxels.head[4:6]
    solid = np.clip(grey + white, 0, 1)
    gliosis = white * np.clip(1.6 * near, 0, 1) * np.float32(min(1.0, person.leukoaraiosis / 9.0))
    signal = grey * levels["grey"] + (white - gliosis) * levels["white"] + gliosis * levels["lesion"]
    signal += (1 - solid) * levels["fluid"] + np.float32(0.02) * voxels.texture * solid * levels["white"]
    signal += 0.8 * dura * (levels["dura"] - signal)
    signal += vessels * (levels["vessel"] - signal)
    signal *= 1 - base * (1 - solid)
    return signal.astype(np.float32)
