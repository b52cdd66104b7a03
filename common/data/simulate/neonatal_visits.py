"""Who is scanned when in a simulated dHCP cohort: ages spread over 26 to 45 weeks, and the children who come back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from common.data.simulate.neonatal_growth import AGES

GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Visit:
    """Which scan of which child: ``subject`` and ``visit`` from 0, the child's ages at all its scans, and names as dHCP writes them."""

    subject: int
    visit: int
    ages: tuple[float, ...]

    @property
    def age(self) -> float:
        """Age at this scan, weeks."""
        return self.ages[self.visit]

    @property
    def names(self) -> tuple[str, str]:
        """``participant_id`` and ``session_id`` without prefixes."""
        return f"CC{50 + self.subject:05d}XX{self.subject * 7 % 20 + 1:02d}", str(7200 + 11 * self.subject + 4 * self.visit)


def stream(seed: int, style: str, index: int, name: str) -> np.random.Generator:
    """Source of chance for one purpose (``name``) and one child."""
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, zlib.crc32(name.encode())])


def visits(index: int, seed: int, style: str, repeated: float) -> list[Visit]:
    """The scans of one child: mostly one; of a ``repeated`` share two or three, the first before 37 weeks, the last about term.

    Ages of single scans lean to term as in dHCP (median about 40 weeks); cases in turn are spread evenly (golden-ratio sequence).
    """
    phases = stream(seed, style, 0, "ages").random(3)
    turn = float((phases[0] + GOLDEN * index) % 1.0)
    count = int(np.floor((index + 1) * repeated + phases[1]) - np.floor(index * repeated + phases[1]))
    if not count:
        ages: tuple[float, ...] = (_single_age(turn),)
    else:
        order = int(np.floor((index + 1) * repeated + phases[1]))
        first = AGES[0] + 0.5 + 9.5 * float((phases[2] + GOLDEN * order) % 1.0)
        last = 39.0 + 5.0 * float((phases[0] + GOLDEN * 3 * order) % 1.0)
        ages = (first, first + 0.5 * (last - first), last) if order % 4 == 0 else (first, last)
    rounded = tuple(round(age * 7) / 7 for age in ages)  # an age is a number of days
    return [Visit(index, visit, rounded) for visit in range(len(rounded))]


def _single_age(turn: float) -> float:
    """Quantile function of the ages: a third evenly from 26 to 37.5 weeks, the rest to 45."""
    return AGES[0] + 11.5 * turn / 0.33 if turn < 0.33 else 37.5 + (AGES[1] - 37.5) * (turn - 0.33) / 0.67
