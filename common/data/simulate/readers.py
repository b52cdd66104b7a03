"""Three simulated readers of a head CT, and their table in the layout of CQ500's ``reads.csv``.

On each item at most one of the three errs, so that the majority is the truth and only agreement between readers is imperfect.
Source of the agreement aimed at: the paper's table 3 (Fleiss kappa 0.745 left, 0.705 right, 0.632 fracture; readers' AUROC 0.92-0.95).
"""

from __future__ import annotations

import numpy as np

from common.data.simulate.head_ct import Scan

ITEMS = (
    "ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "BleedLocation-Right", "ChronicBleed", "Fracture", "CalvarialFracture",
    "OtherFracture", "MassEffect", "MidlineShift",
)  # fmt: skip
"""The fourteen items of one reader, in the order of the columns."""
MISSED = {"fracture": 0.45, "bleed": 0.26, "small or isodense": 0.5}
"""Probability that one of the three readers misses a finding."""
INVENTED = {"fracture": 0.06, "bleed": 0.07}
"""Probability that one of the three readers sees what is not there."""


def true_items(scan: Scan) -> dict[str, int]:
    """The fourteen items as the truth has them, 0 or 1."""
    found = scan.findings
    kinds = {lesion.kind for lesion in scan.lesions}
    bleeds = [lesion for lesion in scan.lesions if not lesion.gap_mm]
    volume = sum(lesion.volume_ml for lesion in bleeds if lesion.kind in ("IPH", "SDH", "EDH"))
    items = {name: int(name in kinds) for name in ("IPH", "IVH", "SDH", "EDH", "SAH")}
    items |= {"ICH": int(bool(bleeds)), "BleedLocation-Left": found["bleed_left"], "BleedLocation-Right": found["bleed_right"]}
    items |= {"ChronicBleed": int(any(b.isodense and b.kind == "SDH" for b in bleeds)), "Fracture": found["fracture"]}
    items |= {"CalvarialFracture": int(bool(kinds & {"linear", "depressed"})), "OtherFracture": int("base" in kinds)}
    return items | {"MassEffect": int(volume > 12), "MidlineShift": int(volume > 25)}


def draw_reads(rng: np.random.Generator, scan: Scan) -> dict[str, list[int]]:
    """What each of three readers says of each item: item to three numbers 0 or 1, whose majority is the truth.

    A reader who misses the only bleed of a scan, or all of them, also says no to ICH.
    """
    reads = {}
    hard = {
        side: all(b.isodense or b.volume_ml < 1.5 for b in scan.lesions if not b.gap_mm and b.side == side) for side in ("left", "right")
    }
    for name, value in true_items(scan).items():
        sort = "fracture" if "Fracture" in name else "bleed"
        chance = INVENTED[sort] if not value else MISSED[sort]
        if value and name.startswith("BleedLocation") and hard[name.removeprefix("BleedLocation-").lower()]:
            chance = MISSED["small or isodense"]
        says = [value] * 3
        if rng.random() < chance:
            says[int(rng.integers(3))] = 1 - value
        reads[name] = says
    left, right = reads["BleedLocation-Left"], reads["BleedLocation-Right"]
    either = [int(bool(a or b)) for a, b in zip(left, right, strict=True)]
    if int(sum(either) >= 2) == true_items(scan)["ICH"]:
        reads["ICH"] = either
    return {name: reads[name] for name in ITEMS}


def table_row(name: str, category: str, reads: dict[str, list[int]]) -> dict[str, str | int]:
    """One row of ``reads.csv``."""
    row: dict[str, str | int] = {"name": name, "Category": category}
    for reader in range(3):
        row |= {f"R{reader + 1}:{item}": reads[item][reader] for item in ITEMS}
    return row
