"""Read the dHCP's structural pipeline (releases 2 and 3) as unpacked: T2w scans of newborns with their ages, masks and tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.cases import Case, Finding, finish_cases, is_simulated, known_root, list_volumes, parse_age, single_root, some, volume_stem
from common.data.scan_facts import EMPTY, bare_id, read_tsv, scan_facts
from common.errors import UserError

TREE = """rel3_dhcp_anat_pipeline/                       (or dhcp_anat_pipeline/; the folder itself or one that holds it)
  participants.tsv                             participant_id, sex (or gender), birth_age, ...
  sub-<subject>/
    sub-<subject>_sessions.tsv                 session_id, scan_age, scan_head_circumference, radiology_score, ...
    ses-<session>/anat/
      sub-<subject>_ses-<session>_desc-restore_T2w.nii.gz
      sub-<subject>_ses-<session>_desc-brain_mask.nii.gz
                                               (or desc-drawem_space-T2w_brainmask, desc-bet_space-T2w_brainmask)
      sub-<subject>_ses-<session>_desc-drawem9_dseg.nii.gz                 (optional)
or, in place of the sessions.tsv, one combined.tsv beside or above it"""

IMAGE = "desc-restore_T2w"
MASKS = ("desc-brain_mask", "desc-drawem_space-T2w_brainmask", "desc-bet_space-T2w_brainmask")
"""Ends of masks of the brain, the first that is there wins."""
TISSUES = ("desc-drawem9_dseg", "desc-drawem9_space-T2w_dseg")
"""Ends of the nine-tissue segmentation."""
FACTS = ("head_circumference_cm", "birth_age", "sex", "radiology_score", "scan_number")
PUBLIC_SESSIONS = 887
"""Scans of the third release, of 783 infants."""
PLAUSIBLE_WEEKS = (20.0, 50.0)


@dataclass
class Session:
    """Files and facts of one scan."""

    subject: str
    session: str
    files: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Id of the case."""
        return f"{self.subject}_{self.session}"

    def problems(self) -> list[str]:
        """What keeps the scan from being a case."""
        stem = f"sub-{self.subject}_ses-{self.session}"
        missing = [f"no {stem}_{IMAGE}.nii.gz"] if "image" not in self.files else []
        missing += [f"no mask of the brain (tried {', '.join(MASKS)})"] if "brain" not in self.files else []
        missing += [] if "age" in self.facts else [f"no scan_age in sub-{self.subject}_sessions.tsv or combined.tsv"]
        return missing

    def case(self) -> Case:
        """The case of a complete scan."""
        files = {key: path for key, path in self.files.items() if key != "image"}
        return {
            "id": self.name, "subject": self.subject, "session": self.session, "image": [self.files["image"]], **files, **self.facts
        }  # fmt: skip


def find_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """Folder of the ``sub-*``: the one given, or one called ``*dhcp_anat_pipeline*`` up to three below; None where there is none.

    Raises:
        UserError: several such folders.
    """
    below = [f"{depth}*dhcp_anat_pipeline*" for depth in ("", "*/", "*/*/")]
    return single_root(Path(dataset_dir), ("", *below), lambda place: place.is_dir() and _has_scans(place), "dHCP")


