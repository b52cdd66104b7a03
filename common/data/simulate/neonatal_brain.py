"""Tissues of a simulated newborn's brain: a cortical ribbon over bright white matter that is smooth when young and folded when old.

The outline, the large fissures, the ventricles and the fully folded surface come from the ICBM152 template (`head_atlas.py`), the sulci of
a child from the zero levels of random fields over the surface, deepened by age. Folding is a proxy: no gyrus has a name.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from scipy.spatial import ConvexHull

from common.data.simulate.anatomy import Array, sample_volume
from common.data.simulate.head_atlas import load_head_atlas
from common.data.simulate.neonatal_growth import Newborn, Stage
from common.data.simulate.soft_shapes import Canvas, Triple, shape_share, share

MAPS: Final = ("hull", "smooth", "folded", "white", "ventricle", "deep", "cerebellum", "stem", "tract")
"""Signed distances, template mm, < 0 inside (brain with the fluid around it, tissue of a smooth and of a folded brain, white matter of a
folded brain, ventricles, deep grey matter), then shares of cerebellum, brainstem and tracts that myelinate early."""
TISSUES: Final = ("fluid", "grey", "white", "deep", "stem", "cerebellum", "tract")
LABELS: Final = {"fluid": 1, "grey": 2, "white": 3, "ventricle": 5, "cerebellum": 6, "deep": 7, "stem": 8}
"""Numbers of dHCP's nine-tissue segmentation (``desc-drawem9_dseg``); 4 (background inside the mask) and 9 (hippocampus) do not occur."""

RIBBON_MM: Final = 3.0
"""Thickness of the cortex, template mm: 1.2 mm at 26 weeks, 1.9 mm at term."""
SULCUS_MM: Final = 0.7
"""Half-width of a sulcus at its mouth, template mm."""
CENTRE: Final = np.array([0.0, -18.0, 6.0], np.float32)
RADII: Final = np.array([66.0, 84.0, 68.0], np.float32)
"""Ellipsoid over which the fields of folds are drawn, template mm."""
DEEP: Final[tuple[tuple[Triple, Triple], ...]] = (((11, -19, 7), (9, 15, 9)), ((24, -1, 1), (8, 18, 9)), ((12, 13, 8), (5, 10, 9)))
"""Thalamus, lentiform nucleus and head of the caudate: centre and radii on the right, template mm."""
TRACT: Final[tuple[Triple, ...]] = ((14, -16, -12), (25, -18, 26), (3.0, 3.0, 3.0))
"""Corticospinal tract in the internal capsule: a tube from the peduncle to the corona radiata, template mm."""


@dataclass(frozen=True)
class BrainAtlas:
    """Maps in template space.

    Attributes:
        maps: ``(9, X, Y, Z)`` float32, see ``MAPS``.
        first_mm: template position of voxel (0, 0, 0), mm.
        step_mm: voxel size, template mm.
        outline_cm: circumference of the brain: the largest of its axial slices, of their convex hulls.
        extent_mm: sides of the box around the brain, template mm.
    """

    maps: torch.Tensor
    first_mm: NDArray[np.float64]
    step_mm: float
    outline_cm: float
    extent_mm: NDArray[np.float64]

    def sample(self, points: Array, first: int = 0, stop: int = len(MAPS)) -> Array:
        """Maps ``first`` to ``stop`` at template positions ``(..., 3)``, mm; returns ``(stop - first, ...)``."""
        return sample_volume(self.maps[first:stop], points, self.first_mm, self.step_mm)


@functools.lru_cache(maxsize=1)
def load_brain_atlas() -> BrainAtlas:
    """Build the maps once per process (about five seconds, with those of the head)."""
    atlas = load_head_atlas()
    grey, white, ventricle, _ = (m.numpy() for m in atlas.tissue)
    canvas = Canvas(grey.shape, atlas.first_mm, atlas.step_mm)
    hull = np.maximum(atlas.head[0].numpy(), -66.0 - canvas.z)
    stem = np.maximum(canvas.tube((0, -34, -72), (0, -26, -30), 11.0), canvas.both((8, -20, -14), (9, 9, 10)))
    deep = np.minimum.reduce([canvas.distance((side * c[0], c[1], c[2]), r) for c, r in DEEP for side in (-1, 1)])
    solid = np.clip(grey + white, 0, 1)
    solid[(hull < -26.0) | binary_dilation(ventricle > 0.2, iterations=2)] = 1.0  # what is open inside is no surface of the cortex
    tent = canvas.z - (2.0 - 0.42 * np.abs(canvas.x) - 0.16 * (-46.0 - canvas.y))
    sheets = _sheets(canvas, tent)
    smooth = np.maximum(_signed(gaussian_filter(solid, 2.5) > 0.5, canvas.step), sheets)
    folded = np.maximum(_signed(solid > 0.55, canvas.step), sheets)
    inner = np.maximum(_signed((white > 0.5) | (deep < 0) | (hull < -30.0), canvas.step), folded + 0.8 * RIBBON_MM)
    behind = share(tent + 1.0, 2.0) * share(canvas.y + 38.0, 3.0) * (1.0 - stem)
    tract = shape_share(canvas, "tubes", TRACT)
    maps = [hull, smooth, folded, inner, _signed(ventricle > 0.35, canvas.step), deep, behind, stem, tract]
    stack = torch.from_numpy(np.stack([np.broadcast_to(m, canvas.shape) for m in maps]).astype(np.float32))
    extent = np.ptp(np.argwhere(hull < 0), axis=0) * atlas.step_mm
    return BrainAtlas(stack, atlas.first_mm, atlas.step_mm, outline_mm(hull < 0, np.full(3, atlas.step_mm)) / 10.0, extent)


