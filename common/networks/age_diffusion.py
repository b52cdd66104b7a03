"""A denoiser and a regressor of age that looks at noised images, in one file of weights.

MONAI has both networks, but its ``DiffusionModelUNet`` fails on sides that its levels cannot halve, and neither can be drawn anew.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelEncoder, DiffusionModelUNet, DiffusionUNetResnetBlock, zero_module
from torch import nn
from torch.nn import functional


class Denoiser(nn.Module):
    """MONAI's denoiser for images of any sides: zeros behind them up to the next multiple, cropped again.

    Args:
        unet: predicts the noise; as many output as input channels.
    """

    def __init__(self, unet: DiffusionModelUNet) -> None:
        super().__init__()
        self.unet, self.multiple = unet, 2 ** (len(unet.block_out_channels) - 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noise in images ``(B, C, *grid)`` at timesteps ``(B,)``; shape of ``x``."""
        sides = x.shape[2:]
        behind = [length for side in reversed(sides) for length in (0, -side % self.multiple)]
        inside = (slice(None), slice(None), *(slice(side) for side in sides))
        return self.unet(functional.pad(x, behind), timesteps)[inside]

    def reset_parameters(self) -> None:
        """Draw all weights anew; residual blocks begin as their shortcuts, the output as 0."""
        _draw(self.unet)
        last: Any = self.unet.out
        zero_module(last[-1])


class AgeRegressor(nn.Module):
    """MONAI's encoder as a regressor of the scaled age.

    Args:
        encoder: of images of one grid, with one output.
    """

    def __init__(self, encoder: DiffusionModelEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Scaled age ``(B, 1)`` of noised images ``(B, 1, *grid)`` at timesteps ``(B,)``."""
        return self.encoder(x, timesteps)

    def reset_parameters(self) -> None:
        """Draw all weights anew; residual blocks begin as their shortcuts."""
        _draw(self.encoder)


class AgeDiffusion(nn.Module):
    """What guided denoising needs: ``denoiser``, which knows nothing of ages, and ``regressor``, each trained by itself.

    Args:
        denoiser: of noised images.
        regressor: of the age in them.

    Source: Bieder et al., PRIME-MICCAI 2024, Table 1 (DDM+GG), after Wolleb et al. 2022 (arXiv:2204.02641).
    """

    def __init__(self, denoiser: DiffusionModelUNet, regressor: DiffusionModelEncoder) -> None:
        super().__init__()
        self.denoiser, self.regressor = Denoiser(denoiser), AgeRegressor(regressor)


def _draw(network: nn.Module) -> None:
    for module in network.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    for module in network.modules():
        if isinstance(module, DiffusionUNetResnetBlock):
            zero_module(module.conv2)
