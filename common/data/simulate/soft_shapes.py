"""Soft shapes on a grid: what share of each voxel lies inside an ellipsoid or a tube."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Array

Triple = tuple[float, float, float]


class Canvas:
    """A grid in template space on which soft shapes are drawn."""

    def __init__(self, shape: tuple[int, ...], first_mm: NDArray[np.float64], step_mm: float) -> None:
        axes = [first_mm[i] + step_mm * np.arange(shape[i]) for i in range(3)]
        self.shape = shape
        self.step = step_mm
        self.x, self.y, self.z = (a.astype(np.float32) for a in np.meshgrid(*axes, indexing="ij", sparse=True))

    def distance(self, centre: Triple, radii: Triple) -> Array:
        """About the signed distance to an ellipsoid, mm (exact on its surface, first order near it)."""
        parts = [(axis - c) for axis, c in zip((self.x, self.y, self.z), centre, strict=True)]
        inner = np.sqrt(sum((p / r) ** 2 for p, r in zip(parts, radii, strict=True)))
        slope = np.sqrt(sum((p / r**2) ** 2 for p, r in zip(parts, radii, strict=True)))
        result: Array = np.where(slope > 1e-6, inner * (inner - 1) / np.maximum(slope, 1e-6), -min(radii)).astype(np.float32)
        return result

    def ellipsoid(self, centre: Triple, radii: Triple) -> Array:
        """Share of each voxel inside an ellipsoid, about."""
        return share(self.distance(centre, radii), self.step / 2)

    def both(self, centre: Triple, radii: Triple) -> Array:
        """An ellipsoid and its mirror image across the midline."""
        return np.maximum(self.ellipsoid(centre, radii), self.ellipsoid((-centre[0], centre[1], centre[2]), radii))

    def tube_distance(self, start: Triple, stop: Triple, radius: float) -> Array:
        """Signed distance to a capsule between two points, mm."""
        a, b = np.array(start, np.float32), np.array(stop, np.float32)
        axis = (b - a) / np.float32(np.sum((b - a) ** 2))
        parts = [self.x - a[0], self.y - a[1], self.z - a[2]]
        along = np.clip(sum(p * w for p, w in zip(parts, axis, strict=True)), 0, 1)
        squares = sum((p - along * d) ** 2 for p, d in zip(parts, b - a, strict=True))
        return (np.sqrt(squares) - np.float32(radius)).astype(np.float32)

    def tube(self, start: Triple, stop: Triple, radius: float) -> Array:
        """Share of each voxel inside a capsule."""
        return share(self.tube_distance(start, stop, radius), self.step / 2)


def share(distance: NDArray[Any], half_width: float | NDArray[Any]) -> Array:
    """Share of a voxel on the negative side of a surface at signed ``distance``; the voxel reaches ``half_width`` to both sides."""
    return np.clip(0.5 - 0.5 * distance / half_width, 0.0, 1.0).astype(np.float32)


def shape_share(canvas: Canvas, shape: str, where: tuple[Triple, ...]) -> Array:
    """Draw one stroke: "one" ellipsoid, "both" an ellipsoid and its mirror image, "tubes" a tube and its mirror image."""
    if shape == "one":
        return canvas.ellipsoid(where[0], where[1])
    if shape == "both":
        return canvas.both(where[0], where[1])
    start, stop, radius = where
    mirror = [(-p[0], p[1], p[2]) for p in (start, stop)]
    return np.maximum(canvas.tube(start, stop, radius[0]), canvas.tube(mirror[0], mirror[1], radius[0]))
