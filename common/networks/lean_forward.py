"""The forward pass of :class:`DiffusionUNet` in half the memory, exactly: planes are computed when they are asked for.

MONAI's ``SlidingWindowInferer`` saves memory by windows that each have statistics of their own; here the statistics are the volume's.

A volume is worked through in slabs along its first axis. Normalisation, activation and convolution of a slab follow each other on a buffer
of the slab's size, so that of a residual block only its input and the features between its two convolutions exist as a whole. The sums of
the next normalisation are gathered on the way. The decoder writes into the buffers of the skips that it uses up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from common.errors import UserError
from common.networks.diffusion_blocks import widened
from common.networks.diffusion_unet import DiffusionUNet
from common.networks.lazy_planes import (
    Affine,
    Planes,
    activated,
    convolved,
    hidden,
    merged,
    plane_statistics,
    remembered,
    residual,
    stored,
    upsampled,
)


class Features(NamedTuple):
    """A stored volume ``(B, C, X, Y, Z)``, with mean and variance of its groups of channels, ``(B, groups)``."""

    values: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


class Skip(NamedTuple):
    """A result of the encoder; ``values`` is its buffer, None when it is to be computed again."""

    planes: Planes
    values: torch.Tensor | None


class LeanForward:
    """A network that is called like :class:`DiffusionUNet`, without gradients and in less memory; dropout is off.

    Args:
        network: whose weights are used; it may be split over two devices.
        slab: thickness of the slabs, in voxels of each level. Thinner needs less memory and more time for what slabs have in common.
        recompute: do not keep the skips of the first level but compute them again from the input, slab by slab, with the statistics of the
            first time. The result is the same; a quarter to a half more time.
        channels_last: memory format of what is computed; None: yes on a CPU, where its slabs are contiguous, else as the input.

    Raises:
        UserError: a slab without voxels.
    """

    def __init__(self, network: DiffusionUNet, slab: int = 8, recompute: bool = False, channels_last: bool | None = None) -> None:
        if slab < 1:
            raise UserError(f"slab: got {slab}, expected 1 voxel or more (8 by default).")
        self.network, self.slab, self.recompute, self.channels_last = network, int(slab), recompute, channels_last

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        """See :meth:`DiffusionUNet.forward`."""
        net = self.network
        net.check_input(x, timesteps, context)
        last = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
        if self.channels_last or (self.channels_last is None and (x.device.type == "cpu" or last)):
            memory_format = torch.channels_last_3d
        else:
            memory_format = torch.contiguous_format
        skips: list[Skip] = []
        embedding = net.embed_time(timesteps)
        features = self._encode(stored(x, memory_format), embedding, skips)
        for block in net.middle:
            features = self._block(features, block, embedding)[0]
        return self._decode(features, embedding, skips).to(x.device)

    def _encode(self, planes: Planes, embedding: torch.Tensor, skips: list[Skip]) -> Features:
        """Run the encoder and append its skips."""
        level: Any
        for index, level in enumerate(self.network.encoder):
            again = self.recompute and index == 0
            planes = convolved(planes, level.change)
            features = self._store(planes)
            planes = planes if again else stored(features.values)  # lets go of the level above
            skips.append(Skip(planes, None if again else features.values))
            for block in level.blocks:
                features, first, second = self._block(features, block, embedding, in_place=again)
                if again:
                    planes = remembered(planes)
                    planes = residual(planes, hidden(planes, block, first, embedding), block, second)
                skips.append(Skip(planes, None) if again else Skip(stored(features.values), features.values))
            planes = stored(features.values)
        return features

    def _decode(self, features: Features, embedding: torch.Tensor, skips: list[Skip]) -> torch.Tensor:
        """Run the decoder, which empties the list of skips, and the last layers."""
        net = self.network
        level: Any
        spare: torch.Tensor | None = features.values
        planes = stored(features.values)
        for level in reversed(net.decoder):
            for block in level.blocks:
                features = self._join(planes, skips.pop(), spare, next(level.parameters()).device)
                planes, spare = stored(features.values), None  # drops what went into the mean
                features = self._block(features, block, embedding, in_place=True)[0]
                planes, spare = stored(features.values), features.values
            if isinstance(level.change, nn.Sequential):
                planes, spare = convolved(upsampled(planes), level.change[1]), None
        head = convolved(activated(planes, self._affine(features, net.norm)), net.head)
        return self._fill(head).contiguous()

    def _join(self, planes: Planes, skip: Skip, spare: torch.Tensor | None, device: torch.device) -> Features:
        """Features and skip on the device, averaged in the buffer of one of them, or concatenated."""
        network = self.network

        def make(a: int, b: int) -> torch.Tensor:
            mine = skip.planes.make(a, b).to(device)  # first, since to make it again may need most
            return network.join(planes.make(a, b).to(device), mine)

        into = spare if skip.values is None else skip.values
        if network.skip == "concatenate" or (into is not None and into.device != device):
            into = None
        return self._store(Planes(make, planes.length), into)

    def _block(self, features: Features, block: Any, embedding: torch.Tensor, in_place: bool = False) -> tuple[Features, Affine, Affine]:
        """Result of a residual block and its two normalisations; ``in_place`` gives up the input's buffer."""
        planes, first = stored(features.values), self._affine(features, block.norm1)
        between = self._store(hidden(planes, block, first, embedding))
        second = self._affine(between, block.norm2)
        fits = in_place and block.conv1.in_channels == block.conv2.out_channels
        return self._store(residual(planes, stored(between.values), block, second), features.values if fits else None), first, second

    def _affine(self, features: Features, norm: nn.GroupNorm) -> Affine:
        """Scale and shift that normalise these features."""
        size = norm.num_channels // norm.num_groups
        rate = (features.variance + norm.eps).rsqrt().repeat_interleave(size, dim=1)
        scale = widened(norm.weight) * rate
        shift = widened(norm.bias) - features.mean.repeat_interleave(size, dim=1) * scale
        return scale[..., None, None, None], shift[..., None, None, None]

    def _store(self, planes: Planes, into: torch.Tensor | None = None) -> Features:
        """Compute a volume and the statistics of its groups; see :meth:`_fill`."""
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        values = self._fill(planes, into, lambda part: found.append(plane_statistics(part, self.network.groups)))
        return Features(values, *merged(found))

    def _fill(self, planes: Planes, into: torch.Tensor | None = None, watch: Callable[[torch.Tensor], None] | None = None) -> torch.Tensor:
        """Compute a volume slab by slab, each shown to ``watch``; ``into`` may be what the same planes are made of."""
        for a in range(0, planes.length, self.slab):
            b = min(a + self.slab, planes.length)
            part = planes.make(a, b)
            if watch is not None:
                watch(part)
            if b - a == planes.length:
                return part
            if into is None:
                last = part.is_contiguous(memory_format=torch.channels_last_3d)
                memory_format = torch.channels_last_3d if last else torch.contiguous_format
                shape = (*part.shape[:2], planes.length, *part.shape[3:])
                into = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=memory_format)
            into[:, :, a:b] = part
            del part  # before the next is made
        assert into is not None
        return into


def lean_forward(network: DiffusionUNet, x: torch.Tensor, timesteps: torch.Tensor, slab: int = 8, recompute: bool = False) -> torch.Tensor:
    """One pass of :class:`LeanForward`."""
    return LeanForward(network, slab, recompute)(x, timesteps)
