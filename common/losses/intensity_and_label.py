"""Squared error of intensities and cross entropy of labels at single voxels; MONAI's compound losses take whole images of one kind."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss


class IntensityAndLabelLoss(nn.Module):
    r"""Loss of a network with a label head.

    .. math:: L = \overline{(f - I)^2} + w \, \overline{\mathrm{CE}(s, c)}

    Args:
        weight: :math:`w` of the labels' cross entropy.

    Source: ours; a label output is the authors' future work.
    """

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__()
        self.weight = float(weight)

    def forward(self, outputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Loss of outputs ``(B, N, 1 + classes)`` (intensity, then logits) against values ``(B, N, 2)`` (intensity, label number)."""
        labels = cross_entropy(outputs[..., 1:].flatten(0, 1), values[..., 1].flatten().long())
        return mse_loss(outputs[..., :1], values[..., :1]) + self.weight * labels
