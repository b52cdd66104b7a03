"""Lesions in a simulated T1: dim foci of white matter, an old stroke, a mass that is bright or dim, each with a soft rim (none in MONAI).

Dim lesions share their range with grey matter and fluid, bright ones begin below white matter's signal: no threshold parts them from
healthy tissue, which a test holds (the band is stated in `ixi.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.data.simulate.anatomy import Array, SmoothField
from common.data.simulate.t1_head import T1Head

KINDS = ("white matter", "stroke", "mass")
CORE = 0.5
"""Share of lesion from which a voxel belongs to the mask."""


@dataclass(frozen=True)
class Lesions:
    """What was inserted: ``kind``, share of lesion per voxel of the head ``(N,)`` in [0, 1], and the ``signal`` of the head with it."""

    kind: str
    part: Array
    signal: Array


def insert_lesions(rng: np.random.Generator, head: T1Head, kind: str, volume_ml: float) -> Lesions:
    """Replace healthy signal by that of a lesion.

    .. math:: s' = s + w\\,(s_{lesion} - s), \\qquad w \\in [0, 1] \\text{ the share of lesion}

    Args:
        rng: source of chance.
        head: a head without lesions.
        kind: one of ``KINDS``.
        volume_ml: volume of all lesions together, about; > 0.
    """
    points = head.voxels.points[head.brain]
    solid = np.clip(head.grey + head.white, 0, 1)[head.brain]
    white = head.white[head.brain]
    closeness = _foci(rng, points, white, volume_ml) if kind == "white matter" else _blob(rng, points, solid, volume_ml, kind == "stroke")
    weight = white if kind == "white matter" else 0.3 + 0.7 * solid
    part = np.zeros(len(head.signal), np.float32)
    part[head.brain] = _to_volume((closeness * weight).astype(np.float32), volume_ml, head.voxels.voxel_ml)
    level = _level(rng, head, kind)
    texture = SmoothField.draw(rng, 9.0, 0.06).at(head.voxels.points)[0]
    signal = head.signal + part * (level * (1 + texture) - head.signal)
    return Lesions(kind, part, signal.astype(np.float32))


def _foci(rng: np.random.Generator, points: Array, white: Array, volume_ml: float) -> Array:
    """Nearness to a few foci of 2 to 8 mm in white matter, 1 at a centre, below 0.5 outside."""
    total = np.zeros(len(points), np.float32)
    candidates = np.flatnonzero(white > 0.6)
    count = int(np.clip(round(3 + 2.5 * volume_ml * rng.uniform(0.6, 1.4)), 3, 24))
    for place in rng.choice(candidates, count) if len(candidates) else []:
        radii = (rng.uniform(2.0, 8.0) * np.exp(rng.uniform(-0.4, 0.4, 3))).astype(np.float32)
        total = np.maximum(total, np.exp(-0.7 * np.sum(((points - points[place]) / radii) ** 2, axis=1)))
    return total


def _blob(rng: np.random.Generator, points: Array, solid: Array, volume_ml: float, cortical: bool) -> Array:
    """Nearness to one uneven lump; a stroke lies towards the surface, a mass anywhere."""
    middle = np.array([0.0, -18.0, 12.0], np.float32)
    far = np.sum(((points - middle) / np.array([60.0, 75.0, 55.0], np.float32)) ** 2, axis=1)
    candidates = np.flatnonzero((solid > 0.5) & ((far > 0.45) if cortical else (far < 0.7)))
    centre = points[rng.choice(candidates if len(candidates) else np.arange(len(points)))]
    radius = (3000.0 * volume_ml / (4 * np.pi)) ** (1 / 3)
    radii = (radius * np.exp(rng.uniform(-0.3, 0.3, 3))).astype(np.float32)
    rough = SmoothField.draw(rng, 9.0, 0.30).at(points)[0]
    distance = np.sqrt(np.sum(((points - centre) / radii) ** 2, axis=1)) * (1 + rough)
    return np.exp(-0.7 * distance**2).astype(np.float32)


def _to_volume(closeness: Array, volume_ml: float, voxel_ml: float) -> Array:
    """Share of lesion so that the nearest voxels, as many as the volume has, are above one half; the rim is soft."""
    count = int(np.clip(round(volume_ml / voxel_ml), 1, len(closeness) - 1))
    border = max(float(np.partition(closeness, -count)[-count]), 0.05)
    share: Array = np.clip(0.5 + 2.5 * (closeness - border) / border, 0, 1).astype(np.float32)
    return share


def _level(rng: np.random.Generator, head: T1Head, kind: str) -> np.float32:
    """Signal of the lesion: dim between fluid and grey matter, or about as bright as white matter and above."""
    levels = head.levels
    if kind == "mass" and rng.random() < 0.6:
        return np.float32(levels["white"] * rng.uniform(1.0, 1.2))
    low, high = (0.15, 0.7) if kind == "stroke" else (0.35, 0.9)
    return np.float32(levels["fluid"] + rng.uniform(low, high) * (levels["grey"] - levels["fluid"]))
