"""One person's head in Hounsfield units: who the person is (`Person`), and what a scanner without noise would see (`render_head`).

Values (HU) follow common ranges of the literature: grey matter 37-41, white matter 28-32, cerebrospinal fluid 4-11, flowing blood 50-68
(with haematocrit), dura 45-55, fat -100 to -80, muscle and skin 30-60, cortical bone 1100-1700, diploe 350-800, physiological calcification
80-400. Source: Bushberg et al., The Essential Physics of Medical Imaging, 3rd ed., chapter 10; Kirkpatrick and Hayman, AJR 1987
(calcification); Mahesh, The AAPM/RSNA physics tutorial, RadioGraphics 2002. Spreads between people are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Anatomy, Array, Grid, SmoothField
from common.data.simulate.head_atlas import load_head_atlas, share

AIR_HU = -1000.0
Triple = tuple[float, float, float]
_VENTRICLES = np.array([0.0, -16.0, 12.0], np.float32)  # centre from which ventricles widen, template mm


@dataclass(frozen=True)
class Calcification:
    """A physiological calcification: centre and radius in template mm, HU at its centre."""

    centre: Triple
    radius_mm: float
    hu: float


@dataclass(frozen=True)
class Push:
    """A displacement of the brain (not of the skull): by ``shift_mm`` at ``centre``, fading with a Gaussian of ``width_mm``.

    ``radial_mm`` pushes away from the centre instead (mass effect around a bleed); both are template mm.
    """

    centre: Triple
    shift_mm: Triple
    radial_mm: float
    width_mm: float


@dataclass(frozen=True)
class Swelling:
    """Swelling of the scalp: centre on the skull, height and width, template mm."""

    centre: Triple
    height_mm: float
    width_mm: float


@dataclass(frozen=True)
class Dent:
    """A depressed piece of skull: a disc around ``centre`` that lies ``depth_mm`` deeper, template mm."""

    centre: Triple
    radius_mm: float
    depth_mm: float


@dataclass(frozen=True)
class Person:
    """Everything that makes one head differ from the next; lengths in template mm, values in HU.

    Attributes:
        age: years.
        grey, white, fluid, blood, dura, fat, muscle, table_bone, diploe: HU of the tissues.
        skull: factor on the skull's thickness.
        scalp_mm, fat_share: thickness of the scalp over the vault, share of fat in it.
        atrophy_mm: fluid between brain and skull.
        ventricles: how far the ventricles are widened, 0 as the template.
        leukoaraiosis: fall of white matter close to the ventricles, HU.
        sutures: HU by which sutures lower bone.
        thickness, scalp, texture: smooth fields (log, log, HU).
        calcifications: where and how dense.
        swellings, pushes, dents: what an injury did (`haemorrhage.py`, `fracture.py`), or a mere bump on the head.
    """

    age: float
    grey: float
    white: float
    fluid: float
    blood: float
    dura: float
    fat: float
    muscle: float
    table_bone: float
    diploe: float
    skull: float
    scalp_mm: float
    fat_share: float
    atrophy_mm: float
    ventricles: float
    leukoaraiosis: float
    sutures: float
    thickness: SmoothField
    scalp: SmoothField
    texture: SmoothField
    waves: SmoothField
    calcifications: tuple[Calcification, ...] = ()
    swellings: tuple[Swelling, ...] = ()
    pushes: tuple[Push, ...] = ()
    dents: tuple[Dent, ...] = field(default=())


def draw_person(rng: np.random.Generator, age_range: tuple[float, float] = (18.0, 88.0)) -> Person:
    """Draw a healthy adult; ventricles, atrophy, white matter and calcifications follow age."""
    age = float(rng.uniform(*age_range))
    old = max(0.0, (age - 35.0) / 50.0)
    bump = (Swelling(_scalp_place(rng), float(rng.uniform(3, 8)), float(rng.uniform(14, 26))),) if rng.random() < 0.15 else ()
    return Person(
        age=age,
        grey=float(rng.uniform(37, 41)),
        white=float(rng.uniform(28, 32)),
        fluid=float(rng.uniform(4, 11)),
        blood=float(rng.uniform(50, 68)),
        dura=float(rng.uniform(44, 55)),
        fat=float(rng.uniform(-105, -80)),
        muscle=float(rng.uniform(45, 62)),
        table_bone=float(rng.uniform(1150, 1700)),
        diploe=float(rng.uniform(350, 800)),
        skull=float(np.exp(0.17 * np.clip(rng.standard_normal(), -2, 2))),
        scalp_mm=float(rng.uniform(4.0, 8.5)),
        fat_share=float(rng.uniform(0.3, 0.7)),
        atrophy_mm=float(rng.uniform(0.3, 1.2) + 2.6 * old * rng.uniform(0.3, 1.0)),
        ventricles=float(rng.uniform(-0.10, 0.12) + 0.42 * old * rng.uniform(0.2, 1.0)),
        leukoaraiosis=float(9.0 * old * rng.random() ** 2),
        sutures=float(rng.uniform(150, 600)),
        thickness=SmoothField.draw(rng, 16.0, 0.13),
        scalp=SmoothField.draw(rng, 20.0, 0.18),
        texture=SmoothField.draw(rng, 14.0, 0.9),
        waves=SmoothField.draw(rng, 9.0, 2.2, 3),
        calcifications=_calcifications(rng, old),
        swellings=bump,
    )


def _scalp_place(rng: np.random.Generator) -> Triple:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(0, 65))
    return on_skull(azimuth, elevation)


def on_skull(azimuth: float, elevation: float) -> Triple:
    """The point of the skull's inside in a direction: azimuth from the right over the front, elevation upward, radians."""
    ray = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    x, y, z = (float(v) for v in load_head_atlas().surface_point(ray))
    return x, y, z


