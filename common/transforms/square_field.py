"""Pad the plane of slices to a square in mm, so that a resize to a square keeps shapes; MONAI's ``SpatialPad`` counts voxels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, SpatialPad

from common.errors import UserError

TOLERANCE = 0.01
"""Fields whose sides differ by less than this share count as square."""


def square_shape(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, int]:
    """Voxels along the first two axes of the smallest field that is square in mm and holds all of it.

    Args:
        shape: voxels ``(P, S, N)``.
        spacing_mm: size of a voxel per axis, mm.
    """
    sides = [size * step for size, step in zip(shape[:2], spacing_mm[:2], strict=True)]
    if max(sides) <= (1 + TOLERANCE) * min(sides):
        return int(shape[0]), int(shape[1])
    first, second = (max(size, round(max(sides) / step)) for size, step in zip(shape[:2], spacing_mm[:2], strict=True))
    return first, second


class SquareFieldd(MapTransform):
    """Pad images with 0 on both sides until their planes are square in mm; IXI's are already. The affine follows.

    Args:
        keys: images ``(C, P, S, N)`` with an affine.
    """

    def __init__(self, keys: KeysCollection = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pad the images.

        Raises:
            UserError: an image without an affine.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if not hasattr(image, "pixdim"):
                raise UserError(f"case {data.get('id', '?')}: {key!r} has no affine; read it with a loader that keeps it (a MetaTensor).")
            shape = tuple(image.shape[1:])
            wanted = square_shape(shape, [float(step) for step in image.pixdim])
            if wanted != shape[:2]:
                result[key] = SpatialPad((*wanted, shape[2]))(image)
        return result
