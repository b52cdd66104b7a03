"""The thesis' families of autoencoders by strided convolutions; MONAI's ``AutoEncoder`` and ``UNet`` have other blocks and skips."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.layers.factories import Dropout
from torch import nn

from common.errors import UserError
from common.networks.residual_blocks import BLOCKS, ResidualBlock, batch_norm, convolution, doubling, draw_glorot

FAMILIES = {"shallow": "none", "residual_unet": "concatenate", "skip": "add", "myronenko": "none"}
"""How each family joins the encoder's features at a half and a quarter of the resolution to the decoder's."""

OUTPUT_IN_L2 = ("shallow", "residual_unet")
"""Families whose output convolution the released code regularises with the encoder."""

Stages = tuple[nn.Module, nn.Module, nn.Module]


def _shallow(dims: int, inputs: int, widths: Sequence[int], block: str) -> Stages:
    one, two, three = widths
    second = nn.Sequential(ResidualBlock(dims, one, two, 2, block), ResidualBlock(dims, two, two, 1, block))
    return convolution(dims, inputs, one, stride=2), second, ResidualBlock(dims, two, three, 2, block)


def _skip(dims: int, inputs: int, widths: Sequence[int]) -> Stages:
    def halving(before: int, channels: int) -> list[nn.Module]:
        return [convolution(dims, before, channels, stride=2), batch_norm(dims, channels)]

    one, two, three = widths
    # a ReLU stands at the head of the next stage, since what is joined is the batch norm's output; not in place for the same reason
    last = nn.Sequential(nn.ReLU(), *halving(two, three), nn.ReLU(inplace=True))
    return nn.Sequential(*halving(inputs, one)), nn.Sequential(nn.ReLU(), *halving(one, two)), last


def _myronenko(dims: int, inputs: int, widths: Sequence[int], block: str, dropout: float) -> Stages:
    def stage(before: int, channels: int, blocks: int) -> list[nn.Module]:
        sizes = [before, *[channels] * blocks]
        parts = [ResidualBlock(dims, a, b, 1, block, project=True) for a, b in pairwise(sizes)]
        return [*parts, convolution(dims, channels, channels, stride=2)]

    one, two, three = widths
    head = [convolution(dims, inputs, one), Dropout[Dropout.DROPOUT, dims](dropout)]
    return nn.Sequential(*head, *stage(one, one, 1)), nn.Sequential(*stage(one, two, 2)), nn.Sequential(*stage(two, three, 2))


class ResidualAutoencoder(nn.Module):
    """Reconstruct healthy slices, or volumes, from a code of an eighth of their resolution.

    Every family halves three times by a convolution and doubles three times by a transposed one with BN and ReLU; a 3x3 convolution and a
    sigmoid end it. ``shallow``: three residual blocks. ``residual_unet``: the same, and the features at a half and a quarter of the
    resolution are concatenated in the decoder. ``skip``: plain convolutions with BN and ReLU, whose features are added before the
    decoder's ReLU. ``myronenko``: spatial dropout, one block, then twice two blocks, each with a 1x1 shortcut, halvings between them.

    Parameters at full width in 2D with pre-activation (original) blocks: shallow 459,553 (459,745), residual_unet 482,593 (482,785), skip
    190,369, myronenko 989,345.

    Args:
        family: ``shallow``, ``residual_unet``, ``skip`` or ``myronenko``.
        block: of the residual families: ``preactivation`` or ``original``; ``skip`` has none and ignores it.
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the image and of its reconstruction.
        widths: channels at a half, a quarter and an eighth of the resolution; narrower ones for small machines.
        dropout: share of channels that ``myronenko`` drops behind its first convolution, in [0, 1].

    Raises:
        UserError: an unknown family or block, or numbers outside their range.

    Source: methods/brain_autoencoder.md, section 5. Deviation: the alignment of strided convolutions (see ``residual_blocks``); 3D and
        ``original`` blocks in ``myronenko`` are ours.
    """

    def __init__(
        self,
        family: str = "residual_unet",
        block: str = "preactivation",
        spatial_dims: int = 2,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_numbers(family, block, spatial_dims, widths, dropout)
        self.family, self.joining, self.dims = family, FAMILIES[family], spatial_dims
        if family == "skip":
            stages = _skip(spatial_dims, in_channels, widths)
        elif family == "myronenko":
            stages = _myronenko(spatial_dims, in_channels, widths, block, dropout)
        else:
            stages = _shallow(spatial_dims, in_channels, widths, block)
        self.stage1, self.stage2, self.stage3 = stages
        one, two, three = widths
        factor, last = 2 if self.joining == "concatenate" else 1, max(1, one // 2)
        self.up3 = doubling(spatial_dims, three, two)
        self.up2 = doubling(spatial_dims, factor * two, one)
        self.up1 = doubling(spatial_dims, factor * one, last)
        self.output = convolution(spatial_dims, last, in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew from torch's generator."""
        draw_glorot(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct a batch.

        Args:
            image: in [0, 1], ``(B, in_channels, *spatial)``, float.

        Returns:
            The reconstruction in (0, 1), same shape.

        Raises:
            UserError: sides that are no multiples of 8, or another number of axes.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing()):
            _check_sides(image, self.dims)
        half = self.stage1(image)
        quarter = self.stage2(half)
        code = self.stage3(quarter)
        x = self._join(self.up3(code), quarter)
        x = self._join(self.up2(x), half)
        return torch.sigmoid(self.output(torch.relu(self.up1(x))))

    def _join(self, x: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """ReLU of the decoder's features, with the encoder's as the family has it."""
        if self.joining == "add":
            return torch.relu(x + encoded)
        x = torch.relu(x)
        return torch.cat([x, encoded], dim=1) if self.joining == "concatenate" else x

    def regularised(self) -> list[nn.Parameter]:
        """Kernels under the thesis' L2: the encoder's convolutions with their shortcuts, and the output where `OUTPUT_IN_L2` says so.

        Not biases, not transposed convolutions, not the first convolution of ``myronenko``.
        """
        stages = nn.ModuleList([self.stage1, self.stage2, self.stage3])
        layers = [layer for layer in stages.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]
        if self.family == "myronenko":
            layers = layers[1:]
        if self.family in OUTPUT_IN_L2:
            layers.append(self.output)  # type: ignore[arg-type]
        return [layer.weight for layer in layers]  # type: ignore[misc]


def l2_parameter_groups(network: ResidualAutoencoder, l2: float = 0.0) -> list[dict[str, Any]]:
    r"""Parameter groups for a torch optimizer with Keras' penalty :math:`\lambda \sum w^2` on the regularised kernels.

    Its gradient is :math:`2 \lambda w`; torch's ``weight_decay`` d adds :math:`d\,w`, so :math:`d = 2 \lambda`. That holds for optimizers
    which add it to the gradient (RMSprop, SGD, Adam), not for AdamW.

    Args:
        network: a bare network, not inside ``DistributedDataParallel``.
        l2: :math:`\lambda`, >= 0; the thesis has 1e-5 or 0.

    Returns:
        The regularised kernels, then all other parameters; two groups for every l2, so that checkpoints look alike.

    Raises:
        UserError: a negative l2.

    Source: methods/brain_autoencoder.md, section 5, and the released code for the layers. Deviation: Keras adds the penalty to the
        validation loss that the schedule watches; here validation is the error alone.
    """
    if not l2 >= 0:
        raise UserError(f"l2: got {l2}, expected a number >= 0 (0 switches it off).")
    chosen = network.regularised()
    places = {id(weight) for weight in chosen}
    others = [parameter for parameter in network.parameters() if id(parameter) not in places]
    return [{"params": chosen, "weight_decay": 2 * float(l2)}, {"params": others, "weight_decay": 0.0}]


def _check_numbers(family: str, block: str, dims: int, widths: Sequence[int], dropout: float) -> None:
    if family not in FAMILIES:
        raise UserError(f"family: got '{family}', expected one of {sorted(FAMILIES)}.")
    if block not in BLOCKS:
        raise UserError(f"block: got '{block}', expected one of {BLOCKS}.")
    if dims not in (2, 3):
        raise UserError(f"spatial_dims: got {dims}, expected 2 (slices) or 3 (volumes).")
    if len(widths) != 3 or min(widths) < 1:
        raise UserError(f"widths: got {list(widths)}, expected three numbers of channels >= 1, at a half, a quarter and an eighth.")
    if not 0 <= dropout <= 1:
        raise UserError(f"dropout: got {dropout}, expected a share of channels in [0, 1].")


def _check_sides(image: torch.Tensor, dims: int) -> None:
    sides = tuple(image.shape[2:])
    if len(sides) != dims or any(side % 8 for side in sides):
        raise UserError(
            f"ResidualAutoencoder: got images of {sides} voxels, expected {dims} sides that are multiples of 8 (three halvings); "
            "resize or pad them."
        )
