"""A head in Hounsfield units on a grid: where it is (`sample_person`), and what a scanner without noise would see (`render_head`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Anatomy, Array, Grid
from common.data.simulate.head_atlas import load_head_atlas
from common.data.simulate.person import Person
from common.data.simulate.soft_shapes import share

AIR_HU = -1000.0
Triple = tuple[float, float, float]
Value = TypeVar("Value", bound=np.generic)
_VENTRICLES = np.array([0.0, -16.0, 12.0], np.float32)  # centre from which ventricles widen, template mm


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

    def fill(self, values: NDArray[Value], outside: float = 0.0) -> NDArray[Value]:
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
    head = np.mean([atlas.sample_head(points + o, 3) for o in offsets], axis=0)
    tissue = np.mean([atlas.sample_tissue(pushed + o) for o in offsets], axis=0)
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
    open_sulci = 1.0 - np.clip(1.0 - grey - white, 0, 1) * np.float32(person.atrophy_mm / 1.5)
    cover = cover * np.maximum(open_sulci, 0.0)
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
