"""Windows of a volume whose voxels serve as patch centres, drawn so that every voxel is a centre equally often, the border included.

MONAI's random crops stay inside the volume, so that voxels near the border would hardly ever be a patch's centre.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from torch.nn.functional import max_pool3d

from common.errors import UserError
from common.transforms.histogram_equalisation import HU_RANGE

FOREGROUND_RULES = ("patch", "centre")


def cut(volume: np.ndarray | torch.Tensor, start: Sequence[int], sides: Sequence[int], fill: float) -> torch.Tensor:
    """Cut a box out of a volume; what hangs over its border is filled.

    Args:
        volume: ``(C, X, Y, Z)``; may be memory-mapped, only the box is read.
        start: first voxel of the box, may be negative.
        sides: voxels of the box.
        fill: value outside the volume.

    Returns:
        ``(C, *sides)``, the volume's number type.
    """
    low = [max(0, a) for a in start]
    high = [max(b, min(size, a + side)) for a, b, side, size in zip(start, low, sides, volume.shape[1:], strict=True)]
    inner = volume[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    part = torch.as_tensor(np.array(inner) if isinstance(inner, np.ndarray) else inner)
    box = part.new_full((len(part), *sides), fill)
    place = [slice(b - a, b - a + n) for a, b, n in zip(start, low, part.shape[1:], strict=True)]
    box[:, place[0], place[1], place[2]] = part
    return box


def touching(foreground: torch.Tensor, patch_size: Sequence[int], stride: int) -> torch.Tensor:
    """Patches that hold any foreground.

    Args:
        foreground: ``(1, X, Y, Z)`` bool.
        patch_size: sides of the patch, voxels.
        stride: distance between neighbouring patches.

    Returns:
        ``(1, (X - patch) // stride + 1, ...)`` bool.
    """
    found = foreground[None].float()
    for axis, side in enumerate(patch_size):  # one axis after the other: 3 n in place of n^3 comparisons
        kernel, step = [1, 1, 1], [1, 1, 1]
        kernel[axis], step[axis] = side, stride
        found = max_pool3d(found, tuple(kernel), tuple(step))
    return found[0] > 0


def lattice(start: Sequence[int], counts: Sequence[int], stride: int, shape: Sequence[int]) -> torch.Tensor:
    r"""Normalised coordinates :math:`x_i = v_i / (N_i - 1)` of the voxels start, start + stride, ...

    Args:
        start: first voxel.
        counts: how many along each axis.
        stride: distance of two, in voxels.
        shape: sides N of the volume.

    Returns:
        ``(3, *counts)`` float64; in [0, 1] inside the volume.

    Source: Bieder et al., MIDL 2022, Sec. 2: coordinates 0 ... N - 1 normalised to [0, 1].
    """
    axes = [(a + stride * torch.arange(count, dtype=torch.float64)) / (n - 1) for a, count, n in zip(start, counts, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class RandPositionCropsd(RandomizableTransform, MapTransform):
    """Draw windows with a lattice of patch centres each.

    A window's first centre is drawn uniformly from all places at which any of its centres lies in the volume; windows without a centre that
    counts are drawn again. Then every centre that counts is drawn equally often. One centre per side gives the independent random patches
    of the paper.

    Args:
        keys: key of the volume in HU, ``(1, X, Y, Z)``, -1024 outside the head.
        patch_size: side of the patch, voxels, or one per axis.
        positions_per_side: centres per axis of a window.
        stride: distance of two centres, voxels.
        windows: windows per volume and visit.
        foreground: centres that count: ``patch`` those whose patch holds any foreground (the paper), ``centre`` those in the foreground.

    The result is a list with one dict per window: ``image`` ``(1, *sides)`` int16 with half a patch around the outer centres, ``position``
    ``(3, n, n, n)`` float32 in [0, 1], ``counts`` ``(1, n, n, n)`` bool.

    Source: Bieder et al., MIDL 2022, Sec. 2 and 3.1 (uniform, independent centres; patches of background alone are discarded). Deviation:
        windows of neighbouring centres, so that one pass supervises all of them.
    """

    ATTEMPTS = 1000

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int | Sequence[int],
        positions_per_side: int,
        stride: int = 4,
        windows: int = 1,
        foreground: str = "patch",
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if foreground not in FOREGROUND_RULES:
            raise UserError(f"foreground: got '{foreground}', expected one of {FOREGROUND_RULES}.")
        if min(positions_per_side, stride, windows) < 1:
            raise UserError(f"got positions_per_side {positions_per_side}, stride {stride}, windows {windows}; expected 1 or more of each.")
        self.patch_size = [int(side) for side in ensure_tuple_rep(patch_size, 3)]
        self.count, self.stride, self.windows, self.foreground = positions_per_side, stride, windows, foreground
        self.reach = stride * (positions_per_side - 1)  # from the first to the last centre

    def randomize(self, shape: Sequence[int]) -> list[int]:  # type: ignore[override]
        """First centre of a window, which may lie outside a volume of this shape."""
        return [int(self.R.randint(-self.reach, side)) for side in shape]

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Windows of one volume.

        Raises:
            UserError: no foreground in the volume.
        """
        volume = data[self.keys[0]]
        volume = volume.as_tensor() if isinstance(volume, MetaTensor) else volume  # slicing a MetaTensor costs more than the rest
        windows: list[dict[Hashable, Any]] = []
        for _ in range(self.ATTEMPTS * self.windows):
            window = self._window(volume, self.randomize(volume.shape[1:]))
            if bool(window["counts"].any()):
                windows.append(window)
            if len(windows) == self.windows:
                return windows
        raise UserError(f"case {data.get('id', '?')}: found no foreground to cut patches from; is the volume empty?")

    def _window(self, volume: Any, start: list[int]) -> dict[Hashable, Any]:
        half = [side // 2 for side in self.patch_size]
        first = [a - h for a, h in zip(start, half, strict=True)]
        sides = [self.reach + side for side in self.patch_size]
        image = cut(volume, first, sides, HU_RANGE[0])
        position = lattice(start, [self.count] * 3, self.stride, volume.shape[1:]).float()
        head = image > HU_RANGE[0]
        if self.foreground == "centre":
            inner = [slice(h, h + self.reach + 1, self.stride) for h in half]
            counts = head[:, inner[0], inner[1], inner[2]]
        else:
            counts = touching(head, self.patch_size, self.stride)
        inside = ((position >= 0) & (position <= 1)).all(dim=0, keepdim=True)
        return {self.keys[0]: image, "position": position, "counts": counts & inside}
