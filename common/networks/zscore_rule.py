"""The trivial rule as a network, so that it is evaluated by the same code as every trained one."""

from __future__ import annotations

import torch
from torch import nn


class ZScoreRule(nn.Module):
    """Lesion where Z_ADC is below a threshold: logits of +-20 for raw images, nothing to train.

    Args:
        threshold: in standard deviations of healthy neonates; the challenge's demo uses -2.
        channel: image channel that holds Z_ADC.

    Source: demo of the BONBID-HIE challenge.
    """

    def __init__(self, threshold: float = -2.0, channel: int = 1) -> None:
        super().__init__()
        self.threshold, self.channel = threshold, channel

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1, *spatial)`` of raw images ``(B, C, *spatial)``."""
        low = image[:, self.channel : self.channel + 1] < self.threshold
        return torch.where(low, 20.0, -20.0)
