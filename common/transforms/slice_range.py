"""Each slice to [0, 1] by its own smallest and largest value, as the original does; MONAI's ``ScaleIntensity`` takes the volume's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform


def slice_range(volume: torch.Tensor) -> torch.Tensor:
    r"""Bring every slice along the last axis to [0, 1].

    .. math:: x'_k = \frac{x_k - \min x_k}{\max x_k - \min x_k}, \qquad 0 \text{ where a slice is constant}

    Args:
        volume: ``(C, P, S, N)``, any number type.

    Returns:
        The same shape, float32.

    Source: A. Arnaiz-Rodriguez's loader (methods/brain_autoencoder.md, section 3). Deviation: a constant slice gives 0, not NaN. Slices of
        one volume are no longer comparable with each other: kept for comparison, the default is ``PercentileRanged`` per volume.
    """
    flat = volume.float().flatten(0, -2)
    low, high = flat.amin(0), flat.amax(0)
    return (volume.float() - low) / torch.where(high > low, high - low, torch.ones_like(high))


class SliceRanged(MapTransform):
    """Bring every slice to [0, 1] (``slice_range``).

    Args:
        keys: images ``(C, P, S, N)``.
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            is_meta = isinstance(image, MetaTensor)
            scaled = slice_range(image.as_tensor() if is_meta else image)
            result[key] = MetaTensor(scaled, meta=image.meta, applied_operations=image.applied_operations) if is_meta else scaled
        return result
