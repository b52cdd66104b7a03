"""Read own data from a BIDS tree: files chosen by the end of their names, labels and further maps also from derivatives."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.cases import Case, finish_cases, parse_age, some, volume_stem, volume_suffix
from common.data.scan_facts import EMPTY, bare_id, read_tsv, scan_facts
from common.errors import UserError

LABELS = ("label-lesion_mask", "label-lesion_dseg", "desc-lesion_mask", "lesion", "dseg")
"""Ends of label files, the first that is there wins."""
BRAINS = ("desc-brain_mask", "label-brain_mask", "desc-drawem_space-T2w_brainmask", "desc-bet_space-T2w_brainmask")
"""Ends of masks of the brain, likewise."""

Key = tuple[str, str]
"""Subject (``sub-...``) and session (``ses-...`` or empty)."""


def read_bids(
    root: str | os.PathLike[str],
    inputs: Sequence[str] | Mapping[str, str],
    labels: Sequence[str] = LABELS,
    labelled: bool = False,
    facts: Sequence[str] = (),
) -> list[Case]:
    """Cases of a BIDS tree, one per subject and session that has any of the inputs.

    A file fits an end such as ``adc`` or ``label-lesion_mask`` when its suffix (the part after the last ``_``) is the end's last part
    and its name has the end's other parts among its entities. The raw tree is searched first, then ``derivatives/<name>/``.

    Args:
        root: folder with ``sub-*``.
        inputs: name of each input, in the method's channel order, to the end of its files; a plain list takes the names as ends.
        labels: ends of label files, by preference.
        labelled: whether every case must have a label.
        facts: what else to take: ``brain`` (a file whose end is one of ``BRAINS``), and columns of ``participants.tsv`` and
            ``sub-*_sessions.tsv`` such as ``head_circumference_cm``; see ``common.data.scan_facts``.

    Returns:
        Cases sorted by id, ``sub-01`` or ``sub-01_ses-02``, with the age of ``sub-*_sessions.tsv`` (``age`` or ``scan_age``) or, where that
        has none, of ``participants.tsv``.

    Raises:
        UserError: no file fits, an input is missing, or several files fit one input.

    Source: Brain Imaging Data Structure 1.10, file names and derivatives.
    """
    folder = Path(root)
    ends = dict(inputs) if isinstance(inputs, Mapping) else {name: name for name in inputs}
    places = [folder, *sorted(path for path in folder.glob("derivatives/*") if path.is_dir())]
    trees = [_index(place) for place in places]
    keys = sorted({key for tree in trees for key, files in tree.items() if any(_fitting(files, end) for end in ends.values())})
    if not keys:
        shown = ", ".join(f"sub-*/[ses-*/]*/sub-*_{end}.nii.gz" for end in ends.values())
        raise UserError(
            f"{folder}: a BIDS tree in which no file fits the inputs; expected {shown} there or in derivatives/*/. {_suffixes(trees)}"
        )
    ages = read_ages(folder)
    cases = []
    for subject, session in keys:
        name = "_".join(filter(None, (subject, session)))
        case: Case = {"id": name, "subject": subject, "image": []}
        for kind, end in ends.items():
            path = _find(trees, (subject, session), end, name)
            if path is None:
                raise UserError(
                    f"{folder}: {name} has no {kind} file: expected {name}_..._{end}.nii.gz in {subject}/ or in derivatives/*/."
                )
            case["image"].append(path)
        for kind, choices in (("label", labels), ("brain", BRAINS if "brain" in facts else ())):
            found = (_find(trees, (subject, session), end, name) for end in choices)
            path = next((path for path in found if path is not None), None)
            if path is not None:
                case[kind] = path
        if subject in ages:
            case["age"] = ages[subject]
        cases.append(case | read_session(folder, subject, session, [fact for fact in facts if fact != "brain"]))
    return finish_cases(cases, folder, labelled)


def read_ages(root: Path) -> dict[str, float]:
    """Ages by subject from ``participants.tsv``; empty where there is no such file, column or value.

    Raises:
        UserError: an age that is not a number.
    """
    file, ages = root / "participants.tsv", {}
    for number, row in read_tsv(file):
        age, subject = row.get("age", ""), row.get("participant_id", "")
        if subject and age.lower() not in EMPTY:
            # ages over 89 are written "89+" in public data sets
            ages[f"sub-{bare_id(subject, 'sub-')}"] = parse_age(age.rstrip("+"), f"{file}: line {number}")
    return ages


def read_session(root: Path, subject: str, session: str, facts: Sequence[str] = ()) -> Case:
    """Age and facts of one scan from ``participants.tsv`` and, winning over it, ``<subject>/<subject>_sessions.tsv``; empty without them.

    Raises:
        UserError: a number that is none.
    """
    result: Case = {}
    for file, column, prefix, name in (
        (root / "participants.tsv", "participant_id", "sub-", subject),
        (root / subject / f"{subject}_sessions.tsv", "session_id", "ses-", session),
    ):
        for number, row in read_tsv(file) if facts or prefix == "ses-" else []:
            if bare_id(row.get(column, ""), prefix) != bare_id(name, prefix):
                continue
            where = f"{file}: line {number}"
            result |= scan_facts(row, facts, root, where)
            age = next((row[key] for key in ("age", "scan_age") if row.get(key, "").lower() not in EMPTY), None)
            if prefix == "ses-" and age is not None:
                result["age"] = parse_age(age.rstrip("+"), where)
    return result


def _index(tree: Path) -> dict[Key, list[Path]]:
    """Volumes below ``sub-*`` by subject and session, read from their names."""
    files: dict[Key, list[Path]] = {}
    for path in sorted(tree.glob("sub-*/**/*")):
        match = re.match(r"(sub-[A-Za-z0-9+]+)(?:_(ses-[A-Za-z0-9+]+))?_", path.name)
        if match and volume_suffix(path):
            files.setdefault((match[1], match[2] or ""), []).append(path)
    return files


def _fitting(files: Sequence[Path], end: str) -> list[Path]:
    *entities, suffix = end.split("_")
    parts = [(path, volume_stem(path).split("_")) for path in files]
    return [path for path, names in parts if names[-1] == suffix and set(entities) <= set(names)]


def _find(trees: Sequence[Mapping[Key, list[Path]]], key: Key, end: str, name: str) -> str | None:
    """The one file that fits, from the first tree that has any."""
    for tree in trees:
        paths = _fitting(tree.get(key, []), end)
        if len(paths) > 1:
            raise UserError(
                f"{paths[0].parent}: {name} has {len(paths)} files that end in {end}: {some(path.name for path in paths)}; keep one, or"
                " list the chosen ones in a table (a .csv with the columns subject, session, one per input, label)."
            )
        if paths and not paths[0].exists():
            raise UserError(f"{paths[0]}: a link to a file that is not here; fetch it first (datalad get, git annex get).")
        if paths:
            return os.path.abspath(paths[0])
    return None


def _suffixes(trees: Sequence[Mapping[Key, list[Path]]]) -> str:
    found = sorted({volume_stem(path).split("_")[-1] for tree in trees for files in tree.values() for path in files})
    return f"Found the suffixes {some(found, 12)}." if found else "Found no volumes below sub-*."
