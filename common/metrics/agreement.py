"""How far the readers of a data set agree: majority vote, Fleiss' kappa, each reader against the majority, and what the set holds.

MONAI has no measure of agreement between readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.metrics.roc import auroc

FINDINGS: dict[str, str] = {"bleed_left": "bleeding left", "bleed_right": "bleeding right", "fracture": "fracture"}
"""Findings of a case of CQ500 -> the name that tables 2 and 3 of the paper give them."""


def majority_vote(reads: ArrayLike) -> NDArray[np.int64]:
    """What more than half of the readers say of each case.

    Args:
        reads: ``(cases, readers)``, 0 or 1, an odd number of readers.

    Returns:
        ``(cases,)``, 0 or 1.

    Raises:
        UserError: not a table of 0 and 1, or an even number of readers, whose vote could tie.

    Source: Bieder et al. 2022, section 3.2.
    """
    table = _reads(reads)
    if table.shape[1] % 2 == 0:
        raise UserError(f"reads: got {table.shape[1]} readers, expected an odd number: an even one may be split in halves.")
    majority: NDArray[np.int64] = (2 * table.sum(axis=1) > table.shape[1]).astype(np.int64)
    return majority


def fleiss_kappa(reads: ArrayLike) -> float:
    r"""Fleiss' kappa of two categories: agreement beyond chance, 1 where all agree, 0 where it is that of chance.

    With :math:`n_{ij}` readers of n giving case i of N the category j,

    .. math:: \bar P = \frac{1}{N n (n-1)} \Big( \sum_{ij} n_{ij}^2 - N n \Big), \quad
        \bar P_e = \sum_j \Big( \frac{\sum_i n_{ij}}{N n} \Big)^2, \quad \kappa = \frac{\bar P - \bar P_e}{1 - \bar P_e}

    Args:
        reads: ``(cases, readers)``, 0 or 1, at least 2 readers.

    Returns:
        Kappa in [-1/(n-1), 1]; NaN where every reader says the same of every case, so that chance agreement is 1 too.

    Raises:
        UserError: not a table of 0 and 1, or fewer than 2 readers.

    Source: J. Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971); Bieder et al. 2022, table 3.
    """
    table = _reads(reads)
    cases, readers = table.shape
    if readers < 2:
        raise UserError(f"reads: got {readers} reader, expected at least 2.")
    ones = table.sum(axis=1)
    counts = np.stack([readers - ones, ones], axis=1)
    observed = (float((counts**2).sum()) - cases * readers) / (cases * readers * (readers - 1))
    by_chance = float(((counts.sum(axis=0) / (cases * readers)) ** 2).sum())
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan


def reader_aurocs(reads: ArrayLike) -> list[float]:
    """AUROC of each reader against the majority, which for answers of 0 and 1 is (sensitivity + specificity)/2.

    The reader is part of the majority, so the number is too good for all of them.

    Args:
        reads: ``(cases, readers)``, 0 or 1, an odd number of readers.

    Returns:
        One AUROC in [0, 1] per reader; NaN where the majority finds all cases alike.

    Raises:
        UserError: as :func:`majority_vote`.

    Source: Bieder et al. 2022, table 3.
    """
    table = _reads(reads)
    majority = majority_vote(table)
    return [auroc(table[:, reader], majority) for reader in range(table.shape[1])]


def agreement_table(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Table 3 of the paper: kappa and each reader's AUROC, by finding.

    Args:
        cases: dicts with ``reads``: finding -> one 0 or 1 per reader; cases without are left out.

    Returns:
        One row per finding that was read: ``finding``, ``cases``, ``positive`` (by majority), ``kappa``, ``R1``, ``R2``, ...,
        ``mean_reader``.

    Raises:
        UserError: unequal numbers of readers, or values other than 0 and 1.
    """
    rows = []
    for finding, name in FINDINGS.items():
        read = [case["reads"][finding] for case in cases if finding in case.get("reads", {})]
        if not read:
            continue
        if len({len(answers) for answers in read}) > 1:
            raise UserError(f"reads of {finding}: got {sorted({len(a) for a in read})} readers, expected one number of them for all cases.")
        by_reader = reader_aurocs(read)
        row: dict[str, Any] = {"finding": name, "cases": len(read), "positive": int(majority_vote(read).sum()), "kappa": fleiss_kappa(read)}
        row |= {f"R{index}": value for index, value in enumerate(by_reader, start=1)}
        rows.append(row | {"mean_reader": float(np.mean(by_reader))})
    return rows


def composition_table(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Table 2 of the paper: how many cases have each combination of fracture, bleeding left and bleeding right.

    Args:
        cases: dicts with ``findings``: finding -> 0 or 1; cases that lack one of the three are left out.

    Returns:
        Two rows (``fracture``, ``no fracture``) with ``skull`` (its name), ``left_and_right``, ``left_only``, ``right_only``,
        ``no_bleeding``, ``all``; empty where no case has all three findings.
    """
    known = [case["findings"] for case in cases if set(FINDINGS) <= set(case.get("findings", {}))]
    sides = {"left_and_right": (1, 1), "left_only": (1, 0), "right_only": (0, 1), "no_bleeding": (0, 0)}
    rows = []
    for fracture, name in ((1, "fracture"), (0, "no fracture")):
        of_row = [(int(f["bleed_left"]), int(f["bleed_right"])) for f in known if int(f["fracture"]) == fracture]
        counts: dict[str, Any] = {column: of_row.count(pair) for column, pair in sides.items()}
        rows.append({"skull": name, **counts, "all": len(of_row)})
    return rows if known else []


def _reads(reads: ArrayLike) -> NDArray[np.int64]:
    """A table of 0 and 1, ``(cases, readers)``."""
    table = np.asarray(reads)
    if table.ndim != 2 or table.size == 0:
        raise UserError(f"reads: got shape {table.shape}, expected a table (cases, readers) with at least one of each.")
    if not np.isin(table, (0, 1)).all():
        raise UserError(f"reads: found {table[~np.isin(table, (0, 1))][0]}, expected only 0 and 1.")
    return table.astype(np.int64)
