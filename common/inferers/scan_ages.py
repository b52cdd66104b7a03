"""Scans with their ages for ``LatentFitInferer``; MONAI's ``default_prepare_batch`` passes images and labels only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Prepared = tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor | None], dict[str, Any]]


class ScanAges:
    """``prepare_batch`` of an evaluator: images, the real images at the target age where there are any, and the ages.

    Args:
        ages_weeks: ages to predict every scan at; None takes ``target_age`` of the batch, and without one the scan's own age.
    """

    def __init__(self, ages_weeks: Sequence[float] | None = None) -> None:
        self.ages_weeks = None if ages_weeks is None else [float(age) for age in ages_weeks]

    def __call__(self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Take a batch apart.

        Args:
            batch: ``image`` ``(B, 1, *grid)``; perhaps ``age`` ``(B,)`` (weeks; NaN, or none at all, where it is not known), ``target``
                ``(B, 1, *grid)`` and ``target_age`` ``(B,)``.
            device: where the fit runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            Images, targets or None, (ages ``(B,)``, target ages ``(B, A)`` or None), {}.
        """
        image = batch["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        target = batch["target"].to(device=device, non_blocking=non_blocking, **kwargs).float() if "target" in batch else None
        ages = torch.as_tensor(batch.get("age", [math.nan] * len(image)), dtype=torch.float64).reshape(-1)
        if self.ages_weeks is not None:
            wanted: torch.Tensor | None = torch.tensor(self.ages_weeks, dtype=torch.float64).expand(len(image), -1)
        else:
            wanted = torch.as_tensor(batch["target_age"], dtype=torch.float64).reshape(-1, 1) if "target_age" in batch else None
        return image, target, (ages, wanted), {}
