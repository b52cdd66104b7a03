"""All classes of a segmentation in one pass, a row per class; MONAI's metrics take one-hot volumes, 14 copies of a CT.

The two surfaces of a class are measured once (borders of voxels, face neighbours): the Hausdorff distance, its 95th percentile and the mean
surface distance come from the same numbers, and agree with MONAI's three metrics (tested). The background is never a class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.hausdorff_union import DEFINITIONS, surface_distances
from common.metrics.masks import Mask, check_same_shape, check_spacing, voxel_ml
from common.metrics.overlap import dice
from common.metrics.statistics import describe

METRICS = ("dice", "hd_mm", "hd95_mm", "masd_mm")
"""Metrics of a class, of which means are made."""

ABSENT = ("leave_out", "count")

Labels = NDArray[np.integer[Any]]
ClassNames = Mapping[Any, Any] | Sequence[str]
"""See `class_table`."""


def class_table(class_names: ClassNames) -> dict[int, str]:
    """Label number -> name of the foreground classes.

    Args:
        class_names: names of the labels 1, 2, ... in order, without the background; or name -> number, such as
            ``common.data.feta.TISSUES``; or number -> name, where the numbers may be text, as JSON has them. Numbers may be missing.

    Raises:
        UserError: no class, a number below 1, or a name or number that is doubled.
    """
    pairs = list(class_names.items() if isinstance(class_names, Mapping) else enumerate(class_names, 1))
    pairs = [(number, name) if isinstance(name, str) else (name, number) for number, name in pairs]
    try:
        table = {int(number): str(name) for number, name in pairs}
    except ValueError:
        table = {}
    if not table or min(table) < 1 or len(set(table.values())) < len(pairs) or len(table) < len(pairs):
        raise UserError(
            f"class_names: got {class_names}, expected different names of the labels 1, 2, ... without the background, or name -> number."
        )
    return dict(sorted(table.items()))


def as_labels(array: NDArray[Any], name: str, numbers: Iterable[int]) -> Labels:
    """Check a label map and return it as integers.

    Args:
        array: ``(X, Y, Z)``, integers, bool, or floats that hold integers.
        name: what the caller calls it, for the message.
        numbers: of the foreground classes; 0 is legal beside them.

    Returns:
        The same voxels, ``(X, Y, Z)``, uint8 or a wider integer type; not copied where that was their type already.

    Raises:
        UserError: not 3D, without voxels, or values that are no class.
    """
    volume = np.asarray(array)
    if volume.ndim != 3 or volume.size == 0:
        raise UserError(f"{name}: got shape {volume.shape}, expected a 3D volume (X, Y, Z). Drop the channel and batch axes first.")
    known = {0, *numbers}
    found = np.unique(volume)
    if odd := [float(value) for value in found if value not in known]:
        listed = ", ".join(f"{value:g}" for value in odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise UserError(
            f"{name}: found the values {listed}, expected 0 (background) and {min(known - {0})} to {max(known)} as in class_names."
            " Map the labels to these numbers, or name the further classes."
        )
    if volume.dtype.kind in "iu":
        return volume
    return volume.astype(np.uint8 if max(known) < 256 else np.int32)


def measure_classes(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: Sequence[float],
    class_names: ClassNames,
    hd95: str = "larger",
    absent: str = "leave_out",
) -> list[dict[str, Any]]:
    """Measure every foreground class of a predicted label map.

    Args:
        truth: reference labels, ``(X, Y, Z)``, integers, 0 is background.
        prediction: predicted labels on the same grid.
        spacing_mm: voxel edges along X, Y, Z, mm.
        class_names: see :func:`class_table`.
        hd95: ``larger`` (MONAI's: the larger of the two directed percentiles) or ``union`` (medpy's: percentile of both sets together); see
            ``common.metrics.hausdorff_union``.
        absent: what a class counts that neither truth nor prediction has: ``leave_out`` gives NaN, so that means are those of classes that
            there are; ``count`` gives Dice 1 and 0 mm, as `common.metrics.overlap.dice` and `surface_agreement` do.

    Returns:
        One row per class in the order of their numbers: ``class`` (name), ``label`` (number), ``dice`` in [0, 1], ``hd_mm`` (largest
        surface distance), ``hd95_mm``, ``masd_mm`` (mean of the distances of both surfaces together), ``truth_ml``, ``prediction_ml``,
        ``volume_error_ml`` (predicted minus true), ``missed`` and ``invented`` (1 where only the truth, or only the prediction, has the
        class: Dice 0, distances NaN, whatever ``absent`` says).

    Raises:
        UserError: unequal shapes, not 3D, labels without a name, a bad spacing or an unknown option.

    Source: DAE, tables 2 and 4 (Dice, HD, mean surface distance, computed by the BTCV server, whose definitions are not stated).
    Deviation: released DAE code counts the background (``include_background`` True in its main.py); never here.
    """
    table, spacing = class_table(class_names), check_spacing(spacing_mm)
    for option, got, known in (("hd95", hd95, DEFINITIONS), ("absent", absent, ABSENT)):
        if got not in known:
            raise UserError(f"{option}: got '{got}', expected one of {known}.")
    true, found = as_labels(truth, "truth", table), as_labels(prediction, "prediction", table)
    check_same_shape(true, found, "prediction")
    boxes = _boxes(true, found, max(table))
    measured = {number: _measure(true, found, number, boxes[number], spacing, hd95, absent) for number in table}
    return [{"class": table[number], "label": number, **row} for number, row in measured.items()]


def foreground_mean(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the classes of one case that have a number; NaN where none has.

    Args:
        rows: of :func:`measure_classes`.

    Returns:
        `METRICS`, and ``missed_classes`` and ``invented_classes``, which are counts.
    """
    listed = list(rows)
    means = {key: describe(float(row[key]) for row in listed)["mean"] for key in METRICS}
    return means | {f"{kind}_classes": int(sum(row[kind] for row in listed)) for kind in ("missed", "invented")}


