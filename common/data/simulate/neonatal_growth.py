"""How a simulated newborn's brain grows from 26 to 45 weeks: size, folds, ventricles, fluid around the brain, relaxation times.

Sources: head circumference 35 cm at 40 weeks, growing 0.79 cm a week (the true slope in the paper's figure 2; methods/neonatal_inr.md,
section 8). All else (relaxation times of unmyelinated tissue, course of folding, spreads) is chosen within the ranges of common knowledge
so that the images look like T2w scans of that age; none is fitted to patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from common.data.simulate.anatomy import LATTICE_MM, SmoothField
from common.data.simulate.mr_signal import Tissue

AGES: Final = (26.0, 45.0)
"""Youngest and oldest age at a scan, weeks."""
GROWTH_CM_PER_WEEK: Final = 0.79
OUTLINE_CM: Final = 30.6
"""Mean circumference of the brain's outline at 40 weeks."""
SCALP_CM: Final = 4.4
"""Head circumference less that of the brain: skull and scalp of 7 mm all round."""

EARLY: Final = {
    "grey": Tissue(1900, 165, 0.90),
    "white": Tissue(2700, 330, 0.95),
    "deep": Tissue(1850, 172, 0.90),
    "stem": Tissue(1900, 205, 0.90),
    "cerebellum": Tissue(1900, 190, 0.90),
    "tract": Tissue(2500, 300, 0.94),
    "fluid": Tissue(4000, 1500, 1.0),
    "bone": Tissue(900, 35, 0.30),
    "scalp": Tissue(600, 95, 0.80),
}
"""Tissues at 26 weeks, 3 T: T1 and T2 in ms, proton density. "tract" is white matter that myelinates before birth."""
LATE: Final = {
    "grey": Tissue(1500, 132, 0.87),
    "white": Tissue(1950, 215, 0.91),
    "deep": Tissue(1350, 126, 0.86),
    "stem": Tissue(1300, 128, 0.85),
    "cerebellum": Tissue(1450, 138, 0.86),
    "tract": Tissue(1400, 140, 0.86),
    "fluid": Tissue(4000, 1500, 1.0),
    "bone": Tissue(900, 35, 0.30),
    "scalp": Tissue(600, 95, 0.80),
}
"""The same at 45 weeks."""


@dataclass(frozen=True)
class Newborn:
    """What one child keeps from scan to scan.

    Attributes:
        size: factor on the mean size of the age.
        stretch: factors along left-right, back-front and up-down, mean 1 in the axial plane.
        warp: smooth displacement in template space, 3 channels, template mm.
        folds: two fields whose zero levels are the sulci, of early and of late folds, and the slopes of both, 1 / template mm.
        ventricle_mm: how much wider than the mean the ventricles are, template mm.
        fluid_mm: how much more fluid than the mean is around the brain, template mm.
        maturity: weeks by which folding and contrast run ahead of the age.
        relaxation: factor on T2 by tissue.
        scalp_cm: head circumference less that of the brain.
        sex: "Male" or "Female".
        birth_age: weeks.
    """

    size: float
    stretch: np.ndarray
    warp: SmoothField
    folds: SmoothField
    ventricle_mm: float
    fluid_mm: float
    maturity: float
    relaxation: dict[str, float]
    scalp_cm: float
    sex: str
    birth_age: float


@dataclass(frozen=True)
class Stage:
    """A child's brain at one age; lengths in template mm.

    Attributes:
        scale: size in units of the template.
        outline_cm: circumference of the brain that ``scale`` gives.
        smoothness: 1 for a brain without folds, 0 for all folds of the template.
        early_mm: depth of the early sulci.
        late_mm: depth of the late sulci.
        ventricle_mm: how far the ventricles reach beyond the template's.
        fluid_mm: thickness of the fluid around the brain.
        tissues: relaxation times by tissue.
    """

    scale: float
    outline_cm: float
    smoothness: float
    early_mm: float
    late_mm: float
    ventricle_mm: float
    fluid_mm: float
    tissues: dict[str, Tissue]


def draw_newborn(rng: np.random.Generator, first_age: float) -> Newborn:
    """Draw a child whose first scan is at ``first_age``, weeks."""

    def normal() -> float:
        return float(np.clip(rng.standard_normal(), -1.8, 1.8))

    male = bool(rng.random() < 0.5)
    stretch = 1.0 + np.array([0.025, 0.025, 0.03]) * [normal() for _ in range(3)]
    return Newborn(
        size=1.0 + 0.032 * normal() + (0.008 if male else -0.008),
        stretch=stretch / stretch[:2].mean(),
        warp=SmoothField.draw(rng, 26.0, 3.0, 3),
        folds=_with_slopes(SmoothField.draw(rng, 8.5, 1.0), SmoothField.draw(rng, 6.5, 1.0)),
        ventricle_mm=0.9 * normal(),
        fluid_mm=0.8 * normal(),
        maturity=0.9 * normal(),
        relaxation={name: 1.0 + 0.08 * normal() for name in EARLY},
        scalp_cm=SCALP_CM + 0.3 * normal(),
        sex="Male" if male else "Female",
        birth_age=float(np.clip(first_age - rng.exponential(1.0) - 0.15, 23.0, 42.3)),
    )


def _with_slopes(*fields: SmoothField) -> SmoothField:
    """The fields and, as further channels, the lengths of their gradients."""
    values = [field.lattice[0].numpy() for field in fields]
    slopes = [np.sqrt(sum(part**2 for part in np.gradient(value, LATTICE_MM))) for value in values]
    return SmoothField(torch.from_numpy(np.stack([*values, *slopes]).astype(np.float32)))


def mean_outline_cm(age_weeks: float) -> float:
    """Mean circumference of the brain at an age."""
    return OUTLINE_CM + GROWTH_CM_PER_WEEK * (age_weeks - 40.0)


def stage_at(newborn: Newborn, age_weeks: float, template_outline_cm: float) -> Stage:
    """A child's brain at an age.

    Args:
        newborn: the child.
        age_weeks: post-menstrual age, weeks.
        template_outline_cm: circumference of the template's brain.
    """
    mature = age_weeks + newborn.maturity
    young = float(np.clip((44.0 - mature) / 18.0, 0.0, 1.0))
    outline = newborn.size * mean_outline_cm(age_weeks)
    return Stage(
        scale=outline / template_outline_cm,
        outline_cm=outline,
        smoothness=1.0 - _rise(mature, 31.0, 2.6),
        early_mm=20.0 * _rise(mature, 31.5, 2.3),
        late_mm=14.0 * _rise(mature, 36.0, 1.9),
        ventricle_mm=0.6 + 1.9 * young + newborn.ventricle_mm,
        fluid_mm=max(1.0, 2.0 + 3.2 * young + newborn.fluid_mm),
        tissues={name: _between(EARLY[name], LATE[name], 1.0 - young, newborn.relaxation[name]) for name in EARLY},
    )


def _rise(age_weeks: float, middle: float, width: float) -> float:
    """Logistic rise from 0 to 1."""
    return float(1.0 / (1.0 + np.exp(-(age_weeks - middle) / width)))


def _between(early: Tissue, late: Tissue, share: float, factor: float) -> Tissue:
    t1, t2, density = ((1.0 - share) * a + share * b for a, b in zip(_numbers(early), _numbers(late), strict=True))
    return Tissue(t1, t2 * factor, density)


def _numbers(tissue: Tissue) -> tuple[float, float, float]:
    return tissue.t1_ms, tissue.t2_ms, tissue.density
