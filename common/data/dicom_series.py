"""Read one series slice by slice, since ``ITKReader`` takes what lies in a folder as even, straight and of one kind without looking."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.cases import some
from common.data.dicom_files import SliceHeader, outside, read_slice, series_headers
from common.data.slice_stack import SliceStack, even_grid
from common.errors import UserError

MIN_SLICES = 20
"""Fewer slices are a localizer or a part of a scan (methods/position_regression.md, section 1)."""

MIN_EXTENT_MM = 100.0
"""A series that covers less along its normal does not hold a head."""

CT = ("CT",)
CT_OR_MR = ("CT", "MR")
"""Modalities whose series are volumes."""

SAME_POSITION_MM = 1e-3
"""Slices nearer to each other than this lie at one position."""


@dataclass(frozen=True)
class SeriesDescription:
    """A series in short, for the choice among several.

    ``problem`` says why it cannot be read, and is empty where it can; spacing and extent are then a rough measure, 0 where there is none.
    """

    folder: str
    description: str
    slices: int
    spacing_mm: float
    extent_mm: float
    tilt_deg: float
    even: bool
    axial: bool
    kernel: str
    contrast_agent: str
    problem: str


def stack_of(
    headers: Sequence[SliceHeader],
    folder: str,
    min_slices: int = MIN_SLICES,
    min_extent_mm: float = MIN_EXTENT_MM,
    modalities: Sequence[str] = CT,
) -> tuple[list[SliceHeader], SliceStack, list[str]]:
    """Slices of one series in the order of their places, after all checks.

    Args:
        headers: as ``series_headers`` returns them.
        folder: named in errors.
        min_slices: fewer are refused.
        min_extent_mm: a series that covers less along its normal is refused, mm.
        modalities: others are refused.

    Returns:
        Headers sorted along the normal, the stack they form (positions in LPS), and what was left out, in words.

    Raises:
        UserError: mixed series, sizes or orientations, another modality, a localizer, too few slices, two images at one position, a
            missing slice.
    """
    notes = []
    images = [header for header in headers if not header.is_localizer]
    if len(images) < len(headers):
        if not images:
            raise UserError(
                f"{folder}: a localizer (scout view), found {len(headers)} of them; expected axial {' or '.join(modalities)} slices."
                " Give that series."
            )
        notes.append(f"{len(headers) - len(images)} localizer images left out")
    _check_one_series(images, folder, modalities)
    if len(images) < min_slices:
        raise UserError(
            f"{folder}: {len(images)} slices, expected at least {min_slices}; a localizer or a part of a scan? Give the whole series."
        )
    ordered, normal = _by_position(images)
    ordered, double = _without_copies(ordered, normal, folder)
    if double:
        notes.append(f"{double} copies of slices left out")
    if len(ordered) < 2:
        raise UserError(f"{folder}: all slices lie at one position; expected a series of slices along the head.")
    first = ordered[0]
    row = np.array(first.row)
    axes = np.array([row, np.cross(normal, row), normal])  # the header's column axis may be rounded; this one is at right angles
    stack = SliceStack(np.array([header.position for header in ordered]), axes, first.pixel_mm)
    _check_stack(stack, ordered, folder, min_extent_mm)
    return ordered, stack, notes


def _check_one_series(headers: Sequence[SliceHeader], folder: str, modalities: Sequence[str]) -> None:
    """One series of slices of one of the modalities, with one size, pixel and orientation."""
    first = headers[0]
    series = Counter(header.series for header in headers)
    if len(series) > 1:
        names = {header.series: header.description or "no description" for header in headers}
        shown = some((f"{names[key]!r} ({count} files)" for key, count in series.items()), 4)
        raise UserError(
            f"{folder}: {len(series)} series are mixed in it: {shown}; expected one. Sort them into folders and give one of these."
        )
    other = next((header for header in headers if header.modality not in modalities), None)
    if other is not None:
        wanted = " or ".join(modalities)
        raise UserError(
            f"{other.file}: the modality is {other.modality or 'not named'}, expected {wanted}. Give a series of {wanted} slices."
        )
    for header in headers:
        if header.size[2] != 1:
            raise UserError(
                f"{header.file}: {header.size[2]} frames in one file, expected one slice per file; convert it to NIfTI (dcm2niix)."
            )
        if header.position is None:
            raise UserError(f"{header.file}: no position or orientation in the header, expected both; a screenshot? Remove it.")
        same_pixels = header.size == first.size and np.allclose(header.pixel_mm, first.pixel_mm, rtol=1e-3)
        same_axes = np.allclose(header.row + header.column, first.row + first.column, atol=1e-3)
        if not (same_pixels and same_axes):
            what = "orientations" if same_pixels else "image sizes"
            raise UserError(
                f"{folder}: mixed {what}: {Path(first.file).name} has {_grid(first)}, {Path(header.file).name} has {_grid(header)};"
                " expected one for all slices. Remove the images that do not belong to the series."
            )


def _grid(header: SliceHeader) -> str:
    axes = " ".join(f"{value:.2f}" for value in header.row + header.column)
    return f"{header.size[0]} x {header.size[1]} pixels of {header.pixel_mm[0]:.4g} mm, axes {axes}"


def _by_position(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], np.ndarray]:
    """Headers sorted along the normal, and the normal."""
    normal = np.cross(headers[0].row, headers[0].column)
    normal /= np.linalg.norm(normal)
    return sorted(headers, key=lambda header: (float(np.dot(header.position or (0, 0, 0), normal)), header.file)), normal


def _without_copies(headers: Sequence[SliceHeader], normal: np.ndarray, folder: str) -> tuple[list[SliceHeader], int]:
    """Headers with one file per position, and the number of copies that were left out."""
    kept: list[SliceHeader] = []
    for header in headers:
        if not kept or np.dot(np.subtract(header.position, kept[-1].position), normal) > SAME_POSITION_MM:  # type: ignore[arg-type]
            kept.append(header)
        elif not np.array_equal(read_slice(header), read_slice(kept[-1])):
            raise UserError(
                f"{folder}: {Path(kept[-1].file).name} and {Path(header.file).name} lie at one position with different pixels; expected one"
                " slice per position. Two reconstructions or phases in one folder? Keep one of them."
            )
    return kept, len(headers) - len(kept)


def _check_stack(stack: SliceStack, headers: Sequence[SliceHeader], folder: str, min_extent_mm: float) -> None:
    missing = stack.missing_after()
    if missing:
        index = missing[0]
        before, after = (Path(headers[k].file).name for k in (index, index + 1))
        raise UserError(
            f"{folder}: {len(missing)} gap{'s' * (len(missing) > 1)} in the series: {before} and {after} are {stack.gaps[index]:.2f} mm"
            f" apart, expected {np.median(stack.gaps):.2f} mm as elsewhere. A slice is missing: get the whole series again."
        )
    extent = float(stack.heights[-1]) + stack.step_mm
    if extent < min_extent_mm:
        raise UserError(
            f"{folder}: the slices cover {extent:.0f} mm, expected at least {min_extent_mm:g} mm. Give a scan of the whole head."
        )


def read_series(
    folder: str | os.PathLike[str],
    min_slices: int = MIN_SLICES,
    min_extent_mm: float = MIN_EXTENT_MM,
    modalities: Sequence[str] = CT,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a series onto an even, orthogonal grid; gantry tilt and uneven spacing are corrected.

    Args:
        folder: holds the DICOM files of one series directly.
        min_slices: fewer are refused.
        min_extent_mm: a series that covers less along its normal is refused, mm.
        modalities: others are refused; CT alone, or ``CT_OR_MR``.

    Returns:
        Volume ``(X, Y, Z)``, float32, HU (not clipped) or the unit of the MR; affine ``(4, 4)``, float64, voxel to mm, RAS; notes on
        corrections.

    Raises:
        UserError: see ``stack_of``; and damaged pixels.
    """
    ordered, stack, notes = stack_of(series_headers(folder), os.fspath(folder), min_slices, min_extent_mm, modalities)
    volume, affine, corrections = even_grid(stack, lambda index: read_slice(ordered[index]), outside(ordered[0].modality))
    return volume, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, notes + corrections


