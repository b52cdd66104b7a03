"""Harmless findings and artefacts that look like a lesion to a threshold on Z, and not to a reader."""

from __future__ import annotations

import numpy as np

from common.data.simulate.adc import Voxels, ellipsoid, mirrored
from common.data.simulate.anatomy import Array, SmoothField


def add_lookalikes(rng: np.random.Generator, adc: Array, points: Array, fluid: Array, voxels: Voxels, ghost: float) -> Array:
    """Add what lowers ADC or Z and is no lesion: plexus in the ventricles, advanced myelination, veins, motion ghosts.

    Each differs from a lesion in one thing a reader would use: plexus keeps an ADC far above tissue; myelination is symmetric, at a fixed
    site and shallow; a vein is a thin line beside a ventricle; a ghost is a band across the whole slice.

    Args:
        rng: source of chance.
        adc: true ADC ``(N,)``, 1e-6 mm2/s.
        points: true template positions ``(N, 3)``, mm.
        fluid: share of fluid ``(N,)``.
        voxels: where.
        ghost: probability of a motion ghost.
    """
    adc = adc * (1.0 - rng.uniform(0.2, 0.4) * fluid * np.clip(SmoothField.draw(rng, 8.0, 1.0).at(points)[0] - 0.3, 0.0, 1.0))
    half = mirrored(points)
    if rng.random() < 0.4:
        for centre, radii in (((20, -14, 10), (5, 9, 10)), ((8, -26, -12), (5, 6, 8))):
            adc = adc * (1.0 - rng.uniform(0.08, 0.15) * ellipsoid(half, centre, radii, 0.25))
    for _ in range(rng.integers(1, 4)):
        adc = adc * (1.0 - _vein(rng, points))
    return _ghost(rng, adc, voxels) if rng.random() < ghost else adc.astype(np.float32)


def _vein(rng: np.random.Generator, points: Array) -> Array:
    """A curved thin line of low ADC: share by which ADC falls, ``(N,)``."""
    start = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(14, 26), rng.uniform(-50, 30), rng.uniform(16, 40)])
    heading = np.array([np.sign(start[0]) * rng.uniform(0.4, 1.0), rng.uniform(-0.6, 0.6), rng.uniform(0.0, 0.8)])
    steps = start + np.linspace(0.0, rng.uniform(12, 24), 12)[:, None] * heading / np.linalg.norm(heading)
    nearest = np.min([np.sum((points - np.float32(s)) ** 2, axis=-1) for s in steps], axis=0)
    return (rng.uniform(0.2, 0.4) * np.exp(-0.5 * nearest / rng.uniform(1.3, 2.0) ** 2)).astype(np.float32)


def _ghost(rng: np.random.Generator, adc: Array, voxels: Voxels) -> Array:
    """Two or three neighbouring slices get bands along the phase-encoding axis."""
    width, depth = voxels.brain.shape[1:]
    count = min(int(rng.integers(2, 4)), depth)
    first = int(rng.integers(0, depth - count + 1))
    phase = 2 * np.pi * (voxels.axis(1) / width * rng.uniform(3, 6) + rng.random())
    hit = (voxels.axis(2) >= first) & (voxels.axis(2) < first + count)
    return (adc * (1.0 + rng.uniform(0.05, 0.1) * hit * np.sin(phase))).astype(np.float32)
