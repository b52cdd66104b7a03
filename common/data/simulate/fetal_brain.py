"""Tissues of a simulated fetal brain of 20 to 33 weeks, in FeTA's seven classes (MONAI has no anatomy to start from).

The outline, ventricles and large folds come from the maps of `neonatal_brain.py`; a fetus adds a smooth cortex with wide Sylvian fissures
that close, layers of immature white matter, a small cerebellum and, in pathology, wide ventricles or an even smaller cerebellum. Folding is
a proxy: no gyrus has a name.

Source of sizes: head circumferences of common growth charts (about 17.5 cm at 20 and 30 cm at 33 weeks), less skull and scalp. All else is
chosen within the ranges of common knowledge so that images look like reconstructed T2w scans of that age; nothing is fitted to patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.feta import TISSUES
from common.data.simulate.anatomy import LATTICE_MM, Array, SmoothField
from common.data.simulate.mr_signal import Tissue
from common.data.simulate.neonatal_brain import load_brain_atlas
from common.data.simulate.soft_shapes import share

AGES: Final = (20.0, 33.0)
"""Youngest and oldest gestational age, weeks."""
LABELS: Final = dict(zip(("fluid", "grey", "white", "ventricle", "cerebellum", "deep", "stem"), TISSUES.values(), strict=True))
"""Numbers of FeTA's tissues by the short names used here."""
PATHOLOGIES: Final = ("ventriculomegaly", "small cerebellum")
EARLY: Final = {
    "grey": Tissue(1900, 165, 0.90),
    "white": Tissue(2800, 345, 0.95),
    "zone": Tissue(2400, 225, 0.92),
    "cerebellum": Tissue(1950, 180, 0.90),
    "deep": Tissue(1900, 176, 0.90),
    "stem": Tissue(1950, 192, 0.90),
    "fluid": Tissue(4000, 1500, 1.0),
}
"""Tissues at 20 weeks: T1 and T2 in ms, proton density. "zone" is the intermediate and the ventricular zone, darker white matter."""
LATE: Final = {
    "grey": Tissue(1750, 145, 0.89),
    "white": Tissue(2350, 260, 0.93),
    "zone": Tissue(2100, 205, 0.91),
    "cerebellum": Tissue(1700, 150, 0.88),
    "deep": Tissue(1650, 146, 0.88),
    "stem": Tissue(1600, 152, 0.88),
    "fluid": Tissue(4000, 1500, 1.0),
}
"""The same at 33 weeks."""

_OUTLINE_CM: Final = (16.0, 27.5)  # mean circumference of the brain with the fluid around it at 20 and 33 weeks
_DEEP_MM: Final = 3.5  # how much larger deep grey matter is than an adult's, within the smaller head, template mm
_SULCUS_MM: Final = 1.4  # half-width of a sulcus, template mm
_STEM: Final = (np.array([0.0, -31.0, -40.0], np.float32), np.array([1.35, 1.3, 1.0], np.float32))  # middle and widening of the brainstem
_HINDBRAIN: Final = np.array([0.0, -46.0, -32.0], np.float32)  # towards which the cerebellum shrinks, template mm
_CEREBELLUM: Final = (np.array([0.0, -65.0, -34.0], np.float32), np.array([54.0, 31.0, 28.0], np.float32))  # centre and radii, template mm
_SYLVIAN: Final = (np.array([64.0, 2.0, 2.0], np.float32), np.array([24.0, 27.0, 13.0], np.float32))  # centre and radii, template mm
_SPHERE: Final = (np.array([0.0, -18.0, 6.0], np.float32), np.array([66.0, 84.0, 68.0], np.float32))  # carries the fields of folds


@dataclass(frozen=True)
class Fetus:
    """One fetus on the day of the scan; lengths in template mm unless a name says otherwise.

    Attributes:
        age: gestational age, weeks.
        pathology: one of ``PATHOLOGIES``, or "" for a neurotypical brain.
        scale: size in units of the adult template.
        stretch: factors along left-right, back-front and up-down.
        warp: smooth displacement, 3 channels.
        folds: field whose zero levels are the sulci, root mean square 1, and as a second channel the length of its gradient, 1 / mm.
        smoothness: 1 for a brain without folds, 0 for all folds of the template.
        sulcus_mm: depth of the sulci.
        sylvian: how wide the Sylvian fissure is open, 1 at 20 weeks.
        ribbon_mm: thickness of the cortex.
        ventricle_mm: how far the ventricles reach beyond the template's.
        fluid_mm: thickness of the fluid around the brain.
        cerebellum: its size in units of the template's, within the smaller head.
        zone: share of the dark zones of white matter where they are darkest.
        tissues: relaxation times by tissue.
    """

    age: float
    pathology: str
    scale: float
    stretch: NDArray[np.float64]
    warp: SmoothField
    folds: SmoothField
    smoothness: float
    sulcus_mm: float
    sylvian: float
    ribbon_mm: float
    ventricle_mm: float
    fluid_mm: float
    cerebellum: float
    zone: float
    tissues: dict[str, Tissue]


