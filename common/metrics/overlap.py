"""Overlap and volume of two masks, with the challenge's conventions for empty ones.

MONAI's ``compute_dice`` gives NaN for an empty truth unless told otherwise; the BONBID-HIE challenge counts such cases, so the
conventions are spelled out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.metrics.masks import as_mask, as_mask_pair, voxel_ml


def dice(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    r"""Dice overlap of two masks.

    .. math:: D = 2 |T \cap P| / (|T| + |P|)

    Args:
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        prediction: predicted mask, ``(X, Y, Z)``, bool or 0/1.

    Returns:
        Dice in [0, 1], no unit; 1 when both masks are empty, 0 when exactly one is.

    Raises:
        UserError: unequal shapes, not 3D, or values other than 0 and 1.

    Source: BONBID-HIE challenge, evaluation (methods/ladp.md section 7).
    """
    true, predicted = as_mask_pair(truth, prediction)
    voxels = int(np.count_nonzero(true)) + int(np.count_nonzero(predicted))
    return 1.0 if voxels == 0 else 2.0 * int(np.count_nonzero(true & predicted)) / voxels


def volume_ml(mask: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Volume of a mask.

    Args:
        mask: ``(X, Y, Z)``, bool or 0/1.
        spacing_mm: voxel edges along X, Y, Z, mm.

    Returns:
        Volume in ml (1 ml = 1000 mm^3), at least 0.

    Raises:
        UserError: not 3D, values other than 0 and 1, or a spacing that is not three positive numbers.
    """
    return int(np.count_nonzero(as_mask(mask, "mask"))) * voxel_ml(spacing_mm)


def volume_error_ml(truth: NDArray[Any], prediction: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Predicted minus true volume: positive where the prediction is too large.

    Args:
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        prediction: predicted mask, ``(X, Y, Z)``, bool or 0/1.
        spacing_mm: voxel edges along X, Y, Z, mm.

    Returns:
        Signed difference in ml; 0 when both masks are empty.

    Raises:
        UserError: as `dice`, or a spacing that is not three positive numbers.
    """
    true, predicted = as_mask_pair(truth, prediction)
    return volume_ml(predicted, spacing_mm) - volume_ml(true, spacing_mm)
