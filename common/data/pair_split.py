"""Split longitudinal scans so that whole pairs are held out: MONAI's ``partition_dataset`` would part the scans of one subject."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.data.cases import Case, some
from common.errors import UserError

PARTS = ("train", "validate", "test", "all")
_logger = logging.getLogger("brain_bundles")


def split_pairs(
    cases: Sequence[Case],
    seed: int = 0,
    test_share: float = 0.5,
    validate_share: float = 0.05,
    output_file: str | os.PathLike[str] | None = None,
) -> dict[str, list[Case]]:
    """Part cases by subject: subjects with exactly two scans are tested, a share of the others validates, the rest is trained on.

    Of the two-scan subjects only a share is tested: training with one latent per subject needs some of them too.

    Args:
        cases: cases in any order, each with ``age``; only ``id``, ``subject`` and ``age`` are looked at.
        seed: of the draws.
        test_share: share of the two-scan subjects whose both scans are held out, in [0, 1]; above 0 at least one, and where there are two
            or more, at least one stays in training.
        validate_share: share of the subjects not tested that validates, in [0, 1); above 0 at least one. Subjects with one scan go first.
        output_file: JSON file for the record (ids only, no paths); None writes none.

    Returns:
        ``{"train", "validate", "test", "all"}``, each sorted by id.

    Raises:
        UserError: shares out of range, a case without age, nobody left to train, or nobody with two scans to test.

    Source: neonatal INR, Sec. 3: test subjects have two scans each, about 10 % of the training subjects more than one. Deviation: sizes and
        rule are not stated there; chosen here (methods/neonatal_inr.md, section 1).
    """
    cases = sorted(cases, key=lambda case: case["id"])
    if not 0 <= test_share <= 1 or not 0 <= validate_share < 1:
        raise UserError(
            f"split: got test_share {test_share:g}, validate_share {validate_share:g}; expected shares from 0 to 1, the second below 1."
        )
    ageless = [case["id"] for case in cases if "age" not in case]
    if ageless:
        raise UserError(f"split: {len(ageless)} of {len(cases)} cases have no age: {some(ageless)}. Every scan needs one, in weeks.")
    part_of = _draw(cases, np.random.RandomState(seed), test_share, validate_share)
    split = {part: [case for case in cases if part_of[case["subject"]] == part] for part in PARTS[:-1]} | {"all": list(cases)}
    if output_file is not None:
        settings = {"seed": seed, "test_share": test_share, "validate_share": validate_share}
        _write_record(split, output_file, settings)
    return split


def _draw(cases: Sequence[Case], random: np.random.RandomState, test_share: float, validate_share: float) -> dict[str, str]:
    """Part by subject. Test subjects are drawn first, so that they do not depend on the share that validates."""
    names, scans = np.unique([case["subject"] for case in cases], return_counts=True)
    order = random.permutation(len(names))
    paired = [str(names[index]) for index in order if scans[index] == 2]
    if test_share > 0 and not paired:
        raise UserError(
            f"split: none of {len(names)} subjects has exactly two scans, so there is no pair to test. Add such subjects, or set test_share"
            " to 0."
        )
    most = max(1, len(paired) - 1)
    test = paired[: min(most, max(1, round(test_share * len(paired))))] if test_share > 0 else []
    # those with more scans are of more use in training: the sort is stable, single scans validate first
    rest = [str(names[index]) for index in sorted(order, key=lambda index: scans[index]) if names[index] not in set(test)]
    count = max(1, round(validate_share * len(rest))) if validate_share > 0 else 0
    if len(rest) <= count:
        raise UserError(
            f"split: {len(names)} subjects are too few: {len(test)} are tested and {count} validate, which leaves none to train. Add"
            " subjects, or lower test_share or validate_share."
        )
    if test_share == 1 and len(paired) > 1:
        _logger.warning("test_share 1: one of the %d two-scan subjects stays in training all the same.", len(paired))
    return dict.fromkeys(rest, "train") | dict.fromkeys(rest[:count], "validate") | dict.fromkeys(test, "test")


def cases_of_part(cases: Sequence[Case], part: str = "test", **split: Any) -> list[Case]:
    """Cases of one part, for evaluation.

    Args:
        cases: all cases of the data set.
        part: test, validate or train of the split, or all, which needs no split.
        **split: arguments of :func:`split_pairs`, the same as in training.

    Raises:
        UserError: no such part, or an impossible split.
    """
    if part not in PARTS:
        raise UserError(f"evaluate_on: got {part!r}; expected one of {', '.join(PARTS)}.")
    return sorted(cases, key=lambda case: case["id"]) if part == "all" else split_pairs(cases, **split)[part]


def scan_pairs(cases: Sequence[Case]) -> list[dict[str, Case]]:
    """All ordered pairs of two scans of one subject: from each scan the other one is predicted, forward and backward in time.

    Args:
        cases: cases in any order; subjects with one scan give no pair, with three scans six.

    Returns:
        ``{"input": case, "target": case}``, sorted by the ids of input and target.
    """
    ordered = sorted(cases, key=lambda case: case["id"])
    by_subject: dict[str, list[Case]] = {}
    for case in ordered:
        by_subject.setdefault(case["subject"], []).append(case)
    return [{"input": a, "target": b} for a in ordered for b in by_subject[a["subject"]] if a["id"] != b["id"]]


def _write_record(split: Mapping[str, Sequence[Case]], output_file: str | os.PathLike[str], settings: dict[str, float]) -> None:
    """Record which cases are in which part, with a digest by which the splits of two runs can be compared."""
    parts = {part: [case["id"] for case in split[part]] for part in PARTS[:-1]}
    record = {**settings, **parts, "sha256_of_split": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}
    write_text(Path(output_file), json.dumps(record, indent=2) + "\n")
