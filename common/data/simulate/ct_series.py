"""The DICOM series of one simulated case: the plain thin one, and what else a hospital's archive holds of the same head.

Which series to read is for the reader to find out; here is what it meets: thick slices, contrast medium, a bone kernel, a scout, and now
and then a series in which one slice is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from common.data.simulate.anatomy import Array, Grid
from common.data.simulate.ct_scanner import add_noise
from common.data.simulate.dicom_writer import uid, write_series
from common.data.simulate.head_ct import Scan

STUDY = "Unknown Study"


@dataclass(frozen=True)
class Series:
    """One series to write: its description, values ``(X, Y, Z)``, grid, reconstruction kernel ("" for the scanner's
    soft one), type of image, and a slice left out."""

    description: str
    hu: Array
    grid: Grid
    kernel: str = ""
    image_type: str = "ORIGINAL\\PRIMARY\\AXIAL"
    missing: int | None = None
    contrast: bool = False


def draw_series(rng: np.random.Generator, scan: Scan) -> list[Series]:
    """Draw which series a case has; the plain thin one is always there and whole."""
    slice_mm = scan.grid.spacing_mm[2]
    plain = ("CT PLAIN THIN", "CT Thin Plain", f"CT {slice_mm:g}mm")[int(rng.integers(3))]
    series = [Series(plain, scan.hu, scan.grid)]
    if rng.random() < 0.35:
        series.append(Series(("Scout", "SCOUT 0.6mm", "Topogram")[int(rng.integers(3))], *_scout(scan), "", "ORIGINAL\\PRIMARY\\LOCALIZER"))
    thick = _pairs(scan.clean, scan.grid)
    if rng.random() < 0.5:
        series.append(Series("CT Plain", add_noise(rng, thick[0], 0.75 * scan.noise_hu, scan.grain_px), thick[1]))
    if rng.random() < 0.3:
        name = ("CT POST CONTRAST", "CT 4cc sec 150cc D3D on-2", "CT POST CONTRAST THIN")[int(rng.integers(3))]
        clean, grid = (_with_contrast(scan), scan.grid) if "THIN" in name or "4cc" in name else _pairs(_with_contrast(scan), scan.grid)
        series.append(Series(name, add_noise(rng, clean, scan.noise_hu, scan.grain_px), grid, contrast=True))
    if rng.random() < 0.35:
        clean, grid = (scan.clean, scan.grid) if rng.random() < 0.5 else thick
        sharp = clean + 0.7 * (clean - gaussian_filter(clean, (1, 1, 0)))
        series.append(Series("CT BONE", add_noise(rng, sharp, 3.0 * scan.noise_hu, 0.0), grid, "BONE"))
    if rng.random() < 0.12 and scan.hu.shape[2] > 4:
        middle = int(scan.hu.shape[2] * rng.uniform(0.25, 0.75))
        again = add_noise(rng, scan.clean, scan.noise_hu, scan.grain_px)
        series.append(Series("CT Plain Thin-2", again, scan.grid, missing=middle))
    return series


def _pairs(clean: Array, grid: Grid) -> tuple[Array, Grid]:
    """Two slices averaged into one, twice as thick."""
    count = clean.shape[2] // 2
    values = 0.5 * (clean[:, :, 0 : 2 * count : 2] + clean[:, :, 1 : 2 * count : 2])
    x, y, z = grid.spacing_mm
    origin = grid.origin_mm + 0.5 * z * grid.direction[:, 2]
    return values, Grid((grid.shape[0], grid.shape[1], count), (x, y, 2 * z), origin, grid.direction)


def _with_contrast(scan: Scan) -> Array:
    """Contrast medium: vessels at about 180 HU, brain a little brighter, muscle too."""
    brain = (scan.structures >= 3).astype(np.float32)
    result: Array = scan.clean + brain * (4.0 + 120.0 * scan.vessels) + 8.0 * (scan.structures == 1) * (scan.clean > 0)
    return result


def _scout(scan: Scan) -> tuple[Array, Grid]:
    """A projection from the front, as one slice: rows from top to bottom."""
    values = np.clip(np.rint(2.5 * (scan.hu.mean(axis=1) + 1000.0) - 900.0), -1024, 3071)[:, ::-1, None].astype(np.float32)
    x, y, z = scan.grid.spacing_mm
    d = scan.grid.direction
    top = scan.grid.origin_mm + d[:, 2] * z * (scan.grid.shape[2] - 1)
    direction = np.stack([d[:, 0], -d[:, 2], d[:, 1]], axis=1)
    return values, Grid((values.shape[0], values.shape[1], 1), (x, z, y), top, direction)


def write_case(root: Path, number: int, scan: Scan, rng: np.random.Generator, origin: str) -> list[Path]:
    """Write all series of a case below ``<root>/CQ500CT<number> CQ500CT<number>/Unknown Study/``.

    Args:
        root: of the layout.
        number: of the case.
        scan: what was scanned.
        rng: which series there are.
        origin: what the identifiers are made from, besides the case (seed and style).

    Returns:
        The files.
    """
    name = f"CQ500CT{number}"
    makers = scan.scanner.names
    maker, kernel = makers[int(rng.integers(len(makers)))], scan.scanner.kernels[int(rng.integers(len(scan.scanner.kernels)))]
    study = {
        "0008|0020": "20170101",
        "0008|0030": "120000",
        "0008|0070": maker[0],
        "0008|1090": maker[1],
        "0010|0020": name,
        "0018|0060": "120",
        "0020|000d": uid(origin, name, "study"),
        "0020|0052": uid(origin, name, "frame"),
        "0020|0010": "1",
    }
    files: list[Path] = []
    for place, series in enumerate(draw_series(rng, scan)):
        tags = {
            **study,
            "0008|0008": series.image_type,
            "0008|0031": f"12{place:02d}00",
            "0008|103e": series.description,
            "0018|0050": f"{series.grid.spacing_mm[2]:g}",
            "0018|0088": f"{series.grid.spacing_mm[2]:g}",
            "0018|1210": series.kernel or kernel,
            "0020|0011": str(place + 2),
        }
        if series.contrast:
            tags["0018|0010"] = "OMNIPAQUE 4cc sec 150cc"
        order = _file_order(rng, series)
        folder = root / f"{name} {name}" / STUDY / series.description
        files += write_series(folder, series.hu, series.grid, tags, uid(origin, name, place), order)
    return files


def _file_order(rng: np.random.Generator, series: Series) -> list[int]:
    """Most series rise from file to file, some fall, a few come in no order; a missing slice is left out."""
    order = [k for k in range(series.hu.shape[2]) if k != series.missing]
    chance = rng.random()
    if chance < 0.25:
        return order[::-1]
    return [order[k] for k in rng.permutation(len(order))] if chance < 0.32 else order
