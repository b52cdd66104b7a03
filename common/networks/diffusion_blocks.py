"""Residual block and level of the 3D diffusion U-Net.

MONAI's ``DiffusionUNetResnetBlock`` normalises in the type of its input, which in half precision loses the statistics of a full volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import group_norm


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or in float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class GroupNorm(nn.GroupNorm):
    """Group normalisation computed in float32 at least, whatever the type of the features and also under autocast."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(B, C, X, Y, Z)`` to the same shape and type."""
        weight, bias = widened(self.weight), widened(self.bias)
        return group_norm(widened(features), self.num_groups, weight, bias, self.eps).to(features.dtype)


class ResidualBlock(nn.Module):
    """``shortcut(x) + conv(drop(act(norm(conv(act(norm(x))) + linear(act(e))))))``, act = SiLU; begins as its shortcut.

    Args:
        inputs: channels of x.
        outputs: channels of the result; the shortcut is a 1x1x1 convolution where they differ.
        embedding: width of the time embedding e.
        groups: of the normalisations.
        dropout: probability in [0, 1).
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, inputs), nn.Conv3d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, outputs)
        self.norm2, self.conv2 = GroupNorm(groups, outputs), nn.Conv3d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)
        self.act, self.drop = nn.SiLU(), nn.Dropout(dropout)

    def forward(self, features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """``(B, inputs, X, Y, Z)`` and ``(B, embedding)`` to ``(B, outputs, X, Y, Z)``."""
        change = self.conv1(self.act(self.norm1(features))) + self.shift(embedding)
        change = self.conv2(self.drop(self.act(self.norm2(change))))
        return self.shortcut(features) + change

    def shift(self, embedding: torch.Tensor) -> torch.Tensor:
        """What the time adds to every voxel, ``(B, outputs, 1, 1, 1)``, on the device of this block."""
        return self.embed(self.act(embedding.to(self.embed.weight.device)))[..., None, None, None]


class Level(nn.Module):
    """Layers of one resolution in the encoder (``change`` first) or in the decoder (``change`` last).

    Args:
        blocks: residual blocks in the order of use.
        change: what changes the resolution, or the first convolution of the network; None: nothing.
    """

    def __init__(self, blocks: Sequence[ResidualBlock], change: nn.Module | None = None) -> None:
        super().__init__()
        self.change = nn.Identity() if change is None else change
        self.blocks = nn.ModuleList(blocks)