def _signed(inside: NDArray[np.bool_], step_mm: float) -> Array:
    """Signed distance to the border of a mask, mm, < 0 inside; smoothed, so that the grid's stairs do not show."""
    distance = distance_transform_edt(~inside, sampling=step_mm) - distance_transform_edt(inside, sampling=step_mm)
    return gaussian_filter(distance, 0.8).astype(np.float32)


def _sheets(canvas: Canvas, tent: Array) -> Array:
    """Minus the distance to the fissure between the hemispheres and to the tentorium, -50 where neither is."""
    beyond = ((canvas.y + 4.0) / 44.0) ** 2 + (canvas.z / 30.0) ** 2
    fissure = np.where((beyond > 1.0) & (canvas.z > -14.0) & (tent > 0), 0.9 - np.abs(canvas.x), -50.0)
    notch = (canvas.x / 22.0) ** 2 + ((canvas.y + 26.0) / 26.0) ** 2
    below = np.where((notch > 1.0) & (canvas.y < -18.0), 0.9 - np.abs(tent), -50.0)
    return np.maximum(fissure, below).astype(np.float32)


def outline_mm(mask: NDArray[np.bool_], spacing_mm: Any) -> float:
    """Circumference of a mask: the longest convex hull of its slices along the third axis, mm; 0 for an empty one."""
    step, longest = np.asarray(spacing_mm, float)[:2], 0.0
    for index in np.flatnonzero(mask.any(axis=(0, 1))):
        rows = mask[:, :, index]
        ends = [(x, y) for x in np.flatnonzero(rows.any(axis=1)) for y in (rows[x].argmax(), rows.shape[1] - 1 - rows[x, ::-1].argmax())]
        # corners of the voxels at the ends of each row: the hull of all corners
        corners = (np.array(ends, float)[:, None] + [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]).reshape(-1, 2) * step
        longest = max(longest, float(ConvexHull(corners).area))  # of a plane figure, "area" is the perimeter
    return longest


def tissue_shares(newborn: Newborn, stage: Stage, points: Array, half_width: float) -> tuple[dict[str, Array], NDArray[np.uint8]]:
    """Shares of the tissues at points inside the brain, and the label of the largest.

    Args:
        newborn: the child.
        stage: the child's brain at the age of the scan.
        points: template positions, ``(N, 3)``, mm.
        half_width: half a voxel, template mm: borders are as soft as the voxels are large.

    Returns:
        Shares ``(N,)`` by tissue (``TISSUES``), with sum 1, and labels ``(N,)`` uint8 of ``LABELS``.
    """
    hull, smooth, folded, inner, ventricle, deep, behind, stem, tract = load_brain_atlas().sample(points)
    surface = hull + np.float32(stage.fluid_mm)
    s = np.float32(stage.smoothness) * (1.0 - behind)
    pial = np.maximum(s * smooth + (1.0 - s) * folded, surface)
    core = np.maximum(s * (smooth + RIBBON_MM) + (1.0 - s) * (inner - 2.5), pial + np.float32(RIBBON_MM))
    sulci, walls = _sulci(newborn, stage, points, SULCUS_MM), _sulci(newborn, stage, points, SULCUS_MM + RIBBON_MM)
    tissue = share(np.maximum(pial, surface + sulci * (1.0 - behind)), half_width)
    core = np.maximum(core, surface + (walls + RIBBON_MM) * (1.0 - behind))
    open_ = share(ventricle - np.float32(stage.ventricle_mm), half_width)
    rest = tissue * (1.0 - open_)
    shares: dict[str, Array] = {"fluid": (1.0 - rest).astype(np.float32)}
    for name, part in (("stem", stem), ("deep", share(deep, half_width)), ("tract", tract)):
        shares[name] = (rest * part).astype(np.float32)
        rest = rest - shares[name]
    shares["white"] = rest * share(core, half_width)
    shares["cerebellum"] = (rest - shares["white"]) * behind + 0.4 * shares["white"] * behind
    shares["white"] = shares["white"] * (1.0 - 0.4 * behind)
    shares["grey"] = np.maximum(rest - shares["white"] - shares["cerebellum"], 0.0)
    return shares, _labels(shares, open_)


def _sulci(newborn: Newborn, stage: Stage, points: Array, width_mm: float) -> Array:
    """How far the sulci reach below the surface at each point, template mm: deepest on the zero levels of the child's fields."""
    early, late, early_slope, late_slope = newborn.folds.at(_on_surface(points))
    depth = np.zeros(len(points), np.float32)
    for value, slope, reach in ((early, early_slope, stage.early_mm), (late, late_slope, stage.late_mm)):
        distance = value / np.maximum(slope, np.float32(0.04))  # to the zero level, in first order
        depth = np.maximum(depth, reach * np.exp(-((distance / np.float32(width_mm)) ** 4)))
    return depth


def _on_surface(points: Array) -> Array:
    """Where the ray from the brain's middle through each point meets the ellipsoid of the folds."""
    offset = points - CENTRE
    radius = np.sqrt(np.sum((offset / RADII) ** 2, axis=-1, keepdims=True))
    return (CENTRE + offset / np.maximum(radius, np.float32(1e-3))).astype(np.float32)


def _labels(shares: dict[str, Array], open_: Array) -> NDArray[np.uint8]:
    """Number of the largest share of each voxel; fluid in a ventricle has its own, myelinating tracts are white matter."""
    kinds = {"fluid": shares["fluid"] - open_, "ventricle": np.minimum(open_, shares["fluid"])}
    kinds |= {name: shares[name] for name in ("grey", "deep", "stem", "cerebellum")} | {"white": shares["white"] + shares["tract"]}
    numbers = np.array([LABELS[name] for name in kinds], np.uint8)
    return np.asarray(numbers[np.argmax(np.stack(list(kinds.values())), axis=0)])
