"""Neonatal ADC maps of simulated healthy brains, and Z maps against a norm of such brains.

Values (1e-6 mm2/s) are chosen within what is reported for term neonates: grey matter of basal ganglia and thalamus 1000-1250, unmyelinated
white matter 1400-1700, falling where myelin comes first (posterior limb of the internal capsule, brain stem), fluid near free water at body
temperature.
Source: Neil et al., Radiology 1998; 209:57-66 (newborns, 31-41 weeks); Mukherjee et al., AJNR 2002; 23:1445-1456; Bartha et al., AJNR 2007;
28:1015-1021 (seven regions of term neonates between 980 and 1480). Spreads, artefacts and noise are not taken from a paper: they are chosen
so that the task is neither trivial nor hopeless (tests hold the bands).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from common.data.simulate.anatomy import Array, SmoothField, load_template, sample_slices

FWHM_TO_SD = 0.4247
Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class ScanStyle:
    """How a scanner and its site look; two styles differ in these numbers only.

    Attributes:
        grey, deep, white, early, fluid: mean ADC of cortex, deep nuclei, white matter, early-myelinated tissue and fluid, 1e-6 mm2/s.
        spread: between-subject standard deviation of each tissue's ADC, share of its mean.
        maturity: between-subject standard deviation of one factor common to all tissues, share.
        regional: root mean square of smooth variation within a subject, share.
        bias: root mean square of the multiplicative field, share.
        gain: standard deviation of each slice's factor.
        noise: standard deviation of the noise where ADC is 1250, 1e-6 mm2/s; it grows with ADC.
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
    maturity: float = 0.015
    regional: float = 0.03
    bias: float = 0.02
    gain: float = 0.012
    noise: float = 60.0
    misregistration_mm: float = 1.8
    ghost: float = 0.3
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


@functools.lru_cache(maxsize=1)
def tissue_basis() -> torch.Tensor:
    """Share of cortex, deep nuclei, white matter, early-myelinated tissue and fluid in template space, ``(5, X, Y, Z)`` float32.

    White matter counts up to 6 % more at the frontal and occipital poles, which mature last.
    """
    template = load_template()
    grey, white, fluid = (template.maps[i].numpy() for i in range(3))
    points = template.points()
    nuclei, myelin = deep_nuclei(points), early_myelin(points)
    poles = np.clip(np.abs(points[..., 1] + 22.0) / 60.0, 0.0, 1.2) ** 2
    late = (1 - nuclei) * (1 - myelin)
    solid = grey + white
    shares = [grey * late, nuclei * (1 - myelin) * solid, white * late * (0.97 + 0.06 * poles), myelin * solid, fluid]
    return torch.from_numpy(np.stack(shares).astype(np.float32))


@dataclass(frozen=True)
class Voxels:
    """The brain's voxels of one image grid, ``N`` of them; all values per voxel are kept as ``(N,)`` and put on the grid by ``fill``.

    Attributes:
        brain: ``(X, Y, Z)`` bool.
        points: template positions according to the registration, ``(N, 3)`` float32, mm.
        slice_step: template displacement of one slice, ``(3,)``, mm.
        spacing_mm: voxel size, mm.
    """

    brain: NDArray[np.bool_]
    points: Array
    slice_step: Array
    spacing_mm: tuple[float, float, float]

    @property
    def samples(self) -> int:
        """Positions across a slice that partial volume is averaged over."""
        return 3 if self.spacing_mm[2] > 3.5 else 2

    def fill(self, values: NDArray[Value]) -> NDArray[Value]:
        """Put ``(N,)`` values on the grid, 0 outside the brain: ``(X, Y, Z)`` of the values' type."""
        out = np.zeros(self.brain.shape, values.dtype)
        out[self.brain] = values
        return out

    def axis(self, number: int) -> NDArray[np.int64]:
        """Index of each voxel along one axis, ``(N,)``."""
        return np.nonzero(self.brain)[number]


@dataclass(frozen=True)
class HealthyBrain:
    """One healthy brain at the voxels of a grid.

    Attributes:
        adc: without noise, ``(N,)`` float32, 1e-6 mm2/s.
        points: true template positions, ``(N, 3)``, mm; they differ from the registration by the residual misregistration.
    """

    adc: Array
    points: Array


