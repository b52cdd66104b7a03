"""Lesion load, its three strata, and means per stratum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.masks import as_mask, check_same_shape

STRATA: tuple[str, str, str] = ("<1 %", "1-5 %", ">5 %")
"""Names of the strata of lesion load, from small to large, as table 1 of the paper heads them."""


def lesion_load(lesion: NDArray[Any], brain: NDArray[Any]) -> float:
    """Share of the brain that is lesion: lesion voxels over brain voxels.

    Every lesion voxel counts, also one that lies outside the brain mask (a label may cross its border by a voxel).

    Args:
        lesion: ``(X, Y, Z)``, bool or 0/1; in the strata of the paper this is the reference label.
        brain: ``(X, Y, Z)``, bool or 0/1; for BONBID-HIE the voxels with ADC > 0.

    Returns:
        Load as a fraction (0.01 is 1 %), at least 0.

    Raises:
        UserError: unequal shapes, not 3D, values other than 0 and 1, or an empty brain.

    Source: LADP, section III. Deviation: the paper does not say which brain mask; ADC > 0 is ours (methods/ladp.md section 7).
    """
    mask, inside = as_mask(lesion, "lesion"), as_mask(brain, "brain")
    check_same_shape(mask, inside, "brain")
    voxels = int(np.count_nonzero(inside))
    if voxels == 0:
        raise UserError("brain: the mask holds no voxel, expected the voxels with ADC > 0. Look at the image: it may be all zero.")
    return int(np.count_nonzero(mask)) / voxels


def stratum(load: float) -> str:
    """Return the stratum of a lesion load: ``<1 %`` (load < 0.01), ``1-5 %`` (0.01 to 0.05, both included) or ``>5 %`` (load > 0.05).

    A case without lesion (load 0) belongs to ``<1 %``.

    Args:
        load: lesion load as a fraction, at least 0.

    Raises:
        UserError: negative or NaN.

    Source: LADP, section III. Deviation: the paper does not say where 1 % and 5 % themselves belong; here to the middle.
    """
    if math.isnan(load) or load < 0:
        raise UserError(f"load: got {load}, expected a fraction of at least 0 (0.01 is 1 % of the brain).")
    if load < 0.01:
        return STRATA[0]
    return STRATA[1] if load <= 0.05 else STRATA[2]


def mean_per_stratum(values: Iterable[float], strata: Iterable[str]) -> dict[str, float]:
    """Mean of a metric in each stratum, NaN values left out.

    Args:
        values: one value per case.
        strata: the stratum of each case, in the same order; names outside `STRATA` are ignored (a case without brain mask).

    Returns:
        Mean by stratum, for all of `STRATA`; NaN where no case (with a number) fell.

    Raises:
        UserError: unequal lengths.
    """
    numbers, names = list(values), list(strata)
    if len(numbers) != len(names):
        raise UserError(f"strata: got {len(names)} names, expected {len(numbers)}, one per value.")
    means = {}
    for wanted in STRATA:
        held = [value for value, name in zip(numbers, names, strict=True) if name == wanted and not math.isnan(value)]
        means[wanted] = sum(held) / len(held) if held else math.nan
    return means
