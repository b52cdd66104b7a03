"""Coordinates of crops and of single voxels; MONAI's ``AddCoordinateChannelsd`` runs over all of what it is given, a patch included."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.errors import UserError


def coordinate_channels(shape: Sequence[int], start: Sequence[int], sides: Sequence[int]) -> torch.Tensor:
    r"""Coordinates of a crop's voxels in the whole padded volume.

    .. math:: c_i(v) = -1 + \frac{2 v_i}{N_i - 1}, \qquad v_i = s_i, \dots, s_i + n_i - 1

    Args:
        shape: sides :math:`N` of the padded volume, voxels.
        start: first voxel :math:`s` of the crop in it, each >= 0.
        sides: sides :math:`n` of the crop, voxels.

    Returns:
        ``(3, *sides)`` float32 in [-1, 1], axes in ij order; the very values of a crop from the channels of the whole volume.

    Raises:
        UserError: the crop hangs over the padded volume.

    Source: Bieder et al., MIDL 2023, Sec. 3 (coordinate encoding); -1 to 1 as in the released code (methods/patchddm.md, section 2).
    """
    if any(a < 0 or a + n > size for size, a, n in zip(shape, start, sides, strict=True)):
        raise UserError(f"crop: got start {tuple(start)} and sides {tuple(sides)}; expected a box inside the padded volume {tuple(shape)}.")
    axes = [torch.linspace(-1, 1, int(size))[int(a) : int(a) + int(n)] for size, a, n in zip(shape, start, sides, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def voxel_coordinates(index: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    r"""Coordinates of single voxels for a coordinate network, the longest axis of the grid from -1/2 to 1/2, all axes in one unit.

    .. math:: c_i(v) = \frac{v_i - N_i / 2}{\max_j N_j}

    Args:
        index: voxel indices :math:`v`, ``(..., D)``, integer, each in [0, N).
        grid: sides :math:`N` of the grid, D numbers >= 1, voxels.

    Returns:
        ``(..., D)`` float32 in [-1/2, 1/2), on the device of ``index``.

    Raises:
        UserError: the indices have another number of axes than the grid.

    Source: Bieder et al., PRIME-MICCAI 2024; the formula is that of the released code (methods/neonatal_inr.md, section 3).
    """
    if index.shape[-1] != len(grid):
        raise UserError(f"index: got {index.shape[-1]} numbers per voxel for the grid {tuple(grid)}; expected {len(grid)}.")
    sides = torch.tensor([float(side) for side in grid], device=index.device)
    return (index - sides / 2) / max(grid)


class AddCoordinatesd(MapTransform):
    """Add the coordinate channels of a patch (``RandPatchd`` says where it lies) or of a whole volume.

    Args:
        keys: images ``(C, X, Y, Z)``.
        coordinates_key: where the channels go, ``(3, X, Y, Z)`` float32; None appends them to the image. Apart from it they are not
            touched when the image is scaled to [-1, 1] later.
        start_key: first voxel of the patch in the padded volume, ``(3,)``; where a case has none, it is a whole volume.
        shape_key: sides of the padded volume, ``(3,)``; where a case has none, those of the image.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        coordinates_key: str | None = "coordinates",
        start_key: str = "patch_start",
        shape_key: str = "padded_shape",
    ) -> None:
        super().__init__(keys)
        if coordinates_key is not None and len(self.keys) > 1:
            raise UserError(f"coordinates_key: got {coordinates_key!r} for {len(self.keys)} images; expected None, or one image.")
        self.coordinates_key, self.start_key, self.shape_key = coordinates_key, start_key, shape_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the channels."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            sides = image.shape[1:]
            shape, start = _integers(data.get(self.shape_key, sides)), _integers(data.get(self.start_key, (0, 0, 0)))
            channels = coordinate_channels(shape, start, sides).to(image.device)
            if self.coordinates_key is not None:
                result[self.coordinates_key] = channels
            elif isinstance(image, MetaTensor):
                result[key] = MetaTensor(torch.cat([image.as_tensor(), channels.to(image.dtype)]), meta=image.meta)
            else:
                result[key] = torch.cat([image, channels.to(image.dtype)])
        return result


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]
