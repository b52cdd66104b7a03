"""Split healthy people into training, validation and a test that mirrors ages, sexes and ethnicity, whole subjects only (none in MONAI)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.data.cases import Case, some
from common.data.scan_facts import sex_letter
from common.errors import UserError

PARTS = ("train", "validate", "test", "abnormal", "all")
AGE_BORDERS = (25.0, 65.0)
"""Youngest of the middle and youngest of the oldest group, years."""
BY = ("volume", "slice")
Stratum = tuple[str, str, str]
_logger = logging.getLogger("brain_bundles")


def split_stratified(
    cases: Sequence[Case],
    test_share: float = 0.08,
    validation_share: float = 0.15,
    seed: int = 0,
    by: str = "volume",
    output_file: str | os.PathLike[str] | None = None,
) -> dict[str, list[Case]]:
    """Part cases by subject: a test stratified jointly by ethnicity, age group and sex, then validation from the others.

    Subjects of whom a fact is unknown are never tested. A subject with a ``label`` (a mask of lesions) is abnormal: in no part but
    ``abnormal``, since training and validation must see healthy people only.

    Args:
        cases: cases in any order; only ``id``, ``subject``, ``label`` (whether there is one), ``age`` (years), ``sex`` and ``ethnicity``
            (1 is white) are looked at.
        test_share: share of the healthy subjects that is tested, in [0, 1); the number is rounded up.
        validation_share: share of the other healthy subjects that validates, in [0, 1); above 0 at least one subject.
        seed: seed of the draws.
        by: "volume", or "slice" for the original's leak: training and validation then name the same volumes, and
            ``common.data.brain_slice_dataset.share_slices`` parts their slices. For comparison with published numbers only.
        output_file: JSON file for the record (ids only, no paths); None writes none.

    Returns:
        ``{"train", "validate", "test", "abnormal", "all"}``, each sorted by id.

    Raises:
        UserError: no healthy case, or too few for the parts; the text says what to change.

    Source: A. Arnaiz-Rodriguez, master's thesis, development chapter (methods/brain_autoencoder.md, section 2): 47 of 581 volumes, 8 %.
    Deviation: seeded; an age of exactly 25 is in the middle group (in none in the original); validation by volume (by slice there).
    """
    if by not in BY or not (0 <= test_share < 1 and 0 <= validation_share < 1):
        raise UserError(
            f"split: got test_share {test_share}, validation_share {validation_share}, by {by!r}; expected shares from 0 to below 1 and one"
            f" of {', '.join(BY)}."
        )
    cases = sorted(cases, key=lambda case: case["id"])
    abnormal = sorted({case["subject"] for case in cases if "label" in case})
    healthy = _strata([case for case in cases if case["subject"] not in set(abnormal)])
    if not healthy:
        raise UserError(
            f"split: no healthy case among {len(cases)}; training needs people without lesions (cases without a label). Add some, or remove"
            " label where it is no lesion."
        )
    random = np.random.RandomState(seed)
    test = _draw_test(healthy, test_share, random)
    rest = [name for name in sorted(healthy) if name not in test]
    validate = _draw_validation(rest, len(healthy), test_share, validation_share, random)
    part_of = {name: "validate" if name in validate else "train" for name in rest}
    part_of |= dict.fromkeys(test, "test") | dict.fromkeys(abnormal, "abnormal")
    split = {part: [case for case in cases if part_of[case["subject"]] == part] for part in PARTS[:-1]} | {"all": list(cases)}
    if by == "slice":
        _logger.warning(
            "split by SLICE: slices of one volume are in training AND in validation, as in the original. The validation loss is too low;"
            " results are for comparison with published numbers only. Use by volume for everything else."
        )
        split["train"] = split["validate"] = sorted([*split["train"], *split["validate"]], key=lambda case: case["id"])
    if output_file is not None:
        settings: dict[str, float | str] = {"test_share": test_share, "validation_share": validation_share, "seed": seed, "by": by}
        write_stratified_split(split, output_file, settings, healthy)
    return split


def stratum(case: Mapping[str, Any], borders: tuple[float, float] = AGE_BORDERS) -> Stratum | None:
    """Ethnicity ("white", "other"), age group and sex of a case, such as ("white", "25-65", "f"); None where one of them is not known.

    Args:
        case: with ``ethnicity`` (code, 1 is white), ``age`` (years) and ``sex``.
        borders: youngest age of the middle and of the oldest group, years.
    """
    sex, age = sex_letter(case.get("sex")), case.get("age")
    if sex is None or age is None or "ethnicity" not in case:
        return None
    low, high = borders
    group = f"<{low:g}" if age < low else f">={high:g}" if age >= high else f"{low:g}-{high:g}"
    return "white" if case["ethnicity"] == 1 else "other", group, sex


def proportional_counts(sizes: Mapping[Any, int], total: int) -> dict[Any, int]:
    r"""Seats per group in proportion to its size, by the largest remainder.

    .. math:: q_g = \frac{n\,N_g}{\sum_h N_h}, \qquad n_g = \lfloor q_g \rfloor + [q_g - \lfloor q_g \rfloor \text{ among the largest}]

    Args:
        sizes: members per group, >= 0.
        total: seats in all, from 0 to the sum of the sizes.

    Returns:
        Seats per group: their sum is ``total`` exactly, none has more than its size, each differs from its quota by less than 1; equal
        remainders go to the larger group, then to the first by name.
    """
    whole = sum(sizes.values())
    quotas = {group: total * size / whole if whole else 0.0 for group, size in sizes.items()}
    seats = {group: math.floor(quota + 1e-9) for group, quota in quotas.items()}
    order = sorted(sizes, key=lambda group: (-round(quotas[group] - seats[group], 9), -sizes[group], str(group)))
    for group in order[: total - sum(seats.values())]:
        seats[group] += 1
    return seats


def _strata(cases: Sequence[Case]) -> dict[str, Stratum | None]:
    """Stratum by healthy subject, that of its first visit."""
    result: dict[str, Stratum | None] = {}
    for case in cases:
        if result.get(case["subject"]) is None:
            result[case["subject"]] = stratum(case)
    return result


def _draw_test(healthy: Mapping[str, Stratum | None], share: float, random: np.random.RandomState) -> set[str]:
    """Subjects of the test; where nobody's facts are known, drawn without strata and with a warning."""
    wanted = math.ceil(share * len(healthy) - 1e-9)
    groups: dict[Any, list[str]] = {}
    for name in sorted(healthy):
        if healthy[name] is not None:
            groups.setdefault(healthy[name], []).append(name)
    if not groups and wanted:
        _logger.warning("split: age, sex and ethnicity are known of nobody; the test is drawn without regard to them.")
        groups = {("any",): sorted(healthy)}
    known = sum(map(len, groups.values()))
    if wanted > known:
        raise UserError(
            f"split: test_share {share:g} of {len(healthy)} healthy subjects is {wanted}, but age, sex and ethnicity are known of {known};"
            " lower test_share, or complete the table."
        )
    seats = proportional_counts({group: len(names) for group, names in groups.items()}, wanted)
    return {groups[group][index] for group in sorted(groups) for index in random.permutation(len(groups[group]))[: seats[group]]}


