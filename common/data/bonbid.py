"""Read BONBID-HIE 2023: the training archive as unpacked, and the input folder of the challenge's containers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from common.data.cases import Case, Finding, finish_cases, is_simulated, list_volumes, some, volume_stem
from common.errors import UserError

TREE = """BONBID2023_Train/
  1ADC_ss/  MGHNICU_<id>-VISIT_<visit>-ADC_ss.mha
  2Z_ADC/   Zmap_MGHNICU_<id>-VISIT_<visit>-ADC_smooth2mm_clipped10.mha
  3LABEL/   MGHNICU_<id>-VISIT_<visit>_lesion.mha    (not needed for inference)
or, as in the challenge's containers,
input/images/
  skull-stripped-adc-brain-mri/  <name>.mha
  z-score-adc/                   <name>.mha"""

PUBLIC_CASES = 85
"""Cases of the public training release (Bao et al. 2023; LADP paper, section II.A)."""

FOLDERS = {"adc": "1ADC_ss", "zadc": "2Z_ADC", "label": "3LABEL"}
# the visit may be any text: it is joined, never assumed
PATTERNS = {
    "adc": re.compile(r"(?P<subject>MGHNICU_[^-]+)-(?P<visit>.+?)-ADC_ss\.mha$"),
    "zadc": re.compile(r"Zmap_(?P<subject>MGHNICU_[^-]+)-(?P<visit>.+?)-ADC_\w+\.mha$"),
    "label": re.compile(r"(?P<subject>MGHNICU_[^-]+)-(?P<visit>.+?)_lesion\.mha$"),
}
EXPECTED = {
    "adc": "1ADC_ss/{subject}-{visit}-ADC_ss.mha",
    "zadc": "2Z_ADC/Zmap_{subject}-{visit}-ADC_smooth2mm_clipped10.mha",
    "label": "3LABEL/{subject}-{visit}_lesion.mha",
}
CONTAINER_FOLDERS = {"adc": "skull-stripped-adc-brain-mri", "zadc": "z-score-adc"}

Key = tuple[str, str]
"""Subject and visit."""


def find_training_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """Folder that holds ``1ADC_ss`` or ``2Z_ADC``: the one given or exactly one below it; None where there is none.

    Raises:
        UserError: several such folders, so that one would be taken by chance.
    """
    folder = Path(dataset_dir)
    roots = [root for root in _with_children(folder) if any(os.path.isdir(root / FOLDERS[key]) for key in ("adc", "zadc"))]
    if folder in roots:
        return folder
    if len(roots) > 1:
        raise UserError(f"{folder}: holds {len(roots)} BONBID-HIE trees ({some(root.name for root in roots)}); give one of them.")
    return roots[0] if roots else None


def find_container_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """The ``images`` folder of a challenge container: the one given, ``images`` or ``input/images`` in it; None where there is none."""
    folder = Path(dataset_dir)
    candidates = [folder, folder / "images", folder / "input" / "images"]
    return next((root for root in candidates if any((root / name).is_dir() for name in CONTAINER_FOLDERS.values())), None)


def is_bonbid(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like one of the two layouts."""
    return find_training_root(dataset_dir) is not None or find_container_root(dataset_dir) is not None


