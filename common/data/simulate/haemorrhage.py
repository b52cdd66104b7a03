"""Simulated intracranial haemorrhages in CT: in the brain, under the dura or outside it, in sulci, in ventricles.

Values: fresh clotted blood 55-75 HU, isodense (subacute, or in anaemia) 30-45 HU; perifocal oedema about 5-12 HU below normal.
Source: Parizel et al., Eur Radiol 2001; 11:1770-1783 (density by age); Hemphill et al., Stroke 2001; 32:891-897 (volumes up to and above
30 ml). Frequencies of kinds and sizes are chosen so that a threshold is not enough (tests hold the band).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Array, SmoothField
from common.data.simulate.head import HeadVoxels
from common.data.simulate.person import Person, Push, on_skull
from common.data.simulate.soft_shapes import share

Triple = tuple[float, float, float]

KINDS = ("IPH", "SDH", "EDH", "SAH", "IVH")
"""Intraparenchymal, subdural, epidural, subarachnoid, intraventricular: the names of the columns of reads.csv."""
VOLUME_ML = {"IPH": (0.3, 60.0), "SDH": (2.0, 60.0), "EDH": (1.5, 45.0), "SAH": (0.8, 15.0), "IVH": (0.5, 15.0)}
SITES: tuple[Triple, ...] = (
    (26, -2, 2),
    (13, -18, 8),
    (32, 36, 18),
    (36, -38, 36),
    (48, -22, -14),
    (26, -76, 6),
    (22, -62, -36),
    (26, -14, 44),
    (28, 34, -14),
)
"""Usual places of bleeds in the brain, right side, template mm."""


@dataclass(frozen=True)
class BleedPlan:
    """One haemorrhage before it meets a grid; lengths in template mm.

    Attributes:
        kind: one of ``KINDS``.
        side: -1 left, 1 right.
        volume_ml: size to reach.
        hu: density where it fills a voxel.
        isodense: whether it is as dense as the brain.
        centre: in the brain, or on the inside of the skull.
        radii: of the ellipsoid (IPH), or (extent along the skull, 0, 0).
        oedema_hu: fall of the brain's density around it.
        texture: roughness of its border, mm, and variation of its density.
    """

    kind: str
    side: int
    volume_ml: float
    hu: float
    isodense: bool
    centre: Triple
    radii: Triple
    oedema_hu: float
    texture: SmoothField


@dataclass(frozen=True)
class Mixture:
    """How often a style's bleeds are of each kind and isodense, and how large they are.

    Attributes:
        kinds: probability of each of ``KINDS``.
        isodense: probability that a bleed in the brain or under the dura is isodense.
        largest: factor on the largest volume.
        acute_hu: range of fresh blood.
    """

    kinds: tuple[float, ...] = (0.36, 0.30, 0.08, 0.16, 0.10)
    isodense: float = 0.2
    largest: float = 1.0
    acute_hu: tuple[float, float] = (55.0, 75.0)


def plan_bleed(rng: np.random.Generator, side: int, mixture: Mixture, near: Triple | None = None) -> BleedPlan:
    """Draw one bleed of a side.

    Args:
        rng: source of chance.
        side: -1 left, 1 right.
        mixture: kinds and sizes.
        near: a place on the skull (a fracture) under which an extradural or subdural bleed lies; None for anywhere.
    """
    kind = KINDS[int(rng.choice(len(KINDS), p=np.asarray(mixture.kinds)))]
    if near is not None:
        kind = ("EDH", "SDH", "IPH", "SAH")[int(rng.choice(4, p=[0.35, 0.35, 0.15, 0.15]))]
    low, high = VOLUME_ML[kind]
    volume = float(np.exp(rng.uniform(np.log(low), np.log(max(high * mixture.largest, 1.2 * low)))))
    isodense = kind in ("IPH", "SDH") and rng.random() < mixture.isodense
    hu = float(rng.uniform(31, 44) if isodense else rng.uniform(*mixture.acute_hu))
    centre, radii = _place(rng, kind, side, volume, near)
    oedema = float(rng.uniform(3, 11)) if kind == "IPH" else 0.0
    return BleedPlan(kind, side, volume, hu, isodense, centre, radii, oedema, SmoothField.draw(rng, 6.5, 1.0, 2))


def _place(rng: np.random.Generator, kind: str, side: int, volume: float, near: Triple | None) -> tuple[Triple, Triple]:
    """Centre and radii of a bleed, template mm."""
    if kind in ("SDH", "EDH", "SAH"):
        centre = near if near is not None else _convexity(rng, side)
        extent = {"SDH": 34.0 + 9.0 * volume ** (1 / 3), "EDH": 14.0 + 7.5 * volume ** (1 / 3), "SAH": 16.0 + 8.0 * volume ** (1 / 3)}[kind]
        return centre, (float(extent * rng.uniform(0.85, 1.2)), 0.0, 0.0)
    if kind == "IVH":
        return (side * 20.0, -30.0, 10.0), (30.0, 0.0, 0.0)
    x, y, z = np.array(SITES[rng.integers(len(SITES))]) * (side, 1, 1) + rng.uniform(-5, 5, 3)
    if near is not None:
        x, y, z = 0.78 * np.array(near)
    radius = 1.06 * (3 * volume * 1000 / (4 * np.pi)) ** (1 / 3)
    a, b, c = radius * np.exp(rng.uniform(-0.3, 0.3, 3))
    return (float(x), float(y), float(z)), (float(a), float(b), float(c))


def _convexity(rng: np.random.Generator, side: int) -> Triple:
    """A place on the inside of the skull over one hemisphere."""
    azimuth, elevation = np.radians(rng.uniform(-70, 70)), np.radians(rng.uniform(-8, 60))
    return on_skull(float(azimuth if side > 0 else np.pi - azimuth), float(elevation))


def mass_effect(plan: BleedPlan) -> Push:
    """How a bleed displaces the brain around it."""
    radius = (3 * plan.volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    if plan.kind == "IPH":
        shift = -plan.side * 0.18 * radius if plan.volume_ml > 10 else 0.0
        return Push(plan.centre, (shift, 0.0, 0.0), 0.30 * radius, 1.6 * radius + 6.0)
    if plan.kind in ("SDH", "EDH"):
        inward = -np.array(plan.centre) / np.linalg.norm(plan.centre) * 0.45 * radius
        return Push(plan.centre, (float(inward[0]), float(inward[1]), float(inward[2])), 0.0, 0.9 * plan.radii[0])
    return Push(plan.centre, (0.0, 0.0, 0.0), 0.0, 10.0)


def bleed_score(plan: BleedPlan, voxels: HeadVoxels, person: Person) -> tuple[Array, NDArray[np.intp]]:
    """How much each voxel belongs to the bleed, in mm of depth below its border, and which voxels may belong to it at all.

    Returns:
        score ``(K,)`` of the ``K`` voxels whose indices into ``(N,)`` come second.
    """
    grey, white, ventricle, _ = voxels.tissue
    bony = voxels.head[3] > 0.3
    allowed = (voxels.hull < -0.5) & (voxels.points[:, 0] * plan.side > 1.5) & ~bony & (voxels.points[:, 2] > -62.0)
    if plan.kind == "IVH":
        allowed &= ventricle > 0.35
    elif plan.kind == "SAH":
        allowed &= (grey + white < 0.72) & (voxels.hull > -26.0) & (ventricle < 0.1)
    elif plan.kind == "IPH":
        allowed &= (grey + white > 0.35) & (voxels.hull < -2.0 - person.atrophy_mm)
    index = np.flatnonzero(allowed)
    points, hull = voxels.points[index], voxels.hull[index]
    distance = np.sqrt(np.sum((points - np.array(plan.centre, np.float32)) ** 2, axis=1))
    rough = plan.texture.at(points)[0]
    if plan.kind == "IPH":
        ratio = np.sqrt(np.sum(((points - np.array(plan.centre, np.float32)) / np.array(plan.radii, np.float32)) ** 2, axis=1))
        score = (1.0 - ratio) * min(plan.radii) + 0.18 * min(plan.radii) * rough
    elif plan.kind == "IVH":
        score = -(points[:, 1] + 0.5 * points[:, 2]) + 3.0 * rough  # it settles at the back
    elif plan.kind == "SAH":
        score = -distance + 5.0 * rough
    else:
        thickest = 2.0 * plan.volume_ml * 1000.0 / (np.pi * plan.radii[0] ** 2)
        sharpness = 2.0 if plan.kind == "EDH" else 3.0  # a lens, or a crescent that keeps its thickness
        score = thickest * (1.0 - (distance / plan.radii[0]) ** sharpness) + hull + 0.12 * thickest * rough
    return score.astype(np.float32), index


def add_bleed(plan: BleedPlan, hu: Array, truth: NDArray[np.uint8], voxels: HeadVoxels, person: Person) -> tuple[Array, float]:
    """Fill the voxels of highest score until the volume is reached; sets ``truth`` to 1 there.

    Args:
        plan: the bleed.
        hu: of the head without it, ``(N,)``.
        truth: ``(N,)``, changed in place.
        voxels: where.
        person: for the texture.

    Returns:
        Hounsfield units with the bleed, ``(N,)``, and its volume in ml (less than asked for where there was no room; 0: no room at all).
    """
    score, index = bleed_score(plan, voxels, person)
    if not len(index):
        return hu, 0.0
    count = min(max(1, round(plan.volume_ml / voxels.voxel_ml)), len(index))
    border = np.partition(score, len(score) - count)[len(score) - count]
    reach = 1.0 if plan.kind in ("SDH", "EDH") else 1.6
    weight = np.clip(0.6 + 0.5 * (score - border) / reach, 0, 1)  # 0.6 at the last voxel that counts
    if plan.kind in ("SAH", "IVH"):
        weight *= np.clip(1.15 - voxels.tissue[0][index] - voxels.tissue[1][index], 0, 1)
    inner = cover(voxels)[index]
    tissue = np.where(inner > 0.99, hu[index], np.float32(person.fluid))  # what bone shares a voxel with
    out = hu.copy()
    if plan.oedema_hu:
        rim = np.exp(-0.5 * (np.minimum(score - border, 0.0) / (2.0 + 0.25 * min(plan.radii))) ** 2)
        out[index] -= np.float32(plan.oedema_hu) * rim * voxels.tissue[1][index]
    density = np.float32(plan.hu) + 1.8 * plan.texture.at(voxels.points[index])[1]
    out[index] += (weight * inner).astype(np.float32) * (density - tissue)
    inside = index[score >= border]
    truth[inside] = 1
    return out.astype(np.float32), float(len(inside) * voxels.voxel_ml)


def cover(voxels: HeadVoxels) -> Array:
    """Share of each voxel inside the skull, ``(N,)``."""
    return share(voxels.hull, voxels.reach)
