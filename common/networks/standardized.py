"""A network that carries the intensity constants of its training fold, so that weights and normalisation never part."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from common.data.slices import SliceDataset
from common.errors import UserError


def standardize(image: torch.Tensor, brain: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, background: float) -> torch.Tensor:
    r"""Z-score normalisation inside the brain, a constant outside: :math:`(v - \mu_c)/\sigma_c`.

    Args:
        image: raw intensities, ``(B, C, *spatial)``.
        brain: ``(B, 1, *spatial)``, bool; True marks brain.
        mean: :math:`\mu_c` per channel, ``(C,)``, unit of the channel.
        std: :math:`\sigma_c` per channel, ``(C,)``, > 0, unit of the channel.
        background: value outside the brain and lower bound inside, in standard deviations.

    Returns:
        ``(B, C, *spatial)``, no unit.

    Source: LADP, Sec. II.B; the lower bound as in the released code (clip at -6).
    """
    shape = (1, -1, *[1] * (image.ndim - 2))
    scaled = ((image - mean.view(shape)) / std.view(shape)).clamp(min=background)
    return torch.where(brain, scaled, torch.full_like(scaled, background))


def fit_mean_std(images: Iterable[torch.Tensor], brain_channel: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel over the brain voxels of all images.

    Args:
        images: raw volumes or slices, each ``(C, *spatial)``; brain is where ``image[brain_channel] > 0``.
        brain_channel: channel that is positive inside the brain only.

    Returns:
        Two ``(C,)`` float64 tensors in the unit of each channel.

    Raises:
        UserError: no brain voxel at all, or a channel that is constant.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for image in images:
        voxels = torch.as_tensor(image)[:, torch.as_tensor(image)[brain_channel] > 0].double()
        count += voxels.shape[1]
        total = total + voxels.sum(dim=1)
        squares = squares + voxels.square().sum(dim=1)
    if count == 0:
        raise UserError("Normalisation: found no brain voxel (first channel > 0) in the training fold; check that the first input is ADC.")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    if bool((std <= 0).any()):
        raise UserError(f"Normalisation: a channel is constant inside the brain (standard deviations {std.tolist()}).")
    return mean, std


class Standardized(nn.Module):
    """Standardise raw intensities inside the brain, then call the network.

    The constants are buffers, so ``model.pt`` (a bare ``state_dict``) holds them and inference cannot use others.

    Args:
        network: any network on ``(B, channels, *spatial)``.
        channels: number of image channels.
        background: value given to everything outside the brain, in standard deviations.
        brain_channel: channel that is positive inside the brain only (ADC).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, channels: int, background: float = -6.0, brain_channel: int = 0) -> None:
        super().__init__()
        self.network, self.background, self.brain_channel = network, background, brain_channel
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def brain(self, image: torch.Tensor) -> torch.Tensor:
        """Brain mask of raw images ``(B, C, *spatial)``: ``(B, 1, *spatial)`` bool."""
        return image[:, self.brain_channel : self.brain_channel + 1] > 0

    def standardize(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised image of a raw one, ``(B, C, *spatial)``; see :func:`standardize`."""
        return standardize(image, self.brain(image), self.mean, self.std, self.background)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Output of the network for raw images, ``(B, C, *spatial)``."""
        return self.network(self.standardize(image))

    def fit(self, dataset: SliceDataset, key: str = "image") -> Standardized:
        """Set the constants from the raw images of the training fold; see :func:`fit_mean_std`."""
        mean, std = fit_mean_std(dataset.whole(key), self.brain_channel)
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self
