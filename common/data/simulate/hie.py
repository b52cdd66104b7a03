"""Simulated hypoxic-ischaemic lesions, and the harmless findings that look like them to a threshold.

Sites and patterns: basal ganglia and thalamus (acute profound asphyxia), watershed white matter and parasagittal cortex (prolonged partial
asphyxia), perirolandic and insular cortex, punctate white matter lesions, an arterial territory.
Source: de Vries and Groenendaal, Neuroradiology 2010; 52:555-566 (patterns); Bao et al., Sci Data 2025; 12:53 (BONBID-HIE: lesions are
multi-focal, over half of the patients below 1 % of the brain). Depths of 20-50 % below normal are chosen, not taken from a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from common.data.simulate.adc import ellipsoid
from common.data.simulate.anatomy import Array, SmoothField

Triple = tuple[float, float, float]

# name: (centre, radii) in template mm on the right side, preferred tissue (index into TISSUES; None: any)
SITES: dict[str, tuple[Triple, Triple, int | None]] = {
    "thalamus": ((13, -18, 7), (8, 10, 8), None),
    "putamen": ((26, -4, 3), (6, 13, 8), None),
    "watershed_front": ((23, 28, 30), (12, 20, 14), 1),
    "watershed_back": ((27, -62, 30), (13, 20, 14), 1),
    "rolandic": ((38, -24, 50), (16, 14, 16), 0),
    "insula": ((40, -4, 4), (8, 24, 14), 0),
    "occipital": ((20, -84, 6), (16, 12, 16), 0),
    "punctate": ((24, -12, 28), (5, 5, 5), 1),
    "territory": ((46, -12, 22), (20, 36, 26), None),
}
_SMALL: tuple[tuple[str, ...], ...] = (
    ("punctate",),
    ("punctate",) * 3,
    ("thalamus",),
    ("thalamus", "putamen"),
    ("putamen",),
    ("watershed_front",),
    ("watershed_back",),
)
_SMALL += (("rolandic",), ("occipital",), ("watershed_back", "punctate", "punctate"))
_MEDIUM: tuple[tuple[str, ...], ...] = (
    ("thalamus", "putamen"),
    ("watershed_front", "watershed_back"),
    ("thalamus", "putamen", "rolandic"),
    ("insula",),
    ("occipital",),
)
_LARGE: tuple[tuple[str, ...], ...] = (
    ("thalamus", "putamen", "rolandic", "insula"),
    ("watershed_front", "watershed_back", "occipital", "rolandic"),
    ("territory",),
)
PATTERNS = {"small": _SMALL, "medium": _MEDIUM, "large": _LARGE}
LOADS = {"small": (0.0018, 0.0092), "medium": (0.0115, 0.045), "large": (0.06, 0.17)}
"""Share of the brain that the lesion of a stratum fills: smallest and largest."""


@dataclass(frozen=True)
class LesionPlan:
    """Everything random about one subject's lesion, in template space, so that any grid and any visit shows the same one.

    Attributes:
        load: share of the brain, in (0, 1).
        depth: relative fall of ADC in the lesion's core, in (0, 1).
        softness_mm: width of the border, mm in patient space.
        sites: (centre, radii, tissue, weight) of each focus.
        texture: log-modulation that makes the outline irregular.
        patches: relative modulation of the depth.
    """

    load: float
    depth: float
    softness_mm: float
    sites: tuple[tuple[Triple, Triple, int | None, float], ...]
    texture: SmoothField
    patches: SmoothField


def plan_lesion(rng: np.random.Generator, stratum: str, depth_range: tuple[float, float]) -> LesionPlan:
    """Draw pattern, sides, load and depth of a lesion.

    Args:
        rng: source of chance.
        stratum: "small" (< 1 % of the brain), "medium" (1-5 %) or "large" (> 5 %).
        depth_range: smallest and largest relative fall of ADC.
    """
    low, high = LOADS[stratum]
    load = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    names = PATTERNS[stratum][rng.integers(len(PATTERNS[stratum]))]
    both = names != ("territory",) and rng.random() < {"small": 0.35, "medium": 0.6, "large": 0.8}[stratum]
    main_side = 1.0 if rng.random() < 0.5 else -1.0
    sites = []
    for name in names:
        centre, radii, tissue = SITES[name]
        for side in (main_side, -main_side) if both else (main_side,):
            wander = np.array([8.0, 28.0, 8.0]) if name == "punctate" else np.array([3.0, 5.0, 4.0])
            place = np.array([side * centre[0], centre[1], centre[2]]) + wander * np.clip(rng.standard_normal(3), -1.5, 1.5)
            size = np.asarray(radii) * rng.uniform(0.75, 1.25, 3)
            weight = 1.0 if side == main_side else rng.uniform(0.6, 1.1)
            sites.append((_triple(place), _triple(size), tissue, float(weight)))
    return LesionPlan(
        load, float(rng.uniform(*depth_range)), float(rng.uniform(0.5, 1.1)), tuple(sites),
        SmoothField.draw(rng, 6.0, 0.6), SmoothField.draw(rng, 7.0, 0.15),
    )  # fmt: skip


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def lesion_mask(plan: LesionPlan, points: Array, tissues: Array, brain: Array, load_factor: float = 1.0) -> np.ndarray:
    """Grow the plan's foci until they fill its share of the brain.

    Args:
        plan: what to draw.
        points: true template positions ``(X, Y, Z, 3)``, mm.
        tissues: shares ``(4, X, Y, Z)``.
        brain: 1 in the brain, else 0.
        load_factor: factor on the load (a later visit).

    Returns:
        ``(X, Y, Z)`` bool; never empty.
    """
    solid = tissues[0] + tissues[1]
    field = np.zeros(brain.shape, np.float32)
    for centre, radii, tissue, weight in plan.sites:
        distance2 = np.sum(((points - np.array(centre, np.float32)) / np.array(radii, np.float32)) ** 2, axis=-1)
        liking = solid if tissue is None else 0.15 * solid + 0.85 * tissues[tissue]
        field = np.maximum(field, np.float32(weight) * np.exp(-0.5 * distance2) * liking)
    field *= np.exp(plan.texture.at(points)[0]) * brain * (solid > 0.6)
    count = max(4, round(float(brain.sum()) * plan.load * load_factor))
    threshold = np.partition(field.ravel(), field.size - count)[field.size - count]
    return _without_specks(field >= max(float(threshold), 1e-12))


def _without_specks(mask: np.ndarray, smallest: int = 3) -> np.ndarray:
    """Drop components of fewer than ``smallest`` voxels, unless nothing would stay."""
    components, count = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = (sizes >= smallest)[components]
    return kept if kept.any() else mask


def lower_adc(
    adc: Array, mask: np.ndarray, plan: LesionPlan, points: Array, fluid: Array, spacing_mm: Triple, fading: float = 1.0
) -> Array:
    """Lower ADC in the lesion: by ``depth`` in its core, by half of that on its contour, by nothing in fluid.

    Args:
        adc: ``(X, Y, Z)``, 1e-6 mm2/s.
        mask: the lesion, bool.
        plan: depth, softness and patches.
        points: template positions ``(X, Y, Z, 3)``, mm.
        fluid: share of fluid ``(X, Y, Z)``.
        spacing_mm: voxel size, mm.
        fading: factor on the depth (pseudo-normalisation on a later visit).
    """
    inside = distance_transform_edt(mask, sampling=spacing_mm)
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    half = 0.5 * min(spacing_mm)  # the contour runs between the voxels
    signed = np.where(mask, inside - half, half - outside)
    share = 1.0 / (1.0 + np.exp(-np.clip(signed / plan.softness_mm, -30, 30)))
    depth = plan.depth * fading * np.clip(1.0 + plan.patches.at(points)[0], 0.5, 1.4)
    return (adc * (1.0 - depth * share * (1.0 - fluid))).astype(np.float32)


def add_lookalikes(rng: np.random.Generator, adc: Array, points: Array, fluid: Array, ghost: float) -> Array:
    """Add what lowers ADC or Z and is no lesion: plexus in the ventricles, advanced myelination, veins, motion ghosts.

    Each differs from a lesion in one thing a reader would use: plexus keeps an ADC far above tissue; myelination is symmetric, at a fixed
    site and shallow; a vein is a thin line beside a ventricle; a ghost is a band across the whole slice.

    Args:
        rng: source of chance.
        adc: true ADC ``(X, Y, Z)``, 1e-6 mm2/s.
        points: template positions ``(X, Y, Z, 3)``, mm.
        fluid: share of fluid ``(X, Y, Z)``.
        ghost: probability of a motion ghost.
    """
    adc = adc * (1.0 - rng.uniform(0.2, 0.4) * fluid * np.clip(SmoothField.draw(rng, 8.0, 1.0).at(points)[0] - 0.3, 0.0, 1.0))
    half = np.concatenate([np.abs(points[..., :1]), points[..., 1:]], axis=-1)
    if rng.random() < 0.4:
        for centre, radii in (((20, -14, 10), (5, 9, 10)), ((8, -26, -12), (5, 6, 8))):
            adc = adc * (1.0 - rng.uniform(0.08, 0.15) * ellipsoid(half, centre, radii, 0.25))
    for _ in range(rng.integers(1, 4)):
        adc = adc * (1.0 - _vein(rng, points))
    return _ghost(rng, adc) if rng.random() < ghost else adc.astype(np.float32)


def _vein(rng: np.random.Generator, points: Array) -> Array:
    """A curved thin line of low ADC: share by which ADC falls, ``(X, Y, Z)``."""
    start = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(14, 26), rng.uniform(-50, 30), rng.uniform(16, 40)])
    heading = np.array([np.sign(start[0]) * rng.uniform(0.4, 1.0), rng.uniform(-0.6, 0.6), rng.uniform(0.0, 0.8)])
    steps = start + np.linspace(0.0, rng.uniform(12, 24), 12)[:, None] * heading / np.linalg.norm(heading)
    nearest = np.min([np.sum((points - np.float32(s)) ** 2, axis=-1) for s in steps], axis=0)
    return (rng.uniform(0.2, 0.4) * np.exp(-0.5 * nearest / rng.uniform(1.3, 2.0) ** 2)).astype(np.float32)


def _ghost(rng: np.random.Generator, adc: Array) -> Array:
    """Two or three neighbouring slices get bands along the phase-encoding axis."""
    count = min(int(rng.integers(2, 4)), adc.shape[2])
    first = int(rng.integers(0, adc.shape[2] - count + 1))
    wave = np.sin(np.arange(adc.shape[1]) * 2 * np.pi / (adc.shape[1] / rng.uniform(3, 6)) + rng.uniform(0, 2 * np.pi))
    band = gaussian_filter(np.ones(adc.shape[:2]) * wave, 1.0)[..., None]
    out = adc.astype(np.float32)
    out[:, :, first : first + count] *= (1.0 + rng.uniform(0.05, 0.1) * band).astype(np.float32)
    return out