def _calcifications(rng: np.random.Generator, old: float) -> tuple[Calcification, ...]:
    """Pineal gland, choroid plexus, falx, pallidum, carotid siphon: the older, the more."""
    found: list[Calcification] = []

    def add(
        chance: float, centre: Triple, spread: float, radius: tuple[float, float], hu: tuple[float, float], sides: tuple[int, ...]
    ) -> None:
        if rng.random() < chance:
            for side in sides:
                x, y, z = np.array(centre) * (side, 1, 1) + spread * rng.uniform(-1, 1, 3)
                found.append(Calcification((float(x), float(y), float(z)), float(rng.uniform(*radius)), float(rng.uniform(*hu))))

    add(0.55 + 0.2 * old, (0, -33, 2), 1.0, (1.5, 3.2), (90, 300), (1,))
    add(0.35 + 0.35 * old, (25, -42, 10), 2.0, (1.6, 3.8), (80, 220), (-1, 1))
    add(0.10 + 0.25 * old, (0, 40 - 60 * rng.random(), 45), 3.0, (1.2, 3.0), (150, 400), (1,))
    add(0.02 + 0.22 * old, (19, -3, 0), 1.5, (1.5, 3.5), (60, 130), (-1, 1))
    add(0.05 + 0.5 * old, (11, 3, -30), 1.0, (1.2, 2.2), (200, 500), (-1, 1))
    add(0.25, (22, -40, 12), 3.0, (1.0, 2.5), (80, 160), (1 if rng.random() < 0.5 else -1,))
    return tuple(found)


@dataclass(frozen=True)
class HeadVoxels:
    """The head's voxels of one grid, ``N`` of them, and the maps sampled there; values are ``(N,)`` float32.

    Attributes:
        inside: ``(X, Y, Z)`` bool, the voxels in question.
        points: template positions of the voxels ``(N, 3)``, mm.
        reach: half of the change of the depth below the skull across a voxel, mm: how far partial volume reaches.
        hull: signed distance to the inside of the skull, mm.
        skull_mm: thickness of the skull.
        outer: signed distance to the skin, mm.
        head: the maps ``HEAD[3:]``.
        tissue: the maps ``TISSUE`` after the brain was pushed.
        texture: smooth variation of tissue, HU.
        voxel_ml: volume of a voxel.
    """

    inside: NDArray[np.bool_]
    points: Array
    reach: Array
    hull: Array
    skull_mm: Array
    outer: Array
    head: Array
    tissue: Array
    texture: Array
    voxel_ml: float

    def fill(self, values: NDArray, outside: float = 0.0) -> NDArray:
        """Put ``(N,)`` values on the grid: ``(X, Y, Z)`` of the values' type."""
        out = np.full(self.inside.shape, outside, values.dtype)
        out[self.inside] = values
        return out


