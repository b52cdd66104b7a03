"""The patch position network, built so that one pass over a volume gives the position of every patch in it, exactly.

MONAI's ``Regressor`` pads its convolutions and normalises over the patch; both make the value of a patch depend on how it was cut out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple_rep
from torch import nn
from torch.nn.functional import avg_pool3d, pad
from torch.nn.utils.parametrizations import spectral_norm

from common.errors import UserError

STRIDES = (1, 2, 4)
SLOPE = 0.2  # of the leaky rectifier
MEAN, SD = 0.5, 12**-0.5  # of numbers spread evenly over [0, 1], which is what histogram equalisation makes
_FIRST_SPREAD = 0.1  # of the last weights, relative to the others: all outputs begin near the middle, whatever the input


def check_patch_size(patch_size: int | Sequence[int]) -> tuple[int, int, int]:
    """Sides of a patch that two poolings halve without a rest.

    Args:
        patch_size: side in voxels, or one per axis.

    Returns:
        Three sides.

    Raises:
        UserError: a side that is not 15, 19, 23, 27, 31, ...
    """
    sides = ensure_tuple_rep(patch_size, 3)
    if any(int(side) != side or side < 15 or side % 4 != 3 for side in sides):
        raise UserError(f"patch_size: got {patch_size}, expected 15, 19, 23, 27, 31, 35, 39, ... (4 n + 3) voxels, once or per axis.")
    return (int(sides[0]), int(sides[1]), int(sides[2]))


def pool_to_fragments(features: torch.Tensor) -> torch.Tensor:
    """Average pooling 2/2 at every voxel, parted into its 8 interleaved volumes, stacked as batch.

    What follows then runs on ordinary volumes of half the side, where a pooling of stride 1 would ask for dilated layers behind it.

    Args:
        features: ``(B, C, X, Y, Z)``; an even side is filled up with zeros at its end, which no patch inside reaches.

    Returns:
        ``(8 B, C, X // 2, Y // 2, Z // 2)``; phase (i, j, k), k running fastest, holds the means over the cubes that begin at
        (2 x + i, 2 y + j, 2 z + k).

    Source: A. Giusti et al., "Fast image scanning with deep max-pooling convolutional neural networks", 2013.
    """
    even = [1 - side % 2 for side in features.shape[:1:-1]]
    if any(even):
        features = pad(features, [number for side in even for number in (0, side)])
    parts = []
    for i in (0, 1):  # sums of pairs along one axis after the other: three additions a voxel in place of eight
        rows = _pairs(features, 2, i)
        for j in (0, 1):
            columns = _pairs(rows, 3, j)
            parts += [_pairs(columns, 4, k) for k in (0, 1)]
    return torch.cat(parts).mul_(0.125)


def _pairs(features: torch.Tensor, axis: int, phase: int) -> torch.Tensor:
    """Sums of the neighbours 2 n + phase and 2 n + phase + 1 along an axis of odd length."""
    index: list[slice] = [slice(None)] * features.ndim
    index[axis] = slice(phase, features.shape[axis] - 1 + phase, 2)
    first = features[tuple(index)]
    index[axis] = slice(phase + 1, None, 2)
    return first + features[tuple(index)]


def from_fragments(fragments: torch.Tensor) -> torch.Tensor:
    """Put interleaved volumes together, the inverse of parting: ``(8 B, C, X, Y, Z)`` to ``(B, C, 2 X, 2 Y, 2 Z)``."""
    batch, (channels, *sides) = len(fragments) // 8, fragments.shape[1:]
    whole = fragments.view(2, 2, 2, batch, channels, *sides).permute(3, 4, 5, 0, 6, 1, 7, 2)
    return whole.reshape(batch, channels, *(2 * side for side in sides))


class Residual(nn.Module):
    """``x`` cropped to its centre, plus Conv(c, k) - act - Conv(c, 1) of ``x``; valid convolutions.

    Args:
        channels: c.
        kernel: k per axis, 1 or 3.
        normalise: spectral normalisation of both convolutions.
    """

    def __init__(self, channels: int, kernel: Sequence[int], normalise: bool) -> None:
        super().__init__()
        self.margin = [(side - 1) // 2 for side in kernel]
        self.conv1 = _conv(channels, channels, kernel, normalise)
        self.conv2 = _conv(channels, channels, 1, normalise)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(B, c, X, Y, Z)`` to ``(B, c, X - k + 1, ...)``."""
        change = self.conv2(self.act(self.conv1(features)))
        inner = [slice(m, side - m) for m, side in zip(self.margin, features.shape[2:], strict=True)]
        return change.add_(features[:, :, inner[0], inner[1], inner[2]])


class PositionRegressor(nn.Module):
    """From a patch to the place in the head where it was cut out.

    Conv(m, 2); Conv(2m, 3) - AvgPool(2) - Residual(2m); Conv(4m, 3) - AvgPool(2) - as many Residual(4m) as the patch has room for; an
    affine layer over what is left, of width 8m, and one with 3 outputs. No padding, no norm over the patch and no dropout, so that the
    value at a patch does not depend on what lies around it: a volume gives the positions of all its patches in one pass (:meth:`forward`).

    Args:
        patch_size: side of the patch in voxels, 4 n + 3 and at least 15; or one per axis.
        width: m.
        normalise: spectral normalisation of the convolutions (not of the affine layers).

    Source: Bieder et al., MIDL 2022, Sec. 2.1: width m, average pooling 2/2, residual blocks, spectral normalisation, affine layers, 3
        outputs. Figure 2, which has the order, is not public as text. Deviation: valid convolutions; the first has kernel 2, so that every
        pooling halves an even side and no voxel of the patch is dropped.
    """

    def __init__(self, patch_size: int | Sequence[int] = 31, width: int = 16, normalise: bool = True) -> None:
        super().__init__()
        self.patch_size, m = check_patch_size(patch_size), _check_width(width)
        self.act, self.outputs = nn.LeakyReLU(SLOPE, inplace=True), 3
        self.stem = _conv(1, m, 2, normalise)
        self.down1, self.down2 = _conv(m, 2 * m, 3, normalise), _conv(2 * m, 4 * m, 3, normalise)
        self.residual1 = Residual(2 * m, (3, 3, 3), normalise)
        rest = [(side - 11) // 4 for side in self.patch_size]
        self.residual2 = nn.Sequential()
        while max(rest) >= 3:
            kernel = [3 if side >= 3 else 1 for side in rest]
            self.residual2.append(Residual(4 * m, kernel, normalise))
            rest = [side - k + 1 for side, k in zip(rest, kernel, strict=True)]
        self.affine1, self.affine2 = nn.Conv3d(4 * m, 8 * m, (rest[0], rest[1], rest[2])), nn.Conv3d(8 * m, 3, 1)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # a fifth faster on CPU

    def reset_parameters(self) -> None:
        """Draw all weights anew; the outputs begin in the middle of the volume."""
        reset_normalised(self)
        _begin_in_the_middle(self.affine2)

    def forward(self, volume: torch.Tensor, stride: int = 4) -> torch.Tensor:
        """Position of every patch of a volume.

        Args:
            volume: ``(B, 1, X, Y, Z)``, each side at least the patch's.
            stride: distance between neighbouring patches in voxels: 4 (the network's own), 2 or 1.

        Returns:
            ``(B, 3, (X - patch) // stride + 1, ...)``: coordinates x of the patches' centres, in [0, 1] over the volume of the training.

        Raises:
            UserError: another stride, or a volume smaller than the patch.
        """
        counts = positions_per_axis(volume.shape[2:], self.patch_size, stride)
        features = self.act(self.down1(self.act(self.stem((volume - MEAN) / SD))))
        features = self.residual1(_pool(features, dense=stride == 1))
        features = _pool(self.act(self.down2(features)), dense=stride < 4)
        features = self.affine2(self.act(self.affine1(self.residual2(features))))
        for _ in range(2 - STRIDES.index(stride)):
            features = from_fragments(features)
        return features[:, :, : counts[0], : counts[1], : counts[2]]


class PaddedPositionRegressor(nn.Module):
    """The same task with zero padding inside the patch, for comparison: no dense pass gives its values, each patch must be cut out.

    Conv(m); three times Conv(2c) - AvgPool(2) - Residual(2c), all 3x3x3 with padding 1; flattened, Linear(8m), Linear(3).

    Args:
        patch_size: side of the patch in voxels, or one per axis; at least 8.
        width: m.
        normalise: spectral normalisation of the convolutions.

    Source: Bieder et al., MIDL 2022, Sec. 2.1, completed so that it meets the memory of table 1; see docs/equations.md.
    """

    def __init__(self, patch_size: int | Sequence[int] = 31, width: int = 16, normalise: bool = True) -> None:
        super().__init__()
        sides, m = ensure_tuple_rep(patch_size, 3), _check_width(width)
        if min(sides) < 8:
            raise UserError(f"patch_size: got {patch_size}, expected at least 8 voxels.")
        self.patch_size, self.outputs = (int(sides[0]), int(sides[1]), int(sides[2])), 3
        self.stem = _conv(1, m, 3, normalise, padding=1)
        widths = [m, 2 * m, 4 * m, 8 * m]
        self.down = nn.ModuleList(_conv(a, b, 3, normalise, padding=1) for a, b in itertools.pairwise(widths))
        self.conv1 = nn.ModuleList(_conv(c, c, 3, normalise, padding=1) for c in widths[1:])
        self.conv2 = nn.ModuleList(_conv(c, c, 3, normalise, padding=1) for c in widths[1:])
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        left = [side // 8 for side in self.patch_size]
        self.affine1, self.affine2 = nn.Linear(8 * m * left[0] * left[1] * left[2], 8 * m), nn.Linear(8 * m, 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; the outputs begin in the middle of the volume."""
        reset_normalised(self)
        _begin_in_the_middle(self.affine2)

    def forward(self, patches: torch.Tensor, stride: int = 4) -> torch.Tensor:
        """Positions ``(B, 3, 1, 1, 1)`` of patches ``(B, 1, *patch_size)``; ``stride`` has no meaning, there is but one position.

        Raises:
            UserError: something larger than a patch.
        """
        if tuple(patches.shape[2:]) != self.patch_size:
            raise UserError(
                f"PaddedPositionRegressor: got {tuple(patches.shape[2:])}, expected patches of {self.patch_size}; it pads"
                " inside the patch, so patches must be cut out one by one (positions_per_side 1, patchwise true)."
            )
        features = self.act(self.stem((patches - MEAN) / SD))
        for level in range(len(self.down)):
            features = avg_pool3d(self.act(self.down[level](features)), 2)
            features = features + self.conv2[level](self.act(self.conv1[level](features)))
        return self.affine2(self.act(self.affine1(features.flatten(1)))).view(-1, 3, 1, 1, 1)


class MultiScalePositionRegressor(nn.Module):
    """Several patch sizes around the same centres, each with weights of its own: a large patch is located well, a small one is sensitive.

    Args:
        regressors: one per patch size; the largest decides how much is cut out.

    Source: Bieder et al., MIDL 2022, Sec. 5 (named as future work).
    """

    def __init__(self, regressors: Sequence[PositionRegressor]) -> None:
        super().__init__()
        self.regressors = nn.ModuleList(regressors)
        self.sizes = sizes = [regressor.patch_size for regressor in regressors]
        self.patch_size = (max(s[0] for s in sizes), max(s[1] for s in sizes), max(s[2] for s in sizes))
        self.outputs = 3 * len(regressors)

    def forward(self, volume: torch.Tensor, stride: int = 4) -> torch.Tensor:
        """Positions by every scale, ``(B, 3 K, ...)``; see :meth:`PositionRegressor.forward`."""
        results = []
        for regressor, size in zip(self.regressors, self.sizes, strict=True):
            margin = [(large - own) // 2 for large, own in zip(self.patch_size, size, strict=True)]
            inner = [slice(m, side - m) for m, side in zip(margin, volume.shape[2:], strict=True)]
            results.append(regressor(volume[:, :, inner[0], inner[1], inner[2]], stride))
        return torch.cat(results, dim=1)


def positions_per_axis(shape: Sequence[int], patch_size: Sequence[int], stride: int) -> tuple[int, int, int]:
    """How many patches lie along each axis of a volume.

    Raises:
        UserError: a stride other than 1, 2, 4, or a volume smaller than the patch.
    """
    if stride not in STRIDES:
        raise UserError(f"stride: got {stride}, expected one of {STRIDES}.")
    counts = [(side - patch) // stride + 1 for side, patch in zip(shape, patch_size, strict=True)]
    if min(counts) < 1:
        raise UserError(f"volume: got {tuple(shape)} voxels, expected at least the patch, {tuple(patch_size)}.")
    return counts[0], counts[1], counts[2]


def reset_normalised(network: nn.Module) -> None:
    """Draw convolutions and affine layers anew, spectral norms and their running vectors included.

    ``reset_parameters`` of a layer whose weight is parametrised would change a temporary tensor only.
    """
    for layer in network.modules():
        if not isinstance(layer, nn.Conv3d | nn.Linear):
            continue
        weight = torch.empty_like(layer.weight)
        nn.init.kaiming_normal_(weight, a=SLOPE)
        with torch.no_grad():
            layer.weight.copy_(weight) if not hasattr(layer, "parametrizations") else _set_normalised(layer, weight)
            nn.init.zeros_(_bias(layer))


def _set_normalised(layer: nn.Module, weight: torch.Tensor) -> None:
    parametrization: Any = layer.parametrizations.weight  # type: ignore[union-attr]
    parametrization.original.copy_(weight)
    # exact: torch's own 15 power iterations from a random vector leave a norm up to 10 % above 1
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    parametrization[0]._u.copy_(left[:, 0])
    parametrization[0]._v.copy_(right[0])


def _begin_in_the_middle(layer: nn.Conv3d | nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.mul_(_FIRST_SPREAD)
        nn.init.constant_(_bias(layer), 0.5)


def _check_width(width: int) -> int:
    if width < 1:
        raise UserError(f"width: got {width}, expected 1 or more.")
    return int(width)


def _conv(inputs: int, outputs: int, kernel: int | Sequence[int], normalise: bool, padding: int = 0) -> nn.Module:
    conv = nn.Conv3d(inputs, outputs, ensure_tuple_rep(kernel, 3), padding=padding)
    return spectral_norm(conv) if normalise else conv


def _bias(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer.bias, torch.Tensor)
    return layer.bias


def _pool(features: torch.Tensor, dense: bool) -> torch.Tensor:
    """Average pooling: halved, or at every voxel and parted into fragments, so that what follows needs no dilation."""
    return pool_to_fragments(features) if dense else avg_pool3d(features, 2)
