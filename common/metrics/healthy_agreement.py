"""How well a healthy head is understood: one minus its mean error; MONAI's regression metrics need a target and know no foreground."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric


class HealthyAgreement(CumulativeIterationMetric):
    """One minus the mean of an error map over the foreground; the higher the better, at most 1.

    Position errors are in units of the cube's side, reconstruction errors in those of the equalised image: both lie in [0, 1] once anything
    was learned.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Value of each volume, ``(B, 1)``.

        Args:
            y_pred: error maps, ``(B, K, *spatial)``.
            y: the head, ``(B, 1, *spatial)``; > 0 is foreground.
            kwargs: not used.
        """
        assert y is not None
        head = (y > 0).to(y_pred.dtype)
        mean = (y_pred * head).flatten(1).sum(dim=1) / (head.flatten(1).sum(dim=1) * y_pred.shape[1]).clamp(min=1)
        return 1 - mean[:, None]

    def aggregate(self) -> torch.Tensor:
        """Mean over all volumes since the last reset."""
        buffer: Any = self.get_buffer()
        return buffer.mean()
