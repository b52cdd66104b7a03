"""Build a datalist from trees of DICOM series (TCIA), .mhd (LUNA16) and NIfTI, split by patient; MONAI's lists come ready-made."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.data.brats import SEQUENCES, find_root, is_brats, read_brats
from common.data.cases import some
from common.data.dicom_series import MIN_SLICES
from common.data.list_split import PARTS, draw_validation
from common.data.modalities import modality_name
from common.data.scan_tree import Scan, content_digest, find_scans
from common.errors import UserError

Entry = dict[str, Any]
"""``image`` (absolute), ``subject``, ``modality``, ``id``, ``digest`` and, where known, ``series_uid``."""
Tell = Callable[[str], Any]


@dataclass
class Known:
    """What other lists hold already: where a series or content lies, and in which part a subject is."""

    series: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    dicom: set[str] = field(default_factory=set)
    subjects: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry, name: str) -> None:
        """Remember an entry."""
        self.digests.setdefault(entry["digest"], name)
        if entry.get("series_uid"):
            self.series.setdefault(entry["series_uid"], name)
            if entry.get("dicom"):
                self.dicom.add(entry["series_uid"])

    def copy_of(self, entry: Entry) -> str:
        """Why an entry is a duplicate, in words; empty where it is none."""
        uid = entry.get("series_uid", "")
        if uid in self.series:
            origin = " (a LUNA16 file that is a LIDC-IDRI series)" if uid in self.dicom and not entry.get("dicom") else ""
            return f"duplicate, series {uid} is {self.series[uid]}{origin}"
        return f"duplicate, same content as {self.digests[entry['digest']]}" if entry["digest"] in self.digests else ""


def build_list(
    folder: str | os.PathLike[str],
    modality: str | Sequence[str],
    validation: float = 0.05,
    seed: int = 0,
    against: Sequence[str | os.PathLike[str]] = (),
    subject: str | None = None,
    series: str | None = None,
    min_slices: int = MIN_SLICES,
    tell: Tell = print,
) -> dict[str, Any]:
    """Datalist of all scans of one modality in a tree.

    Args:
        folder: tree with DICOM series or volumes at any depth, or a BraTS tree.
        modality: name in the table of modalities; of a BraTS tree one or several contrasts.
        validation: share of the patients that validates.
        seed: of the draw.
        against: lists built before: scans that are in them are left out here, patients stay in their part.
        subject: pattern that finds the patient in a path, see ``common.data.scan_tree.find_scans``.
        series: pattern that a series' description or path must fit (capitals do not matter), such as ``t1.*(gd|post)``; None takes all.
        min_slices: DICOM series of fewer slices are left out.
        tell: gets every line: what was left out and why, and the counts.

    Returns:
        Content of the list with absolute paths: ``training`` and ``validation`` (entries with ``image``, ``subject``, ``modality``, ``id``,
        ``digest`` and ``series_uid``), ``left_out`` with reasons, and the settings.

    Raises:
        UserError: no such folder, nothing that can be used, or too few patients to split.

    Source: DAE (methods/dae.md, sections 1 and 10): 5 % of each set validates; LUNA16 derives from LIDC-IDRI. Deviation: split by patient.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; expected one with DICOM series, .nii.gz, .mha or .mhd files.")
    names = [modality_name(name) for name in (modality.split(",") if isinstance(modality, str) else modality)]
    known = read_known(against)
    left_out: list[dict[str, str]] = []

    def leave_out(name: str, reason: str) -> None:
        left_out.append({"image": name, "reason": reason})
        tell(f"LEFT OUT  {name}: {reason}")

    if is_brats(place):
        candidates: Iterable[tuple[str, Entry]] = _brats_entries(place, names)
    else:
        candidates = _scan_entries(place, names, find_scans(place, names[0], subject, min_slices), series, leave_out)
    kept = _without_duplicates(candidates, known, leave_out)
    if not kept:
        raise UserError(
            f"{place}: nothing in it can be used as {', '.join(names)} ({len(left_out)} scans were left out). {_reasons(left_out)}"
        )
    _name_entries(kept)
    held_out = draw_validation((entry["subject"] for entry in kept), validation, seed, str(place), known.subjects)
    parts = {part: [e for e in kept if (e["subject"] in held_out) == (part == "validation")] for part in PARTS}
    for part, entries in parts.items():
        tell(f"{part}: {len(entries)} scans of {len({entry['subject'] for entry in entries})} patients")
    settings = {"name": place.resolve().name, "modality": ",".join(names), "seed": seed, "validation_share": validation}
    return {**settings, **parts, "left_out": left_out}


