"""The axial slice at the middle of the brain, for methods in 2D; MONAI's ``CenterSpatialCrop`` takes the middle of the volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.errors import UserError


def central_index(brain: torch.Tensor) -> int:
    """Number of the slice, along the last axis, that is nearest to the centre of mass of a mask.

    Args:
        brain: ``(1, X, Y, Z)``; > 0 inside.

    Raises:
        UserError: an empty mask.
    """
    counts = (brain > 0).flatten(0, 2).sum(dim=0, dtype=torch.float64)
    if counts.sum() == 0:
        raise UserError("the mask of the brain is empty, so it has no middle.")
    return int(torch.round((counts * torch.arange(len(counts), device=counts.device)).sum() / counts.sum()))


class CentralSliced(MapTransform):
    """Keep one axial slice of image, mask and labels: that at the brain's centre of mass, or at a fixed distance from it.

    The meta keeps the affine of a volume of one slice at that place: ``result[..., None]`` with it lies where the slice was cut.

    Args:
        keys: volumes ``(C, X, Y, Z)`` on one grid, the third axis up; those a case lacks are left out.
        brain_key: mask of the brain among them.
        offset_mm: how far above the centre of mass.

    Source: the paper does not say which slice it took; chosen here (methods/neonatal_inr.md, section 2).
    """

    def __init__(self, keys: Sequence[str] = ("image", "brain", "label"), brain_key: str = "brain", offset_mm: float = 0.0) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.brain_key, self.offset_mm = brain_key, float(offset_mm)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the slice; the case gets its number as ``slice_index``.

        Raises:
            UserError: an empty mask, or an offset that leaves the volume.
        """
        result = dict(data)
        brain = result[self.brain_key]
        try:
            index = central_index(torch.as_tensor(brain)) + round(self.offset_mm / float(data.get("spacing_mm", 1.0)))
        except UserError as error:
            raise UserError(f"case {data.get('id', '?')}: {error}") from error
        if not 0 <= index < brain.shape[-1]:
            raise UserError(f"case {data.get('id', '?')}: offset_mm {self.offset_mm:g} leads to slice {index} of {brain.shape[-1]}.")
        for key in self.key_iterator(result):
            result[key] = _cut(result[key], index)
        return result | {"slice_index": index}


def _cut(volume: torch.Tensor, index: int) -> torch.Tensor:
    if not isinstance(volume, MetaTensor):
        return volume[..., index]
    affine = torch.as_tensor(volume.affine, dtype=torch.float64).clone()
    affine[:3, 3] += affine[:3, 2] * index
    return MetaTensor(
        volume.as_tensor()[..., index].clone(), affine=affine, meta={key: value for key, value in volume.meta.items() if key != "affine"}
    )