def is_dhcp(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like the dHCP's structural pipeline."""
    return find_root(dataset_dir) is not None


def read_dhcp(dataset_dir: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases of a dHCP tree, one per scan.

    Args:
        dataset_dir: the pipeline's folder, or a folder up to three above.
        labelled: whether every case must have tissue labels; otherwise they are taken where they exist.

    Returns:
        Cases sorted by id (``<subject>_<session>``): ``subject`` and ``session`` (text, without ``sub-`` and ``ses-``), ``image`` = [T2w],
        ``brain``, ``age`` at the scan (post-menstrual, weeks) and, where known, ``label``, ``head_circumference_cm``, ``birth_age``
        (weeks), ``sex``, ``radiology_score`` ("1" to "5" or "Q"), ``scan_number``.

    Raises:
        UserError: the folder is missing or of another layout, or a scan lacks image, mask or age; the text names them.

    Source: dHCP release notes (names of files and columns; methods/neonatal_inr.md, section 1).
    """
    root = known_root(dataset_dir, find_root, "a dHCP tree", TREE)
    sessions = index_sessions(root)
    bad = [f"{session.name}: {'; '.join(problems)}" for session in sessions if (problems := session.problems())]
    if bad:
        raise UserError(f"{root}: {len(bad)} of {len(sessions)} scans are incomplete: {some(bad, 3)}. Complete or remove them.")
    return finish_cases([session.case() for session in sessions], root, labelled)


def exclude_scores(cases: Sequence[Case], scores: Sequence[str] = ("5", "Q")) -> list[Case]:
    """Cases without those of some radiology scores; a case without a score stays.

    Args:
        cases: of any reader.
        scores: "1" (normal) to "5" (lesions that matter clinically) and "Q" (poor quality).

    Raises:
        UserError: no case is left.
    """
    out = {str(score).upper() for score in scores}
    kept = [case for case in cases if str(case.get("radiology_score", "")).upper() not in out]
    if cases and not kept:
        raise UserError(f"exclude_scores: got {some(sorted(out))}; all {len(cases)} cases have one of these radiology scores.")
    return kept


def index_sessions(root: Path) -> list[Session]:
    """Scans of a tree with their files and what the tables say of them, sorted by name."""
    facts = _read_tables(root)
    sessions = []
    for anat in sorted(root.glob("sub-*/ses-*/anat")):
        subject, session = anat.parents[1].name.removeprefix("sub-"), anat.parent.name.removeprefix("ses-")
        stem = f"sub-{subject}_ses-{session}_"
        there = {volume_stem(path).removeprefix(stem): os.path.abspath(path) for path in list_volumes(anat)}
        kinds = {"image": (IMAGE,), "brain": MASKS, "label": TISSUES}
        files = {kind: next((there[end] for end in ends if end in there), None) for kind, ends in kinds.items()}
        own = {**facts.get((subject, ""), {}), **facts.get((subject, session), {})}
        sessions.append(Session(subject, session, {kind: path for kind, path in files.items() if path}, own))
    return sessions


def _read_tables(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Facts by subject and session (empty for what holds for all sessions): ``combined.tsv`` first, the tree's own tables win."""
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    above = [place / "combined.tsv" for place in (*reversed(Path(os.path.abspath(root)).parents[:3]), root)]
    for file in [*above, root / "participants.tsv", *sorted(root.glob("sub-*/sub-*_sessions.tsv"))]:
        of_file = file.name.removesuffix("_sessions.tsv").removeprefix("sub-") if file.name.endswith("_sessions.tsv") else ""
        for number, row in read_tsv(file):
            where = f"{file}: line {number}"
            key = (bare_id(row.get("participant_id", of_file), "sub-"), bare_id(row.get("session_id", ""), "ses-"))
            found = scan_facts(row, FACTS, root, where)
            if row.get("scan_age", "").lower() not in EMPTY:
                found["age"] = parse_age(row["scan_age"], where)
            facts.setdefault(key, {}).update(found)
    return facts


def check_dhcp(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Files, ages and head circumferences of a dHCP tree, and the scans that are complete."""
    root = find_root(dataset_dir)
    sessions = index_sessions(root) if root else []
    findings = [Finding("error", f"scan {session.name}: {text}") for session in sessions for text in session.problems()]
    cases = [session.case() for session in sessions if not session.problems()]
    level = "ok" if len(sessions) == PUBLIC_SESSIONS or is_simulated(dataset_dir) else "note"
    findings.append(Finding(level, f"{len(sessions)} scans; the third release has {PUBLIC_SESSIONS}"))
    low, high = PLAUSIBLE_WEEKS
    findings += [
        Finding("note", f"case {case['id']}: age {case['age']:g}; expected {low:g} to {high:g} weeks after the last period")
        for case in cases
        if not low <= case["age"] <= high
    ]
    scans = Counter(case["subject"] for case in cases)
    several = Counter(count for count in scans.values() if count > 1)
    findings.append(Finding("ok", "subjects with several scans: " + (some(f"{n} with {k}" for k, n in sorted(several.items())) or "none")))
    bare = sum("head_circumference_cm" not in case for case in cases)
    if bare:
        findings.append(Finding("note", f"{bare} of {len(cases)} scans have no head circumference; they are left out where it is compared"))
    scores = Counter(str(case.get("radiology_score", "none")) for case in cases)
    findings.append(Finding("ok", "radiology scores: " + some((f"{score} ({count})" for score, count in sorted(scores.items())), 8)))
    return findings, cases


def look_at(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
    """Read a case for the check: shape, spacing in mm, and what is odd, in words."""
    from common.transforms.same_grid import LoadSameGridd

    keyed: Any = case
    volume = LoadSameGridd(("image", "brain", "label"), channels=1, label_values=range(10))(keyed)
    image, texts = volume["image"].numpy()[0], []
    if "brain" in volume:
        brain = volume["brain"].numpy()[0] > 0
        share = float(brain.mean())
        if not 0.02 <= share <= 0.7:
            texts.append(f"the mask of the brain covers {100 * share:.1f} % of the volume; expected 2 to 70 %")
        if any(brain.take(end, axis=axis).any() for axis in range(3) for end in (0, -1)):
            texts.append("the brain touches the border of the volume: part of it may be missing")
        if brain.any() and image[brain].std() < 0.05 * abs(float(image[brain].mean())):
            texts.append(f"hardly any contrast in the brain; is it a bias field in place of {IMAGE}?")
    else:
        texts.append("no mask of the brain")
    return image.shape, tuple(float(step) for step in volume["image"].pixdim), texts


def _has_scans(folder: Path) -> bool:
    return any(True for _ in folder.glob(f"sub-*/ses-*/anat/*_{IMAGE}.nii*"))
