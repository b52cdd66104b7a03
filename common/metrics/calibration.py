"""Does a probability (or a vote share) mean what it says? Reliability, expected calibration error, Brier score and a volume interval.

MONAI's ``CalibrationErrorMetric`` pools a whole one-hot image, background and all; here only the brain counts, and the table behind the
number is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import Mask, as_mask, check_same_shape, voxel_ml

Reliability = dict[str, NDArray[Any]]


def reliability_table(probability: NDArray[Any], truth: NDArray[Any], brain: NDArray[Any] | None = None, bins: int = 10) -> Reliability:
    """Sort voxels by predicted probability into bins of equal width and count how often each bin was right.

    Args:
        probability: probability or vote share of lesion, ``(X, Y, Z)``, in [0, 1].
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        brain: voxels that count, ``(X, Y, Z)``, bool or 0/1; None counts all.
        bins: number of bins, at least 1; a bin holds its lower edge, the last one both edges.

    Returns:
        ``lower``, ``upper`` (edges), ``mean_predicted``, ``observed`` (share of lesion voxels; both NaN in an empty bin), ``count``;
        ``(bins,)`` each.

    Raises:
        UserError: unequal shapes, values outside [0, 1] or NaN inside the brain, an empty brain, or ``bins`` below 1.
    """
    if bins < 1:
        raise UserError(f"bins: got {bins}, expected at least 1.")
    predicted, happened = _voxels(probability, truth, brain)
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.minimum(np.searchsorted(edges, predicted, side="right") - 1, bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean_predicted = np.bincount(index, weights=predicted, minlength=bins) / count
        observed = np.bincount(index, weights=happened, minlength=bins) / count
    return {"lower": edges[:-1], "upper": edges[1:], "mean_predicted": mean_predicted, "observed": observed, "count": count}


def pool_reliability(tables: Sequence[Reliability]) -> Reliability:
    """Add the tables of several cases to one, as if all their voxels had been counted together.

    Args:
        tables: at least one table of `reliability_table`, all with the same bins.

    Raises:
        UserError: no table, or tables with different numbers of bins.
    """
    if not tables or any(len(table["count"]) != len(tables[0]["count"]) for table in tables):
        raise UserError(f"tables: got {len(tables)}, expected at least one, all with the same number of bins.")
    count = np.sum([table["count"] for table in tables], axis=0)
    pooled = {"lower": tables[0]["lower"], "upper": tables[0]["upper"], "count": count}
    for column in ("mean_predicted", "observed"):
        sums = np.sum([np.nan_to_num(table[column]) * table["count"] for table in tables], axis=0)
        pooled[column] = np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)
    return pooled


def expected_calibration_error(table: Reliability) -> float:
    r"""Expected calibration error of a reliability table.

    .. math:: ECE = \sum_b \frac{n_b}{N} \, | \bar p_b - o_b |

    A small number is easily had where most of the brain is plainly healthy: read it beside the table.

    Args:
        table: from `reliability_table` or `pool_reliability`, with at least one voxel.

    Returns:
        Error in [0, 1]; 0 where every bin's mean prediction equals the observed share.
    """
    held = table["count"] > 0
    gaps = np.abs(table["mean_predicted"][held] - table["observed"][held])
    return float(np.average(gaps, weights=table["count"][held]))


def brier_score(probability: NDArray[Any], truth: NDArray[Any], brain: NDArray[Any] | None = None) -> float:
    r"""Mean squared difference of probability and truth, :math:`\frac1N \sum (p - y)^2`, over the brain.

    Args:
        probability: probability or vote share of lesion, ``(X, Y, Z)``, in [0, 1].
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        brain: voxels that count, ``(X, Y, Z)``, bool or 0/1; None counts all.

    Returns:
        Score in [0, 1], 0 is perfect.

    Raises:
        UserError: as `reliability_table`.
    """
    predicted, happened = _voxels(probability, truth, brain)
    return float(np.mean((predicted - happened) ** 2))


def volume_interval_ml(
    probability: NDArray[Any], spacing_mm: Sequence[float], brain: NDArray[Any] | None = None, level: float = 0.8
) -> tuple[float, float]:
    r"""Interval for the lesion volume from the nested masks :math:`\{p \ge u\}` of a probability or vote share.

    If the truth is a level set of a calibrated map, that is the mask :math:`\{p \ge u\}` for an unknown threshold u uniform on [0, 1] (so
    that each voxel is lesion with probability p), its volume falls as u grows, and the central ``level`` interval is

    .. math:: [\, V(\tfrac{1 + level}{2}),\; V(\tfrac{1 - level}{2}) \,], \qquad V(u) = |\{p \ge u\}|

    Voxels are then as dependent as their probabilities allow; independent voxel errors would average out, so for them the interval is
    too wide rather than too narrow. Eight votes and level 0.8: from what all eight mark to what at least one marks.
    It covers disagreement that the map knows of, not an error that all members share.

    Args:
        probability: probability or vote share of lesion, ``(X, Y, Z)``, in [0, 1].
        spacing_mm: voxel edges along X, Y, Z, mm.
        brain: voxels that count, ``(X, Y, Z)``, bool or 0/1; None counts all.
        level: wanted coverage, in (0, 1).

    Returns:
        Lower and upper volume in ml, lower <= upper.

    Raises:
        UserError: values outside [0, 1] or NaN, unequal shapes, a bad spacing, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise UserError(f"level: got {level}, expected a number between 0 and 1, such as 0.8.")
    shares, _ = _voxels(probability, np.zeros(np.shape(probability), dtype=bool), brain)
    # 9 of 10 votes stored as float32 are 0.8999999: they must reach a threshold of 0.9.
    low, high = (int(np.count_nonzero(shares >= share - 1e-6)) for share in ((1 + level) / 2, (1 - level) / 2))
    return low * voxel_ml(spacing_mm), high * voxel_ml(spacing_mm)


def _voxels(probability: NDArray[Any], truth: NDArray[Any], brain: NDArray[Any] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probability and truth of the voxels that count, ``(N,)`` each, checked."""
    happened: Mask = as_mask(truth, "truth")
    values = np.asarray(probability)
    check_same_shape(happened, values, "probability")
    if brain is None:
        inside = np.ones(happened.shape, dtype=bool)
    else:
        inside = as_mask(brain, "brain")
        check_same_shape(happened, inside, "brain")
        if not inside.any():
            raise UserError("brain: the mask holds no voxel, expected the voxels with ADC > 0. Look at the image: it may be all zero.")
    predicted = values[inside].astype(np.float64)
    if not (np.isfinite(predicted).all() and predicted.min() >= 0 and predicted.max() <= 1):
        raise UserError(
            f"probability: values run from {predicted.min():g} to {predicted.max():g}, expected [0, 1] without NaN. "
            "Give the vote share or the sigmoid of the network's output, not the output itself."
        )
    return predicted, happened[inside].astype(np.float64)
