"""A volume inside the cube of the training: padded for the network, with the coordinates of the cube, and cut back.

MONAI's ``DivisiblePad`` knows nothing of the cube that the coordinates span, and pads before the data reach the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.utils import ensure_tuple_rep
from torch.nn.functional import avg_pool3d, interpolate, pad

from common import flag
from common.errors import UserError
from common.transforms.coordinates import coordinate_channels


class Window(NamedTuple):
    """Part of the cube that the network gets, in voxels per axis."""

    cube: tuple[int, ...]
    start: tuple[int, ...]
    sides: tuple[int, ...]
    before: tuple[int, ...]


class VolumeFrame:
    """Where a volume lies in the cube of the training, and which part of the cube the network gets.

    The volume lies in the middle of the cube, an odd voxel more behind it (240 x 240 x 155 in 256: 8 and 8, 50 and 51). A volume larger
    than the cube has a larger cube of its own.

    Args:
        padded_size: sides of the cube, voxels; that of the training patches (``RandPatchd``).
        multiple: the network's sides are multiples of this: 2 ** (levels - 1).
        tight: pad to the next multiple only, in place of the whole cube; the coordinates stay those of the cube. Less memory and time, but
            group norms that see less background.
        reduce: the network works on averages of so many voxels per axis (2: the paper's HalfRes).

    Source: PatchDDM, Sec. 4 and App. C. Deviation: for HalfRes the paper takes every second voxel; averages do not alias.
    """

    def __init__(self, padded_size: int | Sequence[int] = 256, multiple: int = 64, tight: bool = False, reduce: int = 1) -> None:
        self.padded_size, self.multiple, self.tight, self.reduce = ensure_tuple_rep(padded_size, 3), multiple, flag(tight, "tight"), reduce
        if min(*self.padded_size, multiple, reduce) < 1:
            raise UserError(f"got padded_size {padded_size}, multiple {multiple}, reduce {reduce}; expected numbers of voxels, 1 or more.")

    def window(self, shape: Sequence[int]) -> Window:
        """The part of the cube for a volume of this shape, in voxels of the volume."""
        unit = self.multiple * self.reduce
        cube = [_round_up(max(c, n), unit) for c, n in zip(self.padded_size, shape, strict=True)]
        sides = [_round_up(n, unit) for n in shape] if self.tight else cube
        # of the volume in the cube and in the window: multiples of reduce, so that both average over the same blocks
        first = [self._before(whole, n) for whole, n in zip(cube, shape, strict=True)]
        before = [self._before(whole, n) for whole, n in zip(sides, shape, strict=True)]
        start = [f - b for f, b in zip(first, before, strict=True)]
        return Window(tuple(cube), tuple(start), tuple(sides), tuple(before))

    def _before(self, whole: int, side: int) -> int:
        return (whole - side) // 2 // self.reduce * self.reduce

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Pad and reduce a volume.

        Args:
            image: ``(C, X, Y, Z)`` in [0, 1], background 0.

        Returns:
            ``(C, *(sides / reduce))``, float.
        """
        window = self.window(image.shape[1:])
        edges = [(b, s - b - n) for b, s, n in zip(window.before, window.sides, image.shape[1:], strict=True)]
        padded = pad(image.float(), [number for pair in edges[::-1] for number in pair])
        return padded if self.reduce == 1 else avg_pool3d(padded, self.reduce)

    def coordinates(self, shape: Sequence[int]) -> torch.Tensor:
        """Coordinates of the window for a volume of this shape, ``(3, *(sides / reduce))`` in [-1, 1]."""
        window = self.window(shape)
        cube, start, sides = ([number // self.reduce for number in part] for part in (window.cube, window.start, window.sides))
        return coordinate_channels(cube, start, sides)

    def restore(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Bring the network's output back to the volume's grid.

        Args:
            values: ``(K, *(sides / reduce))``.
            shape: of the volume.

        Returns:
            ``(K, *shape)``; interpolated trilinearly where the volume was reduced.
        """
        if self.reduce > 1:
            values = interpolate(values[None], scale_factor=self.reduce, mode="trilinear", align_corners=False)[0]
        box = [slice(b, b + n) for b, n in zip(self.window(shape).before, shape, strict=True)]
        return values[:, box[0], box[1], box[2]]


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
