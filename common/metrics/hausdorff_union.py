"""HD95 over both surfaces together; MONAI's takes the larger of the two directed percentiles, which is there as an option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import Mask, as_mask_pair, bounding_box, check_spacing

DEFINITIONS = ("union", "larger")


def border(mask: Mask) -> Mask:
    """Voxels of a mask with a face neighbour outside of it, or at the edge of the volume.

    Args:
        mask: ``(X, Y, Z)``, bool.
    """
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def surface_distances(mask: Mask, other: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Distance of every border voxel of a mask to the nearest border voxel of another, mm.

    Args:
        mask: ``(X, Y, Z)``, bool, not empty.
        other: same shape, bool, not empty.
        spacing_mm: voxel edges along X, Y, Z, mm.

    Returns:
        ``(N,)``, N the number of border voxels of ``mask``.
    """
    from scipy.ndimage import distance_transform_edt

    distances: NDArray[np.float64] = distance_transform_edt(~border(other), sampling=spacing_mm)[border(mask)]
    return distances


def hd95_mm(truth: NDArray[Any], prediction: NDArray[Any], spacing_mm: Sequence[float], definition: str = "union") -> float:
    r"""95th percentile of the surface distance of two masks.

    .. math:: HD_{95} = P_{95}\big( \{d(t, \partial P) : t \in \partial T\} \cup \{d(p, \partial T) : p \in \partial P\} \big)

    The union counts equal distances as often as they occur, so that the larger surface weighs more.

    Args:
        truth: reference mask, ``(X, Y, Z)``, bool or 0/1.
        prediction: predicted mask, ``(X, Y, Z)``, bool or 0/1.
        spacing_mm: voxel edges along X, Y, Z, mm.
        definition: ``union`` (the paper), or ``larger``: the larger of the two directed percentiles, by MONAI.

    Returns:
        Distance, mm. Both masks empty: 0. Exactly one empty: the diagonal of the volume, the largest distance two of its voxels can have;
        count such cases beside the mean.

    Raises:
        UserError: as `common.metrics.overlap.dice`, a bad spacing, or an unknown definition.

    Source: the first author's thesis, Eq. 5.22 (methods/patchddm.md section 11); medpy's ``hd95`` does the same. Empty masks: not stated.
    """
    true, predicted = as_mask_pair(truth, prediction)
    spacing = check_spacing(spacing_mm)
    if definition not in DEFINITIONS:
        raise UserError(f"definition: got '{definition}', expected one of {DEFINITIONS}.")
    if true.any() != predicted.any():
        return math.hypot(*((sides - 1) * edge for sides, edge in zip(true.shape, spacing, strict=True)))
    if not true.any():
        return 0.0
    box = bounding_box(true | predicted)  # its faces are outside or at the volume's edge, so the borders stay the same
    pair = true[box], predicted[box]
    if definition == "larger":
        return _by_monai(*pair, spacing)
    both = np.concatenate([surface_distances(*pair, spacing), surface_distances(*pair[::-1], spacing)])
    return float(np.percentile(both, 95))


class HD95Metric(CumulativeIterationMetric):
    """``hd95_mm`` of the union of all channels, for an ``IgniteMetricHandler``: the mean over the cases.

    The spacing is that of the truth, 1 mm where it is no ``MetaTensor``.

    Args:
        definition: see ``hd95_mm``.
    """

    def __init__(self, definition: str = "union") -> None:
        super().__init__()
        self.definition = definition

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """HD95 in mm, ``(B, 1)``, of masks ``(B, K, X, Y, Z)``, 0 or 1."""
        if y is None:
            raise UserError("HD95 needs a truth beside the prediction; got none.")
        spacing = [float(edge) for edge in y.pixdim[:3]] if isinstance(y, MetaTensor) else [1.0] * 3
        masks = [np.asarray(torch.as_tensor(masks).cpu()).any(axis=1) for masks in (y, y_pred)]
        found = [hd95_mm(truth, prediction, spacing, self.definition) for truth, prediction in zip(*masks, strict=True)]
        return torch.tensor(found)[:, None]

    def aggregate(self) -> torch.Tensor:
        """Mean over the cases, mm."""
        values = self.get_buffer()
        if not isinstance(values, torch.Tensor):
            raise UserError("HD95 was asked for before any case was measured.")
        return values.mean()


def _by_monai(truth: Mask, prediction: Mask, spacing_mm: tuple[float, float, float]) -> float:
    from monai.metrics import compute_hausdorff_distance

    a, b = (torch.from_numpy(np.ascontiguousarray(mask))[None, None].float() for mask in (prediction, truth))
    return float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=list(spacing_mm)))