def sample_person(person: Person, anatomy: Anatomy, grid: Grid) -> HeadVoxels:
    """Find the head on a grid and sample the atlas there, over the thickness of the slices.

    Args:
        person: thickness fields, pushes, dents and swellings.
        anatomy: size, pose and deformation.
        grid: where.
    """
    atlas = load_head_atlas()
    points, step = anatomy.to_template(grid), anatomy.slice_step(grid)
    samples = 2 if grid.spacing_mm[2] > 4.0 else 1
    rough = atlas.sample_head(points, 0, 2)
    hull_grid = rough[0]
    reach_grid = 0.5 * sum(np.abs(np.gradient(hull_grid, axis=a)) for a in range(3))
    near = (np.minimum(hull_grid - 30.0, rough[1])) < 4.0
    points, hull, body = points[near], hull_grid[near], rough[1][near]
    hull = hull + _dents(person, points)
    skull_mm = atlas.sample_head(points, 2, 3)[0] * np.float32(person.skull) * np.exp(person.thickness.at(points)[0])
    scalp = np.float32(person.scalp_mm) * np.exp(person.scalp.at(points)[0]) + _swelling(person, points)
    outer = _smooth_minimum(hull - skull_mm - scalp, body, 5.0)
    reach = np.maximum(reach_grid[near], 0.4)
    kept = outer < reach
    near[near] = kept
    points = points[kept]
    offsets = [step * ((i + 0.5) / samples - 0.5) for i in range(samples)]
    pushed = _pushed(person, points)
    head = sum(atlas.sample_head(points + o, 3) for o in offsets) / np.float32(samples)
    tissue = sum(atlas.sample_tissue(pushed + o) for o in offsets) / np.float32(samples)
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000.0
    return HeadVoxels(
        near, points, reach[kept], hull[kept], skull_mm[kept], outer[kept], head, tissue, person.texture.at(points)[0], voxel_ml
    )


def _smooth_minimum(a: Array, b: Array, width: float) -> Array:
    """Minimum of two distances whose crossing is rounded over ``width`` (polynomial)."""
    mix = np.clip(0.5 + 0.5 * (b - a) / np.float32(width), 0, 1)
    result: Array = (b + (a - b) * mix - np.float32(width) * mix * (1 - mix)).astype(np.float32)
    return result


def _squares(points: Array, centre: Triple) -> Array:
    offset = points - np.array(centre, np.float32)
    result: Array = np.einsum("ni,ni->n", offset, offset)
    return result


def _dents(person: Person, points: Array) -> Array:
    total = np.zeros(len(points), np.float32)
    for dent in person.dents:
        edge = 3.0 * (np.sqrt(_squares(points, dent.centre)) - dent.radius_mm) / dent.radius_mm
        total += np.float32(dent.depth_mm) * np.clip(0.5 - 1.5 * edge, 0, 1)
    return total


def _swelling(person: Person, points: Array) -> Array:
    total = np.zeros(len(points), np.float32)
    for one in person.swellings:
        total += np.float32(one.height_mm) * np.exp(-0.5 * _squares(points, one.centre) / np.float32(one.width_mm**2))
    return total


def _pushed(person: Person, points: Array) -> Array:
    """Where the brain tissue now at ``points`` lies in the template."""
    offset = points - _VENTRICLES
    fading = np.exp(-0.5 * np.einsum("ni,ni->n", offset, offset) / np.float32(27.0**2))
    moved = points - np.float32(person.ventricles) * fading[:, None] * offset
    for push in person.pushes:
        offset = points - np.array(push.centre, np.float32)
        distance = np.sqrt(np.einsum("ni,ni->n", offset, offset))
        fading = np.exp(-0.5 * (distance / np.float32(push.width_mm)) ** 2)
        radial = np.float32(push.radial_mm) * fading / np.maximum(distance, 2.0)
        moved = moved - fading[:, None] * np.array(push.shift_mm, np.float32) - radial[:, None] * offset
    return moved.astype(np.float32)


def render_head(person: Person, voxels: HeadVoxels) -> Array:
    """Hounsfield units of the head's voxels without noise and without a bleed or crack, ``(N,)`` float32.

    From the outside in: air, skin, fat and muscle, face; outer table, diploe, inner table; fluid, brain, dura, vessels, calcifications.
    """
    face_hu, face, air, base = voxels.head[:4]
    hu = _scalp(person, voxels)
    hu += face * (face_hu - hu)
    bone = share(voxels.hull - voxels.skull_mm, voxels.reach)
    hu += bone * (_skull(person, voxels) - hu)
    cells = air * share(-(voxels.hull - 1.5), voxels.reach)
    hu += cells * (np.float32(-950.0) - hu)
    brain = share(voxels.hull, voxels.reach)
    hu += brain * (_brain(person, voxels, base) - hu)
    skin = share(voxels.outer, voxels.reach)
    return (np.float32(AIR_HU) + skin * (hu - np.float32(AIR_HU))).astype(np.float32)


