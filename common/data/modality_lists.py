"""Pre-training cases from any mix of CT and MR datalists, each with its modality; MONAI's datalists know neither modality nor subject."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import flag
from common.data.brats import PATTERN, SEQUENCES, is_brats, read_brats
from common.data.cases import Case, is_simulated, some
from common.data.decathlon import read_datalist
from common.data.list_split import draw_validation
from common.data.modalities import modality_counts, modality_of, modality_table
from common.errors import UserError

_logger = logging.getLogger("brain_bundles")

TREE = """a folder of datalists <anything>.json, or one such file:
  {"modality": "ct", "training": [{"image": "a.nii.gz", "subject": "p1"}, ...], "validation": [...]}
  (modality per entry or for the whole list; in place of the two keys, each entry may have a fold, of which 0 validates)
or {"ct": list or [lists], "t1": list, ...}, which names the modality of each list
or a BraTS tree, of which every contrast becomes a case"""

Source = str | os.PathLike[str]
Sources = Source | Sequence[Source] | Mapping[str, Source | Sequence[Source]]


def read_modality_lists(
    lists: Sources,
    modalities: Mapping[str, Any] | None = None,
    validation: float = 0.05,
    seed: int = 0,
    allow_shared_subjects: bool | str = False,
) -> dict[str, list[Case]]:
    """Cases of several lists, parted into training and validation as the lists say.

    Args:
        lists: a datalist, a folder of datalists or a BraTS tree; several of these; or {modality: one or several of these}. A list's
            entries have ``image`` (one path, or several where ``modality`` is a list of as many names: each becomes a case) and may have
            ``subject``, ``id``, ``modality`` and ``fold``; fold 0 validates. A list without folds and without the key ``validation`` is
            trained on.
        modalities: a user's rows of the table of modalities; every name must be in it (``common.data.modalities``).
        validation: share of a BraTS tree's subjects that validates, since a tree says nothing of it.
        seed: of that draw.
        allow_shared_subjects: whether one subject may be trained on in one list and validate in another; then a warning says so.

    Returns:
        ``{"train", "validate", "all"}``, each sorted by id: cases with ``image`` = [path], ``modality`` (as in the table), ``subject``.
        One file that several lists name on the same side is taken once.

    Raises:
        UserError: an entry without a modality (none is ever guessed from a name), an unknown one, a file or subject on both sides, or
            nothing to train on.

    Source: DAE (methods/dae.md, sections 1 and 8: W7): one list per modality, fold 0 of BraTS21 validates.
    """
    table = modality_table(modalities)
    cases: list[Case] = []
    for path, modality in _flatten(lists):
        found = _read_source(path, modality, validation, seed)
        for case in found:
            case["modality"] = modality_of(case["modality"], table, f"{path}: {case['id']}").name
            case["part"] = "validate" if case.pop("fold", None) == 0 else "train"
        cases += found
    cases = _without_copies(cases)
    _refuse_shared_subjects(cases, flag(allow_shared_subjects, "allow_shared_subjects"))
    _make_ids_unique(cases)
    split: dict[str, list[Case]] = {"train": [], "validate": [], "all": []}
    for case in sorted(cases, key=lambda case: case["id"]):
        for part in (case.pop("part"), "all"):
            split[part].append(case)
    if not split["train"]:
        raise UserError(f"lists: all {len(cases)} cases validate (fold 0), none is left to train on; move some to training or to fold 1.")
    for part in ("train", "validate"):
        _logger.info("%s: %d cases: %s", part, len(split[part]), modality_counts(split[part]))
    return split


def open_modality_lists(
    lists: Sources | None, simulated_dir: str | os.PathLike[str], simulate: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, list[Case]]:
    """Cases of the lists given, or of the simulated cohort "contrasts" where none are given.

    Args:
        lists: as in :func:`read_modality_lists`; None or empty means a simulated cohort.
        simulated_dir: where the cohort is made, once.
        simulate: parameters of the cohort (subjects, seed, spacing_mm, style, ...).
        **options: other arguments of :func:`read_modality_lists`.
    """
    if not lists or (isinstance(lists, str) and not lists.strip()):
        from common.data.simulate.cohort import ensure_cohort

        # the cohort gives the warning itself
        return read_modality_lists(ensure_cohort("contrasts", Path(simulated_dir).expanduser(), **dict(simulate or {})), **options)
    simulated = sorted({str(path) for path, _ in _flatten(lists) if is_simulated(path)})
    if simulated:
        _logger.warning("SIMULATED DATA: %s hold no patients; results say that the code works, nothing about accuracy.", some(simulated))
    return read_modality_lists(lists, **options)


def _flatten(lists: Sources) -> list[tuple[Path, str | None]]:
    """Every file or BraTS tree with the modality that the caller gives it."""
    named: list[tuple[Source, str | None]]
    if isinstance(lists, Mapping):
        named = [(path, str(name)) for name, own in lists.items() for path in _as_list(own)]
    else:
        named = [(path, None) for path in _as_list(lists)]
    result: list[tuple[Path, str | None]] = []
    for source, modality in named:
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(f"lists: {path} does not exist (relative paths start at {os.getcwd()}). Expected\n{TREE}")
        files = [path] if path.is_file() else _lists_in(path)
        if not files and not is_brats(path):
            raise UserError(f"lists: {path} holds no datalists (.json). Expected\n{TREE}")
        result += [(file, modality) for file in files or [path]]
    if not result:
        raise UserError(f"lists: got none. Expected\n{TREE}")
    return result


def _as_list(paths: Source | Sequence[Source]) -> list[Source]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def _lists_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))


def _read_source(path: Path, modality: str | None, validation: float, seed: int) -> list[Case]:
    """Cases of one list or tree, one file each, with ``fold`` where it is known."""
    if path.is_dir():
        return _read_tree(path, modality, validation, seed)
    given: str | list[str] | None = modality.split(",") if modality and "," in modality else modality
    cases = read_datalist(path, modality=given, sections=("training", "validation"))
    bare = [case["id"] for case in cases if "modality" not in case]
    if bare:
        raise UserError(
            f"{path}: {len(bare)} of {len(cases)} entries have no modality: {some(bare)}. It is never guessed from a name: give"
            ' "modality": "ct" (or t1, t1ce, t2, flair, ...) in each entry or once beside "training", or pass the lists as'
            " {'ct': path}."
        )
    folded = [case for case in cases if "fold" in case]
    if 0 < len(folded) < len(cases):
        bare = [case["id"] for case in cases if "fold" not in case]
        raise UserError(f"{path}: {len(bare)} of {len(cases)} entries have no fold: {some(bare)}; give every entry one, or none.")
    return [part for case in cases for part in _one_file_each(case, path)]


def _one_file_each(case: Case, path: Path) -> list[Case]:
    """The case, or one case per contrast where it lists several files with as many modalities."""
    images = [case["image"]] if isinstance(case["image"], str) else case["image"]
    names = [case["modality"]] if isinstance(case["modality"], str) else case["modality"]
    if len(images) != len(names):
        raise UserError(
            f"{path}: {case['id']} has {len(images)} images and the modality {', '.join(names)}; expected one modality per image, as in"
            ' {"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "modality": ["t1", "t2"]}.'
        )
    keep: Case = {key: case[key] for key in ("fold", "age") if key in case}
    subject = _brats_subject(images[0]) or case["subject"] if case["subject"] == case["id"] else case["subject"]
    single = len(images) == 1
    return [
        {"id": case["id"] if single else f"{case['id']}_{name}", "subject": subject, "image": [image], "modality": name, **keep}
        for image, name in zip(images, names, strict=True)
    ]


def _brats_subject(image: str) -> str | None:
    """BraTS lists name no subject: of BraTS2021_00000_t1.nii.gz it is what the contrasts share; None for other files."""
    match = PATTERN.match(os.path.basename(image))
    visit = re.match(r"(BraTS-\w+-\d+)-\d+$", match["case"]) if match else None
    return (visit[1] if visit else match["case"]) if match and match["case"].startswith("BraTS") else None


def _read_tree(path: Path, modality: str | None, validation: float, seed: int) -> list[Case]:
    """Every contrast of a BraTS tree, or those that the caller names."""
    wanted = [name.strip().lower() for name in modality.split(",")] if modality else list(SEQUENCES)
    unknown = sorted(set(wanted) - set(SEQUENCES))
    if unknown:
        raise UserError(f"{path}: a BraTS tree has no {some(unknown)}; expected some of {', '.join(SEQUENCES)}.")
    whole = read_brats(path)
    if any(isinstance(case["image"], str) for case in whole):
        raise UserError(f"{path}: holds 4D files, expected one file per contrast; give a list with one entry per contrast.")
    held_out = draw_validation([case["subject"] for case in whole], validation, seed, str(path)) if validation else set()
    return [
        {
            "id": f"{case['id']}_{name}",
            "subject": case["subject"],
            "image": [case["image"][SEQUENCES.index(name)]],
            "modality": name,
            "fold": 0 if case["subject"] in held_out else 1,
        }
        for case in whole
        for name in wanted
    ]


def _without_copies(cases: Sequence[Case]) -> list[Case]:
    """The cases without second mentions of a file."""
    first: dict[str, Case] = {}
    copies = []
    for case in cases:
        known = first.setdefault(os.path.realpath(case["image"][0]), case)
        if known is case:
            continue
        for key, words in (("part", "is trained on in one list and validates in another"), ("modality", "has two modalities in the lists")):
            if known[key] != case[key]:
                raise UserError(f"lists: {case['image'][0]} {words} ({known[key]}, {case[key]}); remove it from one of them.")
        copies.append(case["image"][0])
    if copies:
        _logger.warning("lists: %d files are named more than once; each is taken once: %s", len(copies), some(copies, 3))
    return list(first.values())


def _refuse_shared_subjects(cases: Sequence[Case], allowed: bool) -> None:
    parts: dict[str, set[str]] = {}
    for case in cases:
        parts.setdefault(case["subject"], set()).add(case["part"])
    shared = sorted(subject for subject, own in parts.items() if len(own) > 1)
    if not shared:
        return
    text = f"lists: {len(shared)} subjects are trained on in one list and validate in another: {some(shared)}."
    if not allowed:
        raise UserError(
            f"{text} That leaks training data into validation: build the lists with one seed (python -m common.data list ... --against"
            " LIST.json), or, if these are different people of one name, give them unlike subjects; allow_shared_subjects true goes on."
        )
    _logger.warning("%s The validation loss is too low by that.", text)


def _make_ids_unique(cases: Sequence[Case]) -> None:
    """Ids that several lists use get their modality in front, and a number behind where that is not enough."""
    for in_front in (True, False):
        counts = Counter(case["id"] for case in cases)
        for number, case in enumerate(cases):
            if counts[case["id"]] > 1:
                case["id"] = f"{case['modality']}-{case['id']}" if in_front else f"{case['id']}-{number}"
