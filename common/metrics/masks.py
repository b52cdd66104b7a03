"""Masks at the door of every metric: checked once, as bool, and cropped to what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

Mask = NDArray[np.bool_]


def as_mask(array: NDArray[Any], name: str) -> Mask:
    """Check that an array is a 3D binary volume and return it as bool.

    Args:
        array: ``(X, Y, Z)``, bool or any number type; only the values 0 and 1 are legal, 1 marks the structure.
        name: what the caller calls this array, for the message.

    Returns:
        The same volume, ``(X, Y, Z)``, bool; not copied where it was bool already.

    Raises:
        UserError: not 3D, without voxels, NaN or infinite, or a value other than 0 and 1.
    """
    volume = np.asarray(array)
    if volume.ndim != 3:
        raise UserError(
            f"{name}: got an array of shape {volume.shape}, expected a 3D volume (X, Y, Z). Drop the channel and batch axes first."
        )
    if volume.size == 0:
        raise UserError(f"{name}: got an array of shape {volume.shape} without any voxel, expected a 3D volume (X, Y, Z).")
    if volume.dtype == np.bool_:
        return volume
    if volume.dtype.kind not in "iuf":
        raise UserError(f"{name}: got values of type {volume.dtype}, expected bool or numbers 0 and 1.")
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise UserError(f"{name}: {np.count_nonzero(~np.isfinite(volume))} voxels are NaN or infinite, expected only 0 and 1.")
    mask: Mask = volume != 0
    if not np.array_equal(volume[mask], np.ones(int(mask.sum()))):
        found = np.unique(volume)
        listed = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if found.size > 5 else "")
        raise UserError(f"{name}: found the values {listed}, expected only 0 and 1. Threshold it, or pick one label, before measuring.")
    return mask


def as_mask_pair(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[Mask, Mask]:
    """Check two masks that are to be compared voxel by voxel.

    Args:
        truth: reference mask, ``(X, Y, Z)``, values 0 and 1.
        prediction: mask on the same grid, ``(X, Y, Z)``, values 0 and 1.

    Returns:
        Both as bool.

    Raises:
        UserError: as `as_mask`, or when the shapes differ.
    """
    pair = as_mask(truth, "truth"), as_mask(prediction, "prediction")
    check_same_shape(pair[0], pair[1], "prediction")
    return pair


def check_same_shape(truth: NDArray[Any], other: NDArray[Any], name: str) -> None:
    """Raise unless ``other`` has the shape of ``truth``.

    Raises:
        UserError: shapes differ.
    """
    if truth.shape != other.shape:
        raise UserError(
            f"{name}: got shape {other.shape}, expected {truth.shape} like the other volumes of the case. Bring it back to that grid first."
        )


def check_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Check a voxel spacing and round it to 1e-6 mm.

    A spacing taken from an affine reads 2.00000001 where the header says 2; a surfel 2 mm away would then miss a tolerance of 2 mm.

    Args:
        spacing_mm: edge lengths of a voxel along X, Y and Z, mm, each above 0.

    Returns:
        The rounded spacing as three python floats.

    Raises:
        UserError: not three positive finite numbers.
    """
    values = tuple(round(float(edge), 6) for edge in spacing_mm)
    if len(values) != 3 or not all(math.isfinite(edge) and edge > 0 for edge in values):
        raise UserError(f"spacing_mm: got {values}, expected three positive numbers, the voxel edges in mm along X, Y and Z.")
    return values[0], values[1], values[2]


def voxel_ml(spacing_mm: Sequence[float]) -> float:
    """Return the volume of one voxel in ml (1 ml = 1000 mm^3).

    Args:
        spacing_mm: voxel edges along X, Y, Z, mm.

    Raises:
        UserError: not three positive finite numbers.
    """
    return math.prod(check_spacing(spacing_mm)) / 1000.0


def bounding_box(mask: Mask) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds every True voxel; three empty slices where there is none.

    Args:
        mask: ``(X, Y, Z)``, bool.
    """
    box = []
    for axis in range(3):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(held[0]), int(held[-1]) + 1) if held.size else slice(0, 0))
    return box[0], box[1], box[2]
