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

    Few heads are at hand, so neighbours help (Gaussian weights G, SD ``SMOOTHING_VOXELS``), and one head's worth of the mean and variance
    over all places is mixed in; deviations are from the mean of their own place, so that its slope does not count as variance:

    .. math:: \mu_x = \frac{(G * \sum_i m_i E_i)_x + \mu}{(G * \sum_i m_i)_x + 1}, \qquad
        \sigma_x^2 = \frac{(G * \sum_i m_i (E_i - \mu_x)^2)_x + \sigma^2}{(G * \sum_i m_i)_x + 1}

    Args:
        errors: E of N healthy heads, ``(N, K, X, Y, Z)``, on a coarse lattice.
        heads: :math:`m_i`, ``(N, 1, X, Y, Z)`` bool; True marks the head.

    Returns:
        Mean and SD, ``(K, X, Y, Z)`` float32; SD at least ``SMALLEST_SD`` of that over all places.

    Source: ours; the paper has the raw map only.
    """
    weight, values = heads.double().expand_as(errors), errors.double()
    total = weight.sum(dim=(0, 2, 3, 4)).clamp(min=1)[:, None, None, None]
    mean = (values * weight).sum(dim=(0, 2, 3, 4), keepdim=True)[0] / total
    spread = ((values - mean).square() * weight).sum(dim=(0, 2, 3, 4), keepdim=True)[0] / total
    count = _smooth(weight.sum(dim=0)) + PRIOR_HEADS
    local = (_smooth((values * weight).sum(dim=0)) + PRIOR_HEADS * mean) / count
    variance = (_smooth(((values - local).square() * weight).sum(dim=0)) + PRIOR_HEADS * spread) / count
    smallest = (SMALLEST_SD * spread.sqrt()).clamp(min=1e-6)
    return local.float(), torch.maximum(variance.sqrt(), smallest).float()


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
        """Return the case with ``error``, ``head`` (bool) and, where the model is calibrated, ``zmap``."""
        result = dict(data)
        for key in self.key_iterator(result):
            errors = torch.as_tensor(result[key])
            head = torch.as_tensor(result[self.image_key], device=errors.device) > HU_RANGE[0]
            result["maps"], result["error"], result["head"] = errors, errors.mean(dim=0, keepdim=True), head
            result[key] = result["error"]
            if self.model is not None and self.model.calibrated:
                mean, sd = self.model.calibration_mean.to(errors.device), self.model.calibration_sd.to(errors.device)
                result["zmap"] = standardise_error(errors, mean, sd) * head
                result[key] = result["zmap"] if self.calibrated else result["error"]
        return result