def _draw_validation(
    rest: Sequence[str], healthy: int, test_share: float, validation_share: float, random: np.random.RandomState
) -> set[str]:
    """Subjects of the validation, at least one where the share is above 0."""
    count = max(1, math.floor(validation_share * len(rest) + 0.5)) if validation_share > 0 else 0
    if len(rest) <= count:
        raise UserError(
            f"split: {healthy} healthy subjects are too few for test_share {test_share:g} and validation_share {validation_share:g}: at"
            f" least 1 must be left to train{' and 1 to validate' if count else ''}. Lower the shares, or add people."
        )
    return {rest[index] for index in random.permutation(len(rest))[:count]}


def cases_of_part(cases: Sequence[Case], part: str = "test", patients: bool = True, **split: Any) -> list[Case]:
    """Cases of one part, for evaluation.

    Args:
        cases: all cases of the data set.
        part: test, abnormal, validate or train of the split, several with ``+`` between them, or all, which needs no split.
        patients: whether all holds the people with lesions (cases with a ``label``) too.
        **split: arguments of :func:`split_stratified`, the same as in training.

    Raises:
        UserError: no such part, an impossible split, or nobody in it.
    """
    wanted = part.split("+")
    if unknown := [name for name in wanted if name not in PARTS]:
        raise UserError(f"evaluate_on: got {unknown[0]!r}; expected one of {', '.join(PARTS)}, or several such as test+abnormal.")
    if "all" in wanted:
        found = [case for case in cases if patients or "label" not in case]
    else:
        parts = split_stratified(cases, **split)
        found = list({case["id"]: case for name in wanted for case in parts[name]}.values())
    if not found:
        raise UserError(f"evaluate_on: {part!r} of {len(cases)} cases holds nobody{'' if patients else ' without lesions'}.")
    return sorted(found, key=lambda case: case["id"])


def write_stratified_split(
    split: Mapping[str, Sequence[Case]],
    output_file: str | os.PathLike[str],
    settings: Mapping[str, float | str],
    strata: Mapping[str, Stratum | None],
) -> None:
    """Record which cases are in which part, with a digest by which the splits of two runs can be compared.

    Args:
        split: as ``split_stratified`` returns it.
        output_file: JSON file; its folder is made, and it appears whole or not at all.
        settings: arguments of the split.
        strata: stratum by healthy subject; None where it is not known.
    """
    parts = {part: [case["id"] for case in split[part]] for part in PARTS[:-1]}
    tested = {case["subject"] for case in split["test"]}
    groups = sorted({group for group in strata.values() if group is not None})
    counted = {
        " ".join(group): {
            "subjects": sum(found == group for found in strata.values()),
            "tested": sum(strata[name] == group for name in tested),
        }
        for group in groups
    }
    unknown = sorted(name for name, group in strata.items() if group is None)
    if unknown and groups:
        _logger.info("%d subjects without age, sex or ethnicity train or validate only: %s", len(unknown), some(unknown))
    record: dict[str, Any] = {
        **settings,
        **parts,
        "strata": counted,
        "subjects_without_facts": unknown,
        "sha256_of_split": hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
    }
    write_text(Path(output_file), json.dumps(record, indent=2) + "\n")
