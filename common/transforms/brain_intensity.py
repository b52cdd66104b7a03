"""Intensities of a brain to [0, 1] by one percentile in its mask; MONAI's ``ScaleIntensityRangePercentiles`` counts head and background."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.errors import UserError


def brain_intensity(image: torch.Tensor, brain: torch.Tensor, upper: float = 99.9) -> torch.Tensor:
    r"""Scale an image so that a high percentile in the brain becomes 1; 0 outside the brain.

    .. math:: x' = \mathrm{clip}\left(\frac{x}{p_{99.9}}, 0, 1\right) \text{ in the brain}, \qquad x' = 0 \text{ elsewhere}

    Args:
        image: any shape and unit, 0 for no signal.
        brain: same shape; > 0 inside the brain.
        upper: percentile of the brain's voxels that becomes 1, in (0, 100].

    Returns:
        Same shape, float32, in [0, 1].

    Raises:
        UserError: an empty mask, or a percentile that is not above 0.

    Source: neonatal INR, Sec. 2 (intensities in [0, 1]). Deviation: the released code divides by the maximum of the whole volume, which a
        single bright voxel outside the brain decides (methods/neonatal_inr.md, section 2).
    """
    inside = (brain > 0).cpu().numpy()
    values = image.detach().cpu().numpy()[inside]
    if not values.size:
        raise UserError("the mask of the brain is empty.")
    top = float(np.percentile(values, upper))
    if not top > 0:
        raise UserError(f"the {upper:g}th percentile in the brain is {top:g}; expected more than 0 (0 is no signal).")
    scaled = (image.float() / top).clamp(0, 1)
    return torch.where(brain > 0, scaled, torch.zeros_like(scaled))


class BrainIntensityd(MapTransform):
    """Scale images by ``brain_intensity``.

    Args:
        keys: images ``(1, *spatial)``.
        brain_key: mask of the brain on the same grid.
        upper: percentile that becomes 1.
    """

    def __init__(self, keys: KeysCollection = "image", brain_key: str = "brain", upper: float = 99.9) -> None:
        super().__init__(keys)
        if not 0 < upper <= 100:
            raise UserError(f"upper: got {upper}; expected a percentile above 0 and at most 100.")
        self.brain_key, self.upper = brain_key, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images.

        Raises:
            UserError: see ``brain_intensity``; the text names the case.
        """
        result = dict(data)
        brain = torch.as_tensor(result[self.brain_key])
        for key in self.key_iterator(result):
            image = result[key]
            plain = image.as_tensor() if isinstance(image, MetaTensor) else image
            try:
                scaled = brain_intensity(plain, brain.as_tensor() if isinstance(brain, MetaTensor) else brain, self.upper)
            except UserError as error:
                raise UserError(f"case {data.get('id', '?')}, {key!r}: {error}") from error
            is_meta = isinstance(image, MetaTensor)
            result[key] = MetaTensor(scaled, meta=image.meta, applied_operations=image.applied_operations) if is_meta else scaled
        return result
