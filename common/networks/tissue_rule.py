"""The trivial rule of a segmentation of many classes as a network, so that it is evaluated by the same code as every trained one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from common.errors import UserError


class TissueRule(nn.Module):
    r"""Each voxel gets the class whose mean intensity is nearest; logits, nothing to train.

    With :math:`z = (x - \mu) / \sigma` over the volume's voxels that are not 0,

    .. math:: g_k = -20\,(z - m_k)^2, \qquad k = 1 \dots K

    and the background where the image is 0.

    Args:
        means: :math:`m_k`, mean of the classes 1 to K in units of the image's standard deviation.
        channel: of the image.

    Raises:
        UserError: no means.
    """

    def __init__(self, means: Sequence[float], channel: int = 0) -> None:
        super().__init__()
        if not means:
            raise UserError("means: got none, expected one per class without the background.")
        self.means, self.channel = tuple(float(mean) for mean in means), channel

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1 + K, *spatial)`` of whole volumes ``(B, C, *spatial)``, 0 outside the body; a flat volume is background."""
        return torch.stack([self._rule(volume[self.channel].float()) for volume in image])

    def _rule(self, volume: torch.Tensor) -> torch.Tensor:
        inside = volume != 0
        values = volume[inside]
        logits = volume.new_full((1 + len(self.means), *volume.shape), -20.0)
        if len(values) < 2 or not values.std() > 0:
            logits[0] = 20.0
            return logits
        logits[0] = torch.where(inside, -torch.inf, 20.0)
        means = volume.new_tensor(self.means).view(-1, *[1] * volume.ndim)
        scaled = -20 * ((volume - values.mean()) / values.std() - means) ** 2
        logits[1:] = torch.where(inside, scaled, logits[1:])
        return logits
