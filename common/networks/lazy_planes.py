"""Volumes of features that are computed plane by plane, when they are asked for.

MONAI's lazy resampling postpones transforms of images; nothing of it postpones a network's layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.functional import conv3d, interpolate, silu

from common.networks.diffusion_blocks import ResidualBlock, widened

Affine = tuple[torch.Tensor, torch.Tensor]  # scale and shift per channel, (B, C, 1, 1, 1): a normalisation whose statistics are known


class Planes(NamedTuple):
    """A volume that is computed when it is asked for: ``make(a, b)`` gives its planes a ... b - 1, ``(B, C, b - a, Y, Z)``."""

    make: Callable[[int, int], torch.Tensor]
    length: int


def stored(values: torch.Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Planes:
    """Planes of a volume in memory, in this memory format."""
    return Planes(lambda a, b: values[:, :, a:b].to(memory_format=memory_format), values.shape[2])


def remembered(planes: Planes) -> Planes:
    """The same; what was made last is kept, so that asking for a part of it costs nothing."""
    last: list[Any] = [0, 0, None]

    def make(a: int, b: int) -> torch.Tensor:
        if a < last[0] or b > last[1]:
            last[2] = None  # freed before the next is made
            last[:] = [a, b, planes.make(a, b)]
        return last[2][:, :, a - last[0] : b - last[0]]

    return Planes(make, planes.length)


def convolved(planes: Planes, layer: Any, shift: torch.Tensor | None = None) -> Planes:
    """A 3x3x3 convolution with padding 1 and the layer's stride; ``shift`` ``(B, C, 1, 1, 1)`` is added."""
    stride = layer.stride[0]

    def make(a: int, b: int) -> torch.Tensor:
        low, high = a * stride - 1, (b - 1) * stride + 2
        border = low < 0 or high > planes.length
        source = planes.make(max(low, 0), min(high, planes.length)).to(layer.weight.device)
        result = _convolve(source, layer, int(border))
        if border:  # padded at both ends, of which one may lie inside the volume
            first = int(low >= 0)
            result = result[:, :, first : first + b - a]
        return result if shift is None else result.add_(shift)

    return Planes(make, planes.length // stride)


def activated(planes: Planes, affine: Affine) -> Planes:
    """Normalisation, in float32 at least, and SiLU."""

    def make(a: int, b: int) -> torch.Tensor:
        source = planes.make(a, b)
        return silu(torch.addcmul(affine[1], widened(source), affine[0]).to(source.dtype), inplace=True)

    return Planes(make, planes.length)


def upsampled(planes: Planes) -> Planes:
    """Every voxel repeated twice along each axis."""

    def make(a: int, b: int) -> torch.Tensor:
        low = a // 2
        return interpolate(planes.make(low, (b + 1) // 2), scale_factor=2, mode="nearest")[:, :, a - 2 * low : b - 2 * low]

    return Planes(make, 2 * planes.length)


def hidden(planes: Planes, block: ResidualBlock, affine: Affine, embedding: torch.Tensor) -> Planes:
    """What a residual block computes up to its second normalisation."""
    return convolved(activated(planes, affine), block.conv1, block.shift(embedding))


def residual(planes: Planes, between: Planes, block: ResidualBlock, affine: Affine) -> Planes:
    """Result of a residual block from its input and its :func:`hidden` planes."""
    change = convolved(activated(between, affine), block.conv2)

    def make(a: int, b: int) -> torch.Tensor:
        result = change.make(a, b)  # first, since it asks for more planes than the shortcut
        return result.add_(block.shortcut(planes.make(a, b)))

    return Planes(make, planes.length)


def _convolve(source: torch.Tensor, layer: Any, margin: int) -> torch.Tensor:
    """Convolution with this padding along the first axis."""
    stride, padding = layer.stride, (margin, *layer.padding[1:])
    half = source.dtype != torch.float32 or torch.is_autocast_enabled(source.device.type)
    if source.device.type == "cpu" and torch.backends.mkldnn.is_available() and not half:
        # torch's own choice for thin slabs is a matrix product, which takes seven times as long and 27 times the memory
        return torch.mkldnn_convolution(source, layer.weight, layer.bias, padding, stride, (1, 1, 1), 1)
    return conv3d(source, layer.weight, layer.bias, stride, padding)


def plane_statistics(part: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each group of channels in each plane, ``(B, X, groups)``, by the kernel of the group normalisation."""
    batch, channels, planes, *sides = part.shape
    pictures = widened(part).transpose(1, 2).reshape(batch * planes, channels, *sides)  # no copy for a single volume, channels last
    voxels, row = sides[0] * sides[1], sides[1] * channels
    if min(channels, *sides) == 1 or pictures.stride() != (voxels * channels, 1, row, channels):
        pictures = pictures.clone(memory_format=torch.contiguous_format)
    _, mean, rate = torch.native_group_norm(pictures, None, None, batch * planes, channels, voxels, groups, 0.0)
    return mean.view(batch, planes, groups), rate.view(batch, planes, groups).square().reciprocal()


def merged(found: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Mean and variance of a volume from those of its n planes: :math:`\sigma^2 = \frac{1}{n} \sum_i \sigma_i^2 + (\mu_i - \mu)^2`."""
    means, variances = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    mean = means.mean(1)
    return mean, (variances + (means - mean[:, None]).square()).mean(1)
