"""Head circumference of a brain volume, in cm, and how well predicted ones agree with the truth; MONAI measures no outline's length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.metrics.masks import Mask, check_spacing

OUTLINES = ("hull", "ellipse")


def head_circumference_cm(
    volume: Any, spacing_mm: Sequence[float], threshold: float = 0.1, smooth_slices: int = 5, outline: str = "hull"
) -> float:
    """Largest perimeter of the head over its axial slices, from which outliers are taken by a moving mean over slices.

    The volume holds a skull-stripped brain, a measuring tape goes around the skin: expect an offset, which the SD of the error and the
    correlation of :func:`circumference_agreement` ignore.

    Args:
        volume: intensities, ``(X, Y, Z)``, Z from inferior to superior or back, 0 outside the brain.
        spacing_mm: voxel edges along X, Y, Z, mm.
        threshold: a voxel belongs to the head from this share of the maximum on, in (0, 1); then the largest component is kept.
        smooth_slices: length of the moving mean over slices, 1 for none; slices outside of the head count as 0.
        outline: "hull": convex hull of the voxel centres; "ellipse": the ellipse with the same second moments.

    Returns:
        Circumference, cm; NaN where no voxel is above 0.

    Raises:
        UserError: not 3D, NaN voxels, bad spacing, threshold, length or outline.

    Source: the paper's supplement E was not to be had; the steps are those of methods/neonatal_inr.md, section 7. Deviation: holes are
    filled for the ellipse only, since a hull does not see them.
    """
    if smooth_slices < 1:
        raise UserError(f"smooth_slices: got {smooth_slices}, expected 1 (no smoothing) or more.")
    from scipy.ndimage import uniform_filter1d

    mask, edges = _head(volume, spacing_mm, 3, threshold, outline)
    if not mask.any():
        return math.nan
    perimeters = np.array([_PERIMETERS[outline](mask[..., z], edges[:2]) for z in range(mask.shape[2])])
    return float(uniform_filter1d(perimeters, smooth_slices, mode="constant").max()) / 10


def slice_perimeter_cm(image: Any, spacing_mm: Sequence[float], threshold: float = 0.1, outline: str = "hull") -> float:
    """Perimeter of the head in one axial slice, cm: our proxy in 2D, **not** a head circumference, since the slice need not be the largest.

    Args:
        image: intensities, ``(X, Y)``, 0 outside the brain.
        spacing_mm: pixel edges along X and Y, mm.
        threshold: as in :func:`head_circumference_cm`.
        outline: as in :func:`head_circumference_cm`.

    Returns:
        Perimeter, cm; NaN where no pixel is above 0.

    Raises:
        UserError: not 2D, NaN pixels, bad spacing, threshold or outline.
    """
    mask, edges = _head(image, spacing_mm, 2, threshold, outline)
    return _PERIMETERS[outline](mask, edges) / 10 if mask.any() else math.nan


def head_mask(image: NDArray[Any], threshold: float = 0.1) -> Mask:
    """Voxels from a share of the maximum on, of which only the largest component (face neighbours) is kept.

    Args:
        image: any number of axes, float.
        threshold: share of the maximum, in (0, 1).

    Returns:
        Same shape, bool; empty where no voxel is above 0.
    """
    from scipy.ndimage import label

    top = float(image.max())
    if top <= 0:
        return np.zeros(image.shape, dtype=bool)
    labels, found = label(image >= threshold * top)
    if found == 1:
        return np.asarray(labels == 1)
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def hull_perimeter_mm(mask: Mask, spacing_mm: Sequence[float]) -> float:
    """Perimeter of the convex hull of the centres of a mask's pixels.

    A pixel whose centre lies in a shape belongs to it, so the perimeter comes from below as the pixels get smaller.

    Args:
        mask: ``(X, Y)``, bool.
        spacing_mm: pixel edges, mm.

    Returns:
        Perimeter, mm; 0 for no pixel or one, twice the length for pixels on a line.
    """
    from scipy.spatial import ConvexHull, QhullError

    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return 0.0
    # only the ends of each row can be corners of the hull
    ends = np.concatenate([mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)])
    points = np.stack([np.tile(rows, 2) * spacing_mm[0], ends * spacing_mm[1]], axis=1)
    try:
        return float(ConvexHull(points).area)  # in 2D scipy's area is the perimeter
    except QhullError:
        return 2 * float(np.linalg.norm(np.ptp(points, axis=0)))


def ellipse_perimeter_mm(mask: Mask, spacing_mm: Sequence[float]) -> float:
    r"""Perimeter of the ellipse with the area moments of a mask, by Ramanujan's second approximation.

    .. math:: U \approx \pi (a + b) \Big( 1 + \frac{3 h}{10 + \sqrt{4 - 3 h}} \Big), \qquad h = \Big( \frac{a - b}{a + b} \Big)^2

    The semi-axes are twice the square roots of the eigenvalues of the covariance of the pixels, with the 1/12 of a pixel's own extent.

    Args:
        mask: ``(X, Y)``, bool; holes are filled.
        spacing_mm: pixel edges, mm.

    Returns:
        Perimeter, mm; 0 for an empty mask.
    """
    from scipy.ndimage import binary_fill_holes

    points = np.argwhere(binary_fill_holes(mask)) * np.asarray(spacing_mm, dtype=np.float64)
    if not len(points):
        return 0.0
    covariance = np.cov(points.T, bias=True) + np.diag(np.square(spacing_mm)) / 12
    a, b = 2 * np.sqrt(np.linalg.eigvalsh(covariance))
    h = ((a - b) / (a + b)) ** 2
    return float(math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h))))


_PERIMETERS = {"hull": hull_perimeter_mm, "ellipse": ellipse_perimeter_mm}


def circumference_agreement(predicted: ArrayLike, truth: ArrayLike, age_weeks: ArrayLike) -> dict[str, float]:
    r"""How well predicted circumferences agree with true ones, and how fast both grow.

    .. math:: \sigma = \mathrm{SD}(p_i - y_i), \qquad r = \mathrm{corr}(p, y), \qquad \text{slope: least squares of } p \text{ on age}

    Args:
        predicted: ``(N,)``, cm.
        truth: ``(N,)``, cm; NaN where the table has none.
        age_weeks: post-menstrual age of the predicted scans, ``(N,)``, weeks.

    Returns:
        ``n``, ``left_out`` (one of the three is NaN), ``bias_cm`` (mean of predicted minus true), ``sigma_cm`` (divisor n - 1), ``r``,
        ``slope_cm_per_week``, ``true_slope_cm_per_week``; NaN where n is below 2, or does not vary.

    Raises:
        UserError: unequal lengths.

    Source: the paper's table 2; r as methods/neonatal_inr.md, section 12, says. Deviation: none known; the divisor is not stated.
    """
    values = [np.asarray(part, dtype=np.float64).ravel() for part in (predicted, truth, age_weeks)]
    if len({part.size for part in values}) > 1:
        raise UserError(f"circumferences: got {[part.size for part in values]} predictions, truths and ages, expected as many of each.")
    known = np.isfinite(values).all(axis=0)
    p, y, age = (part[known] for part in values)
    return {
        "n": int(known.sum()),
        "left_out": int((~known).sum()),
        "bias_cm": float((p - y).mean()) if p.size else math.nan,
        "sigma_cm": float((p - y).std(ddof=1)) if p.size > 1 else math.nan,
        "r": pearson_r(p, y),
        "slope_cm_per_week": slope(age, p),
        "true_slope_cm_per_week": slope(age, y),
    }


def pearson_r(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's correlation of two ``(N,)``; NaN for fewer than 2 values or where one does not vary."""
    from scipy.stats import pearsonr

    return float(pearsonr(x, y).statistic) if _varies(x) and _varies(y) else math.nan


def slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Slope of the least-squares line of y on x, ``(N,)`` each; NaN for fewer than 2 values or one x."""
    from scipy.stats import linregress

    return float(linregress(x, y).slope) if _varies(x) else math.nan


def _varies(x: NDArray[np.float64]) -> bool:
    return bool(x.size > 1 and np.ptp(x) > 0)


def _head(image: Any, spacing_mm: Sequence[float], dims: int, threshold: float, outline: str) -> tuple[Mask, tuple[float, ...]]:
    """Check what the user gave; the head and the edges of its voxels."""
    array = np.asarray(image, dtype=np.float32)
    if array.ndim != dims:
        raise UserError(f"head outline: got an image of shape {array.shape}, expected {dims} axes. Drop the channel and batch axes first.")
    if not np.isfinite(array).all():
        raise UserError(f"head outline: {np.count_nonzero(~np.isfinite(array))} voxels are NaN or infinite. Did a fit diverge?")
    if not 0 < threshold < 1:
        raise UserError(f"threshold: got {threshold}, expected a share of the maximum between 0 and 1, such as 0.1.")
    if outline not in OUTLINES:
        raise UserError(f"outline: got '{outline}', expected one of {OUTLINES}.")
    return head_mask(array, threshold), check_edges(spacing_mm, dims)


def check_edges(spacing_mm: Sequence[float], dims: int) -> tuple[float, ...]:
    """Voxel edges in 2D or 3D, as :func:`common.metrics.masks.check_spacing` checks them.

    Raises:
        UserError: not ``dims`` positive numbers.
    """
    edges = [float(edge) for edge in spacing_mm]
    if len(edges) != dims:
        raise UserError(f"spacing_mm: got {edges}, expected {dims} positive numbers, the voxel edges in mm.")
    return check_spacing(edges + [1.0] * (3 - dims))[:dims]