def read_bonbid(dataset_dir: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases of a BONBID-HIE tree, one per subject and visit, joined by both.

    Args:
        dataset_dir: ``BONBID2023_Train``, its parent, or the folder with a challenge container's ``images``.
        labelled: whether every case must have a label; otherwise labels are taken where they exist.

    Returns:
        Cases sorted by id, ``image`` = [ADC (1e-6 mm2/s, 0 outside the brain), Z_ADC (standard deviations)].

    Raises:
        UserError: the folder is missing, empty or of another layout; a companion file is missing or there twice; labels are missing.

    Source: BONBID-HIE 2023, names as in the public archive (methods/ladp.md, section 1).
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected\n{TREE}")
    root, container = find_training_root(folder), find_container_root(folder)
    if root is None and container is None:
        found = some(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")), 8)
        raise UserError(f"{folder}: not a BONBID-HIE tree: it {'holds ' + found if found else 'is empty'}. Expected\n{TREE}")
    cases = _read_training(root) if root is not None else _read_container(container)  # type: ignore[arg-type]
    return finish_cases(cases, root or container, labelled)  # type: ignore[arg-type]


def index_training(root: Path) -> tuple[dict[str, dict[Key, list[Path]]], list[Path]]:
    """Files of a training tree by kind and (subject, visit), and the volumes whose names fit no pattern."""
    files: dict[str, dict[Key, list[Path]]] = {kind: {} for kind in FOLDERS}
    strange = []
    for kind, name in FOLDERS.items():
        for path in list_volumes(root / name):
            match = PATTERNS[kind].match(path.name)
            if match is None:
                strange.append(path)
            else:
                files[kind].setdefault((match["subject"], match["visit"]), []).append(path)
    return files, strange


def companion_errors(files: dict[str, dict[Key, list[Path]]]) -> list[str]:
    """One line per (subject, visit) whose files are not one ADC map and one Z map."""
    errors = []
    for subject, visit in sorted(set().union(*files.values())):
        for kind in FOLDERS:
            paths = files[kind].get((subject, visit), [])
            if len(paths) > 1:
                errors.append(f"case {subject}-{visit}: {len(paths)} files where one is expected: {some(path.name for path in paths)}")
            elif not paths and kind != "label":
                errors.append(f"case {subject}-{visit}: missing {EXPECTED[kind].format(subject=subject, visit=visit)}")
    return errors


def _read_training(root: Path) -> list[Case]:
    files, strange = index_training(root)
    errors = companion_errors(files)
    if errors:
        hint = f" Files with other names: {some(path.name for path in strange)}." if strange else ""
        raise UserError(f"{root}: {'; '.join(errors[:5])}{f' and {len(errors) - 5} more' if len(errors) > 5 else ''}.{hint}")
    if not files["adc"]:
        found = f"names such as {some((path.name for path in strange), 2)}" if strange else "no .mha files"
        raise UserError(f"{root}: {found} in {FOLDERS['adc']}. Expected\n{TREE}")
    return complete_cases(files)


def complete_cases(files: dict[str, dict[Key, list[Path]]]) -> list[Case]:
    """Cases that have exactly one ADC map and one Z map, with their labels where there is exactly one."""
    single = {kind: {key: os.path.abspath(paths[0]) for key, paths in found.items() if len(paths) == 1} for kind, found in files.items()}
    cases = []
    for key in sorted(set(single["adc"]) & set(single["zadc"])):
        case: Case = {"id": "-".join(key), "subject": key[0], "image": [single["adc"][key], single["zadc"][key]]}
        if key in single["label"]:
            case["label"] = single["label"][key]
        cases.append(case)
    return cases


def check_bonbid(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Companions and counts of the training archive, file by file, and the cases that are complete; a container's cases as they are."""
    root = find_training_root(dataset_dir)
    if root is None:
        return [], read_bonbid(dataset_dir)
    files, strange = index_training(root)
    counts = {kind: sum(map(len, found.values())) for kind, found in files.items()}
    findings = [Finding("ok", ", ".join(f"{FOLDERS[kind]}: {count} files" for kind, count in counts.items()))]
    findings += [Finding("error", text) for text in companion_errors(files)]
    findings += [Finding("note", f"{path}: ignored, its name does not fit the layout") for path in strange]
    count = len(files["adc"])
    level = "ok" if count == PUBLIC_CASES or is_simulated(root) else "note"
    findings.append(Finding(level, f"{count} cases with an ADC map; the public training release has {PUBLIC_CASES}"))
    return findings, complete_cases(files)


def _read_container(root: Path) -> list[Case]:
    """Pairs of a container's folders: by subject and visit where the names tell, else by equal names, else the only two files."""
    found = {kind: list_volumes(root / name) for kind, name in CONTAINER_FOLDERS.items()}
    if len(found["adc"]) == 1 and len(found["zadc"]) == 1:
        name = _container_id(found["adc"][0])
        return [_container_case(name, found["adc"][0], found["zadc"][0])]
    by_id = {kind: {_container_id(path): path for path in paths} for kind, paths in found.items()}
    for kind, paths in found.items():
        if not paths:
            raise UserError(f"{root / CONTAINER_FOLDERS[kind]}: no .mha files. Expected\n{TREE}")
        if len(by_id[kind]) < len(paths):
            raise UserError(f"{root / CONTAINER_FOLDERS[kind]}: several files of one case among {some(path.name for path in paths)}.")
    alone = sorted(set(by_id["adc"]) ^ set(by_id["zadc"]))
    if alone:
        lacking = CONTAINER_FOLDERS["zadc" if alone[0] in by_id["adc"] else "adc"]
        raise UserError(
            f"{root}: case {alone[0]} has no file in {lacking}; {len(alone)} cases lack a companion. Give both files equal names."
        )
    return [_container_case(name, path, by_id["zadc"][name]) for name, path in by_id["adc"].items()]


def _container_id(path: Path) -> str:
    match = PATTERNS["adc"].match(path.name) or PATTERNS["zadc"].match(path.name)
    return f"{match['subject']}-{match['visit']}" if match else volume_stem(path)


def _container_case(name: str, adc: Path, zadc: Path) -> Case:
    match = re.match(r"(MGHNICU_[^-]+)-", name)
    return {"id": name, "subject": match[1] if match else name, "image": [os.path.abspath(adc), os.path.abspath(zadc)]}


def _with_children(folder: Path) -> list[Path]:
    return (
        [folder, *sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))]
        if folder.is_dir()
        else []
    )
