"""A head CT phantom: ellipsoid scalp, skull and brain, asymmetric blobs, a nose, a head rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Phantom = Callable[..., tuple[np.ndarray, np.ndarray]]


def turn(x_deg: float = 0, y_deg: float = 0, z_deg: float = 0, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Rigid matrix: about x, then y, then z, then a shift in mm."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad([x_deg, y_deg, z_deg])):
        first, second = [other for other in range(3) if other != axis]
        plane = np.eye(4)
        plane[first, first] = plane[second, second] = np.cos(angle)
        plane[second, first] = np.sin(angle)
        plane[first, second] = -np.sin(angle)
        matrix = plane @ matrix
    matrix[:3, 3] = shift
    return matrix


def head_hu(points: np.ndarray, size: float = 1.0, table: bool = True, bottom_mm: float = -75.0) -> np.ndarray:
    """HU of the phantom at points ``(..., 3)`` in mm of its own frame; the skull is open below."""
    x, y, z = np.moveaxis(points / size, -1, 0)

    def ellipsoid(a: float, b: float, c: float, at: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        return ((x - at[0]) / a) ** 2 + ((y - at[1]) / b) ** 2 + ((z - at[2]) / c) ** 2 <= 1

    hu = np.full(x.shape, -1000.0)
    if table:
        hu[(np.abs(np.hypot(x, y + 20) - 105) < 1.5) & (y < -40)] = 50.0
        hu[(y < -128) & (y > -131)] = 100.0
    hu[ellipsoid(76, 95, 85) | ellipsoid(14, 25, 14, (0, 90, -35))] = 10.0
    hu[ellipsoid(70, 89, 79)] = 1000.0
    hu[ellipsoid(64, 83, 73) | ((np.hypot(x, y + 20) < 16) & (z < -50) & (z > -90))] = 35.0
    hu[ellipsoid(12, 30, 14, (-18, 5, 5)) | ellipsoid(9, 24, 12, (16, 12, 8))] = 5.0
    hu[ellipsoid(12, 14, 10, (35, -40, -25))] = 60.0
    hu[ellipsoid(10, 8, 12, (-20, 86, -20))] = 700.0
    hu[ellipsoid(7, 8, 9, (0, 80, -30))] = -1000.0  # a sinus
    return np.where(z * size < bottom_mm, -1000.0, hu)


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """Function that scans the phantom: voxels ``(X, Y, Z)`` float32 with noise, and the affine."""

    def scan(
        spacing: tuple[float, float, float] = (4.0, 4.0, 4.0), pose: np.ndarray | None = None, size: float = 1.0, **head: float
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = tuple(int(256 // step) for step in spacing)
        grid = np.diag([*spacing, 1.0])
        grid[:3, 3] = [-(n - 1) / 2 * step for n, step in zip(shape, spacing, strict=True)]
        affine = (np.eye(4) if pose is None else pose) @ grid  # a turned patient's scan: same voxels, another world
        points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) @ grid[:3, :3].T + grid[:3, 3]
        noise = np.random.default_rng(0).normal(0, 5, shape)
        return (head_hu(points, size, **head) + noise).astype(np.float32), affine  # type: ignore[arg-type]

    return scan


@pytest.fixture(scope="session")
def rigid() -> Callable[..., np.ndarray]:
    """Function that builds rigid matrices from degrees and mm."""
    return turn
