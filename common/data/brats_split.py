"""The paper's split of BraTS2020 by case number, its shares for other data; MONAI's ``partition_dataset`` parts the visits of a subject."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.data.cases import Case, some
from common.errors import UserError

COUNTS = {"train": 295, "validate": 37, "test": 37}
"""Cases of the paper's parts."""
TOTAL = sum(COUNTS.values())
PARTS = (*COUNTS, "all")
RULES = ("auto", "paper", "shares")
_logger = logging.getLogger("brain_bundles")


def paper_split() -> dict[str, list[int]]:
    """Case numbers of BraTS2020 (1 to 369) in the paper's parts, sorted: the shuffle of numpy's ``RandomState(0)``, cut at 295 and 332.

    Source: released code of PatchDDM, bratsloader.py, ``make_split``; checked against it by number (methods/patchddm.md, section 1).
    """
    numbers = np.arange(1, TOTAL + 1)
    np.random.RandomState(0).shuffle(numbers)
    ends = np.cumsum(list(COUNTS.values()))
    return {part: sorted(int(n) for n in numbers[end - COUNTS[part] : end]) for part, end in zip(COUNTS, ends, strict=True)}


def case_number(case: Mapping[str, Any]) -> int | None:
    """Number of a case of BraTS2020's training set; None for any other case."""
    match = re.fullmatch(r"BraTS20_Training_(\d+)", str(case["id"]))
    return int(match[1]) if match else None


def split_brats(
    cases: Sequence[Case], rule: str = "auto", seed: int = 0, output_file: str | os.PathLike[str] | None = None
) -> dict[str, list[Case]]:
    """Part cases into training, validation and test, all visits of a subject on one side.

    Args:
        cases: cases in any order; only ``id`` and ``subject`` are looked at.
        rule: "paper" takes BraTS2020's case numbers, also of some of the cases; "shares" draws 295 : 37 : 37 by ``seed``, at least one
            subject each; "auto" takes "paper" where the 369 cases of BraTS2020 are all there, "shares" elsewhere.
        seed: of the draw by shares.
        output_file: JSON file for the record (ids only, no paths); None writes none.

    Returns:
        ``{"train", "validate", "test", "all"}``, each sorted by id.

    Raises:
        UserError: no such rule, fewer than three subjects, cases without a number for "paper", or an empty part.
    """
    if rule not in RULES:
        raise UserError(f"split: got {rule!r}; expected one of {', '.join(RULES)}.")
    cases = sorted(cases, key=lambda case: case["id"])
    if any("fold" in case for case in cases):
        _logger.warning("The FOLDS that the data name are not used: the split '%s' parts them into training, validation and test.", rule)
    if rule == "auto":
        rule = "paper" if {case_number(case) for case in cases} == set(range(1, TOTAL + 1)) else "shares"
    part_of = _by_number(cases) if rule == "paper" else _by_shares(cases, seed)
    split = {part: [case for case in cases if part_of[case["id"]] == part] for part in COUNTS}
    empty = [part for part, own in split.items() if not own]
    if empty:
        raise UserError(
            f"split: no case for {some(empty)} among {len(cases)} by the rule '{rule}'; add cases, or choose the rule 'shares'."
        )
    if output_file is not None:
        _write_record(split, output_file, rule, seed)
    return {**split, "all": list(cases)}


def _by_number(cases: Sequence[Case]) -> dict[str, str]:
    """Part by id, from the case numbers."""
    part_of = {number: part for part, numbers in paper_split().items() for number in numbers}
    numbers = {case["id"]: case_number(case) for case in cases}
    strange = [name for name, number in numbers.items() if number not in part_of]
    if strange:
        raise UserError(
            f"split: {len(strange)} of {len(cases)} cases are not of BraTS2020's training set: {some(strange)}. The paper's split goes by"
            " the numbers of BraTS20_Training_001 to 369; choose the rule 'shares' for other data."
        )
    return {name: part_of[number] for name, number in numbers.items() if number is not None}


def _by_shares(cases: Sequence[Case], seed: int) -> dict[str, str]:
    """Part by id: subjects are shuffled, the first go to the test, the next to validation, the others to training."""
    subjects = sorted({case["subject"] for case in cases})
    if len(subjects) < len(COUNTS):
        raise UserError(f"split: {len(subjects)} subjects; expected at least {len(COUNTS)}, one for each of {', '.join(COUNTS)}.")
    order = [subjects[index] for index in np.random.RandomState(seed).permutation(len(subjects))]
    test, validate = (max(1, round(COUNTS[part] / TOTAL * len(subjects))) for part in ("test", "validate"))
    part_of = {name: "test" if k < test else "validate" if k < test + validate else "train" for k, name in enumerate(order)}
    return {case["id"]: part_of[case["subject"]] for case in cases}


def cases_of_part(cases: Sequence[Case], part: str = "test", **split: Any) -> list[Case]:
    """Cases of one part, for evaluation.

    Args:
        cases: all cases of the data set.
        part: train, validate or test of the split, or all, which needs no split.
        **split: arguments of :func:`split_brats`, the same as in training.

    Raises:
        UserError: no such part, or an impossible split.
    """
    if part not in PARTS:
        raise UserError(f"evaluate_on: got {part!r}; expected one of {', '.join(PARTS)}.")
    return sorted(cases, key=lambda case: case["id"]) if part == "all" else split_brats(cases, **split)[part]


def _write_record(split: Mapping[str, Sequence[Case]], output_file: str | os.PathLike[str], rule: str, seed: int) -> None:
    """Record which cases are in which part, with a digest by which the splits of two runs can be compared."""
    parts = {part: [case["id"] for case in own] for part, own in split.items()}
    record = {"rule": rule, "seed": seed, **parts, "sha256_of_split": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}
    write_text(Path(output_file), json.dumps(record, indent=2) + "\n")
