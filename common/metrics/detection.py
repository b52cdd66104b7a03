"""Lesion-wise detection: which lesions were found, and how well the found ones were drawn (by ``panoptica``).

MONAI has no instance matching. Please cite panoptica (Kofler et al., https://github.com/BrainLesion/panoptica) with these numbers: its own
reminder is switched off here, because a metric must not print.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import as_mask, as_mask_pair, bounding_box

ANY_OVERLAP = 1e-9
"""An IoU below that of one shared voxel in any real volume: one voxel in common makes a match possible."""


def count_components(mask: NDArray[Any]) -> int:
    """Count the connected components (26 neighbours: faces, edges and corners connect, as in panoptica).

    Args:
        mask: ``(X, Y, Z)``, bool or 0/1.

    Raises:
        UserError: not 3D or values other than 0 and 1.
    """
    from scipy.ndimage import label

    held = as_mask(mask, "mask")
    return int(label(held[bounding_box(held)], structure=np.ones((3, 3, 3)))[1]) if held.any() else 0


def detection_available() -> bool:
    """Tell whether ``panoptica`` is installed, without importing it (1.5 s)."""
    from importlib.util import find_spec

    return find_spec("panoptica") is not None


def lesion_detection(truth: NDArray[Any], prediction: NDArray[Any], min_iou: float = ANY_OVERLAP) -> dict[str, float]:
    r"""Match predicted to true lesions one to one and count.

    A lesion is a component of 26 neighbours. Pairs that share voxels are taken by falling IoU; a lesion is used once, so one blob over two
    lesions finds one of them. A pair counts as found when its IoU is at least ``min_iou``.

    .. math:: F_1 = 2 TP / (2 TP + FP + FN)

    Args:
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        prediction: predicted mask, ``(X, Y, Z)``, bool or 0/1.
        min_iou: smallest IoU of a match, in (0, 1]; the default takes any overlap, 0.5 is panoptica's own.

    Returns:
        ``true_lesions``, ``predicted_lesions``, ``found_lesions`` (counts); ``detection_f1`` in [0, 1]; ``lesion_dice`` in [0, 1] and
        ``lesion_volume_error`` (predicted/true - 1, signed), means over the found pairs, NaN where no lesion was found.
        Both masks empty: F1 1. Exactly one empty: F1 0. Either way no pair, so NaN for the two means.

    Raises:
        UserError: as `common.metrics.overlap.dice`, ``min_iou`` outside (0, 1], or panoptica is not installed.
    """
    true, predicted = as_mask_pair(truth, prediction)
    if not 0 < min_iou <= 1:
        raise UserError(f"min_iou: got {min_iou}, expected a number above 0 and at most 1.")
    if not true.any() or not predicted.any():
        return _without_pairs(count_components(true), count_components(predicted))
    box = bounding_box(true | predicted)
    result = _evaluator(min_iou).evaluate(predicted[box].astype(np.uint8), true[box].astype(np.uint8))["ungrouped"]
    found, missed, invented = int(result.tp), int(result.fn), int(result.fp)
    if found == 0:
        return _without_pairs(missed, invented)
    return {
        "true_lesions": found + missed,
        "predicted_lesions": found + invented,
        "found_lesions": found,
        "detection_f1": 2 * found / (2 * found + missed + invented),
        "lesion_dice": float(result.sq_dsc),
        "lesion_volume_error": float(result.sq_rvd),
    }


def _without_pairs(true_lesions: int, predicted_lesions: int) -> dict[str, float]:
    return {
        "true_lesions": true_lesions,
        "predicted_lesions": predicted_lesions,
        "found_lesions": 0,
        "detection_f1": 1.0 if true_lesions == predicted_lesions == 0 else 0.0,
        "lesion_dice": math.nan,
        "lesion_volume_error": math.nan,
    }


@lru_cache(maxsize=4)
def _evaluator(min_iou: float) -> Any:
    """Build panoptica's evaluator once, with only the metrics that are reported: its default adds slow surface distances per lesion."""
    try:
        import panoptica
    except ImportError as error:
        raise UserError(
            "Lesion-wise detection needs the package `panoptica`, which is not installed. Run: pip install panoptica"
        ) from error
    if hasattr(panoptica, "disable_citation_reminder"):
        panoptica.disable_citation_reminder()
    metric = panoptica.Metric
    return panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_metric=metric.IOU, matching_threshold=min_iou),
        instance_metrics=[metric.DSC, metric.RVD],
        global_metrics=[],
    )
