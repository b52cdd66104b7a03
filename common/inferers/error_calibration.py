"""Calibration of an error map: how unusual is this error at this place, measured in standard deviations of healthy heads.

MONAI's ``NormalizeIntensity`` takes one mean and SD per image, or whole arrays that must have the image's size.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from common import flag
from common.networks.head_ct_model import HeadCTModel
from common.transforms.histogram_equalisation import HU_RANGE

PRIOR_HEADS = 1.0
SMOOTHING_VOXELS = 1.0
SMALLEST_SD = 0.1


def fit_calibration(errors: torch.Tensor, heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Mean and SD of healthy errors at every place of the reference frame.

    Few heads are at hand, so neighbours help (Gaussian weights, SD ``SMOOTHING_VOXELS``), and one head's worth of the mean and variance
    over all places is mixed in:

    .. math:: \mu_x = \frac{S_1 + \mu}{S_0 + 1}, \quad \sigma_x^2 = \frac{S_2 + \sigma^2 + \mu^2}{S_0 + 1} - \mu_x^2, \quad
        S_k = G * \sum_i m_i E_i^k

    Args:
        errors: E of N healthy heads, ``(N, K, X, Y, Z)``, on a coarse lattice.
        heads: :math:`m_i`, ``(N, 1, X, Y, Z)`` bool; True marks the head.

    Returns:
        Mean and SD, ``(K, X, Y, Z)`` float32; SD at least ``SMALLEST_SD`` of that over all places.

    Source: ours; the paper has the raw map only.
    """
    weight = heads.double().expand_as(errors)
    total = weight.sum(dim=(0, 2, 3, 4)).clamp(min=1)[:, None, None, None]
    values = errors.double()
    mean = (values * weight).sum(dim=(0, 2, 3, 4), keepdim=True)[0] / total
    second = (values.square() * weight).sum(dim=(0, 2, 3, 4), keepdim=True)[0] / total
    sums = [_smooth((values**power * weight).sum(dim=0)) for power in range(3)]
    local = (sums[1] + PRIOR_HEADS * mean) / (sums[0] + PRIOR_HEADS)
    variance = (sums[2] + PRIOR_HEADS * second) / (sums[0] + PRIOR_HEADS) - local.square()
    smallest = (SMALLEST_SD * (second - mean.square()).clamp(min=0).sqrt()).clamp(min=1e-12)
    return local.float(), torch.maximum(variance.clamp(min=0).sqrt(), smallest).float()


def _smooth(volume: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.from_numpy(gaussian_filter(channel.numpy(), SMOOTHING_VOXELS, mode="constant")) for channel in volume])


def coarsen(volume: torch.Tensor, side: int) -> torch.Tensor:
    """Values of ``(C, n, n, n)`` at ``side`` evenly spaced places per axis, the first and the last voxel included."""
    return interpolate(volume[None].float(), [side] * 3, mode="trilinear", align_corners=True)[0]


def standardise_error(errors: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    r"""Standardised error, mean over the maps: :math:`z_x = \frac{1}{K} \sum_k (E^k_x - \mu^k_x) / \sigma^k_x`.

    Args:
        errors: ``(K, n, n, n)``.
        mean: :math:`\mu`, ``(K, m, m, m)`` on a coarser lattice over the same cube.
        sd: :math:`\sigma`, ``(K, m, m, m)``, > 0.

    Returns:
        ``(1, n, n, n)`` float32.
    """
    fine = [interpolate(constant[None], errors.shape[1:], mode="trilinear", align_corners=True)[0] for constant in (mean, sd)]
    return ((errors.float() - fine[0]) / fine[1]).mean(dim=0, keepdim=True)


class StandardiseErrord(MapTransform):
    """From the maps of a network to one error map and its standardised form.

    Args:
        keys: E by K scales, ``(K, n, n, n)``, kept as ``maps``; becomes ``error``, their mean ``(1, n, n, n)``, or with ``calibrated``
            ``zmap``.
        model: holds the calibration; without one there is no ``zmap``.
        image_key: prepared HU, whose background stays 0.
        calibrated: the map under ``keys`` is the standardised one.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        model: HeadCTModel | None = None,
        image_key: str = "image",
        calibrated: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.model, self.image_key, self.calibrated = model, image_key, flag(calibrated, "calibrated")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with ``error`` and, where the model is calibrated, ``zmap``."""
        result = dict(data)
        for key in self.key_iterator(result):
            errors = torch.as_tensor(result[key])
            result["maps"], result["error"] = errors, errors.mean(dim=0, keepdim=True)
            result[key] = result["error"]
            if self.model is not None and self.model.calibrated:
                head = torch.as_tensor(result[self.image_key], device=errors.device) > HU_RANGE[0]
                mean, sd = self.model.calibration_mean.to(errors.device), self.model.calibration_sd.to(errors.device)
                result["zmap"] = standardise_error(errors, mean, sd) * head
                result[key] = result["zmap"] if self.calibrated else result["error"]
        return result
