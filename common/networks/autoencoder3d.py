"""The autoencoder position regression is compared with; MONAI's doubles sides with odd kernels only and has no narrow middle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import nn

from common.errors import UserError

MULTIPLIERS = (1, 2, 4, 8, 8, 8)


def _scaling_block(in_channels: int, out_channels: int, kernel_size: int, norm: str, up: bool, last: bool = False) -> nn.Module:
    """A convolution that halves, or doubles, every side exactly, then norm and LeakyReLU (unless it is the ``last``)."""
    padding = (kernel_size - 1) // 2
    return Convolution(
        3,
        in_channels,
        out_channels,
        strides=2,
        kernel_size=kernel_size,
        norm=norm,
        act=("leakyrelu", {"negative_slope": 0.2, "inplace": True}),
        bias=last,  # the norm behind it would cancel a bias
        conv_only=last,
        is_transposed=up,
        padding=padding,
        # (s - 1) 2 - 2 padding + kernel_size + output_padding = 2 s
        output_padding=2 + 2 * padding - kernel_size if up else None,
    )


class Autoencoder3D(nn.Module):
    """Reconstruct a volume from a few numbers per 64^3 voxels, without skip connections.

    ``stages`` strided convolutions, each with norm and LeakyReLU; a bottleneck of two 1x1x1 convolutions with ``width``
    channels between them; mirrored transposed convolutions; a sigmoid. With stages 6 a 256^3 volume is seen through
    4^3 x ``width`` numbers, with 5 so is one of 128^3.

    Args:
        width: channels m of the first stage, and of the bottleneck, >= 1.
        stages: halvings of every side, 1 to ``len(channel_multipliers)``.
        channel_multipliers: channels of the stages, in units of ``width``; the first ``stages`` of them count.
        kernel_size: of every strided convolution, >= 2, voxels.
        norm: ``batch`` or ``instance``, or what else MONAI's ``Convolution`` takes.

    Raises:
        UserError: more stages than multipliers, or a kernel that cannot halve a side.

    Source: position regression, section 3.4 and figure 8 (an autoencoder of Baur et al. 2021, made 3D, of width m). The
        figure is not available as text: stages, multipliers, kernel, batch norm and bottleneck are chosen, the last at an
        eighth of the deepest stage's channels.
    """

    def __init__(
        self,
        width: int,
        stages: int = 6,
        channel_multipliers: Sequence[int] = MULTIPLIERS,
        kernel_size: int = 4,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if not 1 <= stages <= len(channel_multipliers):
            raise UserError(f"stages: got {stages}, expected 1 to {len(channel_multipliers)}, one per number of channel_multipliers.")
        if kernel_size < 2:
            raise UserError(f"kernel_size: got {kernel_size}, expected at least 2, since every convolution halves the sides.")
        channels = [1, *(width * multiplier for multiplier in channel_multipliers[:stages])]
        pairs = list(pairwise(channels))
        self.stages = stages
        self.encoder = nn.Sequential(*(_scaling_block(c, d, kernel_size, norm, up=False) for c, d in pairs))
        self.bottleneck = nn.Sequential(nn.Conv3d(channels[-1], width, 1), nn.Conv3d(width, channels[-1], 1))
        rising = [_scaling_block(d, c, kernel_size, norm, up=True) for c, d in pairs[:0:-1]]
        self.decoder = nn.Sequential(*rising, _scaling_block(channels[1], 1, kernel_size, norm, up=True, last=True))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct a batch.

        Args:
            image: equalised CT in [0, 1], ``(B, 1, X, Y, Z)``; 0 is background.

        Returns:
            The reconstruction in (0, 1), same shape.

        Raises:
            UserError: a side that ``stages`` halvings do not divide.
        """
        divisor = 2**self.stages
        if any(side % divisor for side in image.shape[2:]):
            raise UserError(
                f"Autoencoder3D: got a volume of {tuple(image.shape[2:])} voxels, expected sides that are multiples of "
                f"2^{self.stages} = {divisor}; change the size of the reference cube or set fewer stages."
            )
        return torch.sigmoid(self.decoder(self.bottleneck(self.encoder(image))))
