"""Split head CTs for methods that learn from healthy scans only, since folds would part healthy and abnormal scans alike."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.data.cases import Case, some
from common.errors import UserError

PARTS = ("train", "validate", "test", "validate_abnormal", "all")
_logger = logging.getLogger("brain_bundles")


def split_healthy(
    cases: Sequence[Case],
    test_healthy: int = 21,
    validation_share: float = 0.1,
    validation_abnormal: int = 0,
    seed: int = 0,
    output_file: str | os.PathLike[str] | None = None,
) -> dict[str, list[Case]]:
    """Part cases so that training and validation see healthy scans only, all scans of a subject on one side.

    A subject with any abnormal scan counts as abnormal. Where no case says whether it is healthy, all are taken as healthy, with a
    warning; where only some say it, the others are in no part but ``all``.

    Args:
        cases: cases in any order; only ``id``, ``subject``, ``healthy`` and ``findings`` are looked at.
        test_healthy: healthy scans kept for the test; reached with whole subjects.
        validation_share: share of the other healthy subjects that validates, in [0, 1); above 0 at least one subject.
        validation_abnormal: abnormal subjects for choices that need them (filters, thresholds), bleeding and fracture in turn; they are
            not tested.
        seed: seed of the draws.
        output_file: JSON file for the record (ids only, no paths); None writes none.

    Returns:
        ``{"train", "validate", "test", "validate_abnormal", "all"}``, each sorted by id; ``test`` holds healthy and abnormal scans.

    Raises:
        UserError: no healthy case, or too few for the parts; the text says what to lower.

    Source: split of position regression (methods/position_regression.md, section 2): 111 for training, 21 healthy and 65 abnormal tested.
    Deviation: a validation part, which the paper does not have.
    """
    cases = sorted(cases, key=lambda case: case["id"])
    if not 0 <= validation_share < 1 or test_healthy < 0 or validation_abnormal < 0:
        raise UserError(
            f"split: got test_healthy {test_healthy}, validation_share {validation_share}, validation_abnormal {validation_abnormal};"
            " expected counts of at least 0 and a share from 0 to below 1."
        )
    healthy, abnormal, unknown = _subjects(cases)
    random = np.random.RandomState(seed)
    # abnormal subjects are drawn first: their draw then does not depend on how many healthy ones there are
    chosen = _draw_abnormal(abnormal, cases, validation_abnormal, random)
    test, validate, train = _draw_healthy(healthy, cases, test_healthy, validation_share, random)
    part_of = dict.fromkeys(train, "train") | dict.fromkeys(validate, "validate") | dict.fromkeys(test, "test")
    part_of |= dict.fromkeys(abnormal, "test") | dict.fromkeys(chosen, "validate_abnormal")
    split = {part: [case for case in cases if part_of.get(case["subject"]) == part] for part in PARTS[:-1]} | {"all": list(cases)}
    if output_file is not None:
        settings = {
            "test_healthy": test_healthy,
            "validation_share": validation_share,
            "validation_abnormal": validation_abnormal,
            "seed": seed,
        }
        write_healthy_split(split, output_file, settings, sorted(unknown))
    return split


def _subjects(cases: Sequence[Case]) -> tuple[list[str], list[str], list[str]]:
    """Healthy, abnormal and unknown subjects, in the order of their names."""
    said: dict[str, list[bool | None]] = {}
    for case in cases:
        said.setdefault(case["subject"], []).append(case.get("healthy"))
    abnormal = sorted(name for name, values in said.items() if False in values)
    unknown = sorted(name for name, values in said.items() if False not in values and None in values)
    healthy = sorted(set(said) - set(abnormal) - set(unknown))
    if unknown and not healthy and not abnormal:
        _logger.warning(
            "NOBODY SAYS that these %d scans are HEALTHY; they are taken as healthy. Anomalies in them would be learnt as normal. Give a"
            " table with a column healthy (1 or 0) to say it.",
            len(cases),
        )
        return unknown, [], []
    if unknown:
        _logger.warning(
            "%d subjects without findings are left out of training and test (others have them): %s", len(unknown), some(unknown)
        )
    if not healthy:
        raise UserError(
            f"split: no healthy scan among {len(cases)} cases ({len(abnormal)} abnormal subjects, {len(unknown)} unknown); training needs"
            " healthy ones (no bleeding, no fracture). Add some, or correct the column healthy."
        )
    return healthy, abnormal, unknown


def _draw_abnormal(abnormal: list[str], cases: Sequence[Case], count: int, random: np.random.RandomState) -> list[str]:
    """Abnormal subjects for validation: with fracture and without in turn, so that both findings occur."""
    if count == 0:
        return []
    if count >= len(abnormal):
        raise UserError(
            f"validation_abnormal: got {count} of {len(abnormal)} abnormal subjects, which leaves none to test;"
            f" lower it to at most {max(0, len(abnormal) - 1)}."
        )
    broken = {case["subject"] for case in cases if case.get("findings", {}).get("fracture")}
    shuffled = [abnormal[index] for index in random.permutation(len(abnormal))]
    kinds = [[name for name in shuffled if name in broken], [name for name in shuffled if name not in broken]]
    in_turn = [kind[index] for index in range(len(shuffled)) for kind in kinds if index < len(kind)]
    return in_turn[:count]


def _draw_healthy(
    healthy: list[str], cases: Sequence[Case], test_healthy: int, validation_share: float, random: np.random.RandomState
) -> tuple[list[str], list[str], list[str]]:
    """Healthy subjects of the test, of validation and of training."""
    scans = {name: sum(case["subject"] == name for case in cases) for name in healthy}
    order = [healthy[index] for index in random.permutation(len(healthy))]
    test: list[str] = []
    while sum(scans[name] for name in test) < test_healthy and len(test) < len(order):
        test.append(order[len(test)])
    rest = order[len(test) :]
    count = max(1, round(validation_share * len(rest))) if validation_share > 0 else 0
    if sum(scans[name] for name in test) < test_healthy or len(rest) <= count:
        most = max(0, len(healthy) - (2 if validation_share > 0 else 1))
        raise UserError(
            f"split: {len(healthy)} healthy subjects are too few for test_healthy {test_healthy} and validation_share {validation_share:g}:"
            f" at least 1 must be left to train{' and 1 to validate' if count else ''}. Lower test_healthy to at most {most}, or add scans."
        )
    return test, rest[:count], rest[count:]


def cases_of_part(cases: Sequence[Case], part: str = "test", **split: Any) -> list[Case]:
    """Cases of one part, for evaluation.

    Args:
        cases: all cases of the data set.
        part: test, validate, validate_abnormal or train of the split, or all, which needs no split.
        **split: arguments of :func:`split_healthy`, the same as in training.

    Raises:
        UserError: no such part, or an impossible split.
    """
    if part not in PARTS:
        raise UserError(f"evaluate_on: got {part!r}; expected one of {', '.join(PARTS)}.")
    return sorted(cases, key=lambda case: case["id"]) if part == "all" else split_healthy(cases, **split)[part]


def write_healthy_split(
    split: dict[str, list[Case]], output_file: str | os.PathLike[str], settings: dict[str, float], unknown: Sequence[str] = ()
) -> None:
    """Record which cases are in which part, with a digest by which the splits of two runs can be compared.

    Args:
        split: as ``split_healthy`` returns it.
        output_file: JSON file; its folder is made, and it appears whole or not at all.
        settings: arguments of the split.
        unknown: subjects that are in no part.
    """
    parts = {part: [case["id"] for case in split[part]] for part in PARTS[:-1]}
    record: dict[str, Any] = {
        **settings,
        **parts,
        "healthy_in_test": [case["id"] for case in split["test"] if case.get("healthy", True)],
        "left_out_subjects": list(unknown),
        "sha256_of_split": hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
    }
    write_text(Path(output_file), json.dumps(record, indent=2) + "\n")
