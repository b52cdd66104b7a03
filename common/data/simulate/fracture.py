"""Simulated fractures of the skull in CT: linear gaps of 1-4 mm, depressed pieces, and swelling of the scalp above.

Widths, lengths and frequencies are chosen, not taken from a paper. A gap narrower than a voxel only lowers bone (partial volume), so that
swelling is often the larger cue, as in real scans of 3-5 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Array, SmoothField
from common.data.simulate.head import HeadVoxels
from common.data.simulate.person import Dent, Swelling, on_skull

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class FracturePlan:
    """One fracture before it meets a grid; template mm.

    Attributes:
        kind: "linear", "depressed" or "base".
        side: -1 left, 1 right.
        centre: on the inside of the skull.
        normal: unit normal of the plane of the crack, which cuts the skull at a right angle.
        length_mm, gap_mm: of the crack.
        swelling: of the scalp above, or None.
        dent: the depressed piece, or None.
        waves: winding of the crack, mm.
    """

    kind: str
    side: int
    centre: Triple
    normal: Triple
    length_mm: float
    gap_mm: float
    swelling: Swelling | None
    dent: Dent | None
    waves: SmoothField


def plan_fracture(rng: np.random.Generator, side: int) -> FracturePlan:
    """Draw one fracture of a side: two in three linear, one in five depressed, the rest towards the base."""
    kind = ("linear", "depressed", "base")[int(rng.choice(3, p=[0.64, 0.22, 0.14]))]
    elevation = rng.uniform(-26, -10) if kind == "base" else rng.uniform(-4, 62)
    azimuth = rng.uniform(-75, 10) if kind == "base" else rng.uniform(-80, 80)
    centre = on_skull(float(np.radians(azimuth if side > 0 else 180 - azimuth)), float(np.radians(elevation)))
    outward = np.array(centre) / np.linalg.norm(centre)
    along = rng.standard_normal(3)
    normal = np.cross(outward, along / np.linalg.norm(along))
    normal /= np.linalg.norm(normal)
    dent = Dent(centre, float(rng.uniform(10, 18)), float(rng.uniform(3, 8))) if kind == "depressed" else None
    swollen = kind != "base" and rng.random() < 0.8
    swelling = Swelling(centre, float(rng.uniform(3, 13)), float(rng.uniform(15, 30))) if swollen else None
    unit = (float(normal[0]), float(normal[1]), float(normal[2]))
    length, gap = float(rng.uniform(25, 90)), float(np.exp(rng.uniform(np.log(1.0), np.log(4.0))))
    return FracturePlan(kind, side, centre, unit, length, gap, swelling, dent, SmoothField.draw(rng, 9.0, 1.6))


def add_fracture(
    plan: FracturePlan, hu: Array, truth: NDArray[np.uint8], voxels: HeadVoxels, spacing_mm: tuple[float, float, float]
) -> Array:
    """Open the crack in the skull and set ``truth`` to 2 where it passes.

    The share of a voxel that the gap takes up is that of a slab cut by a voxel's extent across the slab.

    Args:
        plan: the fracture.
        hu: ``(N,)``.
        truth: ``(N,)``, changed in place.
        voxels: where.
        spacing_mm: voxel size (the crack's normal is taken as if the grid lay straight; the error is a share of a voxel).

    Returns:
        Hounsfield units with the crack, ``(N,)``.
    """
    skull = np.flatnonzero(
        (voxels.hull > -0.5 * voxels.reach)
        & (voxels.hull < voxels.skull_mm + 0.5 * voxels.reach)
        & (np.sum((voxels.points - np.array(plan.centre, np.float32)) ** 2, axis=1) < (0.5 * plan.length_mm) ** 2)
        & (voxels.outer < -1.0)
    )
    offset = voxels.points[skull] - np.array(plan.centre, np.float32)
    across = np.abs(offset @ np.array(plan.normal, np.float32) + plan.waves.at(voxels.points[skull])[0])
    if plan.dent is not None:
        ring = np.abs(np.sqrt(np.sum(offset**2, axis=1)) - plan.dent.radius_mm)
        across = np.minimum(across, ring)
    width = float(np.dot(np.abs(plan.normal), spacing_mm))
    most = min(plan.gap_mm, width)
    gap = np.clip((0.5 * (plan.gap_mm + width) - across), 0, most) / width
    out = hu.copy()
    out[skull] += (gap * (np.float32(35.0) - out[skull]) * (out[skull] > 35.0)).astype(np.float32)
    truth[skull[gap >= 0.5 * most / width]] = 2
    return out
