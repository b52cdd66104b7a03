"""Receiver operating characteristic of one score per structure, with intervals that keep the structures of a patient together.

MONAI's ``ROCAUCMetric`` gives the area alone, refuses one class by an exception deep inside, and knows no intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.metrics.statistics import RESAMPLES

Floats = NDArray[np.float64]


def auroc(scores: ArrayLike, truth: ArrayLike) -> float:
    r"""Area under the ROC curve: the chance that a positive scores above a negative, a tie counting one half (Mann-Whitney).

    .. math:: A = \frac{1}{PN} \sum_{i: y_i = 1} \sum_{j: y_j = 0} [s_i > s_j] + \tfrac12 [s_i = s_j]

    Args:
        scores: ``(N,)``, any unit, larger means more abnormal; NaN (no score, because the structure is empty) is left out.
        truth: ``(N,)``, bool or 0/1, 1 is abnormal.

    Returns:
        Area in [0, 1]; NaN where a class is absent, for which :func:`why_undefined` has the words.

    Raises:
        UserError: unequal lengths, an infinite score, or a truth other than 0 and 1.
    """
    from scipy.stats import rankdata

    values, positive, _ = _scored(scores, truth)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return math.nan
    rank_sum = float(rankdata(values)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def why_undefined(scores: ArrayLike, truth: ArrayLike) -> str:
    """Say why these scores have no AUROC; empty where they have one.

    Args:
        scores: as for :func:`auroc`.
        truth: as for :func:`auroc`.
    """
    values, positive, left_out = _scored(scores, truth)
    without = f" ({left_out} without a score are left out)" if left_out else ""
    if values.size == 0:
        return f"nothing was scored{without}"
    if not positive.any():
        return f"none of {values.size} is abnormal{without}"
    return f"none of {values.size} is free of the finding{without}" if positive.all() else ""


def roc_curve(scores: ArrayLike, truth: ArrayLike) -> dict[str, Floats]:
    """All points of the ROC curve, from (0, 0) to (1, 1): a case is called abnormal when its score exceeds the threshold.

    Args:
        scores: as for :func:`auroc`.
        truth: as for :func:`auroc`.

    Returns:
        ``threshold`` (falling; the largest score first, -inf last), ``false_positive_rate``, ``true_positive_rate`` (both rising, in
        [0, 1]); ``(distinct scores + 1,)`` each. The trapezoids under the points add up to :func:`auroc`. Empty where a class is absent.

    Raises:
        UserError: as :func:`auroc`.

    Source: Bieder et al. 2022, section 4: "we check whether the error exceeds a certain threshold".
    """
    values, positive, _ = _scored(scores, truth)
    if not positive.any() or positive.all():
        return {name: np.zeros(0) for name in ("threshold", "false_positive_rate", "true_positive_rate")}
    thresholds = np.append(np.unique(values)[::-1], -np.inf)
    above = [np.searchsorted(np.sort(part), thresholds, side="right") for part in (values[~positive], values[positive])]
    counts = (int((~positive).sum()), int(positive.sum()))
    return {
        "threshold": thresholds,
        "false_positive_rate": 1 - above[0] / counts[0],
        "true_positive_rate": 1 - above[1] / counts[1],
    }


def bootstrap_auroc(
    scores: ArrayLike,
    truth: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC with its percentile bootstrap interval: whole cases are drawn with replacement, within strata of equal truth.

    A stratum holds the cases with the same numbers of positives and negatives (for two hemispheres: none, one, both abnormal), so that
    every resample has both classes in the numbers of the data, and the scores of one patient stay together.

    Args:
        scores: as for :func:`auroc`.
        truth: as for :func:`auroc`.
        groups: case that each score belongs to, ``(N,)``; None takes each score for a case.
        level: coverage of the interval, in (0, 1).
        resamples: number of draws, at least 1.
        seed: seed of the draws; same seed, same interval.

    Returns:
        ``auroc``, ``low``, ``high`` (in [0, 1], NaN where a class is absent), ``positives``, ``negatives``, ``left_out`` (NaN scores),
        ``cases``, ``reason`` (empty, or why there is no area). With fewer than about 10 cases of a class the interval is too narrow.

    Raises:
        UserError: as :func:`auroc`, groups of another length, level outside (0, 1), fewer than 1 resample.
    """
    values, positive, left_out = _scored(scores, truth)
    names = _groups(groups, np.asarray(scores, dtype=np.float64))
    area = auroc(values, positive)
    found: dict[str, Any] = {"auroc": area, "low": math.nan, "high": math.nan}
    found |= {"positives": int(positive.sum()), "negatives": int((~positive).sum()), "left_out": left_out}
    found |= {"cases": len(set(names)), "reason": why_undefined(scores, truth)}
    _check_draws(level, resamples)
    if not math.isnan(area):
        draws = _areas(values, positive, _draw_counts(names, positive, resamples, seed))
        found["low"], found["high"] = _ends(draws, level)
    return found


