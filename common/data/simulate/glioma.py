"""Simulated gliomas: necrotic core, enhancing rim and oedema, nested, of any volume; they displace the brain around them.

Sizes, shares and outlines are chosen to look like BraTS, not fitted to it: whole tumours from 1 to 120 ml, core 15 to 65 % of the whole,
oedema that follows white matter, in one of six tumours no enhancement (the label's 1 then stands for solid tumour, as in low grades).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.brats import LABELS
from common.data.simulate.anatomy import Array, SmoothField, load_template

NECROTIC, OEDEMA, ENHANCING = LABELS.values()


@dataclass(frozen=True)
class GliomaPlan:
    """A tumour before it meets a grid; lengths in template mm.

    Attributes:
        volume_ml: whole tumour.
        core: share of the whole that is core (necrosis and rim).
        necrosis: share of the core that is necrosis.
        enhancing: False for a tumour without contrast uptake.
        lobes: centre and radii of the ellipsoids whose union is its rough shape.
        push_mm: how far the brain is displaced at its border.
        infiltration: share of oedema where it is densest, in (0, 1].
        uptake_t1_ms: T1 of the rim after contrast medium.
        texture: roughness of the borders of whole, core and necrosis, and of the density of oedema.
    """

    volume_ml: float
    core: float
    necrosis: float
    enhancing: bool
    lobes: tuple[tuple[Array, Array], ...]
    push_mm: float
    infiltration: float
    uptake_t1_ms: float
    texture: SmoothField

    @property
    def centre(self) -> Array:
        """Centre of the first lobe, ``(3,)``."""
        return self.lobes[0][0]

    @property
    def radius_mm(self) -> float:
        """Radius of a ball of the tumour's volume."""
        return float((3 * self.volume_ml * 1000 / (4 * np.pi)) ** (1 / 3))


@dataclass(frozen=True)
class Glioma:
    """A tumour on ``N`` voxels: ``label`` (0, 1, 2, 4; uint8) and the shares of whole tumour, core and necrosis, nested, in [0, 1]."""

    label: NDArray[np.uint8]
    whole: Array
    core: Array
    necrosis: Array


def plan_glioma(rng: np.random.Generator, volume_ml: float, faint: float = 0.45) -> GliomaPlan:
    """Draw a tumour of a given volume.

    Args:
        rng: source of chance.
        volume_ml: whole tumour.
        faint: smallest ``infiltration``.
    """
    radius = (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    centre = _sites()[rng.integers(len(_sites()))]
    lobes = [(centre, (radius * np.exp(rng.uniform(-0.25, 0.25, 3))).astype(np.float32))]
    for _ in range(rng.integers(0, 3)):
        away = rng.standard_normal(3)
        place = centre + (0.8 * radius * away / np.linalg.norm(away)).astype(np.float32)
        lobes.append((place, (radius * rng.uniform(0.4, 0.7, 3)).astype(np.float32)))
    enhancing = bool(rng.random() > 1 / 6)
    return GliomaPlan(
        volume_ml=float(volume_ml),
        core=float(rng.uniform(0.15, 0.65)),
        necrosis=float(rng.uniform(0.05, 0.6)) if enhancing else 1.0,
        enhancing=enhancing,
        lobes=tuple(lobes),
        push_mm=float(radius * rng.uniform(0.05, 0.35)),
        infiltration=float(rng.uniform(faint, 1.0)),
        uptake_t1_ms=float(rng.uniform(380, 800)),
        texture=SmoothField.draw(rng, 7.0, 1.0, 4),
    )


@functools.lru_cache(maxsize=1)
def _sites() -> Array:
    """Where tumours begin: white matter above the tentorium, off the midline; ``(K, 3)``, template mm."""
    template = load_template()
    points = template.points()[template.maps[1].numpy() > 0.6]
    return points[(np.abs(points[:, 0]) > 12) & (points[:, 2] > -16) & ((points[:, 2] > 0) | (points[:, 1] > -40))]


def displaced(plan: GliomaPlan, points: Array) -> Array:
    """Where the tissue that lies at ``points`` ``(N, 3)`` was before the tumour pushed it away; template mm."""
    offset = points - plan.centre
    distance = np.sqrt(np.einsum("ni,ni->n", offset, offset))
    width = 1.3 * plan.radius_mm + 5.0
    shift = np.float32(plan.push_mm) * np.exp(-0.5 * (distance / np.float32(width)) ** 2) / np.maximum(distance, np.float32(plan.radius_mm))
    result: Array = (points - shift[:, None] * offset).astype(np.float32)
    return result


def grow(plan: GliomaPlan, points: Array, grey: Array, white: Array, voxel_ml: float) -> Glioma:
    """Fill the voxels deepest in the plan's shape until its volumes are reached.

    Args:
        plan: what to grow.
        points: template positions, ``(N, 3)``, mm.
        grey: share of grey matter after the displacement, ``(N,)``.
        white: share of white matter, likewise.
        voxel_ml: volume of a voxel.
    """
    rough = plan.texture.at(points)
    depth = np.max([_depth(points, centre, radii) for centre, radii in plan.lobes], axis=0)
    radius = np.float32(plan.radius_mm)
    below = (points[:, 2] < -14) & (points[:, 1] < -38) | (points[:, 2] < -45)
    across = points[:, 0] * np.sign(plan.centre[0]) < 0
    allowed = (grey + white > 0.4) & ~below
    spread = depth + (0.25 * radius + 1.0) * rough[0] + np.float32(6.0) * (white - 0.5) - np.float32(8.0) * across
    whole_border, inside = _fill(np.where(allowed, spread, -np.inf), plan.volume_ml / voxel_ml)
    core_depth = depth + (0.22 * radius + 0.5) * rough[1]
    count = int(inside.sum())
    core_border, in_core = _fill(np.where(inside, core_depth, -np.inf), plan.core * count)
    rot_depth = core_depth + np.float32(0.2) * radius * rough[2]
    rot_border, in_rot = _fill(np.where(in_core, rot_depth, -np.inf), plan.necrosis * plan.core * count)
    label = np.where(in_rot, NECROTIC, np.where(in_core, ENHANCING, np.where(inside, OEDEMA, 0))).astype(np.uint8)
    whole = _soft(spread - whole_border, 1.5) * np.clip(grey + white, 0, 1) * ~below
    core = _soft(core_depth - core_border, 0.7) * (inside | (core_depth > core_border))
    whole = np.maximum(whole, core * inside).astype(np.float32)
    core = np.minimum(core, whole).astype(np.float32)
    return Glioma(label, whole, core, np.minimum(_soft(rot_depth - rot_border, 0.7), core).astype(np.float32))


def _depth(points: Array, centre: Array, radii: Array) -> Array:
    """About the depth below an ellipsoid's surface, mm."""
    ratio = np.sqrt(np.sum(((points - centre) / radii) ** 2, axis=1))
    result: Array = ((1.0 - ratio) * np.float32(radii.mean())).astype(np.float32)
    return result


def _fill(score: Array, count: float) -> tuple[float, NDArray[np.bool_]]:
    """The ``count`` voxels of highest score (at least one), and the score of the last of them."""
    wanted = min(max(1, round(count)), int(np.isfinite(score).sum()))
    border = float(np.partition(score, len(score) - wanted)[len(score) - wanted])
    return border, score >= border


def _soft(signed_mm: Array, width_mm: float) -> Array:
    """A border of some width: 0.5 on it, towards 1 inside."""
    result: Array = (1.0 / (1.0 + np.exp(-np.clip(signed_mm / np.float32(width_mm), -30, 30)))).astype(np.float32)
    return result
