"""Small CT series on disk for the tests of readers, written slice by slice so that every mess a scanner makes can be made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def write_series(
    folder: Path,
    slices: Sequence[np.ndarray],
    positions: Sequence[Sequence[float]],
    axes: tuple[Sequence[float], Sequence[float]] = AXES,
    pixel_mm: tuple[float, float] = (2.0, 2.0),
    tags: Mapping[str, str] | None = None,
    start: int = 0,
) -> Path:
    """Write slices ``(X, Y)`` in HU (integers) as DICOM files with slope 1 and intercept -1024.

    Args:
        folder: gets the files ``CT000000.dcm``, ...
        slices: pixels.
        positions: centre of the first pixel of each, LPS, mm.
        axes: directions of the two pixel axes.
        pixel_mm: size of a pixel.
        tags: DICOM tags over those written by default.
        start: number of the first file.
    """
    import itk

    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(*axes)
    for number, (pixels, position) in enumerate(zip(slices, positions, strict=True), start=start):
        image = itk.image_from_array(np.ascontiguousarray(np.rint(pixels).astype(np.int16).T[None]))
        image.SetOrigin([float(value) for value in position])
        image.SetSpacing([*pixel_mm, 1.0])
        image.SetDirection(itk.matrix_from_array(np.array([*axes, normal]).T))
        header = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0060": "CT",
            "0008|103e": folder.name,
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0020|0013": str(number),
            "0028|1052": "-1024",
            "0028|1053": "1",
        } | dict(tags or {})
        dictionary = image.GetMetaDataDictionary()
        for key, value in header.items():
            dictionary[key] = value
        io = itk.GDCMImageIO.New()
        io.KeepOriginalUIDOn()
        writer = itk.ImageFileWriter[type(image)].New(Input=image, ImageIO=io, FileName=str(folder / f"CT{number:06d}.dcm"))
        writer.UseInputMetaDataDictionaryOn()
        writer.Update()
    return folder


def straight(heights: Sequence[float]) -> list[tuple[float, float, float]]:
    """Positions of slices straight above each other."""
    return [(-20.0, -30.0, float(height)) for height in heights]


def tilted(heights: Sequence[float], degrees: float) -> tuple[list[tuple[float, float, float]], tuple[Sequence[float], Sequence[float]]]:
    """Positions and axes of a scan with a tilted gantry: the planes are turned, the table moves along z."""
    angle = math.radians(degrees)
    axes = ((1.0, 0.0, 0.0), (0.0, math.cos(angle), -math.sin(angle)))
    return [(-20.0, -30.0, float(height)) for height in heights], axes


def places(shape: tuple[int, int], position: Sequence[float], axes: tuple[Sequence[float], Sequence[float]], pixel_mm: float) -> np.ndarray:
    """Where the pixels of a slice lie, ``(X, Y, 3)``, LPS, mm."""
    first, second = np.indices(shape) * pixel_mm
    return np.asarray(position) + first[..., None] * np.asarray(axes[0]) + second[..., None] * np.asarray(axes[1])


def head_like(shape: tuple[int, int] = (20, 24), count: int = 26) -> list[np.ndarray]:
    """Slices with air, tissue and bone, different in every slice."""
    slices = []
    for number in range(count):
        pixels = np.full(shape, -1000.0)
        pixels[4:-4, 4:-4] = 900
        pixels[6:-6, 6:-6] = 20 + number
        slices.append(pixels)
    return slices
