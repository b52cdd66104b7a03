"""Age from the size of a head alone, the rival of every estimate of age from an image; a regression that MONAI does not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.metrics.head_circumference import check_edges, pearson_r


class AgeFromSize(NamedTuple):
    """A fitted regression of age on size.

    Attributes:
        polynomial: size -> age, weeks.
        low_weeks: youngest scan that it was fitted on; estimates end there.
        high_weeks: oldest scan.
        scans: how many it was fitted on.
    """

    polynomial: Polynomial
    low_weeks: float
    high_weeks: float
    scans: int

    def age_weeks(self, sizes: ArrayLike) -> NDArray[np.float64]:
        """Post-menstrual ages of heads of these sizes, weeks, within the ages seen; NaN stays NaN."""
        values = np.asarray(sizes, dtype=np.float64)
        return np.clip(np.asarray(self.polynomial(values), dtype=np.float64), self.low_weeks, self.high_weeks)


def brain_size(brain: Any, spacing_mm: Sequence[float]) -> float:
    """Size of a brain mask: ml in 3D, cm² in 2D.

    Args:
        brain: ``(X, Y)`` or ``(X, Y, Z)``, non-zero is brain.
        spacing_mm: voxel edges, mm, one per axis.

    Raises:
        UserError: a bad spacing.
    """
    mask = np.asarray(brain) != 0
    edges = check_edges(spacing_mm, mask.ndim)
    return float(mask.sum()) * math.prod(edges) / 10.0**mask.ndim


def fit_age_from_size(sizes: ArrayLike, ages_weeks: ArrayLike, degree: int = 2) -> AgeFromSize:
    r"""Fit age as a polynomial of size by least squares.

    .. math:: \min_c \sum_i \Big( t_i - \sum_{k=0}^{d} c_k s_i^k \Big)^2

    Args:
        sizes: of the training scans, ``(N,)``: circumference in cm, or brain volume in ml; scans with NaN are left out.
        ages_weeks: their ages, ``(N,)``, weeks.
        degree: 1 is a line; 2 follows growth that slows down. Lowered where there are fewer scans than it needs.

    Raises:
        UserError: unequal lengths, a degree below 1, or fewer than 2 scans of different sizes.

    Source: ours; the paper estimates no age.
    """
    size, age = (np.asarray(part, dtype=np.float64).ravel() for part in (sizes, ages_weeks))
    if size.size != age.size or degree < 1:
        raise UserError(f"age from size: got {size.size} sizes, {age.size} ages, degree {degree}; expected as many, and degree >= 1.")
    known = np.isfinite(size) & np.isfinite(age)
    size, age = size[known], age[known]
    distinct = len(np.unique(size))
    if distinct < 2:
        raise UserError(f"age from size: got {distinct} different sizes among {size.size} scans, expected at least 2 to fit a line.")
    fitted = Polynomial.fit(size, age, min(degree, distinct - 1))
    return AgeFromSize(fitted, float(age.min()), float(age.max()), int(size.size))


def age_agreement(estimated_weeks: ArrayLike, true_weeks: ArrayLike) -> dict[str, float]:
    """Error of estimated ages.

    Args:
        estimated_weeks: ``(N,)``, weeks; NaN where there is none.
        true_weeks: ``(N,)``, weeks.

    Returns:
        ``n``, ``left_out``, ``mae_weeks``, ``bias_weeks`` (mean of estimated minus true), ``sd_weeks`` (divisor n - 1), ``r``; NaN where n
        is too small.
    """
    estimated, true = (np.asarray(part, dtype=np.float64).ravel() for part in (estimated_weeks, true_weeks))
    known = np.isfinite(estimated) & np.isfinite(true)
    error = (estimated - true)[known]
    return {
        "n": int(known.sum()),
        "left_out": int((~known).sum()),
        "mae_weeks": float(np.abs(error).mean()) if error.size else math.nan,
        "bias_weeks": float(error.mean()) if error.size else math.nan,
        "sd_weeks": float(error.std(ddof=1)) if error.size > 1 else math.nan,
        "r": pearson_r(estimated[known], true[known]),
    }
