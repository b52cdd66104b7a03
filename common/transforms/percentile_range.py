"""Intensities to [0, 1] by percentiles of the brain; MONAI's ``ScaleIntensityRangePercentilesd`` counts the background, 80 % of BraTS."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.errors import UserError


def percentile_range(sequence: torch.Tensor, lower: float = 1.0, upper: float = 99.0) -> torch.Tensor:
    r"""Bring one sequence to [0, 1], its background to exactly 0.

    .. math:: x' = \mathrm{clip}\left(\frac{x - p_1}{p_{99} - p_1}, 0, 1\right) \text{ where } x \ne 0, \qquad x' = 0 \text{ elsewhere}

    Args:
        sequence: ``(X, Y, Z)``, any unit; 0 outside the brain.
        lower: percentile of the non-zero voxels that becomes 0, in [0, 100).
        upper: percentile that becomes 1, in (lower, 100].

    Returns:
        The same shape, float32.

    Raises:
        UserError: no voxel other than 0, or the two percentiles are equal.

    Source: Bieder et al., MIDL 2023, Sec. 4 (1st and 99th percentile to [0, 1]). Deviation: the paper says neither over which voxels nor
        whether values are clipped; here over the non-zero ones, and clipped.
    """
    values = sequence.detach().cpu().numpy().astype(np.float32, copy=False)
    inside = values != 0
    if not inside.any():
        raise UserError("the sequence is empty: every voxel is 0; expected 0 outside the brain only.")
    low, high = np.percentile(values[inside], (lower, upper))
    if high <= low:
        raise UserError(f"percentiles {lower:g} and {upper:g} of the non-zero voxels are both {low:g}: the sequence shows no contrast.")
    scaled = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return torch.from_numpy(np.where(inside, scaled, np.float32(0)))


class PercentileRanged(MapTransform):
    """Bring every channel to [0, 1] by its own percentiles (``percentile_range``).

    Args:
        keys: images ``(C, X, Y, Z)``, 0 outside the brain.
        lower: percentile of the non-zero voxels that becomes 0.
        upper: percentile that becomes 1.
    """

    def __init__(self, keys: KeysCollection, lower: float = 1.0, upper: float = 99.0) -> None:
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise UserError(f"got lower {lower:g}, upper {upper:g}; expected percentiles with 0 <= lower < upper <= 100.")
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images.

        Raises:
            UserError: an empty or constant channel; the text names case and channel.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            plain = image.as_tensor() if isinstance(image, MetaTensor) else image
            scaled = torch.empty(plain.shape, dtype=torch.float32)
            for channel, sequence in enumerate(plain):
                try:
                    scaled[channel] = percentile_range(sequence, self.lower, self.upper)
                except UserError as error:
                    raise UserError(f"case {data.get('id', '?')}, channel {channel} of {key!r}: {error}") from error
            is_meta = isinstance(image, MetaTensor)
            result[key] = MetaTensor(scaled, meta=image.meta, applied_operations=image.applied_operations) if is_meta else scaled
        return result