def draw_fetus(rng: np.random.Generator, age_weeks: float, pathology: str = "") -> Fetus:
    """Draw a fetus.

    Args:
        rng: source of chance.
        age_weeks: gestational age, 20 to 33.
        pathology: one of ``PATHOLOGIES``, or "".
    """

    def normal() -> float:
        return float(np.clip(rng.standard_normal(), -1.8, 1.8))

    grown = (age_weeks - AGES[0]) / (AGES[1] - AGES[0])
    mature = age_weeks + 0.8 * normal()
    wide, small = (pathology == name for name in PATHOLOGIES)
    outline = (_OUTLINE_CM[0] + grown * (_OUTLINE_CM[1] - _OUTLINE_CM[0])) * (1.0 + 0.035 * normal() + 0.04 * wide)
    scale = outline / load_brain_atlas().outline_cm
    stretch = 1.0 + np.array([0.03, 0.03, 0.035]) * [normal() for _ in range(3)]
    return Fetus(
        age=age_weeks,
        pathology=pathology,
        scale=scale,
        stretch=stretch / stretch[:2].mean(),
        warp=SmoothField.draw(rng, 26.0, 3.0, 3),
        folds=_with_slope(SmoothField.draw(rng, 9.0, 1.0)),
        smoothness=1.0 - 0.75 * _rise(mature, 30.5, 2.0),
        sulcus_mm=17.0 * _rise(mature, 29.0, 1.8),
        sylvian=float(np.clip(1.05 - 0.055 * (mature - AGES[0]), 0.2, 1.1)),
        ribbon_mm=(1.6 + 0.5 * grown + 0.1 * normal()) / scale,
        ventricle_mm=3.2 - 2.4 * grown + 0.7 * normal() + wide * float(rng.uniform(4.0, 10.0)),
        fluid_mm=max(2.5, 7.0 - 2.0 * grown + 1.0 * normal() - 1.5 * wide),
        cerebellum=(0.66 + 0.10 * grown) * (1.0 + 0.04 * normal()) * (float(rng.uniform(0.5, 0.72)) if small else 1.0),
        zone=float(np.clip(0.9 - 0.35 * grown + 0.15 * normal(), 0.2, 1.0)),
        tissues={name: _between(EARLY[name], LATE[name], grown, 1.0 + 0.06 * normal()) for name in EARLY},
    )


def _with_slope(field: SmoothField) -> SmoothField:
    """The field and, as a second channel, the length of its gradient."""
    slope = torch.stack(torch.gradient(field.lattice[0], spacing=LATTICE_MM)).square().sum(0).sqrt()
    return SmoothField(torch.stack([field.lattice[0], slope]))


def _rise(age_weeks: float, middle: float, width: float) -> float:
    """Logistic rise from 0 to 1."""
    return float(1.0 / (1.0 + np.exp(-(age_weeks - middle) / width)))


def _between(early: Tissue, late: Tissue, part: float, factor: float) -> Tissue:
    """Tissue on the way from early to late; ``factor`` belongs to T2."""
    pairs = ((early.t1_ms, late.t1_ms), (early.t2_ms, late.t2_ms), (early.density, late.density))
    t1, t2, density = ((1.0 - part) * a + part * b for a, b in pairs)
    return Tissue(t1, t2 * factor, density)


