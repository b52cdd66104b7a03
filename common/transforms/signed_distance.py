"""Signed distance to a lesion's contour, which region-of-interest noise and CarveMix draw from (Eq. 2)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy.ndimage import distance_transform_edt

from common import flag
from common.errors import UserError


def signed_distance(mask: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    r"""Distance of each pixel to the lesion, negative inside: :math:`D(\cdot \mid y)`.

    Inside, the distance to the nearest background pixel with a minus sign (the contour pixel has -1); outside, the
    distance to the nearest lesion pixel (the first pixel outside has +1). No lesion gives ``+inf`` everywhere, so that
    no threshold selects a pixel. A mask without background counts the outside of the array as background.

    Args:
        mask: lesion, ``(*spatial)`` of any dimension, bool or number; non-zero is lesion.
        spacing: size of a pixel per axis in mm; None measures in pixels.

    Returns:
        ``(*spatial)`` float32, pixels or mm.

    Raises:
        UserError: ``spacing`` has another length than ``mask`` has axes, or is not positive.

    Source: LADP, Sec. II.C, text after Eq. 2; inside convention as in CarveMix. Deviation: none.
    """
    if spacing is not None and (len(spacing) != mask.ndim or min(spacing) <= 0):
        raise UserError(f"spacing: got {tuple(spacing)} for a mask with {mask.ndim} axes, expected one positive number per axis.")
    inside = np.asarray(mask) != 0
    if not inside.any():
        return np.full(inside.shape, np.inf, dtype=np.float32)
    if inside.all():
        centre = (slice(1, -1),) * inside.ndim
        return -distance_transform_edt(np.pad(inside, 1), sampling=spacing)[centre].astype(np.float32)
    outer = distance_transform_edt(~inside, sampling=spacing)
    return np.where(inside, -distance_transform_edt(inside, sampling=spacing), outer).astype(np.float32)


def slicewise_signed_distance(mask: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Signed distance within each slice along the last axis; see :func:`signed_distance`.

    Args:
        mask: lesion volume, ``(X, Y, Z)``; non-zero is lesion.
        spacing: in-plane pixel size ``(x, y)`` in mm; None measures in pixels.

    Returns:
        ``(X, Y, Z)`` float32; ``+inf`` in slices without lesion.
    """
    return np.stack([signed_distance(mask[..., z], spacing) for z in range(mask.shape[-1])], axis=-1)


class SignedDistanced(MapTransform):
    """Add the signed distance of a lesion volume, computed once so that every later draw is cheap.

    Args:
        keys: one lesion mask, ``(1, X, Y, Z)``; non-zero is lesion.
        distance_key: where the result goes, ``(1, X, Y, Z)`` float32.
        spacing_aware: measure in mm with the in-plane spacing of the volume, in place of pixels.
        slicewise: measure within each slice of the last axis (2D method); else in 3D.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        distance_key: str = "distance",
        spacing_aware: bool = False,
        slicewise: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.distance_key, self.slicewise = distance_key, slicewise
        self.spacing_aware = flag(spacing_aware, "spacing_aware")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with the distance added."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask = result[key]
            spacing = [float(s) for s in mask.pixdim[:3]] if self.spacing_aware and isinstance(mask, MetaTensor) else None
            array = np.asarray(mask[0].cpu())
            if self.slicewise:
                distance = slicewise_signed_distance(array, None if spacing is None else spacing[:2])
            else:
                distance = signed_distance(array, spacing)
            result[self.distance_key] = torch.from_numpy(distance)[None]
        return result
