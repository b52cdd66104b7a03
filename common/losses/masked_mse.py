"""Squared error over the pixels that count."""

from __future__ import annotations

import torch
from torch import nn


class MaskedMSELoss(nn.Module):
    r"""Mean squared error inside a mask: :math:`\sum_i m_i (\hat w_i - w_i)^2 / (C \sum_i m_i)`.

    An empty mask gives 0 with a gradient of 0.

    Source: LADP, Eq. 6 (squared norm of the noise's error). Deviation: mean in place of sum, and inside the brain only.
    """

    def forward(self, prediction: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Loss of a batch.

        Args:
            prediction: ``(B, C, *spatial)``.
            target: the true values, shape of ``prediction``, and the mask ``(B, 1, *spatial)``, bool; True counts.

        Returns:
            A scalar.
        """
        truth, mask = target
        # a sum over the pixels of a batch overflows half precision
        weight = mask.to(torch.promote_types(prediction.dtype, torch.float32))
        return ((prediction - truth).square() * weight).sum() / (weight.sum() * prediction.shape[1]).clamp(min=1)
