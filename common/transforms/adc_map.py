"""ADC from diffusion-weighted volumes; MONAI has no model of diffusion, and packages that have one (DIPY) are large for one logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from common.errors import UserError

B0_BELOW: Final = 50.0
"""b-values below this, s/mm2, count as no diffusion weighting."""
SHELL_TOLERANCE: Final = 0.05
"""b-values within this share of the one wanted are one shell (directions differ a little)."""
UNITS: Final = {1.0: "1e-6 mm2/s", 1e3: "1e-3 mm2/s", 1e6: "mm2/s"}
"""Units in which ADC is stored, by the factor that leads to 1e-6 mm2/s."""
BRAIN_ADC: Final = (200.0, 4000.0)
"""Where the median ADC of a brain lies, 1e-6 mm2/s, with much to spare: parenchyma about 800 (adult) to 1500 (neonate), fluid 3000."""


def choose_volumes(bvals: Sequence[float], b: float = 1000.0) -> tuple[list[int], list[int], float]:
    """Which volumes of a series make the ADC.

    Args:
        bvals: b-value of each volume, s/mm2.
        b: the b-value wanted; the nearest one that was measured is taken.

    Returns:
        Indices without weighting, indices of the shell, and the mean b-value of the shell.

    Raises:
        UserError: no volume without weighting, or none with.
    """
    values = np.asarray(bvals, float)
    plain = np.flatnonzero(values < B0_BELOW)
    weighted = values[values >= B0_BELOW]
    if not len(plain) or not len(weighted):
        raise UserError(
            f"b-values {', '.join(f'{v:g}' for v in values)}: {len(plain)} volumes with b < {B0_BELOW:g} s/mm2 and {len(weighted)} above;"
            " expected at least one of each. Give a series with b = 0 and, say, b = 1000."
        )
    nearest = weighted[np.argmin(np.abs(weighted - b))]
    shell = np.flatnonzero(np.abs(values - nearest) <= SHELL_TOLERANCE * nearest)
    return plain.tolist(), shell.tolist(), float(values[shell].mean())


def geometric_mean(volumes: np.ndarray, floor: float) -> np.ndarray:
    """Mean of the logarithm over directions, which turns ADCs of several directions into their mean.

    Args:
        volumes: ``(N, X, Y, Z)``, signal.
        floor: smaller signals count as this.
    """
    return np.exp(np.log(np.maximum(volumes, max(floor, 1e-6))).mean(axis=0))


def noise_floor(weighted: np.ndarray, brain: np.ndarray) -> float:
    r"""Mean signal of pure noise in a magnitude image, from the air; 0 where the air was set to 0.

    In air the magnitude follows Rayleigh's law: median :math:`1.1774\,\sigma`, mean :math:`1.2533\,\sigma`.

    Args:
        weighted: one volume of the shell, ``(X, Y, Z)``.
        brain: ``(X, Y, Z)`` bool; the air is searched in the eight corners of the volume, outside of it.
    """
    edges = [max(1, n // 10) for n in weighted.shape]
    corner = np.zeros(weighted.shape, bool)
    for axis_slices in np.ndindex(2, 2, 2):
        corner[tuple(slice(0, e) if low else slice(-e, None) for low, e in zip(axis_slices, edges, strict=True))] = True
    air = weighted[corner & ~brain]
    if not air.size or (air <= 0).mean() > 0.2:
        return 0.0
    return float(np.median(air) / 1.1774 * 1.2533)


def adc_map(s0: np.ndarray, sb: np.ndarray, b: float, brain: np.ndarray, floor: float = 0.0) -> tuple[np.ndarray, int]:
    r"""Apparent diffusion coefficient.

    .. math:: ADC = \ln(S_0 / S_b) / b

    Args:
        s0: signal without weighting, ``(X, Y, Z)``.
        sb: signal with weighting, same shape.
        b: b-value of ``sb``, s/mm2, > 0.
        brain: ``(X, Y, Z)`` bool.
        floor: mean signal of noise; a smaller ``sb`` counts as this, so that ADC is bounded, and where ``s0`` does not exceed it there is
            no measurement.

    Returns:
        ADC, float32, 1e-6 mm2/s, 0 outside the brain and where nothing was measured, at least 1 elsewhere (0 means outside); and in how
        many voxels of the brain a value was at the floor or below 1.

    Raises:
        UserError: unequal shapes, a b-value without sense, or an empty mask.
    """
    if s0.shape != sb.shape or s0.shape != brain.shape or s0.ndim != 3:
        raise UserError(f"ADC: got shapes {s0.shape} (b = 0), {sb.shape} (b = {b:g}), {brain.shape} (brain); expected three equal 3D ones.")
    if not b > 0:
        raise UserError(f"ADC: got b = {b:g} s/mm2; expected a value above 0, such as 1000.")
    if not brain.any():
        raise UserError("ADC: the mask of the brain is empty; give another one.")
    low = max(floor, 1e-6)
    measured = brain & (s0 > low)
    ratio = np.log(np.maximum(s0, low) / np.maximum(sb, low))
    adc = ratio / b * 1e6
    bounded = measured & ((sb <= low) | (adc < 1.0))
    adc = np.where(measured, np.maximum(adc, 1.0), 0.0)
    return adc.astype(np.float32), int(bounded.sum())


def to_micro(adc: np.ndarray, brain: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """A given ADC map in 1e-6 mm2/s, whatever of the usual units it is stored in.

    Args:
        adc: ``(X, Y, Z)``.
        brain: ``(X, Y, Z)`` bool.
        name: file, for errors.

    Returns:
        The map and the unit of the file, in words.

    Raises:
        UserError: an empty mask, or values that fit no unit.
    """
    if not brain.any():
        raise UserError(f"{name}: the mask of the brain is empty; expected 0 outside the brain only, or give a mask.")
    median = float(np.median(adc[brain]))
    for factor, unit in UNITS.items():
        if BRAIN_ADC[0] <= median * factor <= BRAIN_ADC[1]:
            return (adc * np.float32(factor)).astype(np.float32), unit
    raise UserError(
        f"{name}: the median in the brain is {median:g}, which is no ADC in {', '.join(UNITS.values())} (expected {BRAIN_ADC[0]:g} to"
        f" {BRAIN_ADC[1]:g} times 1e-6 mm2/s). Is it an ADC map, and is the mask right?"
    )
