"""Histogram equalisation of CT by one fixed map fitted on the training set.

MONAI's ``HistogramNormalize`` equalises each volume by itself; there a large bleed would change the very map that should show it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from common.data.head_ct import HU_RANGE
from common.errors import UserError


def count_intensities(volumes: Iterable[torch.Tensor], bins: int) -> torch.Tensor:
    """Histogram of all foreground voxels of many volumes.

    Args:
        volumes: HU, any shape, any number type; voxels at the lower end of ``HU_RANGE`` are background and do not count.
        bins: number of bins over ``HU_RANGE``.

    Returns:
        ``(bins,)`` float64.
    """
    counts = torch.zeros(bins, dtype=torch.float64)
    for volume in volumes:
        voxels = torch.as_tensor(volume).flatten()
        voxels = voxels[voxels > HU_RANGE[0]].float().clamp(*HU_RANGE)
        counts += torch.histc(voxels, bins, *HU_RANGE).double()
    return counts


def fit_equalisation(counts: torch.Tensor, contrast_limit_per_hu: float | None = None) -> torch.Tensor:
    r"""Levels at the edges of the bins: the share of foreground voxels below each, :math:`F(e_k) = \sum_{j<k} n_j / \sum_j n_j`.

    A third of a head's voxels lie within 20 HU of each other (the brain), so that F rises steeply there and hardly between 45 and 80 HU,
    where fresh blood lies. A limit L on the share that one HU may hold, :math:`n_j \to \min(n_j, L\,w \sum_i n_i)`, bins w HU wide, gives
    other tissues more of the range.

    Args:
        counts: histogram over ``HU_RANGE``, ``(bins,)``.
        contrast_limit_per_hu: L, share of all voxels per HU, > 0; None limits nothing.

    Returns:
        ``(bins + 1,)`` float32, from 0 to 1, never falling.

    Raises:
        UserError: an empty histogram, or a limit that is not above 0.

    Source: Bieder et al., MIDL 2022, Sec. 3.3 (histogram equalisation; over what is not stated). The limit is ours, after Pizer et al.,
        "Adaptive histogram equalization and its variations", 1987, who limit the slope of the map; nothing is redistributed here.
    """
    total = float(counts.sum())
    if total <= 0:
        raise UserError("Histogram equalisation: found no foreground voxel in the training volumes; check that they are head CTs in HU.")
    shares = counts / total
    if contrast_limit_per_hu is not None:
        if not contrast_limit_per_hu > 0:
            raise UserError(f"contrast_limit: got {contrast_limit_per_hu}, expected a share per HU above 0 (such as 0.003), or null.")
        shares = shares.clamp(max=contrast_limit_per_hu * (HU_RANGE[1] - HU_RANGE[0]) / len(counts))
        shares = shares / shares.sum()
    return torch.cat([counts.new_zeros(1), shares.cumsum(0)]).clamp(max=1).float()


def equalise(volume: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Map HU to [0, 1] by linear interpolation between the levels.

    Args:
        volume: HU, any shape; values beyond ``HU_RANGE`` count as its ends.
        levels: as :func:`fit_equalisation` gives them, ``(bins + 1,)``.

    Returns:
        float32 (float64 where the levels are), shape of ``volume``; background is 0.
    """
    low, high = HU_RANGE
    bins = len(levels) - 1
    place = (volume.to(levels.dtype).clamp(low, high) - low) * (bins / (high - low))
    index = place.long().clamp_(max=bins - 1)
    below, above = levels[index], levels[index + 1]
    return torch.lerp(below, above, place - index)
