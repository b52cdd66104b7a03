"""Seeded cross-validation folds by subject, since MONAI's ``partition_dataset`` would part the visits of one subject."""

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


def assign_folds(cases: Sequence[Case], folds: int, seed: int) -> dict[str, int]:
    """Fold in which each subject is validated.

    Subjects are shuffled, then those with more visits go first, each to the fold with the fewest cases so far.

    Args:
        cases: cases in any order; only ``subject`` is looked at.
        folds: number of folds, at least 2.
        seed: seed of the shuffle.

    Returns:
        Fold (from 0) by subject.
    """
    names, visits = np.unique([case["subject"] for case in cases], return_counts=True)
    order = np.random.RandomState(seed).permutation(len(names))
    order = order[np.argsort(-visits[order], kind="stable")]
    load = np.zeros((folds, 2), dtype=int)  # cases, subjects
    result: dict[str, int] = {}
    for subject in order:
        fold = min(range(folds), key=lambda index: (load[index, 0], load[index, 1], index))
        load[fold] += (visits[subject], 1)
        result[str(names[subject])] = fold
    return result


def given_folds(cases: Sequence[Case]) -> dict[str, int] | None:
    """Folds that the data set itself names, by subject; None where it names none.

    Raises:
        UserError: only some cases have a fold, or a subject's visits have different ones.
    """
    bare = [case["id"] for case in cases if "fold" not in case]
    if len(bare) == len(cases):
        return None
    if bare:
        raise UserError(f"fold: {len(bare)} of {len(cases)} cases have none ({some(bare)}); give every case a fold or remove the column.")
    result: dict[str, int] = {}
    for case in cases:
        if result.setdefault(case["subject"], case["fold"]) != case["fold"]:
            raise UserError(
                f"fold: the visits of subject {case['subject']} are in different folds; that leaks training data into validation."
            )
    return result


def split_cases(
    cases: Sequence[Case], fold: int = 0, folds: int = 5, seed: int = 0, output_file: str | os.PathLike[str] | None = None
) -> dict[str, list[Case]]:
    """Part cases into training and validation, all visits of a subject on one side.

    Args:
        cases: cases in any order; a ``fold`` in them wins over ``folds`` and ``seed``.
        fold: fold that is validated, from 0.
        folds: number of folds, at least 1. With 1 fold all cases are trained on and validated too, with a warning.
        seed: seed of the shuffle.
        output_file: JSON file for the record (ids only, no paths); None writes none.

    Returns:
        ``{"train": [...], "validate": [...], "all": [...]}``, each sorted by id. Over all folds every subject is validated once.

    Raises:
        UserError: too few subjects, fewer than 1 fold, or a fold that does not exist.
    """
    cases = sorted(cases, key=lambda case: case["id"])
    subjects = given_folds(cases)
    if subjects is None:
        count = len({case["subject"] for case in cases})
        if folds < 1:
            raise UserError(f"folds: got {folds}; expected at least 2, or 1 to train and validate on all cases.")
        if count < folds:
            advice = f"choose at most {count} folds, or add subjects" if count > 1 else "choose 1 (train and validate on the same cases)"
            raise UserError(f"folds: got {folds} folds for {count} subjects; {advice}.")
        subjects, present = assign_folds(cases, folds, seed), list(range(folds))
    else:
        present = sorted(set(subjects.values()))
        if len(present) < 2:
            raise UserError(f"fold: all cases are in fold {present[0]}; give at least two folds, or remove them to have folds drawn.")
    if fold not in present:
        raise UserError(f"fold: got {fold}; expected one of {some(present, 20)}.")
    together = len(present) == 1
    if together:
        logging.getLogger("brain_bundles").warning("folds 1: the cases that are trained on are validated too; such a Dice says little.")
    split = {
        "train": [case for case in cases if together or subjects[case["subject"]] != fold],
        "validate": [case for case in cases if subjects[case["subject"]] == fold],
        "all": list(cases),
    }
    if output_file is not None:
        write_split(split, output_file, {"fold": fold, "folds": len(present), "seed": seed}, subjects)
    return split


def cases_to_evaluate(cases: Sequence[Case], part: str = "validate", fold: int = 0, folds: int = 5, seed: int = 0) -> list[Case]:
    """Cases that an evaluation measures.

    Args:
        cases: all cases of the data set.
        part: ``validate`` or ``train`` of the fold, or ``all``, which needs no folds.
        fold: see :func:`split_cases`.
        folds: see :func:`split_cases`.
        seed: see :func:`split_cases`.

    Raises:
        UserError: no such part, or an impossible fold.
    """
    if part not in ("train", "validate", "all"):
        raise UserError(f"evaluate_on: got '{part}', expected one of train, validate, all.")
    return sorted(cases, key=lambda case: case["id"]) if part == "all" else split_cases(cases, fold, folds, seed)[part]


def fingerprints(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells a case again, wherever it lies: the start of the SHA-256 of its first image file, 16 digits.

    Of a DICOM folder the sizes of all files and the bytes of the first, middle and last count: enough to tell two scans apart, and
    80 times faster than reading them all.
    """
    files = [case["image"] if isinstance(case["image"], str) else case["image"][0] for case in cases]
    return [(_digest_folder if os.path.isdir(file) else _digest_file)(Path(file)).hexdigest()[:16] for file in files]


def distinct_fingerprints(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """:func:`fingerprints`, where cases may stand several times, as in a data set that repeats them: each once, read once."""
    return fingerprints(list({str(case["image"]): case for case in cases}.values()))


def _digest_file(file: Path) -> Any:
    return hashlib.sha256(file.read_bytes())


def _digest_folder(folder: Path) -> Any:
    from common.data.dicom_files import dicom_files

    files = dicom_files(folder)
    digest = hashlib.sha256(json.dumps([file.stat().st_size for file in files]).encode())
    for file in files[:1] + files[len(files) // 2 : len(files) // 2 + 1] + files[-1:]:
        digest.update(file.read_bytes())
    return digest


def write_split(
    split: dict[str, list[Case]], output_file: str | os.PathLike[str], settings: dict[str, int], subjects: dict[str, int]
) -> None:
    """Record which cases were trained on and validated, with a digest by which two runs' folds can be compared.

    Args:
        split: as ``split_cases`` returns it.
        output_file: JSON file; its folder is made, and it appears whole or not at all.
        settings: fold, folds and seed.
        subjects: fold by subject.
    """
    table = sorted((case["id"], subjects[case["subject"]]) for case in split["all"])
    record: dict[str, Any] = {
        **settings,
        "train": [case["id"] for case in split["train"]],
        "validate": [case["id"] for case in split["validate"]],
        "fold_of_subject": dict(sorted(subjects.items())),
        "sha256_of_all_folds": hashlib.sha256(json.dumps(table).encode()).hexdigest(),
    }
    write_text(Path(output_file), json.dumps(record, indent=2) + "\n")
