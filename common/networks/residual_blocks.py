"""Blocks of the residual autoencoders: MONAI's ``ResBlock`` normalises by groups, keeps its resolution, and has no strided shortcut.

Deviation: Keras pads a strided "same" convolution at the end only; here it is padded as PyTorch does, at the beginning. The one is the
other of the mirrored image (tested), and so are the transposed convolutions; the 1x1 shortcut of stride 2, which takes every second voxel
from the first one on in both, lies in the centre of its 3x3 neighbour here and at its corner in Keras.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import nn

BLOCKS = ("preactivation", "original")
MOMENTUM, EPSILON = 0.01, 1e-3
"""Of batch norm: Keras' defaults, whose momentum 0.99 is one minus PyTorch's."""


def convolution(dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution that keeps the sides, or halves even ones with stride 2."""
    return Conv[Conv.CONV, dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def batch_norm(dims: int, channels: int) -> nn.Module:
    """Batch norm with Keras' numbers."""
    return Norm[Norm.BATCH, dims](channels, eps=EPSILON, momentum=MOMENTUM)


def doubling(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """A transposed 3x3 convolution that doubles every side, and batch norm; the ReLU comes behind the skip connection."""
    up = Conv[Conv.CONVTRANS, dims](inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(up, batch_norm(dims, outputs))


def draw_glorot(network: nn.Module) -> None:
    """Draw all weights as Keras does: uniform in :math:`\\pm\\sqrt{6 / (n_{in} + n_{out})}`, biases 0, batch norm the identity."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_parameters()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    ``original``: conv, BN, ReLU, conv, BN, add, ReLU. ``preactivation``: BN, ReLU, conv, BN, ReLU, conv, add. The first convolution has the
    stride. The shortcut is the input itself, or a 1x1 convolution of the raw input where the block has a stride or is told so.

    Args:
        dims: 2 or 3.
        inputs: channels of the input.
        outputs: channels of the output.
        stride: 1, or 2 to halve every side.
        block: ``preactivation`` or ``original``.
        project: a 1x1 convolution as the shortcut, whatever the stride.

    Source: He et al. 2016 (Identity mappings in deep residual networks), figures 4a and 4e; methods/brain_autoencoder.md, section 5.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, stride: int = 1, block: str = BLOCKS[0], project: bool = False) -> None:
        super().__init__()
        first, second = convolution(dims, inputs, outputs, stride=stride), convolution(dims, outputs, outputs)
        inner = [batch_norm(dims, outputs), nn.ReLU(inplace=True)]
        if block == "original":
            self.residual = nn.Sequential(first, *inner, second, batch_norm(dims, outputs))
        else:
            self.residual = nn.Sequential(batch_norm(dims, inputs), nn.ReLU(inplace=True), first, *inner, second)
        self.shortcut = convolution(dims, inputs, outputs, 1, stride) if project or stride > 1 else nn.Identity()
        self.last = nn.ReLU(inplace=True) if block == "original" else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(B, outputs, *sides / stride)`` of ``(B, inputs, *sides)``."""
        return self.last(self.shortcut(x) + self.residual(x))
