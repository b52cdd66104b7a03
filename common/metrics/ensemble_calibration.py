"""Does an ensemble's variance point at its errors? Error rate by variance, what it should be, and AUROC.

For the mean, `common.metrics.calibration` has reliability table and expected calibration error. MONAI's ``CalibrationErrorMetric`` knows
probabilities only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.calibration import expected_calibration_error, reliability_table
from common.metrics.masks import as_mask, check_same_shape
from common.metrics.roc import auroc

LARGEST = 0.25
"""Largest variance of values that are 0 or 1; raw samples leave [0, 1] and may exceed it, which counts into the last bin."""

Table = dict[str, NDArray[Any]]


def expected_error(variance: NDArray[Any]) -> NDArray[np.float64]:
    r"""Error rate of the mask that a calibrated ensemble of 0 and 1 would have at this variance.

    A share p of the members says 1, and p is right: :math:`v = p(1-p)`, and the mask :math:`p > 0.5` errs with

    .. math:: e = \min(p, 1 - p) = \tfrac12 \big(1 - \sqrt{1 - 4v}\big)

    Args:
        variance: v, at least 0; above 0.25 counts as 0.25.

    Returns:
        e in [0, 0.5], shape of ``variance``.
    """
    kept = np.clip(np.asarray(variance, dtype=np.float64), 0.0, LARGEST)
    return 0.5 * (1 - np.sqrt(1 - 4 * kept))


def variance_table(
    variance: NDArray[Any], prediction: NDArray[Any], truth: NDArray[Any], brain: NDArray[Any] | None = None, bins: int = 10
) -> Table:
    """Sort voxels by the ensemble's variance into bins of equal width over [0, 0.25] and count how often the mask was wrong.

    Args:
        variance: of the samples (divisor n), ``(X, Y, Z)``, at least 0.
        prediction: mask from the mean, ``(X, Y, Z)``, bool or 0/1.
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        brain: voxels that count, ``(X, Y, Z)``, bool or 0/1; None counts all.
        bins: number of bins, at least 1; a bin holds its lower edge, the last one also all larger variances.

    Returns:
        ``lower``, ``upper`` (edges), ``mean_variance``, ``expected`` (mean of :func:`expected_error`), ``observed`` (error rate; these
        three NaN in an empty bin), ``count``; ``(bins,)`` each.

    Raises:
        UserError: unequal shapes, a negative or NaN variance inside the brain, an empty brain, or ``bins`` below 1.
    """
    if bins < 1:
        raise UserError(f"bins: got {bins}, expected at least 1.")
    spread, wrong = _voxels(variance, prediction, truth, brain)
    edges = np.linspace(0.0, LARGEST, bins + 1)
    index = np.clip(np.searchsorted(edges, spread, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.float64)
    table: Table = {"lower": edges[:-1], "upper": edges[1:], "count": count}
    for name, values in (("mean_variance", spread), ("expected", expected_error(spread)), ("observed", wrong)):
        sums = np.bincount(index, weights=values, minlength=bins)
        table[name] = np.divide(sums, count, out=np.full(bins, np.nan), where=count > 0)
    return table


def pool_variance(tables: Sequence[Table]) -> Table:
    """Add the tables of several cases to one, as if all their voxels had been counted together.

    Args:
        tables: at least one of :func:`variance_table`, all with the same bins.

    Raises:
        UserError: no table, or tables with different numbers of bins.
    """
    if not tables or any(len(table["count"]) != len(tables[0]["count"]) for table in tables):
        raise UserError(f"tables: got {len(tables)}, expected at least one, all with the same number of bins.")
    count = np.sum([table["count"] for table in tables], axis=0)
    pooled: Table = {"lower": tables[0]["lower"], "upper": tables[0]["upper"], "count": count}
    for name in ("mean_variance", "expected", "observed"):
        sums = np.sum([np.nan_to_num(table[name]) * table["count"] for table in tables], axis=0)
        pooled[name] = np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)
    return pooled


def variance_calibration_error(table: Table) -> float:
    r"""Mean gap of observed and expected error rate, weighted by voxels: :math:`\sum_b \frac{n_b}{N} | o_b - e_b |`, in [0, 1].

    Args:
        table: from :func:`variance_table` or :func:`pool_variance`, with at least one voxel.
    """
    held = table["count"] > 0
    return float(np.average(np.abs(table["observed"] - table["expected"])[held], weights=table["count"][held]))


def measure_ensemble(
    mean: NDArray[Any],
    variance: NDArray[Any],
    prediction: NDArray[Any],
    truth: NDArray[Any],
    brain: NDArray[Any] | None = None,
    bins: int = 10,
) -> dict[str, float]:
    """Calibration of an ensemble's mean and variance on one case.

    Args:
        mean: of the samples, clipped to [0, 1], ``(X, Y, Z)``.
        variance: as :func:`variance_table`.
        prediction: mask from the mean, ``(X, Y, Z)``, bool or 0/1.
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        brain: voxels that count, ``(X, Y, Z)``, bool or 0/1; None counts all.
        bins: of both tables.

    Returns:
        ``mean_ece`` in [0, 1]; ``variance_ece`` in [0, 1]; ``variance_auroc``: the chance that a wrong voxel has more variance than a
        right one, NaN where the mask is right (or wrong) everywhere; ``error_rate`` in [0, 1].

    Raises:
        UserError: as :func:`variance_table` and `common.metrics.calibration.reliability_table`.
    """
    spread, wrong = _voxels(variance, prediction, truth, brain)
    return {
        "mean_ece": expected_calibration_error(reliability_table(mean, truth, brain, bins)),
        "variance_ece": variance_calibration_error(variance_table(variance, prediction, truth, brain, bins)),
        "variance_auroc": auroc(spread, wrong),
        "error_rate": float(wrong.mean()),
    }


def _voxels(
    variance: NDArray[Any], prediction: NDArray[Any], truth: NDArray[Any], brain: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance and error (0 or 1) of the voxels that count, ``(N,)`` each, checked."""
    true, predicted, spread = as_mask(truth, "truth"), as_mask(prediction, "prediction"), np.asarray(variance)
    inside = np.ones(true.shape, dtype=bool) if brain is None else as_mask(brain, "brain")
    for name, other in (("prediction", predicted), ("variance", spread), ("brain", inside)):
        check_same_shape(true, other, name)
    if not inside.any():
        raise UserError("brain: the mask holds no voxel, expected the voxels where the image is above 0.")
    values = spread[inside].astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise UserError(f"variance: values run from {values.min():g} to {values.max():g}, expected at least 0 without NaN.")
    return values, (true != predicted)[inside].astype(np.float64)
