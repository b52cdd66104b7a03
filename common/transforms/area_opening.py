"""Grey-scale opening by volume: what stays of an image when small bright components go; MONAI removes components of masks only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError


def area_opening(image: NDArray[np.float32], mask: NDArray[np.bool_], thresholds: Sequence[float], min_voxels: int) -> NDArray[np.float32]:
    r"""Highest threshold at which a voxel lies in a large component: :math:`A(x) = \max \{t : |K_t(x)| \ge n\}`.

    :math:`K_t(x)` is the component of :math:`\{I > t\}` inside the mask that holds x, with 26 neighbours. The maximum of A
    over a region exceeds t exactly where a rule "a component above t of n voxels or more touches the region" fires, so
    that one map holds the rule at all thresholds.

    Args:
        image: :math:`I`, ``(X, Y, Z)``, float.
        mask: ``(X, Y, Z)``, bool; components do not leave it.
        thresholds: :math:`t`, each > 0, unit of the image.
        min_voxels: :math:`n`, >= 1.

    Returns:
        ``(X, Y, Z)`` float32, unit of the image; 0 where no threshold leaves a large component.

    Raises:
        UserError: no threshold, or one that is not above 0.
    """
    from scipy import ndimage

    if not thresholds or min(thresholds) <= 0:
        raise UserError(f"thresholds: got {list(thresholds)}, expected at least one number, all above 0, which means nothing found.")
    result = np.zeros(image.shape, np.float32)
    left = np.asarray(mask, bool)
    boxes = ndimage.find_objects(left.astype(np.uint8))
    if not boxes:
        return result
    box = boxes[0]
    image, left, inside = image[box], left[box], result[box]
    neighbours = np.ones((3, 3, 3), bool)
    for threshold in sorted(thresholds):
        # a component lies inside one of the threshold below, so what was too small there stays too small
        labels, _ = ndimage.label(left & (image > threshold), structure=neighbours)
        large = np.bincount(labels.ravel()) >= min_voxels
        large[0] = False
        left = large[labels]
        if not left.any():
            break
        inside[left] = threshold
    return result