def _scalp(person: Person, voxels: HeadVoxels) -> Array:
    """Skin, fat below it, then muscle and galea; swelling is grey."""
    depth = -voxels.outer
    fat_mm = np.float32(person.scalp_mm * person.fat_share)
    fat = share(1.8 - depth, voxels.reach) * share(depth - 1.8 - fat_mm, voxels.reach)
    swollen = np.clip(_swelling(person, voxels.points) / 3.0, 0, 1)
    hu = np.float32(person.muscle) + 4.0 * voxels.texture
    fat_hu = np.float32(person.fat) * (1 - swollen) + 42.0 * swollen
    result: Array = (hu + fat * (fat_hu - hu)).astype(np.float32)
    return result


def _skull(person: Person, voxels: HeadVoxels) -> Array:
    """Two tables with diploe between where the skull is thick enough; sutures are less dense."""
    middle = np.abs(voxels.hull - 0.5 * voxels.skull_mm)
    table = np.clip(0.30 * voxels.skull_mm, 1.1, 2.2)
    spongy = share(middle - (0.5 * voxels.skull_mm - table), voxels.reach)
    texture = voxels.texture
    hu = np.float32(person.table_bone) + 40.0 * texture
    hu += spongy * (np.float32(person.diploe) + 60.0 * texture - hu)
    result: Array = (hu - np.float32(person.sutures) * _sutures(person, voxels)).astype(np.float32)
    return result


def _sutures(person: Person, voxels: HeadVoxels) -> Array:
    """Share of coronal, sagittal and lambdoid sutures, each about 1.5 mm wide and winding."""
    shell = np.flatnonzero((voxels.hull > -voxels.reach) & (voxels.hull < voxels.skull_mm + voxels.reach) & (voxels.points[:, 2] > -30.0))
    points, width = voxels.points[shell], np.maximum(voxels.reach[shell], 0.7)
    wave = person.waves.at(points)
    x, y, z = points.T
    upper = z > 5.0
    coronal = np.abs(y - 12.0 + 0.32 * np.abs(x) + wave[0]) / 1.06
    sagittal = np.where((y < 14.0) & (y > -78.0) & (z > 40.0), np.abs(x + wave[1]), 99.0)
    lambdoid = np.abs(y + 80.0 + 0.42 * (z - 45.0) + 0.35 * np.abs(x) - 14.0 + wave[2]) / 1.16
    lambdoid = np.where((y < -50.0) & (z < 62.0), lambdoid, 99.0)
    nearest = np.minimum.reduce([np.where(upper, coronal, 99.0), sagittal, lambdoid])
    out = np.zeros(len(voxels.points), np.float32)
    out[shell] = share(nearest - 0.8, width) * np.minimum(1.0, 0.8 / width)
    return out


def _brain(person: Person, voxels: HeadVoxels, base: Array) -> Array:
    """What lies inside the skull: brain and fluid, then sheets, vessels, bone of the base and calcifications."""
    vessels, dura = voxels.head[4:6]
    grey, white, _, near = voxels.tissue
    cover = share(voxels.hull + np.float32(person.atrophy_mm), np.maximum(voxels.reach, 1.0))
    grey, white = grey * cover, white * cover
    solid = np.clip(grey + white, 0, 1)
    texture = voxels.texture
    hu = grey * np.float32(person.grey) + white * (np.float32(person.white) - np.float32(person.leukoaraiosis) * near)
    hu += (1 - solid) * np.float32(person.fluid) + texture * solid
    hu += 0.8 * dura * (np.float32(person.dura) - hu)
    hu += vessels * (np.float32(person.blood) - hu)
    for one in person.calcifications:
        radius = np.sqrt(_squares(voxels.points, one.centre))
        hu += share(radius - one.radius_mm, np.maximum(voxels.reach, 1.0)) * (np.float32(one.hu) - hu)
    hu += base * (1 - solid) * (np.float32(0.8 * person.table_bone) - hu)
    return hu.astype(np.float32)


def hurt(person: Person, swellings: tuple[Swelling, ...], pushes: tuple[Push, ...], dents: tuple[Dent, ...]) -> Person:
    """The same person after an injury."""
    return replace(person, swellings=(*person.swellings, *swellings), pushes=(*person.pushes, *pushes), dents=(*person.dents, *dents))
