"""Read FeTA (2021, 2022) as unpacked: reconstructed T2w volumes of fetal brains with seven tissues, and the table of their ages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common.data.cases import Case, Finding, finish_cases, is_simulated, known_root, list_volumes, parse_age, single_root, some, volume_stem
from common.data.scan_facts import EMPTY, bare_id, read_tsv
from common.errors import UserError

TREE = """feta_2.1/                                      (the folder itself or one that holds it)
  participants.tsv                             participant_id, Pathology, Gestational age (optional)
  sub-001/anat/
    sub-001_rec-mial_T2w.nii.gz                (or rec-irtk)
    sub-001_rec-mial_dseg.nii.gz               (not needed for inference)"""

TISSUES: Final = {
    "external CSF": 1,
    "grey matter": 2,
    "white matter": 3,
    "ventricles": 4,
    "cerebellum": 5,
    "deep grey matter": 6,
    "brainstem": 7,
}
"""Label numbers; 0 is background."""
MODALITY = "t2"
PUBLIC_CASES = (80, 120)
"""Labelled volumes of the releases of 2021 and 2022."""
PLAUSIBLE_WEEKS = (18.0, 42.0)
PLAUSIBLE_MM = (0.3, 1.5)

_AGE = re.compile(r"(gestational)?(age|ga)(in)?(weeks?|w)?$")
"""Spellings of the column of ages, without capitals, spaces and signs."""


@dataclass
class Scan:
    """Files and facts of one subject."""

    subject: str
    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """What keeps the scan from being a case."""
        texts = []
        for files in (self.images, self.labels):
            if len(files) > 1:
                texts.append(f"{len(files)} files where one is expected: {some(file.name for file in files)}; keep one reconstruction")
        if not self.images:
            texts.append(f"no {self.subject}_rec-<mial or irtk>_T2w.nii.gz")
        if len(self.images) == len(self.labels) == 1:
            kinds = [volume_stem(file).removesuffix(end) for file, end in ((self.images[0], "_T2w"), (self.labels[0], "_dseg"))]
            if kinds[0] != kinds[1]:
                names = f"{self.images[0].name} and {self.labels[0].name}"
                texts.append(f"image and label are of different reconstructions: {names}; keep those of one")
        return texts

    def case(self) -> Case:
        """The case of a scan without problems."""
        label = {"label": os.path.abspath(self.labels[0])} if self.labels else {}
        image = [os.path.abspath(self.images[0])]
        return {"id": self.subject, "subject": self.subject, "modality": MODALITY, "image": image, **label, **self.facts}


def find_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """Folder of the ``sub-*``: the one given, or one up to two below; None where there is none.

    Raises:
        UserError: several such folders.
    """
    return single_root(Path(dataset_dir), ("", "*/", "*/*/"), _has_scans, "FeTA")


def is_feta(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like FeTA: ``sub-*/anat/*_T2w.nii.gz`` without sessions."""
    return find_root(dataset_dir) is not None