def fetal_shares(fetus: Fetus, points: Array, half_width: float) -> tuple[dict[str, Array], NDArray[np.uint8]]:
    """Shares of the tissues at points inside the skull, and the label of the largest.

    Args:
        fetus: who.
        points: template positions, ``(N, 3)``, mm.
        half_width: half a voxel, template mm: borders are as soft as the voxels are large.

    Returns:
        Shares ``(N,)`` by tissue (keys of ``EARLY``), with sum 1, and labels ``(N,)`` uint8 of ``LABELS``.
    """
    hull, smooth, folded, _, ventricle, deep, behind = load_brain_atlas().sample(points, 0, 7)
    stem = load_brain_atlas().sample(_STEM[0] + (points - _STEM[0]) / _STEM[1], 7, 8)[0]
    cerebellum = _cerebellum(fetus, points, half_width) * (1.0 - stem)
    s = np.float32(fetus.smoothness)
    surface = hull + np.float32(fetus.fluid_mm)
    pial = np.maximum.reduce([s * smooth + (1.0 - s) * folded, surface, _fissure(fetus, points)])
    sulci, walls = (surface + _sulci(fetus, points, width) for width in (_SULCUS_MM, _SULCUS_MM + fetus.ribbon_mm))
    hind = np.where(stem > 0.5, hull + 2.0, np.maximum(smooth, hull + 2.0))
    tissue = share(np.where(behind + stem > 0.5, hind, np.maximum(pial, sulci)), half_width)
    tissue = tissue * (1.0 - behind * (1.0 - stem) * (1.0 - cerebellum))  # what the small cerebellum leaves free is fluid
    core = np.maximum(pial, walls) + np.float32(fetus.ribbon_mm)
    deep = deep - np.float32(_DEEP_MM)
    solid = np.maximum.reduce([stem, behind, share(deep, half_width)])
    edge = ventricle - np.float32(fetus.ventricle_mm) * (1.0 - solid)
    opened = share(edge, half_width)
    rest = tissue * (1.0 - opened)
    shares: dict[str, Array] = {"fluid": 1.0 - rest}
    for name, part in (("stem", stem), ("cerebellum", np.minimum(cerebellum, behind)), ("deep", share(deep, half_width))):
        shares[name] = rest * part
        rest = rest - shares[name]
    inner = rest * share(core, half_width)
    dark = np.float32(fetus.zone) * np.maximum(np.exp(-(((core + 7.0) / 3.0) ** 2)), share(edge - 4.0, 1.5))
    shares["zone"] = inner * dark
    shares["white"] = inner - shares["zone"]
    shares["grey"] = rest - inner
    return {name: part.astype(np.float32) for name, part in shares.items()}, _labels(shares, opened)


def _cerebellum(fetus: Fetus, points: Array, half_width: float) -> Array:
    """Share of a cerebellum of the fetus's size: the template's, rounded and shrunk towards the brainstem."""
    factor = np.float32(fetus.cerebellum)
    there = _HINDBRAIN + (points - _HINDBRAIN) / factor
    hull, smooth = load_brain_atlas().sample(there, 0, 2)
    distance = np.maximum.reduce([smooth, hull + 3.0, _ellipsoid(there, *_CEREBELLUM)])
    result: Array = share(factor * distance, half_width) * load_brain_atlas().sample(there, 6, 7)[0]
    return result


def _fissure(fetus: Fetus, points: Array) -> Array:
    """Minus about the distance to the open Sylvian fissure, > 0 in it, template mm."""
    centre, radii = _SYLVIAN
    one_side = np.stack([np.abs(points[:, 0]), points[:, 1], points[:, 2]], axis=1)
    return -_ellipsoid(one_side, centre, radii * np.float32(fetus.sylvian))


def _ellipsoid(points: Array, centre: Array, radii: Array) -> Array:
    """About the signed distance to an ellipsoid, mm, < 0 inside."""
    result: Array = (np.sqrt(np.sum(((points - centre) / radii) ** 2, axis=1)) - 1.0) * radii.min()
    return result


def _sulci(fetus: Fetus, points: Array, width_mm: float) -> Array:
    """How far the sulci reach below the surface at each point, template mm: deepest on the zero levels of the fetus's field."""
    centre, radii = _SPHERE
    offset = points - centre
    radius = np.sqrt(np.sum((offset / radii) ** 2, axis=-1, keepdims=True))
    value, slope = fetus.folds.at((centre + offset / np.maximum(radius, np.float32(1e-3))).astype(np.float32))
    distance = value / np.maximum(slope, np.float32(0.04))  # to the zero level, in first order
    result: Array = np.float32(fetus.sulcus_mm) * np.exp(-((distance / np.float32(width_mm)) ** 4))
    return result


def _labels(shares: dict[str, Array], opened: Array) -> NDArray[np.uint8]:
    """Number of the largest share of each voxel; fluid is divided into that of the ventricles and the rest."""
    inside = np.minimum(opened, shares["fluid"])
    kinds = {"fluid": shares["fluid"] - inside, "ventricle": inside, "white": shares["white"] + shares["zone"]}
    kinds |= {name: shares[name] for name in ("grey", "deep", "stem", "cerebellum")}
    numbers = np.array([LABELS[name] for name in kinds], np.uint8)
    return np.asarray(numbers[np.argmax(np.stack(list(kinds.values())), axis=0)])
