"""Mean Euclidean distance between predicted and true positions; MONAI and torch have only squared or per-coordinate distances."""

from __future__ import annotations

import torch
from torch import nn


def position_error(predicted: torch.Tensor, positions: torch.Tensor, epsilon: float = 0.0) -> torch.Tensor:
    r"""Euclidean distance at every place: :math:`E_x = \sqrt{\sum_i (x_i - \hat x_i)^2 + \epsilon^2}`.

    Args:
        predicted: :math:`\hat x` by K scales, ``(B, 3 K, *spatial)``.
        positions: :math:`x`, ``(B, 3, *spatial)``, same unit.
        epsilon: > 0 keeps the gradient finite where the prediction is right; 0 is the distance itself.

    Returns:
        ``(B, K, *spatial)``, >= epsilon.

    Source: Bieder et al., MIDL 2022, Sec. 2, L_coords and E_x.
    """
    scales = predicted.unflatten(1, (-1, 3))
    return ((scales - positions[:, None]).square().sum(dim=2) + epsilon**2).sqrt()


class PositionDistanceLoss(nn.Module):
    r"""Mean distance over the patches that count: :math:`\sum_x v_x \|x - \hat x\| / \sum_x v_x`; the scales are summed.

    A batch without any patch that counts gives 0 with a gradient of 0.

    Args:
        epsilon: see :func:`position_error`; 1e-4 is 0.03 mm of 256 mm.
        squared: squared distances, for the ablation.

    Source: Bieder et al., MIDL 2022, Sec. 2 (L_coords, averaged over the patches) and 3.1 (patches of background alone do not count).
    """

    def __init__(self, epsilon: float = 1e-4, squared: bool = False) -> None:
        super().__init__()
        self.epsilon, self.squared = epsilon, squared

    def forward(self, predicted: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Loss of a batch.

        Args:
            predicted: ``(B, 3 K, *spatial)``.
            target: positions ``(B, 3, *spatial)`` and which of them count, ``(B, 1, *spatial)`` bool.

        Returns:
            A scalar.
        """
        positions, counts = target
        error = position_error(predicted.float(), positions.float(), self.epsilon)
        if self.squared:
            error = error.square()
        weight = counts.to(error.dtype)
        return (error * weight).sum() / weight.sum().clamp(min=1)
