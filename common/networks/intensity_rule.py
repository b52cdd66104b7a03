"""The sanity check as a network, so that it is evaluated by the same code as every trained one: bright and large means blood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import UserError
from common.transforms.area_opening import area_opening

BONE_HU = 150.0
"""Above it lies bone or a coarse calcification, never blood (at most 100 HU), not even with noise."""


def inside_skull(hu: NDArray[np.float32], window: tuple[float, float], rim: int) -> NDArray[np.bool_]:
    """Soft tissue of the brain's window that keeps away from bone.

    Scalp and muscle of that window stay in; the skull parts them from the brain, and the evaluation reads the hemispheres.

    Args:
        hu: ``(X, Y, Z)``.
        window: lowest and highest HU of brain and blood.
        rim: voxels of partial volume around bone that are left out, >= 0.

    Returns:
        ``(X, Y, Z)`` bool.
    """
    from scipy import ndimage

    bone = hu > BONE_HU
    if rim:
        bone = ndimage.maximum_filter(bone, size=2 * rim + 1)
    soft: NDArray[np.bool_] = (hu >= window[0]) & (hu <= window[1]) & ~bone
    return soft


def smooth_inside(values: NDArray[np.float32], mask: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Gaussian mean over the voxels of a mask, so that bone and air do not reach in.

    Args:
        values: ``(X, Y, Z)``.
        mask: ``(X, Y, Z)``, bool.
        sigma: voxels; 0 changes nothing.

    Returns:
        ``(X, Y, Z)`` float32; 0 outside the mask.
    """
    from scipy import ndimage

    if sigma == 0:
        return np.where(mask, values, 0).astype(np.float32)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=mask)


class IntensityRule(nn.Module):
    """Map of HU: the highest threshold at which a voxel lies in a bright component of at least ``min_ml``; nothing to train.

    The maximum of the map in a hemisphere is the rule's score, and its ROC that of the rule over all thresholds. The map
    knows nothing of fractures: it is 0 on the skull. MONAI's ``SimpleInferer`` runs it.

    Args:
        thresholds: HU, each > 0; with ``relative`` above the median of the window.
        min_ml: smallest component, millilitres, > 0.
        spacing_mm: side of a voxel, mm.
        smoothing_mm: standard deviation of the Gaussian before thresholding, mm; 0 for none.
        rim_mm: partial volume around bone that is left out, mm; rounded up to whole voxels.
        window: lowest and highest HU of brain and blood.
        relative: take thresholds above the median HU of the volume's soft tissue, which evens out scanners.

    Raises:
        UserError: thresholds or sizes that are not positive.

    Source: thesis sections 5.4 and 9.1 (skull stripping, histogram normalisation, threshold, components filtered by size).
        Deviation: HU are normalised already, so that normalisation is no more than the switch ``relative``. Numbers chosen.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = tuple(range(40, 81, 2)),
        min_ml: float = 0.5,
        spacing_mm: float = 1.0,
        smoothing_mm: float = 2.0,
        rim_mm: float = 2.0,
        window: Sequence[float] = (0.0, 100.0),
        relative: bool = False,
    ) -> None:
        super().__init__()
        if not thresholds or min(thresholds) <= 0:
            raise UserError(f"thresholds: got {list(thresholds)}, expected at least one, all above 0 HU.")
        if min_ml <= 0 or spacing_mm <= 0:
            raise UserError(f"min_ml, spacing_mm: got {min_ml} and {spacing_mm}, expected positive millilitres and millimetres.")
        self.thresholds, self.relative = tuple(float(t) for t in thresholds), relative
        # the small term forgives the binary rounding of a volume that is a whole number of voxels
        self.min_voxels = max(1, math.ceil(min_ml * 1000 / spacing_mm**3 - 1e-9))
        self.sigma, self.rim = smoothing_mm / spacing_mm, math.ceil(rim_mm / spacing_mm - 1e-9)
        self.window = (float(window[0]), float(window[1]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map in HU, ``(B, 1, X, Y, Z)`` float32, 0 where nothing is found, of HU of the same shape; computed on the CPU."""
        maps = [torch.from_numpy(self._map(volume[0].numpy())) for volume in image.detach().float().cpu()]
        return torch.stack(maps)[:, None].to(image.device)

    def _map(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map of one volume ``(X, Y, Z)``."""
        brain = inside_skull(hu, self.window, self.rim)
        if self.relative and brain.any():
            hu = hu - np.median(hu[brain])
        return area_opening(smooth_inside(hu, brain, self.sigma), brain, self.thresholds, self.min_voxels)
