"""The 3D diffusion U-Net without attention, whose skips are averaged rather than concatenated.

MONAI's ``DiffusionModelUNet`` always concatenates its skips and always attends in the middle, which is what full volumes cannot afford.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from common.networks.diffusion_blocks import GroupNorm, Level, ResidualBlock

SKIPS = ("average", "concatenate")
PARTINGS = ("decoder", "levels")
Block = Callable[[int, int], ResidualBlock]  # of input and output channels


class DiffusionUNet(nn.Module):
    r"""Noise (or velocity, or logits) predicted from conditions and the noisy mask at a time t.

    Encoder: every level begins with a convolution (stride 2 except in the first) and goes on with residual blocks; each of their results
    is a skip s. Middle: two residual blocks. Decoder: before each residual block the features become :math:`(h + s) / f`, or h and s
    concatenated; a level ends with nearest up-sampling and a convolution. Time: sines and cosines, two affine layers.

    Args:
        in_channels: image channels, coordinates if any, and the noisy mask (last).
        out_channels: channels of the mask.
        base_channels: width of the first level.
        multipliers: width of each level in base channels.
        blocks_per_level: residual blocks of a level in the encoder; the decoder has one more.
        groups: of the group normalisation; None: as many as base channels.
        skip: ``average`` or ``concatenate``.
        divisor: f, used by ``average``: 2 is the mean, 1 the sum, the square root of 2 keeps the variance.
        dropout: probability inside the residual blocks, in [0, 1).
        checkpointing: compute the residual blocks again in the backward pass instead of keeping their activations.

    Raises:
        UserError: a setting out of range.

    Source: Bieder et al., MIDL 2023, Sec. 3 and App. B, completed from the released code (methods/patchddm.md, section 4).
        Deviation: none with the default settings; 24,260,299 parameters.
    """

    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 1,
        base_channels: int = 29,
        multipliers: Sequence[int] = (1, 3, 4, 4, 4, 4, 4),
        blocks_per_level: int = 2,
        groups: int | None = None,
        skip: str = "average",
        divisor: float = 2.0,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        widths, groups = [base_channels * m for m in multipliers], base_channels if groups is None else groups
        _check_settings(widths, blocks_per_level, groups, skip, divisor)
        self.in_channels, self.base_channels, self.groups = in_channels, base_channels, groups
        self.skip, self.divisor, self.checkpointing = skip, float(divisor), checkpointing
        embedding = 4 * base_channels
        self.time = nn.Sequential(nn.Linear(base_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, groups, dropout)

        self.encoder, skips = _encoder(in_channels, widths, blocks_per_level, block)
        self.middle = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))
        self.decoder = _decoder(widths, skips, blocks_per_level, skip, block)
        self.norm, self.act, self.head = GroupNorm(groups, widths[0]), nn.SiLU(), nn.Conv3d(widths[0], out_channels, 3, padding=1)
        self._zero()

    @property
    def factor(self) -> int:
        """Sides of a volume must be multiples of this."""
        return 2 ** (len(self.encoder) - 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        """Predict from a noisy mask and its conditions.

        Args:
            x: image in [-1, 1], coordinates in [-1, 1], noisy mask last: ``(B, in_channels, X, Y, Z)``, float.
            timesteps: t in [0, 1000), ``(B,)`` or ``(1,)`` for the whole batch, integer or fractional.
            context: None; MONAI's inferers name it.

        Returns:
            ``(B, out_channels, X, Y, Z)``.

        Raises:
            UserError: other channels, or sides that the levels cannot halve.
        """
        self.check_input(x, timesteps, context)
        device, embedding, skips = x.device, self.embed_time(timesteps), []
        level: Any
        for level in self.encoder:
            x = level.change(_to(x, level))
            skips.append(x)
            for block in level.blocks:
                x = self._run(block, x, embedding)
                skips.append(x)
        x = _to(x, self.middle)
        for block in self.middle:
            x = self._run(block, x, embedding)
        for level in reversed(self.decoder):
            x = _to(x, level)
            for block in level.blocks:
                x = self._run(block, self.join(x, _to(skips.pop(), level)), embedding)
            x = level.change(x)
        return self.head(self.act(self.norm(x))).to(device)

    def embed_time(self, timesteps: torch.Tensor) -> torch.Tensor:
        """``(B,)`` to ``(B, 4 base_channels)``; an odd width ends with a zero before the affine layers."""
        first: Any = self.time[0].weight
        waves = get_timestep_embedding(timesteps.to(first.device), self.base_channels)
        return self.time(waves.to(first.dtype))

    def join(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Features of the decoder with those of the encoder: averaged by the divisor, or concatenated in this order."""
        return torch.cat([features, skip], dim=1) if self.skip == "concatenate" else (features + skip) / self.divisor

    def split(self, devices: Sequence[str | torch.device], outer_levels: int = 2, by: str = "decoder") -> DiffusionUNet:
        """Spread the network over two devices; the forward pass moves the features and returns them on the first.

        Args:
            devices: the first and the second. Move nothing afterwards.
            outer_levels: how many levels of highest resolution are outer ones.
            by: ``decoder``: the outer levels of the decoder go to the second device, which then holds about three fifths of the activations
                of a training step; ``levels``: all inner levels go there, a small part of the activations but most weights.

        Returns:
            The network itself.

        Raises:
            UserError: not two devices, no level for one of them, or another way.

        Source: Bieder et al., MIDL 2023, Sec. 4: FullRes over two GPUs; the released code parts before decoder block 15, as ``decoder``.
            Deviation: the last convolution stays on the second device.
        """
        if len(devices) != 2 or not 0 < outer_levels < len(self.encoder) or by not in PARTINGS:
            raise UserError(
                f"split: got devices {list(devices)}, outer_levels {outer_levels} and by {by!r}, expected two devices, 1 to"
                f" {len(self.encoder) - 1} of the {len(self.encoder)} levels and one of {PARTINGS}."
            )
        self.to(devices[0])
        inner = [self.encoder[outer_levels:], self.middle, self.decoder[outer_levels:]]
        for part in inner if by == "levels" else [self.decoder[:outer_levels], self.norm, self.head]:
            part.to(devices[1])
        return self

    def reset_parameters(self) -> None:
        """Draw all weights anew; every residual block begins as its shortcut and the output as 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear | nn.GroupNorm):
                module.reset_parameters()
        self._zero()

    def check_input(self, x: torch.Tensor, timesteps: torch.Tensor, context: object = None) -> None:
        """Raise a UserError for what the network cannot take."""
        if context is not None:
            raise UserError("context: this network has no attention; concatenate conditions to x (DiffusionInferer: mode 'concat').")
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise UserError(f"x: got shape {tuple(x.shape)}, expected (B, {self.in_channels}, X, Y, Z); in_channels counts the noisy mask.")
        if any(side % self.factor for side in x.shape[2:]):
            raise UserError(f"x: got sides {tuple(x.shape[2:])}, expected multiples of {self.factor}; pad the volume, as the inferer does.")
        if timesteps.ndim != 1 or timesteps.shape[0] not in (1, x.shape[0]):  # len() would bind an export to one batch
            raise UserError(f"timesteps: got shape {tuple(timesteps.shape)}, expected ({len(x)},) or (1,).")

    def _run(self, block: nn.Module, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, embedding, use_reentrant=False)
        return block(x, embedding)

    def _zero(self) -> None:
        convolutions = [block.conv2 for block in self.modules() if isinstance(block, ResidualBlock)]
        for layer in (*convolutions, self.head):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def _encoder(inputs: int, widths: Sequence[int], blocks: int, block: Block) -> tuple[nn.ModuleList, list[int]]:
    """Levels from fine to coarse, and the channels of the skips."""
    levels, skips = nn.ModuleList(), []
    for before, width in pairwise([inputs, widths[0], *widths[1:]]):
        first = not levels
        start = widths[0] if first else before
        change = nn.Conv3d(before, start, 3, stride=1 if first else 2, padding=1)
        levels.append(Level([block(start if n == 0 else width, width) for n in range(blocks)], change))
        skips += [start, *[width] * blocks]
    return levels, skips


def _decoder(widths: Sequence[int], skips: Sequence[int], blocks: int, skip: str, block: Block) -> nn.ModuleList:
    """Levels from fine to coarse; with averaged skips a block has the channels of the next skip, else those of its level."""
    left, channels, levels = list(skips), skips[-1], []
    for level in range(len(widths) - 1, -1, -1):
        parts = []
        for _ in range(blocks + 1):
            joined = channels + left.pop() if skip == "concatenate" else left.pop()
            channels = widths[level] if skip == "concatenate" else (left[-1] if left else widths[0])
            parts.append(block(joined, channels))
        up = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv3d(channels, channels, 3, padding=1))
        levels.append(Level(parts, up if level else None))
    return nn.ModuleList(levels[::-1])


def _to(x: torch.Tensor, part: Any) -> torch.Tensor:
    return x.to(next(part.parameters()).device)


def _check_settings(widths: Sequence[int], blocks: int, groups: int, skip: str, divisor: float) -> None:
    if not widths or min(widths) < 1 or blocks < 1:
        raise UserError(f"widths {list(widths)}, blocks_per_level {blocks}: expected at least one level, channel and block.")
    if groups < 1 or any(width % groups for width in widths):
        raise UserError(f"groups: got {groups}, expected a divisor of every width, which are {list(widths)}; None always is one.")
    if skip not in SKIPS:
        raise UserError(f"skip: got {skip!r}, expected one of {SKIPS}.")
    if not divisor > 0:
        raise UserError(f"divisor: got {divisor}, expected more than 0 (2 is the mean, 1 the sum).")