def draw_healthy(rng: np.random.Generator, voxels: Voxels, style: ScanStyle) -> HealthyBrain:
    """Draw one healthy brain that is registered to the voxels up to the style's misregistration.

    Args:
        rng: source of chance.
        voxels: where.
        style: tissue values and spreads.
    """
    points = voxels.points
    true_points = points + SmoothField.draw(rng, 10.0, style.misregistration_mm, 3).at(points).T
    chance = np.clip(rng.standard_normal(6), -2.0, 2.0)  # no healthy brain shall be dark as a whole
    factors = (1.0 + style.maturity * chance[0]) * (1.0 + style.spread * chance[1:])
    means = np.array([style.grey, style.deep, style.white, style.early, style.fluid]) * factors
    volume = torch.zeros_like(tissue_basis()[0])
    for mean, share in zip(means, tissue_basis(), strict=True):  # not a matrix product: its sums may depend on the number of threads
        volume.add_(share, alpha=float(mean))
    adc = sample_slices(volume[None], true_points, voxels.slice_step, voxels.samples)[0]
    return HealthyBrain(adc * (1.0 + SmoothField.draw(rng, 16.0, style.regional).at(points)[0]), true_points)


def acquire(rng: np.random.Generator, adc: Array, voxels: Voxels, style: ScanStyle) -> Array:
    """Add what the scanner adds: a smooth bias, a gain per slice, noise that grows with ADC (less signal is left to measure it).

    Args:
        rng: source of chance.
        adc: true ADC ``(N,)``, 1e-6 mm2/s.
        voxels: where.
        style: the scanner.
    """
    bias = 1.0 + SmoothField.draw(rng, 40.0, style.bias).at(voxels.points)[0]
    gain = 1.0 + style.gain * rng.standard_normal(voxels.brain.shape[2]).astype(np.float32)
    noise = style.noise * adc / np.float32(1250.0) * rng.standard_normal(adc.shape, dtype=np.float32)
    return (adc * bias * gain[voxels.axis(2)] + noise).astype(np.float32)


def smooth_inside(values: Array, voxels: Voxels, fwhm_mm: float = 2.0) -> Array:
    """Gaussian smoothing that uses voxels of the brain only.

    Args:
        values: ``(N,)``.
        voxels: where.
        fwhm_mm: full width at half maximum, mm.

    Returns:
        ``(N,)`` float32.
    """
    sigma = [fwhm_mm * FWHM_TO_SD / step for step in voxels.spacing_mm]
    weight = gaussian_filter(voxels.brain.astype(np.float32), sigma, mode="constant")[voxels.brain]
    return gaussian_filter(voxels.fill(values), sigma, mode="constant")[voxels.brain] / weight


@dataclass(frozen=True)
class Norm:
    """Mean and standard deviation of smoothed ADC of healthy brains at each voxel, ``(N,)`` float32, 1e-6 mm2/s."""

    mean: Array
    sd: Array

    def z_score(self, smoothed: Array, limit: float = 10.0) -> Array:
        """Z of a smoothed ADC map ``(N,)``, clipped to +-``limit``."""
        return np.clip((smoothed - self.mean) / self.sd, -limit, limit).astype(np.float32)


def build_norm(rng: np.random.Generator, voxels: Voxels, style: ScanStyle, controls: int = 16) -> Norm:
    """Scan ``controls`` healthy brains registered to this grid and take mean and spread at each voxel.

    The controls go through the same slices, noise and smoothing as the patient, so that Z of a healthy brain is about N(0, 1) whatever the
    grid. The variance is smoothed over neighbours (16 controls alone would give heavy tails) and widened by 1 + 1/n for a new subject.

    Args:
        rng: source of chance.
        voxels: where.
        style: the scanner of the controls.
        controls: number of healthy brains, >= 2.
    """
    total, squares = np.zeros(len(voxels.points)), np.zeros(len(voxels.points))
    for _ in range(controls):
        scan = acquire(rng, draw_healthy(rng, voxels, style).adc, voxels, style)
        smoothed = smooth_inside(scan, voxels).astype(np.float64)
        total += smoothed
        squares += smoothed**2
    mean = total / controls
    variance = np.maximum(squares - controls * mean**2, 0.0) / (controls - 1) * (1.0 + 1.0 / controls)
    steady = smooth_inside(variance.astype(np.float32), voxels, 2.5 * min(voxels.spacing_mm))
    return Norm(mean.astype(np.float32), np.sqrt(np.maximum(steady, np.float32(400.0))).astype(np.float32))
