"""A small convolutional network that guesses the latent of an image. MONAI's ``Regressor`` is bound to one size of image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

_POOLED = 4  # cells per axis that are left: the latent says where things are, so they are not averaged to one


class LatentEncoder(nn.Module):
    """Latent ``(B, latent_size)`` from an image ``(B, 1, *grid)`` of any size, in [0, 1].

    Strided convolutions halve the image; what is left is averaged to 4 cells per axis and mapped linearly. It is trained after the
    coordinate network, to give the latents of the table, and starts at zero, the paper's start of a fit.

    Args:
        dims: axes of the image, 2 or 3.
        latent_size: numbers in a latent.
        channels: features after each halving.

    Source: thesis, Sec. 9.1 (future work, without a description); the form is ours.
    """

    def __init__(self, dims: int = 3, latent_size: int = 128, channels: Sequence[int] = (8, 16, 32, 64)) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs, outputs in zip((1, *channels[:-1]), channels, strict=True):
            blocks += [Conv[Conv.CONV, dims](inputs, outputs, 3, stride=2, padding=1), nn.SiLU()]
        self.features = nn.Sequential(*blocks, Pool[Pool.ADAPTIVEAVG, dims](_POOLED))
        self.head = nn.Linear(channels[-1] * _POOLED**dims, latent_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def reset_parameters(self) -> None:
        """Draw the convolutions anew and let the output start at zero again."""
        for layer in self.features:
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
                layer.reset_parameters()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Guessed latents of images."""
        return self.head(self.features(image.to(self.head.weight.dtype)).flatten(1))
