"""Paired t-test with its interval; ``common.metrics.statistics`` has Wilcoxon's, which gives no interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.errors import UserError


def paired_t(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> dict[str, float]:
    r"""Two-sided paired t-test of two methods on the same subjects.

    .. math:: t = \frac{\bar d}{s_d / \sqrt{N}}, \qquad d_i = a_i - b_i, \quad s_d^2 = \frac{1}{N - 1} \sum_i (d_i - \bar d)^2

    Args:
        first: one number per subject.
        second: likewise, the same subjects in the same order; pairs with NaN or infinity are left out.
        level: coverage of the interval of the mean difference.

    Returns:
        ``n``, ``mean_difference`` (first minus second), ``low``, ``high``, ``p``; NaN for fewer than 2 pairs. Where all differ by the same
        number the interval has no width and p is 0, or 1 where they are equal.

    Raises:
        UserError: unequal lengths, or a level outside (0, 1).

    Source: methods/brain_autoencoder.md, section 7: the thesis prints another, malformed formula.
    """
    from scipy.stats import t as student

    if len(first) != len(second):
        raise UserError(f"paired_t: got {len(first)} and {len(second)} numbers, expected the same subjects for both methods.")
    if not 0 < level < 1:
        raise UserError(f"level: got {level}, expected a number between 0 and 1, such as 0.95.")
    pair = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    held = np.isfinite(pair[0]) & np.isfinite(pair[1])
    difference = pair[0][held] - pair[1][held]
    size = int(difference.size)
    mean = float(difference.mean()) if size else math.nan
    if size < 2:
        return {"n": size, "mean_difference": mean, "low": math.nan, "high": math.nan, "p": math.nan}
    error = float(difference.std(ddof=1)) / math.sqrt(size)
    if error == 0:
        return {"n": size, "mean_difference": mean, "low": mean, "high": mean, "p": float(mean == 0)}
    width = float(student.ppf((1 + level) / 2, size - 1)) * error
    p = float(2 * student.sf(abs(mean) / error, size - 1))
    return {"n": size, "mean_difference": mean, "low": mean - width, "high": mean + width, "p": p}
