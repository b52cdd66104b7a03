"""Baselines of a predicted brain: the input scan itself, and the average of training scans near the target age. MONAI has neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError


def copy_input(item: Mapping[str, Any]) -> torch.Tensor:
    """Predict that nothing changes: the scan at the first age.

    Args:
        item: ``input``, a prepared scan with ``image`` ``(1, *grid)``.

    Returns:
        ``(1, *grid)`` float32.
    """
    return torch.as_tensor(item["input"]["image"]).float()


def neighbour_weights(ages_weeks: ArrayLike, target_weeks: float, count: int = 1) -> NDArray[np.float64]:
    r"""Weights of the scans whose average stands for an age: linear interpolation between the nearest below and above.

    With the mean ages :math:`t_0 \le t < t_1` of the ``count`` nearest scans on each side,

    .. math:: w_i = \frac{1}{k} \frac{t_1 - t}{t_1 - t_0} \text{ below}, \qquad w_i = \frac{1}{k} \frac{t - t_0}{t_1 - t_0} \text{ above}

    Args:
        ages_weeks: of the scans, ``(N,)``, weeks, N >= 1; a scan of exactly the target age counts as below.
        target_weeks: the age :math:`t`, weeks.
        count: scans :math:`k` on each side, >= 1; fewer where there are not as many. Outside of the ages, those of the one side alone.

    Returns:
        ``(N,)``, >= 0, sum 1; wherever scans lie on both sides, the weighted mean of the ages is the target age.

    Raises:
        UserError: no scan, or a count below 1.

    Source: ours, the baseline that issue 5 asks for; equal ages are taken in the order given.
    """
    ages = np.asarray(ages_weeks, dtype=np.float64)
    if ages.size < 1 or count < 1:
        raise UserError(f"neighbours in age: got {ages.size} scans and count {count}, expected at least 1 of each.")
    order = np.argsort(np.abs(ages - target_weeks), kind="stable")
    below, above = order[ages[order] <= target_weeks][:count], order[ages[order] > target_weeks][:count]
    share = 1.0 if not below.size else 0.0
    if below.size and above.size:
        youngest, oldest = ages[below].mean(), ages[above].mean()
        share = float(np.clip((target_weeks - youngest) / (oldest - youngest), 0, 1))  # a mean of equal ages may round beyond them
    weights = np.zeros(ages.size)
    weights[below] = (1 - share) / max(below.size, 1)
    weights[above] = share / max(above.size, 1)
    return weights


class AgeNeighbours:
    """Predict the average of training scans near the target age; it knows nothing of the child.

    Args:
        scans: prepared scans with ``image`` ``(1, *grid)``, for example a dataset: only those with a weight are read.
        cases: ``age`` (weeks) and ``subject`` of each scan, in the same order.
        count: see :func:`neighbour_weights`. More scans are blurrier, which PSNR likes and SSIM does not.
    """

    def __init__(self, scans: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]], count: int = 1) -> None:
        if len(scans) != len(cases) or not cases:
            raise UserError(f"neighbours in age: got {len(scans)} scans and {len(cases)} cases, expected as many, at least one.")
        self.scans, self.count = scans, count
        self.ages = np.array([float(case["age"]) for case in cases])
        self.subjects = np.array([str(case["subject"]) for case in cases])

    def __call__(self, item: Mapping[str, Any]) -> torch.Tensor:
        """Average for the item's target age, from scans of other subjects.

        Args:
            item: ``target``, a prepared scan with ``image``, ``age`` and ``subject``; only age, subject and shape are looked at.

        Returns:
            ``(1, *grid)`` float32.

        Raises:
            UserError: no scan of another subject, or scans on another grid.
        """
        target = item["target"]
        others = np.flatnonzero(self.subjects != str(target["subject"]))
        if not others.size:
            raise UserError(f"neighbours in age: all {len(self.ages)} training scans are of {target['subject']}, who is tested.")
        weights = neighbour_weights(self.ages[others], float(target["age"]), self.count)
        average = torch.zeros(tuple(target["image"].shape))
        for index, weight in zip(others, weights, strict=True):
            if weight > 0:
                image = torch.as_tensor(self.scans[int(index)]["image"])
                if image.shape != average.shape:
                    shapes = f"shape {tuple(image.shape)}, expected {tuple(average.shape)} as the target"
                    raise UserError(f"neighbours in age: scan {int(index)} has {shapes}. Prepare both on one grid.")
                average += float(weight) * image.float().cpu()
        return average
