"""What a user lays beside average brains: percentiles of a growth chart, and atlases whose volumes are measured as the brains are."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.head_circumference import head_circumference_cm
from common.transforms.load_case import read_volume

AGE = "age_weeks"

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Ages in weeks, ascending, and circumferences in cm."""


def read_percentiles(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """Lines of a growth chart from a CSV with ``age_weeks`` and one column per line, cm, such as ``3rd,50th,97th`` or ``-3 SD,+3 SD``.

    Charts such as Fenton's are not shipped here: their numbers belong to their publishers.

    Args:
        path: CSV, UTF-8, cells parted by comma, semicolon or tab; empty cells are left out of their line.

    Returns:
        Column -> its curve, in the order of the file.

    Raises:
        UserError: no such file, no ``age_weeks``, no further column, or a cell that is no number.
    """
    rows = _read(path, [AGE])
    lines = [name for name in rows[0] if name != AGE]
    if not lines:
        raise UserError(f"{path}: has only {AGE}, expected a further column per line of the chart, such as 3rd, 50th, 97th (cm).")
    found = {}
    for name in lines:
        points = [(_number(row[AGE], path, number), _number(row[name], path, number)) for number, row in enumerate(rows, 2) if row[name]]
        found[name] = _curve(points)
    return found


def read_atlas(path: str | os.PathLike[str], threshold: float = 0.1, smooth_slices: int = 5, outline: str = "hull") -> Curve:
    """Head circumference of the volumes of an atlas, by age.

    Args:
        path: CSV with ``age_weeks``, ``volume`` (path, relative to the CSV) and perhaps ``mask`` (brain; without it the volume must be
            skull-stripped, or the outline is that of the skull).
        threshold: see ``head_circumference_cm``.
        smooth_slices: see ``head_circumference_cm``.
        outline: see ``head_circumference_cm``.

    Returns:
        Its curve.

    Raises:
        UserError: no such file, missing columns, an unreadable volume, or a mask of another shape.
    """
    points = []
    for number, row in enumerate(_read(path, [AGE, "volume"]), 2):
        volume, spacing = _read_ras(Path(path).parent / row["volume"])
        if row.get("mask"):
            mask, _ = _read_ras(Path(path).parent / row["mask"])
            if mask.shape != volume.shape:
                raise UserError(f"{path}: line {number}: {row['mask']} has shape {mask.shape}, expected {volume.shape} as {row['volume']}.")
            volume = np.where(mask > 0, volume, 0)
        points.append((_number(row[AGE], path, number), head_circumference_cm(volume, spacing, threshold, smooth_slices, outline)))
    return _curve(points)


def _read_ras(path: Path) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """A volume with its axes turned to the nearest of RAS, so that the third one is axial, and its voxel edges."""
    channels, affine = read_volume(path)
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(channels[0], affine))
    return np.asarray(image.dataobj), tuple(float(edge) for edge in image.header.get_zooms()[:3])


def _read(path: str | os.PathLike[str], needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table with its cells stripped; keys as in its header."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a CSV with the columns {', '.join(needed)}.")
    with file.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        stream.seek(0)
        sign = max(",;\t", key=first.count)
        rows = [{str(k).strip(): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(stream, delimiter=sign)]
    rows = [row for row in rows if any(row.values())]
    if not rows or any(name not in rows[0] for name in needed):
        header = ", ".join(rows[0]) if rows else "no rows"
        raise UserError(f"{file}: found {header}; expected the columns {', '.join(needed)} and a row per age.")
    return rows


def _number(cell: str, path: str | os.PathLike[str], line: int) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(f"{path}: line {line} has {cell!r}, expected a number (weeks or cm, with a point for decimals).") from error


def _curve(points: Sequence[tuple[float, float]]) -> Curve:
    values = np.array(sorted(points), dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]
