"""Surface distances of two masks, measured once: MASD, NSD and HD95 come from the same surfels.

The BONBID-HIE challenge measures with DeepMind's ``surface-distance`` (surface between voxel corners, weighted by area). MONAI's
``SurfaceDistanceMetric`` counts edge voxels without areas, so its MASD differs by up to a voxel; its surface Dice with
``use_subvoxels`` agrees (tested).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import Mask, as_mask_pair, bounding_box, check_spacing


def surface_agreement(
    truth: NDArray[Any], prediction: NDArray[Any], spacing_mm: Sequence[float], tolerance_mm: float = 2.0
) -> dict[str, float]:
    r"""Mean average surface distance, surface Dice at a tolerance, and the 95th percentile of the surface distance.

    With :math:`d_i` the distance of surfel i of one surface to the other surface and :math:`a_i` its area, over truth T and prediction P:

    .. math::
        MASD = \tfrac12 \Big( \frac{\sum_T a_i d_i}{\sum_T a_i} + \frac{\sum_P a_i d_i}{\sum_P a_i} \Big), \qquad
        NSD = \frac{\sum_{T: d_i \le \tau} a_i + \sum_{P: d_i \le \tau} a_i}{\sum_T a_i + \sum_P a_i}

    Args:
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        prediction: predicted mask, ``(X, Y, Z)``, bool or 0/1.
        spacing_mm: voxel edges along X, Y, Z, mm.
        tolerance_mm: :math:`\tau`, at least 0, mm; a surfel at exactly this distance still agrees.

    Returns:
        ``masd_mm`` and ``hd95_mm`` (mm, at least 0; the larger of the two directed 95th percentiles, by area) and ``nsd`` in [0, 1].
        Both masks empty: 0, 0, 1. Exactly one empty: NaN, NaN, 0.

    Raises:
        UserError: as `common.metrics.overlap.dice`, a bad spacing or tolerance, or ``surface-distance`` is not installed.

    Source: BONBID-HIE challenge, evaluation (methods/ladp.md section 7). HD95 is not among the challenge's numbers.
    """
    true, predicted = as_mask_pair(truth, prediction)
    spacing = check_spacing(spacing_mm)
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise UserError(f"tolerance_mm: got {tolerance_mm}, expected a number of at least 0, in mm.")
    # Empty masks never reach the library: there it uses np.Inf, which numpy 2 no longer has.
    if not true.any() and not predicted.any():
        return {"masd_mm": 0.0, "nsd": 1.0, "hd95_mm": 0.0}
    if not true.any() or not predicted.any():
        return {"masd_mm": math.nan, "nsd": 0.0, "hd95_mm": math.nan}
    return _measure(true, predicted, spacing, tolerance_mm)


def _measure(truth: Mask, prediction: Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float) -> dict[str, float]:
    library = _surface_distance()
    box = bounding_box(truth | prediction)
    with warnings.catch_warnings():
        # The library (0.1, the newest on PyPI) still calls scipy.ndimage by the names of its old submodules.
        warnings.simplefilter("ignore", DeprecationWarning)
        surfels = library.compute_surface_distances(truth[box], prediction[box], spacing_mm)
    directed = library.compute_average_surface_distance(surfels)
    # 1e-6 mm more, so that the rounding of a distance such as 3 x 0.7 mm does not decide.
    return {
        "masd_mm": float(np.mean(directed)),
        "nsd": float(library.compute_surface_dice_at_tolerance(surfels, tolerance_mm + 1e-6)),
        "hd95_mm": float(library.compute_robust_hausdorff(surfels, 95.0)),
    }


def _surface_distance() -> ModuleType:
    try:
        import surface_distance
    except ImportError as error:
        raise UserError(
            "Surface distances need the package `surface-distance`, which is not installed. Run: pip install surface-distance"
        ) from error
    module: ModuleType = surface_distance
    return module
