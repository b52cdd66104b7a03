"""A volume inside the cube of the training: padded or cut for the network, with the coordinates of the cube, and put back.

MONAI's ``DivisiblePad`` and ``CropForeground`` know nothing of the cube that the coordinates span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.utils import ensure_tuple_rep
from torch.nn.functional import avg_pool3d, interpolate

from common import flag
from common.errors import UserError
from common.transforms.coordinates import coordinate_channels
from common.transforms.position_crops import cut


class Window(NamedTuple):
    """Part of the cube that the network gets, in voxels of the volume per axis.

    Attributes:
        cube: sides of the cube.
        start: first voxel of the window in the cube.
        sides: of the window.
        offset: first voxel of the window in the volume; negative where the window begins in the padding.
    """

    cube: tuple[int, ...]
    start: tuple[int, ...]
    sides: tuple[int, ...]
    offset: tuple[int, ...]


class VolumeFrame:
    """Where a volume lies in the cube of the training, and which part of the cube the network gets.

    The volume lies in the middle of the cube, an odd voxel more behind it (240 x 240 x 155 in 256: 8 and 8, 50 and 51). A volume larger
    than the cube has a larger cube of its own.

    Args:
        padded_size: sides of the cube, voxels; that of the training patches (``RandPatchd``).
        multiple: the network's sides are multiples of this: 2 ** (levels - 1).
        tight: give the network the box of the brain alone, enlarged to the next multiple, in place of the whole cube; the coordinates stay
            those of the cube. Less memory and time, but group norms that see less background.
        reduce: the network works on averages of so many voxels per axis (2: the paper's HalfRes).

    Source: PatchDDM, Sec. 4 and App. C. Deviation: for HalfRes the paper takes every second voxel; averages do not alias.
    """

    def __init__(self, padded_size: int | Sequence[int] = 256, multiple: int = 64, tight: bool = False, reduce: int = 1) -> None:
        self.padded_size, self.multiple, self.tight, self.reduce = ensure_tuple_rep(padded_size, 3), multiple, flag(tight, "tight"), reduce
        if min(*self.padded_size, multiple, reduce) < 1:
            raise UserError(f"got padded_size {padded_size}, multiple {multiple}, reduce {reduce}; expected numbers of voxels, 1 or more.")

    def window(self, image: torch.Tensor, whole: bool = False) -> Window:
        """The part of the cube for a volume.

        Args:
            image: ``(C, X, Y, Z)``, 0 outside the brain.
            whole: the whole cube, even if the frame is tight.
        """
        shape, unit = image.shape[1:], self.multiple * self.reduce
        cube = tuple(_round_up(max(c, n), unit) for c, n in zip(self.padded_size, shape, strict=True))
        # multiples of reduce, so that every window averages over the same blocks
        first = [(c - n) // 2 // self.reduce * self.reduce for c, n in zip(cube, shape, strict=True)]
        if self.tight and not whole and bool(image.any()):
            places = [f + edges for f, edges in zip(first, _box(image), strict=True)]
            parts = [self._part(int(low), int(high), c) for (low, high), c in zip(places, cube, strict=True)]
        else:
            parts = [(0, c) for c in cube]
        start, sides = (tuple(numbers) for numbers in zip(*parts, strict=True))
        return Window(cube, start, sides, tuple(s - f for s, f in zip(start, first, strict=True)))

    def _part(self, low: int, high: int, cube: int) -> tuple[int, int]:
        """First voxel and number of voxels along an axis of the cube, around what lies from low to before high."""
        step = self.reduce
        side = min(_round_up(high - low + step - 1, self.multiple * step), cube)
        middle = (low - (side - (high - low)) // 2) // step * step
        return min(max(middle, _round_up(high - side, step), 0), cube - side), side

    def embed(self, image: torch.Tensor, window: Window) -> torch.Tensor:
        """Cut or pad a volume to a window, and reduce it.

        Args:
            image: ``(C, X, Y, Z)`` in [0, 1], background 0.
            window: of :meth:`window`.

        Returns:
            ``(C, *(sides / reduce))``, float.
        """
        part = cut(image.float(), window.offset, window.sides, 0.0)
        return part if self.reduce == 1 else avg_pool3d(part, self.reduce)

    def coordinates(self, window: Window) -> torch.Tensor:
        """Coordinates of a window, ``(3, *(sides / reduce))`` in [-1, 1]."""
        cube, start, sides = ([number // self.reduce for number in part] for part in window[:3])
        return coordinate_channels(cube, start, sides)

    def restore(self, values: torch.Tensor, window: Window, shape: Sequence[int]) -> torch.Tensor:
        """Bring the network's output back to the volume's grid.

        Args:
            values: ``(K, *(sides / reduce))``.
            window: of :meth:`window`.
            shape: of the volume.

        Returns:
            ``(K, *shape)``; interpolated trilinearly where the volume was reduced, 0 outside the window.
        """
        if self.reduce > 1:
            values = interpolate(values[None], scale_factor=self.reduce, mode="trilinear", align_corners=False)[0]
        return cut(values, [-number for number in window.offset], list(shape), 0.0)


def _box(image: torch.Tensor) -> torch.Tensor:
    """First voxel and the one behind the last along each axis, ``(3, 2)``, of what is not 0."""
    inside = (image != 0).any(dim=0)
    lines = [inside.any(dim=1).any(dim=1), inside.any(dim=0).any(dim=1), inside.any(dim=0).any(dim=0)]
    found = [line.nonzero()[:, 0] for line in lines]
    return torch.stack([torch.stack([places[0], places[-1] + 1]) for places in found]).cpu()


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
