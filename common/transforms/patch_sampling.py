"""Training patches drawn more often near the middle, from volumes padded in thought only; MONAI draws uniformly and pads in memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep

from common.errors import UserError
from common.transforms.position_crops import cut

HALF_WIDTHS = {"thirds": (1 / 3, 2 / 3), "quarters": (1 / 4, 3 / 4), "uniform": (0.0, 1.0)}
"""Half widths a and b of the two uniform draws whose sum is the patch's position, by distribution."""


def patch_position(first: float, second: float, distribution: str = "thirds") -> float:
    r"""Normalised position of a patch along one axis: -1 at the start, 0 in the middle, 1 at the end of the padded volume.

    .. math:: u = X + Y, \qquad X \sim U[-a, a],\; Y \sim U[-b, b],\; a + b = 1

    Thirds (a = 1/3) have a standard deviation of sqrt(5/27) = 0.430 and 50 % of their mass within 1/3 of the middle; quarters (a = 1/4)
    sqrt(5/24) = 0.456 and 4/9; uniform sqrt(1/3) = 0.577 and 1/3.

    Args:
        first: uniform draw in [0, 1) that gives X.
        second: uniform draw in [0, 1) that gives Y.
        distribution: "thirds" (the paper), "quarters" (the released code) or "uniform".

    Returns:
        u in [-1, 1).

    Source: Bieder et al., MIDL 2023, appendix A (thirds); released code, bratsloader.py:138 (quarters; its sum of two integers has the same
        law up to one voxel).
    """
    a, b = HALF_WIDTHS[distribution]
    return a * (2 * first - 1) + b * (2 * second - 1)


def patch_start(position: float, reach: int) -> int:
    """First voxel of a patch at a normalised position.

    Args:
        position: in [-1, 1].
        reach: largest start, side of the padded volume minus side of the patch.

    Returns:
        Start in 0 ... reach; a uniform position gives each equally often.
    """
    return min(reach, max(0, int((position + 1) / 2 * (reach + 1))))


def padding_before(shape: Sequence[int], padded: Sequence[int]) -> list[int]:
    """Voxels of padding in front of a volume in the middle of a padded one; the odd one goes behind (155 in 256: 50 before, 51 after).

    Args:
        shape: sides of the volume.
        padded: sides of the padded volume.

    Raises:
        UserError: the volume is larger than the padded one.

    Source: released code of PatchDDM, bratsloader.py (8 and 8 in x and y, 50 and 51 in z).
    """
    if any(size > limit for size, limit in zip(shape, padded, strict=True)):
        raise UserError(
            f"padded_size: got {tuple(padded)} for a volume of {tuple(shape)} voxels; expected at least as many along every axis."
            " Raise padded_size to the next multiple of 64."
        )
    return [(limit - size) // 2 for size, limit in zip(shape, padded, strict=True)]


class RandPatchd(RandomizableTransform, MapTransform):
    """Cut one random patch out of a volume and its label, as if both were padded to ``padded_size``; only the patch is ever made.

    Args:
        keys: volumes ``(C, X, Y, Z)`` of one grid, such as image and label; all get the same patch.
        patch_size: sides of the patch, voxels.
        padded_size: sides of the padded volume, voxels; equal to ``patch_size`` for training on whole volumes.
        distribution: law of the position: "thirds" (the paper), "quarters" (the released code) or "uniform".
        fill: value of the padding, the background's.
        start_key: where the first voxel of the patch in the padded volume goes, ``(3,)`` int64, for ``AddCoordinatesd``.
        shape_key: where the sides of the padded volume go, ``(3,)`` int64.

    Floating volumes (float16 in a cache too) give float32 patches, integers keep their type. The patches are plain tensors.

    Source: Bieder et al., MIDL 2023, Sec. 3.2 and appendix A: patches of 128^3 from 256^3, axes independent.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        patch_size: int | Sequence[int] = 128,
        padded_size: int | Sequence[int] = 256,
        distribution: str = "thirds",
        fill: float = 0.0,
        start_key: str = "patch_start",
        shape_key: str = "padded_shape",
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if distribution not in HALF_WIDTHS:
            raise UserError(f"distribution: got {distribution!r}; expected one of {', '.join(HALF_WIDTHS)}.")
        self.patch_size = [int(side) for side in ensure_tuple_rep(patch_size, 3)]
        self.padded_size = [int(side) for side in ensure_tuple_rep(padded_size, 3)]
        if any(not 0 < side <= limit for side, limit in zip(self.patch_size, self.padded_size, strict=True)):
            raise UserError(f"patch_size: got {self.patch_size}; expected sides from 1 to those of padded_size, {self.padded_size}.")
        self.distribution, self.fill, self.start_key, self.shape_key = distribution, fill, start_key, shape_key

    def randomize(self, data: Any = None) -> list[int]:  # type: ignore[override]
        """First voxel of a patch in the padded volume."""
        draws = self.R.uniform(size=(3, 2))
        positions = [patch_position(float(x), float(y), self.distribution) for x, y in draws]
        reaches = [limit - side for side, limit in zip(self.patch_size, self.padded_size, strict=True)]
        return [patch_start(position, reach) for position, reach in zip(positions, reaches, strict=True)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the patch.

        Raises:
            UserError: a volume is larger than ``padded_size``, or two have different shapes.
        """
        result = dict(data)
        start = self.randomize()
        shape = tuple(data[self.keys[0]].shape[1:])
        before = padding_before(shape, self.padded_size)
        first = [a - b for a, b in zip(start, before, strict=True)]
        for key in self.key_iterator(result):
            volume = result[key]
            if tuple(volume.shape[1:]) != shape:
                raise UserError(
                    f"case {data.get('id', '?')}: {key!s} has {tuple(volume.shape[1:])} voxels, {self.keys[0]!s} {shape}; expected one."
                )
            # slicing a MetaTensor costs more than the cut
            patch = cut(volume.as_tensor() if isinstance(volume, MetaTensor) else volume, first, self.patch_size, self.fill)
            result[key] = patch.float() if patch.is_floating_point() else patch
        return result | {self.start_key: torch.tensor(start), self.shape_key: torch.tensor(self.padded_size)}
