"""A weighted sum of losses, since MONAI combines Dice with one other loss but not with two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from common.errors import UserError


class WeightedSumLoss(nn.Module):
    r""":math:`L(p, y) = \sum_k w_k L_k(p, y)`; each :math:`L_k` takes logits and target.

    Args:
        losses: loss modules, each called as ``loss(prediction, target)``.
        weights: one factor per loss.

    Raises:
        UserError: unequal numbers of losses and weights.

    Source: LADP, Eq. 7 with BCE, Dice and 3 x focal loss.
    """

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        if len(losses) != len(weights):
            raise UserError(f"weights: got {len(weights)} for {len(losses)} losses, expected one per loss.")
        self.losses, self.weights = nn.ModuleList(losses), tuple(weights)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits ``(B, C, *spatial)`` against a target of the same shape; a scalar."""
        # sums over the pixels of a batch overflow half precision
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        target = target.to(prediction.dtype)
        terms = [weight * loss(prediction, target) for loss, weight in zip(self.losses, self.weights, strict=True)]
        return torch.stack(terms).sum()
