"""How well a map marks lesions voxel by voxel: AUROC, average precision and Dice, from counts that are added over patients.

MONAI's ``ROCAUCMetric`` keeps every voxel (60 million in 30 volumes) and it has no average precision; histograms of the scores need 1 MiB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError

Counts = NDArray[np.int64]

RANGE = (-1.0, 1.0)
"""Values that a map of images in [0, 1] can have."""

BINS = 2**16
"""Scores within one bin (3e-5) count as equal; even, so that 0 lies on a border."""

QUANTILES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Shares of healthy voxels below a threshold, that are measured."""


def count_scores(scores: ArrayLike, truth: ArrayLike | None = None) -> Counts:
    """Sort voxels by their score into bins.

    Args:
        scores: ``(N,)`` (any shape), real, in `RANGE`; larger means more abnormal.
        truth: same shape, bool or 0/1, 1 is lesion; None for healthy voxels.

    Returns:
        ``(2, BINS)``: healthy voxels, then those of a lesion, by rising score. Counts of several cases may be added.

    Raises:
        UserError: NaN, values outside of the range, or unequal shapes.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    marked = np.zeros(values.shape, dtype=bool) if truth is None else np.asarray(truth).ravel() != 0
    if values.shape != marked.shape:
        raise UserError(f"scores and truth: got {values.size} and {marked.size} voxels, expected the same ones.")
    low, high = RANGE
    if values.size and not (np.isfinite(values).all() and values.min() >= low - 1e-6 and values.max() <= high + 1e-6):
        raise UserError(f"scores: from {values.min():g} to {values.max():g}, expected maps of images in [0, 1]: [{low:g}, {high:g}].")
    place = np.clip(((values - low) * (BINS / (high - low))).astype(np.int64), 0, BINS - 1)
    return np.stack([np.bincount(place[part], minlength=BINS) for part in (~marked, marked)])


def pixel_auroc(counts: Counts) -> float:
    """Area under the ROC curve; scores of one bin are ties and count one half. NaN where a class is absent.

    Args:
        counts: of :func:`count_scores`.
    """
    healthy, lesion = counts.astype(np.float64)
    if not healthy.sum() or not lesion.sum():
        return math.nan
    below = np.cumsum(healthy) - healthy
    return float((lesion * (below + healthy / 2)).sum() / (healthy.sum() * lesion.sum()))


def average_precision(counts: Counts) -> float:
    r"""Area under the precision-recall curve as average precision, without interpolation.

    .. math:: AP = \sum_k (R_k - R_{k-1}) P_k

    over all thresholds from the highest score down. A map that knows nothing has the share of lesion voxels.

    Args:
        counts: of :func:`count_scores`.

    Returns:
        In [0, 1]; NaN without a lesion.
    """
    healthy, lesion = (np.cumsum(part[::-1], dtype=np.float64) for part in counts)
    if not lesion[-1]:
        return math.nan
    gained = np.diff(lesion, prepend=0.0) / lesion[-1]
    precision = np.divide(lesion, lesion + healthy, out=np.zeros_like(lesion), where=lesion + healthy > 0)
    return float((gained * precision).sum())


def best_dice(counts: Counts) -> tuple[float, float]:
    """Largest Dice over all thresholds, and the threshold: an upper bound, since it is chosen by the truth (an oracle).

    Args:
        counts: of :func:`count_scores`.

    Returns:
        Dice in [0, 1] of the voxels at or above the threshold, and the threshold in the unit of the map; NaN without a lesion.
    """
    if not counts[1].sum():
        return math.nan, math.nan
    dice = _dices(counts)
    place = int(dice.argmax())
    return float(dice[place]), _edge(place)


def dice_at(counts: Counts, threshold: float) -> float:
    """Dice of the voxels above a threshold, to the width of a bin.

    Args:
        counts: of :func:`count_scores`.
        threshold: in the unit of the map, as :func:`healthy_quantile` gives it.

    Returns:
        In [0, 1]; NaN without a lesion, or for a threshold that is NaN.
    """
    if math.isnan(threshold) or not counts[1].sum():
        return math.nan
    place = math.ceil((threshold - RANGE[0]) * BINS / (RANGE[1] - RANGE[0]) - 1e-6)
    return float(_dices(counts)[place]) if place < BINS else 0.0


def healthy_quantile(counts: Counts, share: float) -> float:
    """Threshold that at least a share of the healthy voxels lie below; NaN without any.

    Args:
        counts: of :func:`count_scores`, of healthy subjects.
        share: in (0, 1).

    Raises:
        UserError: a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise UserError(f"quantile: got {share}, expected a share of healthy voxels between 0 and 1, such as 0.99.")
    below = np.cumsum(counts[0])
    if not below[-1]:
        return math.nan
    return _edge(int(np.searchsorted(below, share * below[-1] - 1e-9)) + 1)


def pixel_summary(counts: Counts, healthy: Counts, quantiles: Sequence[float] = QUANTILES) -> dict[str, Any]:
    """All numbers of a map, of one patient or pooled over several.

    Args:
        counts: of the patients' voxels.
        healthy: of those of healthy subjects, whose quantiles are thresholds.
        quantiles: shares of healthy voxels.

    Returns:
        ``auroc``, ``auprc``, ``prevalence`` (share of lesion voxels, the AUPRC of chance), ``oracle_dice`` and ``oracle_threshold``
        (the best threshold, chosen by the truth), ``dice_q<percent>`` for each quantile.
    """
    dice, threshold = best_dice(counts)
    found = {"auroc": pixel_auroc(counts), "auprc": average_precision(counts)}
    found["prevalence"] = float(counts[1].sum() / max(1, counts.sum()))
    found |= {"oracle_dice": dice, "oracle_threshold": threshold}
    return found | {f"dice_q{100 * share:g}": dice_at(counts, healthy_quantile(healthy, share)) for share in quantiles}


def _dices(counts: Counts) -> NDArray[np.float64]:
    """Dice of the voxels at or above the lower edge of each bin."""
    healthy, lesion = (np.cumsum(part[::-1], dtype=np.float64)[::-1] for part in counts)
    dices: NDArray[np.float64] = 2 * lesion / (healthy + lesion + lesion[0])
    return dices


def _edge(place: int) -> float:
    """Lower edge of a bin."""
    return RANGE[0] + place * (RANGE[1] - RANGE[0]) / BINS
