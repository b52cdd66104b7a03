"""Neonatal ADC maps of simulated healthy brains, and Z maps against a norm of such brains.

Values (1e-6 mm2/s) are chosen within what is reported for term neonates: grey matter of basal ganglia and thalamus 1000-1250, unmyelinated
white matter 1400-1700, falling where myelin comes first (posterior limb of the internal capsule, brain stem), fluid near free water at body
temperature.
Source: Neil et al., Radiology 1998; 209:57-66 (newborns, 31-41 weeks); Mukherjee et al., AJNR 2002; 23:1445-1456; Bartha et al., AJNR 2007;
28:1015-1021 (seven regions of term neonates between 980 and 1480). Spreads, artefacts and noise are not taken from a paper: they are chosen
so that the task is neither trivial nor hopeless (tests hold the bands).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from common.data.simulate.anatomy import Array, SmoothField, sample_tissues

FWHM_TO_SD = 0.4247


@dataclass(frozen=True)
class ScanStyle:
    """How a scanner and its site look; two styles differ in these numbers only.

    Attributes:
        grey, deep, white, early, fluid: mean ADC of cortex, deep nuclei, white matter, early-myelinated tissue and fluid, 1e-6 mm2/s.
        spread: between-subject standard deviation of each tissue's ADC, share of its mean.
        regional: root mean square of smooth variation within a subject, share.
        bias: root mean square of the multiplicative field, share.
        gain: standard deviation of each slice's factor.
        noise: standard deviation of the noise in tissue, 1e-6 mm2/s; twice that in fluid.
        misregistration_mm: root mean square of the residual displacement between a brain and the atlas, template mm.
        ghost: probability that a scan has slices with a motion ghost.
        thickness_mm: smallest and largest slice thickness, mm.
    """

    grey: float = 1180.0
    deep: float = 1090.0
    white: float = 1560.0
    early: float = 1000.0
    fluid: float = 2750.0
    spread: float = 0.04
    regional: float = 0.03
    bias: float = 0.02
    gain: float = 0.012
    noise: float = 60.0
    misregistration_mm: float = 1.8
    ghost: float = 0.25
    thickness_mm: tuple[float, float] = (2.0, 6.0)


def ellipsoid(points: Array, centre: tuple[float, float, float], radii: tuple[float, float, float], edge: float = 0.12) -> Array:
    """Soft indicator of an ellipsoid: 1 inside, 0 outside, 0.5 on its surface; ``edge`` is the border's width in units of the radius."""
    distance = np.sqrt(np.sum(((points - np.array(centre, np.float32)) / np.array(radii, np.float32)) ** 2, axis=-1))
    return (1.0 / (1.0 + np.exp(np.clip((distance - 1.0) / np.float32(edge), -30, 30)))).astype(np.float32)


def mirrored(points: Array) -> Array:
    """Fold the left half onto the right one (the template is symmetric): ``x`` becomes ``|x|``."""
    return np.concatenate([np.abs(points[..., :1]), points[..., 1:]], axis=-1)


def deep_nuclei(points: Array) -> Array:
    """Soft indicator of thalamus, lentiform and caudate nucleus at template positions ``(..., 3)``, in [0, 1]."""
    half = mirrored(points)
    parts = [ellipsoid(half, (11, -19, 8), (10, 14, 9)), ellipsoid(half, (25, 0, 2), (8, 17, 9)), ellipsoid(half, (13, 12, 9), (6, 10, 9))]
    return np.maximum.reduce(parts)


def early_myelin(points: Array) -> Array:
    """Soft indicator of tissue that is myelinated at birth: posterior limb, pyramidal tract, brain stem, inner cerebellum; in [0, 1]."""
    half = mirrored(points)
    limb = ellipsoid(half, (20, -14, 9), (4, 9, 9), 0.2)
    tract = 0.5 * ellipsoid(half, (27, -24, 45), (7, 7, 20), 0.25)
    stem = 0.8 * ellipsoid(half, (0, -28, -28), (12, 11, 30), 0.2)
    cerebellum = 0.5 * ellipsoid(half, (16, -58, -32), (14, 16, 12), 0.25)
    return np.maximum.reduce([limb, tract, stem, cerebellum])


def mix_adc(tissues: Array, points: Array, style: ScanStyle, factors: NDArray[np.float64]) -> Array:
    """Mix the tissues' ADC by their share of each voxel.

    Args:
        tissues: ``(4, X, Y, Z)`` shares as from ``sample_tissues``.
        points: template positions ``(X, Y, Z, 3)``, mm; they decide what is deep, early-myelinated, frontal or occipital.
        style: mean ADC of each tissue.
        factors: this subject's factor for grey, deep, white, early and fluid, ``(5,)``, about 1.

    Returns:
        ADC, ``(X, Y, Z)`` float32, 1e-6 mm2/s, also outside the brain (there as if fluid).
    """
    grey, deep, white, early, fluid = (np.float32(a * b) for a, b in zip(_means(style), factors, strict=True))
    poles = np.clip(np.abs(points[..., 1] + 22.0) / 60.0, 0.0, 1.2) ** 2  # frontal and occipital white matter mature last
    cortex_or_white = tissues[0] * grey + tissues[1] * white * (0.97 + 0.06 * poles)
    solid = tissues[0] + tissues[1]
    nuclei, myelin = deep_nuclei(points), early_myelin(points)
    cortex_or_white = cortex_or_white * (1 - nuclei) + nuclei * solid * deep
    return (cortex_or_white * (1 - myelin) + myelin * solid * early + tissues[2] * fluid).astype(np.float32)


