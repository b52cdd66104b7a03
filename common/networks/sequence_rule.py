"""The trivial rule of a tumour as a network, so that it is evaluated by the same code as every trained one."""

from __future__ import annotations

import torch
from torch import nn


class SequenceRule(nn.Module):
    """Tumour where one sequence lies above the brain's mean by a number of standard deviations: logits of +-20, nothing to train.

    Args:
        threshold: standard deviations of the brain's voxels.
        channel: image channel; 3 is FLAIR.
    """

    def __init__(self, threshold: float = 2.0, channel: int = 3) -> None:
        super().__init__()
        self.threshold, self.channel = threshold, channel

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1, *spatial)`` of images ``(B, C, *spatial)`` in [-1, 1], -1 outside the brain; a volume without brain has none."""
        inside = (image > -1).any(dim=1)
        masks = [self._rule(volume[self.channel], brain) for volume, brain in zip(image, inside, strict=True)]
        return torch.where(torch.stack(masks)[:, None], 20.0, -20.0)

    def _rule(self, sequence: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        if int(brain.sum()) < 2:
            return torch.zeros_like(brain)
        values = sequence[brain]
        return brain & (sequence > values.mean() + self.threshold * values.std())
