"""Simulated hypoxic-ischaemic lesions in ADC.

Sites and patterns: basal ganglia and thalamus (acute profound asphyxia), watershed white matter and parasagittal cortex (prolonged partial
asphyxia), perirolandic and insular cortex, punctate white matter lesions, an arterial territory.
Source: de Vries and Groenendaal, Neuroradiology 2010; 52:555-566 (patterns); Bao et al., Sci Data 2025; 12:53 (BONBID-HIE: lesions are
multi-focal, over half of the patients below 1 % of the brain). Depths of 20-50 % below normal are chosen, not taken from a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from common.data.simulate.adc import Voxels
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
LOADS = {"small": (0.0012, 0.008), "medium": (0.0115, 0.045), "large": (0.06, 0.17)}
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


def lesion_mask(plan: LesionPlan, points: Array, tissues: Array, voxels: Voxels, load_factor: float = 1.0) -> NDArray[np.bool_]:
    """Grow the plan's foci until they fill its share of the brain.

    Args:
        plan: what to draw.
        points: true template positions ``(N, 3)``, mm.
        tissues: shares of grey, white, fluid, brain ``(4, N)``.
        voxels: where.
        load_factor: factor on the load (a later visit).

    Returns:
        ``(X, Y, Z)`` bool; never empty.
    """
    solid = tissues[0] + tissues[1]
    field = np.zeros(len(points), np.float32)
    for centre, radii, tissue, weight in plan.sites:
        distance2 = np.sum(((points - np.array(centre, np.float32)) / np.array(radii, np.float32)) ** 2, axis=-1)
        liking = solid if tissue is None else 0.15 * solid + 0.85 * tissues[tissue]
        field = np.maximum(field, np.float32(weight) * np.exp(-0.5 * distance2) * liking)
    field *= np.exp(plan.texture.at(points)[0]) * (solid > 0.6)
    count = max(4, round(field.size * plan.load * load_factor))
    threshold = np.partition(field, field.size - count)[field.size - count]
    return _without_specks(voxels.fill(field >= max(float(threshold), 1e-30)))


def _without_specks(mask: NDArray[np.bool_], smallest: int = 3) -> NDArray[np.bool_]:
    """Drop components of fewer than ``smallest`` voxels, unless nothing would stay."""
    components, count = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = (sizes >= smallest)[components]
    return kept if kept.any() else mask


def lower_adc(
    adc: Array, mask: NDArray[np.bool_], plan: LesionPlan, points: Array, fluid: Array, voxels: Voxels, fading: float = 1.0
) -> Array:
    """Lower ADC in the lesion: by ``depth`` in its core, by half of that on its contour, by nothing in fluid.

    Args:
        adc: ``(N,)``, 1e-6 mm2/s.
        mask: the lesion, ``(X, Y, Z)``.
        plan: depth, softness and patches.
        points: true template positions ``(N, 3)``, mm.
        fluid: share of fluid ``(N,)``.
        voxels: where.
        fading: factor on the depth (pseudo-normalisation on a later visit).
    """
    inside = distance_transform_edt(mask, sampling=voxels.spacing_mm)[voxels.brain]
    outside = distance_transform_edt(~mask, sampling=voxels.spacing_mm)[voxels.brain]
    half = 0.5 * min(voxels.spacing_mm)  # the contour runs between the voxels
    signed = np.where(inside > 0, inside - half, half - outside)
    share = 1.0 / (1.0 + np.exp(-np.clip(signed / plan.softness_mm, -30, 30)))
    depth = plan.depth * fading * np.clip(1.0 + plan.patches.at(points)[0], 0.5, 1.4)
    return (adc * (1.0 - depth * share * (1.0 - fluid))).astype(np.float32)