def _means(style: ScanStyle) -> tuple[float, ...]:
    return style.grey, style.deep, style.white, style.early, style.fluid


def draw_healthy(rng: np.random.Generator, points: Array, slice_step: Array, style: ScanStyle, samples: int) -> tuple[Array, Array, Array]:
    """Draw one healthy brain that is registered to ``points`` up to the style's misregistration.

    Args:
        rng: source of chance.
        points: template positions according to the registration, ``(X, Y, Z, 3)``, mm.
        slice_step: template displacement of one slice, ``(3,)``, mm.
        style: tissue values and spreads.
        samples: positions across a slice for partial volume.

    Returns:
        noise-free ADC ``(X, Y, Z)``, tissue shares ``(4, X, Y, Z)`` and the true template positions ``(X, Y, Z, 3)``.
    """
    true_points = points + np.moveaxis(SmoothField.draw(rng, 10.0, style.misregistration_mm, 3).at(points), 0, -1)
    tissues = sample_tissues(true_points, slice_step, samples)
    factors = (1.0 + 0.4 * style.spread * rng.standard_normal()) * (1.0 + style.spread * rng.standard_normal(5))
    adc = mix_adc(tissues, true_points, style, factors)
    return adc * (1.0 + SmoothField.draw(rng, 16.0, style.regional).at(points)[0]), tissues, true_points


def acquire(rng: np.random.Generator, adc: Array, points: Array, fluid: Array, style: ScanStyle) -> Array:
    """Add what the scanner adds: a smooth bias, a gain per slice, noise that grows with the share of fluid.

    Args:
        rng: source of chance.
        adc: true ADC ``(X, Y, Z)``, 1e-6 mm2/s.
        points: template positions ``(X, Y, Z, 3)``, mm.
        fluid: share of fluid ``(X, Y, Z)``.
        style: the scanner.
    """
    bias = 1.0 + SmoothField.draw(rng, 40.0, style.bias).at(points)[0]
    gain = 1.0 + style.gain * rng.standard_normal(adc.shape[2]).astype(np.float32)
    noise = style.noise * (1.0 + fluid) * rng.standard_normal(adc.shape, dtype=np.float32)
    return (adc * bias * gain + noise).astype(np.float32)


def smooth_inside(values: Array, brain: Array, spacing_mm: tuple[float, float, float], fwhm_mm: float = 2.0) -> Array:
    """Gaussian smoothing by ``fwhm_mm`` that uses voxels of the brain only; 0 outside.

    Args:
        values: ``(X, Y, Z)``.
        brain: 1 in the brain, 0 elsewhere, ``(X, Y, Z)`` float32.
        spacing_mm: voxel size, mm.
        fwhm_mm: full width at half maximum, mm.
    """
    sigma = [fwhm_mm * FWHM_TO_SD / step for step in spacing_mm]
    weight = gaussian_filter(brain, sigma, mode="constant")
    return brain * gaussian_filter(values * brain, sigma, mode="constant") / np.maximum(weight, np.float32(1e-6))


@dataclass(frozen=True)
class Norm:
    """Mean and standard deviation of smoothed ADC of healthy brains at each voxel of one subject's grid, ``(X, Y, Z)``, 1e-6 mm2/s."""

    mean: Array
    sd: Array

    def z_score(self, smoothed: Array, limit: float = 10.0) -> Array:
        """Z of a smoothed ADC map, clipped to +-``limit``."""
        return np.clip((smoothed - self.mean) / self.sd, -limit, limit).astype(np.float32)


def build_norm(
    rng: np.random.Generator,
    points: Array,
    slice_step: Array,
    brain: Array,
    spacing_mm: tuple[float, float, float],
    style: ScanStyle,
    samples: int,
    controls: int = 16,
) -> Norm:
    """Scan ``controls`` healthy brains registered to this grid and take mean and spread at each voxel.

    The controls go through the same slices, noise and smoothing as the patient, so that Z of a healthy brain is about N(0, 1) whatever the
    grid. The variance is smoothed over neighbours (16 controls alone would give heavy tails) and widened by 1 + 1/n for a new subject.

    Args:
        rng: source of chance.
        points: template positions of the voxels ``(X, Y, Z, 3)``, mm.
        slice_step: template displacement of one slice, ``(3,)``, mm.
        brain: 1 in the brain, else 0, ``(X, Y, Z)`` float32.
        spacing_mm: voxel size, mm.
        style: the scanner of the controls.
        samples: positions across a slice for partial volume.
        controls: number of healthy brains, >= 2.
    """
    total, squares = np.zeros(brain.shape, np.float64), np.zeros(brain.shape, np.float64)
    for _ in range(controls):
        adc, tissues, true_points = draw_healthy(rng, points, slice_step, style, samples)
        smoothed = smooth_inside(acquire(rng, adc, true_points, tissues[2], style), brain, spacing_mm)
        total += smoothed
        squares += smoothed.astype(np.float64) ** 2
    mean = total / controls
    variance = np.maximum(squares - controls * mean**2, 0.0) / (controls - 1) * (1.0 + 1.0 / controls)
    steady = smooth_inside(variance.astype(np.float32), brain, spacing_mm, 2.5 * min(spacing_mm))
    return Norm(mean.astype(np.float32), np.sqrt(np.maximum(steady, np.float32(400.0))).astype(np.float32))