def compare_auroc(
    first: ArrayLike,
    second: ArrayLike,
    truth: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Difference of two methods' AUROCs on the same cases, with the interval of the paired bootstrap.

    Args:
        first: scores of one method, ``(N,)``; where either method has NaN the score is left out of both.
        second: scores of the other method for the same structures in the same order, ``(N,)``.
        truth: as for :func:`auroc`.
        groups: as for :func:`bootstrap_auroc`; both methods are drawn the same cases.
        level: coverage of the interval, in (0, 1).
        resamples: number of draws, at least 1.
        seed: seed of the draws.

    Returns:
        ``difference`` (first minus second, in [-1, 1]), ``low``, ``high``, ``n`` (scores used); NaN where a class is absent. An interval
        that does not hold 0 is a difference at that level, if this pair was chosen before looking.

    Raises:
        UserError: as :func:`bootstrap_auroc`, or methods of unequal lengths.
    """
    pair = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if pair[0].shape != pair[1].shape:
        raise UserError(f"compare_auroc: got {pair[0].size} and {pair[1].size} scores, expected both methods on the same cases.")
    _check_draws(level, resamples)
    both = pair[0] + pair[1]  # NaN where either is
    _, positive, _ = _scored(both, truth)
    names, held = _groups(groups, both), ~np.isnan(both)
    areas = [auroc(scores[held], positive) for scores in pair]
    found: dict[str, float] = {"difference": areas[0] - areas[1], "low": math.nan, "high": math.nan, "n": int(held.sum())}
    if not math.isnan(found["difference"]):
        counts = _draw_counts(names, positive, resamples, seed)
        draws = [_areas(scores[held], positive, counts) for scores in pair]
        found["low"], found["high"] = _ends(draws[0] - draws[1], level)
    return found


def structure_score(values: NDArray[Any], mask: NDArray[Any], aggregate: str = "max") -> float:
    """One number for a structure: the largest value of a map inside it, a percentile, or the mean.

    Args:
        values: map such as the position error, real, any unit; any shape.
        mask: the structure, shape of ``values``, bool or 0/1.
        aggregate: ``max``, ``mean``, or a percentile such as ``p99.5``.

    Returns:
        The score in the unit of the map; NaN for an empty structure.

    Raises:
        UserError: unequal shapes, NaN or infinite values inside the structure, or an unknown aggregate.

    Source: Bieder et al. 2022, section 4 (``max`` follows from "exceeds a threshold"); the others are ours.
    """
    percentile = re.fullmatch(r"p(\d+(?:\.\d+)?)", aggregate)
    if aggregate not in ("max", "mean") and not (percentile and float(percentile[1]) <= 100):
        raise UserError(f"aggregate: got {aggregate!r}, expected max, mean or a percentile such as p99.5.")
    if values.shape != mask.shape:
        raise UserError(f"structure_score: the map has shape {values.shape}, the mask {mask.shape}; expected one grid for both.")
    inside = np.asarray(values)[np.asarray(mask) != 0]
    if inside.size == 0:
        return math.nan
    if not np.isfinite(inside).all():
        raise UserError(f"structure_score: {np.count_nonzero(~np.isfinite(inside))} values of the map are NaN or infinite inside the mask.")
    if percentile:
        return float(np.percentile(inside, float(percentile[1])))
    return float(inside.max() if aggregate == "max" else inside.mean(dtype=np.float64))


def _scored(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, NDArray[np.bool_], int]:
    """Scores and truth (bool) of those that have a score, and how many have none."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if values.ndim != 1 or values.shape != labels.shape:
        raise UserError(f"scores and truth: got shapes {values.shape} and {labels.shape}, expected two lists of one length.")
    if np.isinf(values).any():
        raise UserError(f"scores: {np.isinf(values).sum()} of {values.size} are infinite, expected numbers (or NaN for no score).")
    if not np.isin(labels, (0, 1)).all():
        found = ", ".join(str(value) for value in labels[~np.isin(labels, (0, 1))][:3])
        raise UserError(f"truth: found {found}, expected only 0 and 1 (1 is abnormal).")
    held = ~np.isnan(values)
    return values[held], labels[held] != 0, int((~held).sum())


def _groups(groups: Sequence[Hashable] | None, scores: Floats) -> list[Hashable]:
    """Group of each score that is not NaN."""
    names: Sequence[Hashable] = range(scores.size) if groups is None else groups
    if len(names) != scores.size:
        raise UserError(f"groups: got {len(names)} names, expected {scores.size}, the case of each score.")
    return [name for name, score in zip(names, scores, strict=True) if not math.isnan(score)]


def _check_draws(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 1:
        raise UserError(f"level, resamples: got {level} and {resamples}, expected a number between 0 and 1 and at least 1 draw.")


def _draw_counts(names: Sequence[Hashable], positive: NDArray[np.bool_], resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each score is drawn in each resample, ``(resamples, N)``."""
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    of_score = np.array([place[name] for name in names])
    held = np.stack([np.bincount(of_score[part], minlength=len(place)) for part in (positive, ~positive)])
    _, stratum = np.unique(held, axis=1, return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(place)))
    for wanted in range(int(stratum.max()) + 1):
        members = np.flatnonzero(stratum.ravel() == wanted)
        counts[:, members] = generator.multinomial(members.size, np.full(members.size, 1 / members.size), size=resamples)
    return counts[:, of_score]


def _areas(scores: Floats, positive: NDArray[np.bool_], counts: NDArray[np.float64]) -> Floats:
    """AUROC of each resample: the pairs won, each as often as both of its scores were drawn."""
    ahead = scores[positive][:, None] - scores[~positive][None, :]
    won = (ahead > 0) + 0.5 * (ahead == 0)
    pairs = positive.sum() * (~positive).sum()  # the same in each resample, because the strata are
    areas: Floats = ((counts[:, positive] @ won) * counts[:, ~positive]).sum(axis=1) / pairs
    return areas


def _ends(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
