"""Lesion by lesion, on simulated truth: does a map exceed a threshold inside the lesion, and is what it flags of the lesion's size?

MONAI and panoptica match masks to masks; here a smooth map stands against a mask, and the threshold comes from healthy volumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import as_mask, check_same_shape, voxel_ml

VOLUME_BINS: dict[str, float] = {"< 1 ml": 1.0, "1-5 ml": 5.0, "5-20 ml": 20.0, "> 20 ml": math.inf}
"""Name of a bin of lesion volume -> its upper end in ml, which belongs to the next bin."""

_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # faces, edges and corners connect, as in common.metrics.detection


def volume_bin(volume_ml: float) -> str:
    """Name of the bin of a lesion volume in ml, at least 0."""
    return next(name for name, upper in VOLUME_BINS.items() if volume_ml < upper or upper == math.inf)


def healthy_threshold(maxima: Iterable[float], false_positive_rate: float = 0.1) -> float:
    """Smallest threshold that at most this share of the healthy volumes exceeds.

    Args:
        maxima: largest value of the map inside the structure, one per healthy volume; NaN is left out.
        false_positive_rate: share of healthy volumes that may exceed it, in [0, 1).

    Returns:
        One of the maxima: with n volumes, floor(n * rate) lie above it (fewer where values are equal). NaN without any volume.

    Raises:
        UserError: rate outside [0, 1).
    """
    if not 0 <= false_positive_rate < 1:
        raise UserError(f"false_positive_rate: got {false_positive_rate}, expected at least 0 and below 1, such as 0.1.")
    known = np.sort([value for value in maxima if not math.isnan(value)])
    if known.size == 0:
        return math.nan
    # 1e-9 so that 0.3 * 10, which is a hair below 3, lets three volumes above.
    return float(known[known.size - 1 - math.floor(false_positive_rate * known.size + 1e-9)])


def measure_lesions(
    values: NDArray[Any], truth: NDArray[Any], threshold: float, spacing_mm: Sequence[float], smallest_ml: float = 0.0
) -> list[dict[str, Any]]:
    """Measure a map on each connected lesion (26 neighbours) of a true mask.

    A lesion is found when the map exceeds the threshold at one of its voxels at least. What is flagged for it are the components of the
    map above the threshold that share a voxel with it, with all they hold outside of it.

    Args:
        values: map, ``(X, Y, Z)``, real.
        truth: true lesions, ``(X, Y, Z)``, bool or 0/1.
        threshold: in the unit of the map, from :func:`healthy_threshold`.
        spacing_mm: voxel edges along X, Y, Z, mm.
        smallest_ml: smaller components are left out: crumbs of a thin sheet that the grid cut.

    Returns:
        One row per lesion: ``volume_ml``, ``volume_bin``, ``maximum`` (of the map inside), ``found`` (bool), ``flagged_ml`` (0 where it
        is missed), ``size_ratio`` (flagged over true volume) and ``dice`` (of lesion and what is flagged), the last two NaN where missed.

    Raises:
        UserError: unequal shapes, not 3D, a truth other than 0 and 1, a threshold that is NaN.
    """
    from scipy.ndimage import find_objects, label

    mask = as_mask(truth, "truth")
    check_same_shape(mask, np.asarray(values), "map")
    if math.isnan(threshold):
        raise UserError("threshold: got NaN, expected a number. It is taken from healthy volumes: is there any?")
    lesions, _ = label(mask, structure=_TOUCHING)
    flagged, _ = label(values > threshold, structure=_TOUCHING)
    sizes, unit = np.bincount(flagged[flagged > 0]), voxel_ml(spacing_mm)
    rows = []
    for number, box in enumerate(find_objects(lesions), start=1):
        inside = lesions[box] == number
        if inside.sum() * unit < smallest_ml:
            continue
        touched = flagged[box][inside]
        blobs = np.unique(touched[touched > 0])
        voxels, area = int(inside.sum()), int(sizes[blobs].sum())
        shared = int((touched > 0).sum())
        row: dict[str, Any] = {"volume_ml": voxels * unit, "volume_bin": volume_bin(voxels * unit)}
        row |= {"maximum": float(values[box][inside].max()), "found": bool(blobs.size), "flagged_ml": area * unit}
        row |= {"size_ratio": area / voxels if area else math.nan, "dice": 2 * shared / (voxels + area) if area else math.nan}
        rows.append(row)
    return rows


def detection_by_volume(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarise rows of :func:`measure_lesions` by lesion volume.

    Args:
        rows: one per lesion.

    Returns:
        One row per bin of `VOLUME_BINS` that holds a lesion, and ``all``: ``volume``, ``lesions``, ``found``, ``sensitivity`` (in
        [0, 1]), ``true_ml`` (median volume), ``flagged_ml`` (median over found lesions), ``size_ratio`` (median over found lesions; 1 is
        the true size), ``dice`` (mean over found lesions); NaN where none was found. Empty without lesions.
    """
    table = []
    for name in [*VOLUME_BINS, "all"]:
        of_bin = [row for row in rows if name in (row["volume_bin"], "all")]
        if not of_bin:
            continue
        found = [row for row in of_bin if row["found"]]
        line: dict[str, Any] = {"volume": name, "lesions": len(of_bin), "found": len(found), "sensitivity": len(found) / len(of_bin)}
        line["true_ml"] = float(np.median([row["volume_ml"] for row in of_bin]))
        line |= {key: float(np.median([r[key] for r in found])) if found else math.nan for key in ("flagged_ml", "size_ratio")}
        table.append(line | {"dice": float(np.mean([r["dice"] for r in found])) if found else math.nan})
    return table
