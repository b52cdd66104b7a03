"""Headers and pixels of DICOM files one by one, since ``ITKReader`` reads the folder as a whole and hides what differs between slices."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.cases import some
from common.data.slice_stack import AIR_HU
from common.errors import UserError

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class SliceHeader:
    """What the header of one DICOM file says; ``position``, ``row`` and ``column`` (unit vectors) in mm, LPS."""

    file: str
    series: str
    modality: str
    description: str
    image_type: str
    position: Vector | None
    row: Vector
    column: Vector
    size: tuple[int, int, int]
    pixel_mm: tuple[float, float]
    thickness_mm: float | None
    kernel: str
    contrast_agent: str

    @property
    def is_localizer(self) -> bool:
        """Whether the scanner calls it a localizer."""
        return "LOCALIZER" in self.image_type.upper()


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM by its mark at byte 128, or, for the few written without it, by its name."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".ima")


def dicom_files(folder: str | os.PathLike[str]) -> list[Path]:
    """DICOM files that lie directly in a folder, sorted by name."""
    return [path for path in sorted(Path(folder).iterdir()) if is_dicom_file(path)]


def holds_dicom(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds DICOM files directly; only until the first one is found."""
    return Path(folder).is_dir() and any(is_dicom_file(path) for path in sorted(Path(folder).iterdir()))


def dicom_folders(root: str | os.PathLike[str], depth: int = 5) -> Iterator[Path]:
    """Folders at or below ``root`` that hold DICOM files directly, in the order of their names."""
    folder = Path(root)
    if holds_dicom(folder):
        yield folder
    if depth > 0:
        for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from dicom_folders(child, depth - 1)


def series_headers(folder: str | os.PathLike[str], limit: int | None = None) -> list[SliceHeader]:
    """Headers of a folder's DICOM files, in the order of their names; no pixels are read.

    Args:
        folder: holds the files directly; other files in it are passed over.
        limit: number of files to read; None reads all.

    Raises:
        UserError: no such folder, no DICOM files in it, or a damaged one.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected one with the DICOM files of one series.")
    files = dicom_files(path)
    if not files:
        raise UserError(
            f"{path}: no DICOM files in it ({some((child.name for child in sorted(path.iterdir())), 4) or 'empty'}); expected those of one"
            " series directly in the folder."
        )
    return [read_header(file) for file in files[:limit]]


def read_header(file: str | os.PathLike[str]) -> SliceHeader:
    """Header of one DICOM file.

    Raises:
        UserError: the file is damaged or not DICOM.
    """
    import itk

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(os.fspath(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(f"{file}: not a DICOM image that can be read (damaged, or without an image); remove it or get it again.") from error
    tags = reader.GetMetaDataDictionary()

    def tag(key: str) -> str:
        return str(tags[key]).strip().strip("\0") if tags.HasKey(key) else ""

    axes = _numbers(tag("0020|0037"))
    position = _numbers(tag("0020|0032"))
    thickness = _numbers(tag("0018|0050"))
    return SliceHeader(
        file=os.fspath(file),
        series=tag("0020|000e"),
        modality=tag("0008|0060"),
        description=tag("0008|103e"),
        image_type=tag("0008|0008"),
        position=_vector(position) if len(position) == 3 and len(axes) == 6 else None,
        row=_vector(axes[:3] if len(axes) == 6 else [1, 0, 0]),
        column=_vector(axes[3:] if len(axes) == 6 else [0, 1, 0]),
        size=(reader.GetDimensions(0), reader.GetDimensions(1), reader.GetDimensions(2) if reader.GetNumberOfDimensions() > 2 else 1),
        pixel_mm=(reader.GetSpacing(0), reader.GetSpacing(1)),
        thickness_mm=thickness[0] if thickness else None,
        kernel=tag("0018|1210"),
        contrast_agent=tag("0018|0010"),
    )


def read_slice(header: SliceHeader) -> np.ndarray:
    """Pixels of one slice, ``(X, Y)``, float32, in HU or the scanner's unit (ITK applies slope and intercept); padding is air, in MR 0.

    Raises:
        UserError: the pixels are damaged or not one grey value each.
    """
    import itk

    io = itk.GDCMImageIO.New()
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New()
    reader.SetImageIO(io)
    reader.SetFileName(header.file)
    try:
        reader.Update()
    except RuntimeError as error:
        raise UserError(f"{header.file}: its pixels cannot be read; the file is truncated or damaged. Get it again.") from error
    if io.GetNumberOfComponents() != 1:
        raise UserError(f"{header.file}: {io.GetNumberOfComponents()} colours per pixel, expected grey values; a screenshot? Remove it.")
    pixels = np.array(itk.array_view_from_image(reader.GetOutput())[0].T, np.float32)
    padding = _padding(io)
    if padding is not None:
        pixels[pixels == padding] = outside(header.modality)
    return pixels


def outside(modality: str) -> float:
    """Value of what lies outside of the slices: air in a CT, else 0."""
    return AIR_HU if modality == "CT" else 0.0


def _padding(io: Any) -> float | None:
    """Value of pixels outside the field of view, in HU; None where the header names none."""
    tags = io.GetMetaDataDictionary()
    values = _numbers(str(tags["0028|0120"])) if tags.HasKey("0028|0120") else []
    if not values:
        return None
    signed = tags.HasKey("0028|0103") and str(tags["0028|0103"]).strip() == "1"
    stored = values[0] - 65536 if signed and values[0] > 32767 else values[0]
    return float(np.float32(stored * io.GetRescaleSlope() + io.GetRescaleIntercept()))


def _numbers(text: str) -> list[float]:
    """Numbers of a DICOM text, parted by backslashes; empty where it holds anything else."""
    parts = [part.strip(" \0") for part in text.split("\\")]
    return [float(part) for part in parts] if parts and all(re.fullmatch(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?", part) for part in parts) else []


def _vector(values: Sequence[float]) -> Vector:
    return (float(values[0]), float(values[1]), float(values[2]))
