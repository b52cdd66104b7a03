"""What a CT scanner does to a head: the grid, the table, beam hardening, noise by kernel and slice thickness.

Values: noise of a routine head scan about 3-5 HU in slices of 3-5 mm, growing with the inverse root of the thickness; a dark band of 5-15
HU between the petrous bones; 2-5 HU of cupping below the vault. Source: Barrett and Keat, RadioGraphics 2004; 24:1679-1691
(artefacts); Brooks and Di Chiro, Med Phys 1976; 3:237-240 (noise). Sizes are chosen within these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from common.data.simulate.anatomy import Array, Grid
from common.data.simulate.head import AIR_HU, HeadVoxels
from common.data.simulate.soft_shapes import share


@dataclass(frozen=True)
class Scanner:
    """How a scanner looks; two styles differ in these numbers and in the mixture of lesions.

    Attributes:
        noise_hu: smallest and largest standard deviation of the noise in a slice of 3 mm.
        kernel_px: smallest and largest width of the noise's grain (standard deviation, pixels).
        blur_px: blurring of the image, pixels.
        offset_hu: standard deviation of the calibration of water.
        cupping_hu: largest brightening below the skull.
        band_hu: largest darkening between the petrous bones.
        names: manufacturers and models.
        kernels: names of soft kernels.
    """

    noise_hu: tuple[float, float] = (2.6, 4.2)
    kernel_px: tuple[float, float] = (0.45, 0.75)
    blur_px: float = 0.0
    offset_hu: float = 0.8
    cupping_hu: float = 4.0
    band_hu: float = 9.0
    names: tuple[tuple[str, str], ...] = (("GE MEDICAL SYSTEMS", "BrightSpeed"), ("GE MEDICAL SYSTEMS", "Optima CT660"))
    kernels: tuple[str, ...] = ("STANDARD", "SOFT")


def draw_grid(rng: np.random.Generator, size: int, slice_mm: float) -> Grid:
    """Draw the grid of a scan: field of view, coverage, and now and then an oblique reconstruction.

    One scan in ten ends below the vertex, one in eight starts only at the skull base; most reach from the foramen magnum to the vertex.
    Patient position 0 is the middle of the head (ITK's convention: left, back, up).
    """
    from scipy.spatial.transform import Rotation

    spacing = round(float(rng.uniform(228.0, 250.0)) / size, 4)
    bottom, top = rng.uniform(-106.0, -84.0), rng.uniform(88.0, 100.0)
    chance = rng.random()
    if chance < 0.10:
        top = rng.uniform(62.0, 78.0)
    elif chance < 0.22:
        bottom = rng.uniform(-76.0, -64.0)
    tilt = Rotation.from_euler("xyz", rng.uniform([-14, -3, -3], [14, 3, 3]), degrees=True).as_matrix() if rng.random() < 0.3 else np.eye(3)
    shape = (size, size, max(3, int(np.ceil((top - bottom) / slice_mm))))
    middle = (np.asarray(shape) - 1) / 2 * np.array([spacing, spacing, slice_mm])
    centre = np.array([rng.uniform(-6, 6), rng.uniform(-6, 6), (top + bottom) / 2])
    return Grid(shape, (spacing, spacing, float(slice_mm)), centre - tilt @ middle, tilt)


def harden(hu: Array, voxels: HeadVoxels, cupping_hu: float, band_hu: float) -> Array:
    """Brighten the brain next to the skull and darken it between the petrous bones, ``(N,)``."""
    inside = share(voxels.hull, voxels.reach)
    x, y, z = voxels.points.T
    band = np.exp(-0.5 * (((z + 38.0) / 6.0) ** 2 + ((y + 26.0) / 10.0) ** 2 + (x / 30.0) ** 4))
    change = np.float32(cupping_hu) * np.exp(np.minimum(voxels.hull, 0.0) / 7.0) - np.float32(band_hu) * band
    return (hu + inside * change).astype(np.float32)


def add_table(rng: np.random.Generator, hu: Array, inside: np.ndarray, grid: Grid) -> Array:
    """Put the head holder under the head: a thin curved shell with foam between, the same in every slice; ``(X, Y, Z)``."""
    shape = inside.shape
    columns = np.argwhere(inside.any(axis=2))
    lowest = (columns[:, 1].max() if len(columns) else shape[1] // 2) * grid.spacing_mm[1]
    radius, shell = float(rng.uniform(105, 180)), float(rng.uniform(2.0, 4.0))
    x = (np.arange(shape[0]) - columns[:, 0].mean() if len(columns) else np.arange(shape[0])) * grid.spacing_mm[0] + rng.uniform(-6, 6)
    y = np.arange(shape[1]) * grid.spacing_mm[1] - lowest - rng.uniform(3.0, 8.0)
    distance = np.sqrt(x[:, None] ** 2 + (y[None, :] + radius) ** 2) - radius
    reach = np.where((np.abs(x[:, None]) < rng.uniform(75, 100)) & (y[None, :] > -rng.uniform(45, 80)), 0.0, 50.0)
    half = grid.spacing_mm[0] / 2
    wall = share(np.abs(distance) + reach - shell / 2, half) * min(1.0, shell / (2 * half))
    foam = share(np.abs(distance + 8.0) + reach - 6.0, half)
    plane = AIR_HU + foam * float(rng.uniform(15, 60)) + wall * (float(rng.uniform(0, 350)) - AIR_HU)
    out = hu.copy()
    result: Array = np.where(inside, out, np.maximum(out, plane[:, :, None])).astype(np.float32)
    return result


def add_noise(rng: np.random.Generator, clean: Array, sd_hu: float, grain_px: float) -> Array:
    """Add grainy noise and round as a scanner stores it: whole HU from -1024 to 3071, ``(X, Y, Z)`` float32."""
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    if grain_px > 0.2:
        noise = gaussian_filter(noise, (grain_px, grain_px, 0.0))
        noise /= np.float32(noise.std())
    result: Array = np.clip(np.rint(clean + np.float32(sd_hu) * noise), -1024.0, 3071.0).astype(np.float32)
    return result