def describe_series(
    folder: str | os.PathLike[str], min_slices: int = MIN_SLICES, min_extent_mm: float = MIN_EXTENT_MM
) -> SeriesDescription:
    """A series in short, from its headers; what would be refused stands in ``problem``."""
    name, problem, stack = os.fspath(folder), "", None
    try:
        headers = series_headers(folder)
    except UserError as error:
        return SeriesDescription(name, "", 0, 0.0, 0.0, 0.0, False, False, "", "", str(error))
    try:
        _, stack, _ = stack_of(headers, name, min_slices, min_extent_mm)
    except UserError as error:
        problem = str(error)
    first = headers[0]
    normal = np.cross(first.row, first.column)
    spacing, extent = (stack.step_mm, float(stack.heights[-1]) + stack.step_mm) if stack else _rough_measure(headers, normal)
    return SeriesDescription(
        folder=name,
        description=first.description,
        slices=len(headers),
        spacing_mm=round(spacing, 4),
        extent_mm=round(extent, 2),
        tilt_deg=round(stack.tilt_deg, 2) if stack else 0.0,
        even=bool(stack and stack.is_even),
        axial=bool(abs(normal[2]) > 0.7),
        kernel=first.kernel,
        contrast_agent=first.contrast_agent,
        problem=problem,
    )


def _rough_measure(headers: Sequence[SliceHeader], normal: np.ndarray) -> tuple[float, float]:
    """Median gap and extent of slices that form no stack, mm; 0 where fewer than two places are known."""
    heights = np.unique(np.round([float(np.dot(header.position, normal)) for header in headers if header.position], 3))
    if len(heights) < 2:
        return 0.0, 0.0
    spacing = float(np.median(np.diff(heights)))
    return spacing, float(heights[-1] - heights[0]) + spacing
