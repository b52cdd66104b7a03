"""Who a simulated person is: tissue values, sizes, age, calcifications, and what an injury did to skull, scalp and brain.

Values (HU) follow common ranges of the literature: grey matter 37-41, white matter 28-32, cerebrospinal fluid 4-11, flowing blood 50-68
(with haematocrit), dura 45-55, fat -100 to -80, muscle and skin 30-60, cortical bone 1100-1700, diploe 350-800, physiological calcification
80-400. Source: common textbook ranges, such as Bushberg et al., The Essential Physics of Medical Imaging, 3rd ed., chapter 10. Spreads
between people, and how they follow age, are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.data.simulate.anatomy import SmoothField
from common.data.simulate.head_atlas import load_head_atlas

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Calcification:
    """A physiological calcification: centre and radius in template mm, HU at its centre."""

    centre: Triple
    radius_mm: float
    hu: float


@dataclass(frozen=True)
class Push:
    """A displacement of the brain (not of the skull): by ``shift_mm`` at ``centre``, fading with a Gaussian of ``width_mm``.

    ``radial_mm`` pushes away from the centre instead (mass effect around a bleed); both are template mm.
    """

    centre: Triple
    shift_mm: Triple
    radial_mm: float
    width_mm: float


@dataclass(frozen=True)
class Swelling:
    """Swelling of the scalp: centre on the skull, height and width, template mm."""

    centre: Triple
    height_mm: float
    width_mm: float


@dataclass(frozen=True)
class Dent:
    """A depressed piece of skull: a disc around ``centre`` that lies ``depth_mm`` deeper, template mm."""

    centre: Triple
    radius_mm: float
    depth_mm: float


@dataclass(frozen=True)
class Person:
    """Everything that makes one head differ from the next; lengths in template mm, values in HU.

    Attributes:
        age: years.
        grey, white, fluid, blood, dura, fat, muscle, table_bone, diploe: HU of the tissues.
        skull: factor on the skull's thickness.
        scalp_mm, fat_share: thickness of the scalp over the vault, share of fat in it.
        atrophy_mm: fluid between brain and skull.
        ventricles: how far the ventricles are widened, 0 as the template.
        leukoaraiosis: fall of white matter close to the ventricles, HU.
        sutures: HU by which sutures lower bone.
        thickness, scalp, texture: smooth fields (log, log, HU).
        calcifications: where and how dense.
        swellings, pushes, dents: what an injury did (`haemorrhage.py`, `fracture.py`), or a mere bump on the head.
    """

    age: float
    grey: float
    white: float
    fluid: float
    blood: float
    dura: float
    fat: float
    muscle: float
    table_bone: float
    diploe: float
    skull: float
    scalp_mm: float
    fat_share: float
    atrophy_mm: float
    ventricles: float
    leukoaraiosis: float
    sutures: float
    thickness: SmoothField
    scalp: SmoothField
    texture: SmoothField
    waves: SmoothField
    calcifications: tuple[Calcification, ...] = ()
    swellings: tuple[Swelling, ...] = ()
    pushes: tuple[Push, ...] = ()
    dents: tuple[Dent, ...] = ()


def draw_person(rng: np.random.Generator, age_range: tuple[float, float] = (18.0, 88.0)) -> Person:
    """Draw a healthy adult; ventricles, atrophy, white matter and calcifications follow age."""
    age = float(rng.uniform(*age_range))
    old = max(0.0, (age - 35.0) / 50.0)
    bump = (Swelling(_scalp_place(rng), float(rng.uniform(3, 8)), float(rng.uniform(14, 26))),) if rng.random() < 0.15 else ()
    return Person(
        age=age,
        grey=float(rng.uniform(37, 41)),
        white=float(rng.uniform(28, 32)),
        fluid=float(rng.uniform(4, 11)),
        blood=float(rng.uniform(50, 68)),
        dura=float(rng.uniform(44, 55)),
        fat=float(rng.uniform(-105, -80)),
        muscle=float(rng.uniform(45, 62)),
        table_bone=float(rng.uniform(1150, 1700)),
        diploe=float(rng.uniform(350, 800)),
        skull=float(np.exp(0.17 * np.clip(rng.standard_normal(), -2, 2))),
        scalp_mm=float(rng.uniform(4.0, 8.5)),
        fat_share=float(rng.uniform(0.3, 0.7)),
        atrophy_mm=float(rng.uniform(0.3, 1.2) + 2.6 * old * rng.uniform(0.3, 1.0)),
        ventricles=float(rng.uniform(-0.10, 0.12) + 0.5 * old * rng.uniform(0.2, 1.0)),
        leukoaraiosis=float(9.0 * old * rng.random() ** 2),
        sutures=float(rng.uniform(150, 600)),
        thickness=SmoothField.draw(rng, 16.0, 0.13),
        scalp=SmoothField.draw(rng, 20.0, 0.18),
        texture=SmoothField.draw(rng, 14.0, 0.9),
        waves=SmoothField.draw(rng, 9.0, 2.2, 3),
        calcifications=_calcifications(rng, old),
        swellings=bump,
    )


def _scalp_place(rng: np.random.Generator) -> Triple:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(0, 65))
    return on_skull(azimuth, elevation)


def on_skull(azimuth: float, elevation: float) -> Triple:
    """The point of the skull's inside in a direction: azimuth from the right over the front, elevation upward, radians."""
    ray = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    x, y, z = (float(v) for v in load_head_atlas().surface_point(ray))
    return x, y, z


def _calcifications(rng: np.random.Generator, old: float) -> tuple[Calcification, ...]:
    """Pineal gland, choroid plexus, falx, pallidum, carotid siphon: the older, the more."""
    found: list[Calcification] = []

    def add(
        chance: float, centre: Triple, spread: float, radius: tuple[float, float], hu: tuple[float, float], sides: tuple[int, ...]
    ) -> None:
        if rng.random() < chance:
            for side in sides:
                x, y, z = np.array(centre) * (side, 1, 1) + spread * rng.uniform(-1, 1, 3)
                found.append(Calcification((float(x), float(y), float(z)), float(rng.uniform(*radius)), float(rng.uniform(*hu))))

    add(0.55 + 0.2 * old, (0, -33, 2), 1.0, (1.5, 3.2), (90, 300), (1,))
    add(0.35 + 0.35 * old, (25, -42, 10), 2.0, (1.6, 3.8), (80, 220), (-1, 1))
    add(0.10 + 0.25 * old, (0, 40 - 60 * rng.random(), 45), 3.0, (1.2, 3.0), (150, 400), (1,))
    add(0.02 + 0.22 * old, (19, -3, 0), 1.5, (1.5, 3.5), (60, 130), (-1, 1))
    add(0.05 + 0.5 * old, (11, 3, -30), 1.0, (1.2, 2.2), (200, 500), (-1, 1))
    add(0.25, (22, -40, 12), 3.0, (1.0, 2.5), (80, 160), (1 if rng.random() < 0.5 else -1,))
    return tuple(found)


def hurt(person: Person, swellings: tuple[Swelling, ...], pushes: tuple[Push, ...], dents: tuple[Dent, ...]) -> Person:
    """The same person after an injury."""
    return replace(person, swellings=(*person.swellings, *swellings), pushes=(*person.pushes, *pushes), dents=(*person.dents, *dents))
