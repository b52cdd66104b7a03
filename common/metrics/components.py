"""How many pieces has a mask, and how many of them are specks? MONAI removes small objects, but does not count them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import as_mask, bounding_box


def component_voxels(mask: NDArray[Any]) -> NDArray[np.int64]:
    """Voxels of each connected component (26 neighbours, as in `common.metrics.detection`), from large to small.

    Args:
        mask: ``(X, Y, Z)``, bool or 0/1.

    Returns:
        ``(components,)``; empty for an empty mask.

    Raises:
        UserError: not 3D or values other than 0 and 1.
    """
    from scipy.ndimage import label

    held = as_mask(mask, "mask")
    if not held.any():
        return np.zeros(0, dtype=np.int64)
    labels, _ = label(held[bounding_box(held)], structure=np.ones((3, 3, 3)))
    return np.sort(np.bincount(labels.ravel())[1:])[::-1]


def isolated_components(mask: NDArray[Any], min_voxels: int = 10) -> dict[str, int]:
    """Count the components of a mask and those that are only specks.

    Args:
        mask: ``(X, Y, Z)``, bool or 0/1.
        min_voxels: a component of fewer voxels is a speck; the default is ours.

    Returns:
        ``components``, ``isolated_components`` and ``isolated_voxels``, the voxels of the latter.

    Raises:
        UserError: as :func:`component_voxels`, or ``min_voxels`` below 1.

    Source: the thesis, section 9.1, sees isolated misclassified voxels in DDIM samples and gives no number.
    """
    if min_voxels < 1:
        raise UserError(f"min_voxels: got {min_voxels}, expected a number of voxels, 1 or more.")
    sizes = component_voxels(mask)
    specks = sizes[sizes < min_voxels]
    return {"components": len(sizes), "isolated_components": len(specks), "isolated_voxels": int(specks.sum())}
