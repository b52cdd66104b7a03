"""The brain of a skull-stripped image: where any channel is not 0. MONAI's ``ForegroundMask`` looks for a threshold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.errors import UserError


class BrainMaskd(MapTransform):
    """Add the mask of the brain, on the grid of the source when it stands before any change of the grid.

    Args:
        keys: image ``(C, X, Y, Z)``, 0 outside the brain.
        brain_key: where the mask goes, ``(1, X, Y, Z)`` uint8 with the image's affine.
    """

    def __init__(self, keys: str = "image", brain_key: str = "brain") -> None:
        super().__init__(keys)
        self.brain_key = brain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask.

        Raises:
            UserError: an image without brain.
        """
        result = dict(data)
        image = result[self.keys[0]]
        brain = (torch.as_tensor(image) != 0).any(dim=0, keepdim=True).to(torch.uint8)
        if not brain.any():
            raise UserError(f"case {data.get('id', '?')}: every voxel of the image is 0; expected 0 outside the brain only.")
        plain = brain.as_tensor() if isinstance(brain, MetaTensor) else brain
        result[self.brain_key] = MetaTensor(plain, affine=getattr(image, "affine", None))
        return result