def summarise_classes(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the rows of many cases say of each class.

    Args:
        rows: of :func:`measure_classes`, of all cases.

    Returns:
        One dict per class in order of first appearance: ``class``, ``label``, ``missed`` and ``invented`` (numbers of cases), and for each
        of `METRICS` and the volumes ``{n, left_out, mean, sd, low, high}``, see `common.metrics.statistics.describe`.
    """
    by_class: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_class.setdefault(str(row["class"]), []).append(row)
    summary = []
    for name, own in by_class.items():
        found: dict[str, Any] = {"class": name, "label": own[0]["label"]}
        found |= {kind: int(sum(row[kind] for row in own)) for kind in ("missed", "invented")}
        keys = (*METRICS, "truth_ml", "prediction_ml", "volume_error_ml")
        summary.append(found | {key: describe(float(row[key]) for row in own) for key in keys})
    return summary


def _boxes(truth: Labels, prediction: Labels, largest: int) -> dict[int, tuple[slice, ...] | None]:
    """Smallest box that holds a class in both maps, by number; None where neither has it. One pass per map, not one per class."""
    from scipy.ndimage import find_objects

    pairs = zip(find_objects(truth, largest), find_objects(prediction, largest), strict=True)
    boxes: dict[int, tuple[slice, ...] | None] = {}
    for number, pair in enumerate(pairs, 1):
        held = [box for box in pair if box is not None]
        joined = [slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*held, strict=True)]
        boxes[number] = tuple(joined) if held else None
    return boxes


def _measure(
    truth: Labels, prediction: Labels, number: int, box: tuple[slice, ...] | None, spacing: Sequence[float], hd95: str, absent: str
) -> dict[str, Any]:
    """The row of one class, without its name."""
    if box is None:
        nothing, agreed = (math.nan, math.nan) if absent == "leave_out" else (1.0, 0.0)
        row = {"dice": nothing, **dict.fromkeys(METRICS[1:], agreed), "truth_ml": 0.0, "prediction_ml": 0.0, "volume_error_ml": 0.0}
        return {**row, "missed": 0, "invented": 0}
    true, found = truth[box] == number, prediction[box] == number
    true_ml, found_ml = (int(np.count_nonzero(mask)) * voxel_ml(spacing) for mask in (true, found))
    both = bool(true_ml and found_ml)
    distances = _distances(true, found, spacing, hd95) if both else dict.fromkeys(METRICS[1:], math.nan)
    volumes = {"truth_ml": true_ml, "prediction_ml": found_ml, "volume_error_ml": found_ml - true_ml}
    return {"dice": dice(true, found), **distances, **volumes, "missed": int(not found_ml), "invented": int(not true_ml)}


def _distances(truth: Mask, prediction: Mask, spacing: Sequence[float], hd95: str) -> dict[str, float]:
    """Distances of two masks that are not empty; the box is tight, so that its faces are borders as in the whole volume."""
    pair = surface_distances(truth, prediction, spacing), surface_distances(prediction, truth, spacing)
    both = np.concatenate(pair)
    percentile = np.percentile(both, 95) if hd95 == "union" else max(np.percentile(one, 95) for one in pair)
    return {"hd_mm": float(both.max()), "hd95_mm": float(percentile), "masd_mm": float(both.mean())}