def write_list(content: dict[str, Any], output: str | os.PathLike[str]) -> Path:
    """Write a datalist, whole or not at all; images below its own folder get relative paths, so that both can be moved together.

    Args:
        content: as :func:`build_list` returns it.
        output: the JSON file; its folder is made.
    """
    file = Path(output).expanduser()
    if file.suffix.lower() != ".json":
        raise UserError(f"output: got {file}; expected a file that ends in .json.")
    home = os.path.abspath(file.parent)

    def portable(entry: Entry) -> Entry:
        image = entry["image"]
        return {**entry, "image": os.path.relpath(image, home)} if os.path.commonpath([image, home]) == home else entry

    return write_json(file, {**content, **{part: [portable(entry) for entry in content[part]] for part in PARTS}})


def read_known(against: Sequence[str | os.PathLike[str]]) -> Known:
    """What other lists hold.

    Raises:
        UserError: a file that is not such a list.
    """
    known = Known()
    for path in [against] if isinstance(against, (str, os.PathLike)) else against:
        file = Path(path).expanduser()
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            entries = [(part, entry) for part in PARTS for entry in content.get(part, [])]
            for part, entry in entries:
                known.subjects.setdefault(entry["subject"], part)
                known.add(entry, f"{entry['image']} of {file.name}")
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            raise UserError(
                f"against: {file} is not a list that this command wrote ({type(error).__name__}: {error}); expected entries with image,"
                " subject and digest."
            ) from error
    return known


def _scan_entries(
    place: Path, names: Sequence[str], scans: Iterable[Scan], series: str | None, leave_out: Callable[[str, str], None]
) -> Iterable[tuple[str, Entry]]:
    """Entries of the scans that can be used, with their names below the tree."""
    from tqdm import tqdm

    if len(names) != 1:
        raise UserError(f"modality: got {', '.join(names)} for {place}; expected one (several only of a BraTS tree).")
    wanted = re.compile(str(series), re.I) if series else None
    for scan in tqdm(scans, desc="Looking at scans", leave=False, disable=None):
        unfit = wanted is not None and not (wanted.search(scan.description) or wanted.search(scan.name))
        problem = scan.problem or (f"neither its description {scan.description!r} nor its path fits {series!r}" if unfit else "")
        if problem:
            leave_out(scan.name, problem)
            continue
        entry = {"image": os.path.abspath(scan.path), "subject": scan.subject, "modality": names[0], "digest": content_digest(scan.path)}
        extra = {"series_uid": scan.series_uid} if scan.series_uid else {}
        yield scan.name, {**entry, **extra, **({"dicom": True} if scan.is_dicom else {})}


def _brats_entries(place: Path, names: Sequence[str]) -> Iterable[tuple[str, Entry]]:
    """One entry per case and contrast of a BraTS tree."""
    unknown = sorted(set(names) - set(SEQUENCES))
    if unknown:
        raise UserError(f"modality: got {some(unknown)} for the BraTS tree {place}; expected some of {', '.join(SEQUENCES)}.")
    root = find_root(place)
    if root is None:
        raise UserError(f"{place}: holds 4D files, expected one file per contrast (BraTS2021_00000_t1.nii.gz).")
    for case in read_brats(root):
        for name in names:
            path = case["image"][SEQUENCES.index(name)]
            entry = {"image": path, "subject": case["subject"], "modality": name, "digest": content_digest(Path(path))}
            yield os.path.relpath(path, place), entry


def _without_duplicates(candidates: Iterable[tuple[str, Entry]], known: Known, leave_out: Callable[[str, str], None]) -> list[Entry]:
    """The entries that neither another list nor an earlier entry holds; DICOM series come before files."""
    kept = []
    for name, entry in candidates:
        reason = known.copy_of(entry)
        if reason:
            leave_out(name, reason)
        else:
            known.add(entry, name)
            kept.append(entry)
    return kept


def _name_entries(entries: Sequence[Entry]) -> None:
    """Ids: the subject, with the modality where there are several and a number where a subject has several scans."""
    several = len({entry["modality"] for entry in entries}) > 1
    stems = [f"{entry['subject']}_{entry['modality']}" if several else entry["subject"] for entry in entries]
    counts, seen = Counter(stems), Counter[str]()
    for entry, stem in zip(entries, stems, strict=True):
        seen[stem] += 1
        entry["id"] = stem if counts[stem] == 1 else f"{stem}_{seen[stem]:02d}"


def _reasons(left_out: Sequence[dict[str, str]]) -> str:
    counts = Counter(row["reason"] for row in left_out)
    return "Reasons: " + some((f"{reason} ({count})" for reason, count in counts.most_common()), 3) if counts else ""
