"""Everything that is measured on one case, once, as one flat row; and what many rows say together."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.metrics.calibration import brier_score, expected_calibration_error, reliability_table, volume_interval_ml
from common.metrics.detection import count_components, detection_available, lesion_detection
from common.metrics.lesion_load import STRATA, lesion_load, stratum
from common.metrics.masks import Mask, as_mask, as_mask_pair, bounding_box, check_same_shape
from common.metrics.overlap import dice, volume_ml
from common.metrics.statistics import describe
from common.metrics.surface import surface_agreement

TOLERANCE_MM = 2.0
"""Tolerance of the surface Dice in the BONBID-HIE challenge, mm."""

INTERVAL_LEVEL = 0.8
"""Coverage that the volume interval of a row aims at."""

UNKNOWN_STRATUM = "unknown"
"""Stratum of a case without a brain mask."""

Row = dict[str, float | str]


def measure_case(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    brain: NDArray[Any] | None,
    spacing_mm: Sequence[float],
    probability: NDArray[Any] | None = None,
) -> Row:
    """Measure a predicted lesion mask against the reference.

    Args:
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        prediction: predicted mask, ``(X, Y, Z)``, bool or 0/1.
        brain: brain mask (ADC > 0), ``(X, Y, Z)``, bool or 0/1; None where there is none (load NaN, stratum "unknown").
        spacing_mm: voxel edges along X, Y, Z, mm.
        probability: vote share or probability of lesion, ``(X, Y, Z)``, in [0, 1]; None leaves out the last line of keys below.

    Returns:
        One flat row: ``dice``, ``masd_mm``, ``nsd_2mm``, ``hd95_mm``, ``lesion_load`` (fraction), ``stratum`` (str),
        ``truth_ml``, ``prediction_ml``, ``volume_error_ml`` (predicted minus true), ``true_lesions``, ``predicted_lesions``,
        and where panoptica is installed ``found_lesions``, ``detection_f1``, ``lesion_dice``, ``lesion_volume_error``;
        with a probability ``ece``, ``brier``, ``volume_low_ml``, ``volume_high_ml``, ``volume_in_interval`` (1 or 0).
        Conventions for empty masks: see `surface_agreement`, `dice`, `lesion_detection`.

    Raises:
        UserError: unequal shapes, not 3D, values other than 0 and 1, NaN, an empty brain, or a bad spacing.
    """
    true, predicted = as_mask_pair(truth, prediction)
    inside = None if brain is None else as_mask(brain, "brain")
    if inside is not None:
        check_same_shape(true, inside, "brain")
    box = bounding_box(true | predicted)
    # An empty box has no voxels to check; one voxel of background measures the same.
    crop = box if (true[box].size > 0) else (slice(0, 1), slice(0, 1), slice(0, 1))
    row = _mask_metrics(true[crop], predicted[crop], spacing_mm)
    load = math.nan if inside is None else lesion_load(true, inside)
    row["lesion_load"] = load
    row["stratum"] = UNKNOWN_STRATUM if inside is None else stratum(load)
    if probability is not None:
        row |= _probability_metrics(true, inside, spacing_mm, probability)
    return row


def _mask_metrics(truth: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> Row:
    surface = surface_agreement(truth, prediction, spacing_mm, TOLERANCE_MM)
    truth_ml, prediction_ml = volume_ml(truth, spacing_mm), volume_ml(prediction, spacing_mm)
    row: Row = {
        "dice": dice(truth, prediction),
        "masd_mm": surface["masd_mm"],
        "nsd_2mm": surface["nsd"],
        "hd95_mm": surface["hd95_mm"],
        "truth_ml": truth_ml,
        "prediction_ml": prediction_ml,
        "volume_error_ml": prediction_ml - truth_ml,
    }
    if _detects():
        return row | lesion_detection(truth, prediction)
    return row | {"true_lesions": count_components(truth), "predicted_lesions": count_components(prediction)}


def _probability_metrics(truth: Mask, brain: Mask | None, spacing_mm: Sequence[float], probability: NDArray[Any]) -> Row:
    check_same_shape(truth, np.asarray(probability), "probability")
    low, high = volume_interval_ml(probability, spacing_mm, brain, INTERVAL_LEVEL)
    # Measured over the same voxels as the interval, with room for rounding: the ends are counts of voxels times their volume.
    true_ml = volume_ml(truth if brain is None else truth & brain, spacing_mm)
    room = 1e-9 * max(1.0, high)
    return {
        "ece": expected_calibration_error(reliability_table(probability, truth, brain)),
        "brier": brier_score(probability, truth, brain),
        "volume_low_ml": low,
        "volume_high_ml": high,
        "volume_in_interval": float(low - room <= true_ml <= high + room),
    }


@lru_cache(maxsize=1)
def _detects() -> bool:
    """Ask once per process, and say it once, whether lesions can be matched."""
    available = detection_available()
    if not available:
        logging.getLogger(__name__).warning("panoptica is not installed: no lesion-wise columns. To get them: pip install panoptica")
    return available


def summarise(rows: Sequence[Mapping[str, float | str]]) -> dict[str, Any]:
    """Summarise rows of `measure_case` over cases.

    Args:
        rows: one per case; keys with text (``id``, ``stratum``) are not averaged, a key that a row lacks counts as NaN there.

    Returns:
        ``cases`` (int); ``metrics``: name -> ``{n, left_out, mean, sd, low, high}`` with the 95 % bootstrap interval of the mean
        (see `common.metrics.statistics.describe`); ``dice_by_stratum``: stratum -> the same for Dice, for all of `STRATA`.
        A NaN (MASD where one mask is empty) is left out of the mean and counted in ``left_out``.
    """
    names = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, str))
    metrics = {name: describe(_number(row, name) for row in rows) for name in names}
    by_stratum = {wanted: describe(_number(row, "dice") for row in rows if row.get("stratum") == wanted) for wanted in STRATA}
    return {"cases": len(rows), "metrics": metrics, "dice_by_stratum": by_stratum}


def _number(row: Mapping[str, float | str], name: str) -> float:
    value = row.get(name, math.nan)
    return math.nan if isinstance(value, str) else float(np.float64(value))
