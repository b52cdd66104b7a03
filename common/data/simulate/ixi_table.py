"""Who is in a simulated IXI, and the spreadsheet that says so, with the gaps and copies of the public one (no such table in MONAI)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

SITES = {"Guys": 0.55, "HH": 0.32, "IOP": 0.13}
"""Sites and their share of people."""
ETHNICITIES = {1: 0.78, 3: 0.1, 4: 0.07, 5: 0.05}
"""Codes of the column ETHNIC_ID (1 is white) and their share of people."""
AGES = (20.0, 86.0)
MISSING_AGE_EVERY, REPEATED_ROW, ROW_WITHOUT_VOLUME = 23, 2, 3
"""Of each so many people one has no age; which person's row stands there twice, and before whom a row without volume stands."""
GOLDEN, SECOND = 0.6180339887, 0.7548776662


@dataclass(frozen=True)
class Volunteer:
    """One person: ``number`` in the file's name, ``scan`` (the four digits), ``site``, ``sex`` ("m", "f"), ``age`` in years, ``ethnicity``
    (code), whether the table knows the age, and whether lesions are inserted (a patient)."""

    number: int
    scan: int
    site: str
    sex: str
    age: float
    ethnicity: int
    age_known: bool
    patient: bool

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"IXI{self.number:03d}-{self.site}-{self.scan:04d}-T1"


def stream(seed: int, style: str, index: int, name: str) -> np.random.Generator:
    """Source of chance of one purpose; purposes do not disturb each other."""
    return np.random.default_rng([seed, zlib.crc32(style.encode()), index, zlib.crc32(f"ixi {name}".encode())])


def volunteer(index: int, seed: int, style: str, patients: float) -> Volunteer:
    """Person ``index`` of a cohort; ages and patients are spread evenly over people in turn (golden-ratio sequences).

    Args:
        index: which person, >= 0.
        seed: of the cohort.
        style: of the cohort.
        patients: share of people with lesions, in [0, 1].
    """
    start = stream(seed, style, 0, "turns").random(2)
    rng = stream(seed, style, index, "person")
    age = AGES[0] + (AGES[1] - AGES[0]) * float((start[0] + GOLDEN * index) % 1.0)
    return Volunteer(
        number=2 + index + index // 7,
        scan=int(rng.integers(400, 2800)),
        site=str(rng.choice(list(SITES), p=list(SITES.values()))),
        sex="mf"[int(rng.random() < 0.55)],
        age=age,
        ethnicity=int(rng.choice(list(ETHNICITIES), p=list(ETHNICITIES.values()))),
        age_known=index % MISSING_AGE_EVERY != MISSING_AGE_EVERY // 2,
        patient=bool((start[1] + SECOND * index) % 1.0 < patients),
    )


def table_rows(people: list[Volunteer]) -> list[dict[str, Any]]:
    """Rows of the spreadsheet, in the columns of IXI.xls: ages missing, one row twice, one row without volume."""
    rows = []
    for index, one in enumerate(people):
        if index == ROW_WITHOUT_VOLUME:
            rows.append(_row(999, "f", 1, 44.4))
        rows.append(_row(one.number, one.sex, one.ethnicity, one.age if one.age_known else None))
        rows += [dict(rows[-1])] if index == REPEATED_ROW else []
    return rows


def _row(number: int, sex: str, ethnicity: int, age: float | None) -> dict[str, Any]:
    known = {"IXI_ID": number, "SEX_ID (1=m, 2=f)": 1 if sex == "m" else 2, "HEIGHT": 178 if sex == "m" else 166}
    known |= {"WEIGHT": 0, "ETHNIC_ID": ethnicity, "MARITAL_ID": 0, "OCCUPATION_ID": 0, "QUALIFICATION_ID": 0}
    dates = {"DOB": "", "DATE_AVAILABLE": 0 if age is None else 1, "STUDY_DATE": ""}
    return known | dates | {"AGE": "" if age is None else f"{age:.2f}"}