def read_feta(dataset_dir: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases of a FeTA tree, one per subject.

    Args:
        dataset_dir: folder with the ``sub-*``, or a folder up to two above.
        labelled: whether every case must have a label; otherwise labels are taken where they exist.

    Returns:
        Cases sorted by id (``sub-001``): ``image`` = [T2w, arbitrary units, about 0.5 mm], ``modality`` t2, and where known ``label``
        (0 to 7, see ``TISSUES``), ``age`` (gestational, weeks) and ``pathology`` (text of the table).

    Raises:
        UserError: the folder is missing or of another layout, or a subject has two volumes or none; the text names them.

    Source: FeTA 2021 and 2022 (names; methods/dae.md, section 1). Columns of participants.tsv are matched without regard to capitals,
        spaces and signs, since their spelling differs between copies.
    """
    root = known_root(dataset_dir, find_root, "a FeTA tree", TREE)
    scans = index_scans(root)
    bad = [f"{scan.subject}: {'; '.join(problems)}" for scan in scans if (problems := scan.problems())]
    if bad:
        raise UserError(f"{root}: {len(bad)} of {len(scans)} subjects cannot be read: {some(bad, 3)}. Complete or remove them.")
    return finish_cases([scan.case() for scan in scans], root, labelled)


def index_scans(root: Path) -> list[Scan]:
    """Subjects of a tree with their files and what the table says of them, sorted by name."""
    facts = read_participants(root)
    scans = []
    for anat in sorted(place for place in root.glob("sub-*/anat") if place.is_dir()):
        files = {end: [file for file in list_volumes(anat) if volume_stem(file).endswith(end)] for end in ("_T2w", "_dseg")}
        subject = anat.parent.name
        scans.append(Scan(subject, files["_T2w"], files["_dseg"], facts.get(bare_id(subject, "sub-"), {})))
    return scans


def read_participants(root: Path) -> dict[str, dict[str, Any]]:
    """``age`` and ``pathology`` by subject (without ``sub-``), as far as ``participants.tsv`` knows them; empty where there is none.

    Raises:
        UserError: a table without the subjects' column, or an age that is no number.
    """
    file, facts = root / "participants.tsv", {}
    for number, row in read_tsv(file):
        cells = {re.sub(r"[^a-z0-9]", "", name.lower()): cell for name, cell in row.items()}
        if "participantid" not in cells:
            raise UserError(f"{file}: no column participant_id; found {some(row, 12)}.")
        own: dict[str, Any] = {}
        age = next((cell for name, cell in cells.items() if _AGE.match(name) and cell.lower() not in EMPTY), None)
        if age is not None:
            own["age"] = parse_age(age.replace(",", "."), f"{file}: line {number}")
        if cells.get("pathology", "").lower() not in EMPTY:
            own["pathology"] = cells["pathology"]
        facts[bare_id(cells["participantid"], "sub-")] = own
    return facts


def check_feta(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Files, labels and ages of a FeTA tree, and the subjects that are complete."""
    root = find_root(dataset_dir)
    scans = index_scans(root) if root else []
    findings = [Finding("ok", f"T2w: {sum(len(s.images) for s in scans)} files, dseg: {sum(len(s.labels) for s in scans)} files")]
    findings += [Finding("error", f"case {scan.subject}: {text}") for scan in scans for text in scan.problems()]
    cases = [scan.case() for scan in scans if not scan.problems()]
    level = "ok" if len(scans) in PUBLIC_CASES or is_simulated(dataset_dir) else "note"
    findings.append(
        Finding(level, f"{len(scans)} subjects; the public releases have {PUBLIC_CASES[0]} (2021) and {PUBLIC_CASES[1]} (2022)")
    )
    if cases and not any("age" in case for case in cases):
        findings.append(Finding("note", "no gestational ages: no participants.tsv, or no column such as 'Gestational age' in it"))
    low, high = PLAUSIBLE_WEEKS
    findings += [
        Finding("note", f"case {case['id']}: age {case['age']:g}; expected {low:g} to {high:g} weeks of gestation")
        for case in cases
        if "age" in case and not low <= case["age"] <= high
    ]
    kinds = [str(case.get("pathology", "not known")) for case in cases]
    findings.append(
        Finding("ok", "pathology: " + (some((f"{kind} ({kinds.count(kind)})" for kind in sorted(set(kinds))), 8) or "no cases"))
    )
    return findings, cases


def look_at(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
    """Read a case for the check: shape, spacing in mm, and what is odd, in words."""
    from common.transforms.same_grid import LoadSameGridd

    keyed: Any = case
    volume = LoadSameGridd(channels=1, label_values=range(1 + len(TISSUES)), resample=False)(keyed)
    image, texts = volume["image"], []
    spacing = tuple(float(step) for step in image.pixdim)
    if not all(PLAUSIBLE_MM[0] <= step <= PLAUSIBLE_MM[1] for step in spacing):
        shown = " x ".join(f"{step:.3g}" for step in spacing)
        texts.append(f"spacing {shown} mm; expected about 0.5 mm on each axis (a fetal reconstruction)")
    if not bool(image.any()):
        texts.append("the image is empty")
    if "label" in volume:
        label = volume["label"].numpy()
        missing = [name for name, number in TISSUES.items() if not (label == number).any()]
        texts += ["the label is empty"] if len(missing) == len(TISSUES) else [f"the label has no {name}" for name in missing]
    return tuple(image.shape[1:]), spacing, texts


def _has_scans(folder: Path) -> bool:
    return any(True for _ in folder.glob("sub-*/anat/*_T2w.nii*"))
