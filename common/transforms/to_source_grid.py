"""Bring maps from the reference cube back to the source grid; MONAI's ``SpatialResample``, in slabs so that memory is bounded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample

from common.errors import UserError

SLAB_VOXELS = 4_000_000
"""Voxels resampled at a time: MONAI holds the coordinates of all of them, a gigabyte for a thin-slice CT as a whole."""


def to_source_grid(
    volume: torch.Tensor, affine: Any, source_affine: Any, source_shape: Sequence[int], padding_mode: str = "zeros"
) -> MetaTensor:
    """Resample a map linearly onto another grid of the same world.

    Args:
        volume: map on the cube, ``(C, n, n, n)``, any number type.
        affine: of the cube, voxel index to world of the source, ``(4, 4)``, mm.
        source_affine: of the source grid, ``(4, 4)``, mm; may be oblique and anisotropic.
        source_shape: ``(X, Y, Z)`` of the source grid.
        padding_mode: "zeros", or "border", which goes on with the outermost voxels, where the source's are finer than the cube's.

    Returns:
        ``(C, X, Y, Z)`` float32 on the source grid; by default 0 outside the cube.
    """
    shape = [int(size) for size in source_shape]
    start = torch.as_tensor(np.asarray(source_affine), dtype=torch.float64)
    values = volume.as_tensor() if isinstance(volume, MetaTensor) else torch.as_tensor(volume)
    moving = MetaTensor(values.to(torch.float32), affine=torch.as_tensor(np.asarray(affine), dtype=torch.float64))
    resample = SpatialResample(mode="bilinear", padding_mode=padding_mode, align_corners=False, dtype=np.float32)
    depth = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    result = torch.empty((moving.shape[0], *shape), dtype=torch.float32)
    for first in range(0, shape[2], depth):
        last = min(first + depth, shape[2])
        here = start.clone()
        here[:3, 3] += start[:3, 2] * first
        result[..., first:last] = torch.as_tensor(resample(moving, dst_affine=here, spatial_size=(*shape[:2], last - first)))
    return MetaTensor(result, affine=start)


class ToSourceGridd(MapTransform):
    """Bring maps on the cube back to the grid of the file they came from, with the affines that ``PrepareHeadCTd`` stored.

    Args:
        keys: maps on the cube; those a case does not have are left out.
        image_key: prepared image whose meta holds affine, ``source_affine`` and ``source_shape`` where a map's own does not.
    """

    def __init__(self, keys: KeysCollection = ("error", "zmap"), image_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the maps."""
        result = dict(data)
        for key in self.key_iterator(result):
            holder = next(
                (item for item in (result[key], result.get(self.image_key)) if "source_affine" in getattr(item, "meta", {})), None
            )
            if holder is None:
                raise UserError(
                    f"{key!s}: neither this map nor '{self.image_key}' says which file it came from (no source_affine in its meta);"
                    " put PrepareHeadCTd before the model."
                )
            meta = holder.meta
            if tuple(result[key].shape[1:]) != tuple(holder.shape[1:]):
                raise UserError(
                    f"{key!s}: shape {tuple(result[key].shape)}, expected the cube's {tuple(holder.shape[1:])}; give maps at full size."
                )
            mapped = to_source_grid(result[key], holder.affine, meta["source_affine"], [int(size) for size in meta["source_shape"]])
            mapped.meta["filename_or_obj"] = meta.get("filename_or_obj", "")
            result[key] = mapped
        return result
