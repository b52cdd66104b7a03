"""From an ensemble's mean to a mask; MONAI's ``AsDiscrete`` has no background that is what the classes leave over."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.errors import UserError
from common.transforms.area_opening import area_opening


def largest_class(mean: torch.Tensor) -> torch.Tensor:
    r"""The class with the largest mean, where background has :math:`1 - \sum_k m_k`; a tie is background.

    With one class: :math:`m > 0.5`.

    Args:
        mean: one channel per class without background, ``(K, *spatial)``, about in [0, 1].

    Returns:
        ``(1, *spatial)`` uint8 in {0, ..., K}.

    Source: PatchDDM's released code for one class (> 0.5 of a sample; for an ensemble not stated, here the mean of the raw samples).
    """
    background = 1 - mean.sum(dim=0, keepdim=True)
    return torch.cat([background, mean]).argmax(dim=0, keepdim=True).to(torch.uint8)


def without_small_components(mask: torch.Tensor, min_voxels: int) -> torch.Tensor:
    """Set components (26 neighbours, all classes together) of fewer voxels to 0.

    MONAI's ``RemoveSmallObjects`` needs scikit-image, on which nothing else here depends, and with its version 0.26 removes objects of
    exactly ``min_size`` voxels as well.

    Args:
        mask: ``(1, X, Y, Z)``, integer, 0 is background.
        min_voxels: smallest component that stays; 0 and 1 keep all.

    Returns:
        Shape and type of ``mask``.
    """
    if min_voxels <= 1:
        return mask
    held = mask[0].cpu().numpy() > 0
    large = area_opening(held.astype(np.float32), held, [0.5], min_voxels) > 0
    return mask * torch.from_numpy(large).to(mask.device)[None]


class EnsembleMaskd(MapTransform):
    """Take an ensemble's mean, variance and samples apart and make the mask.

    Args:
        keys: what ``MaskSamplingInferer`` gives, ``((2 + n) K, X, Y, Z)``; becomes the mask, ``(1, X, Y, Z)`` uint8.
        labels: label number of each of the K classes in the mask, such as (1, 2, 4); (1,) for the whole tumour.
        min_voxels: smaller components are removed; 0 keeps all (the paper).
        mean_key: where the mean goes, clipped to [0, 1], ``(K, X, Y, Z)`` float32.
        variance_key: where the variance goes, ``(K, X, Y, Z)`` float32.
        samples_key: where the samples go, ``(n, K, X, Y, Z)`` float32; absent where the inferer kept none.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        labels: Sequence[int] = (1,),
        min_voxels: int = 0,
        mean_key: str = "mean",
        variance_key: str = "variance",
        samples_key: str = "samples",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels, self.min_voxels = tuple(labels), min_voxels
        self.mean_key, self.variance_key, self.samples_key = mean_key, variance_key, samples_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with mask, mean, variance and samples.

        Raises:
            UserError: a number of channels that does not fit the labels.
        """
        result = dict(data)
        count = len(self.labels)
        for key in self.key_iterator(result):
            stacked = result[key]
            if stacked.shape[0] < 2 * count or stacked.shape[0] % count:
                raise UserError(
                    f"labels: got {self.labels}, but the ensemble has {stacked.shape[0]} channels; expected {2 * count} (mean, variance) "
                    f"or more by multiples of {count}. Give one label per channel of the mask."
                )
            mean, samples = stacked[:count], stacked[2 * count :]
            numbers = torch.tensor((0, *self.labels), dtype=torch.uint8, device=stacked.device)
            mask = numbers[torch.as_tensor(largest_class(mean)).long()]
            result[self.mean_key], result[self.variance_key] = mean.clamp(0, 1), stacked[count : 2 * count]
            if len(samples):
                result[self.samples_key] = samples.reshape(-1, count, *samples.shape[1:])
            result[key] = without_small_components(mask, self.min_voxels)
        return result
