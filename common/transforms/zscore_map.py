"""Z maps of ADC, by a normative atlas or the scan's own parenchyma; MONAI's ``NormalizeIntensity`` knows no fluid and no atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter

from common.errors import UserError

LIMIT: Final = 10.0
"""Z is clipped to +- this, as in BONBID-HIE's file names (``clipped10``)."""
SMOOTHING_MM: Final = 2.0
"""Full width at half maximum of the smoothing, mm, as in BONBID-HIE's file names (``smooth2mm``; the full width is our reading)."""
FWHM_TO_SD: Final = 1 / np.sqrt(8 * np.log(2))
MAD_TO_SD: Final = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""
PARENCHYMA: Final = (0.5, 1.5)
"""Parenchyma is what lies between these shares of its own median: below are deep lesions and rims, above is fluid."""


@dataclass(frozen=True)
class OwnNorm:
    """Median and robust standard deviation of a scan's own parenchyma, 1e-6 mm2/s, and the share of the brain that it is."""

    median: float
    sd: float
    share: float


def smooth_in_brain(values: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float], fwhm_mm: float = SMOOTHING_MM) -> np.ndarray:
    """Gaussian smoothing that sees voxels of the brain only; 0 outside.

    Args:
        values: ``(X, Y, Z)``.
        brain: ``(X, Y, Z)`` bool.
        spacing_mm: size of a voxel per axis, mm.
        fwhm_mm: full width at half maximum, mm; 0 smooths nothing.
    """
    sigma = [fwhm_mm * FWHM_TO_SD / step for step in spacing_mm]
    inside = brain.astype(np.float32)
    weight = gaussian_filter(inside, sigma, mode="constant")
    total = gaussian_filter(np.where(brain, values, 0).astype(np.float32), sigma, mode="constant")
    result: np.ndarray = np.where(brain, total / np.maximum(weight, 1e-6), 0.0).astype(np.float32)
    return result


def own_norm(adc: np.ndarray, brain: np.ndarray) -> OwnNorm:
    """Median and spread of the parenchyma, which is found by its own median until that stays.

    Args:
        adc: ``(X, Y, Z)``, 1e-6 mm2/s.
        brain: ``(X, Y, Z)`` bool.

    Raises:
        UserError: an empty mask, or a map without spread.
    """
    values = adc[brain].astype(np.float64)
    if not values.size:
        raise UserError("Z map: the mask of the brain is empty; give another one.")
    median = float(np.median(values))
    for _ in range(50):
        inside = values[(values > PARENCHYMA[0] * median) & (values < PARENCHYMA[1] * median)]
        last, median = median, float(np.median(inside)) if inside.size else median
        if median == last:
            break
    sd = MAD_TO_SD * float(np.median(np.abs(inside - median))) if inside.size else 0.0
    if not sd > 0:
        raise UserError(f"Z map: the ADC has no spread in the brain (median {median:g}); expected a map of diffusion, not a mask.")
    return OwnNorm(median, sd, inside.size / values.size)


def zscore_map(adc: np.ndarray, mean: np.ndarray | float, sd: np.ndarray | float, brain: np.ndarray, limit: float = LIMIT) -> np.ndarray:
    r"""Standard deviations from the norm.

    .. math:: Z = (ADC - \mu) / \sigma

    Args:
        adc: smoothed, ``(X, Y, Z)``, 1e-6 mm2/s.
        mean: of the norm, a map or one number, same unit.
        sd: of the norm, likewise; 0 where it knows nothing.
        brain: ``(X, Y, Z)`` bool.
        limit: Z is clipped to +- this.

    Returns:
        ``(X, Y, Z)`` float32; 0 outside the brain and where the norm knows nothing.
    """
    spread = np.broadcast_to(np.asarray(sd, np.float32), adc.shape)
    known = brain & (spread > 0)
    z = (adc - mean) / np.where(spread > 0, spread, 1.0)
    result: np.ndarray = np.where(known, np.clip(z, -limit, limit), 0.0).astype(np.float32)
    return result
