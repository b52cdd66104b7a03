"""Read BraTS as unpacked: 2020 (and 2017-2019), 2021, 2023, and the Decathlon's Task01, whose channels and labels have another order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.data.cases import Case, Finding, finish_cases, is_simulated, list_volumes, some
from common.data.decathlon import read_datalist
from common.errors import UserError

TREE = """MICCAI_BraTS2020_TrainingData/
  BraTS20_Training_001/  BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii(.gz)    (seg not needed for inference)
or BraTS2021_Training_Data/
  BraTS2021_00000/       BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz
or ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/
  BraTS-GLI-00000-000/   BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz
or Task01_BrainTumour/   dataset.json, imagesTr/, labelsTr/"""

SEQUENCES = ("t1", "t1ce", "t2", "flair")
"""Inputs in the paper's channel order."""
LABELS = {"necrotic core": 1, "oedema": 2, "enhancing tumour": 4}
"""Label numbers of BraTS2017-2021, which the bundle uses; 1 also holds non-enhancing core. BraTS2023 writes 3 in place of 4."""
PUBLIC_CASES = {"BraTS20_Training": 369, "BraTS20_Validation": 125, "BraTS2021": 1251, "BraTS-GLI": 1251}
"""Cases of the public releases by the start of their names."""

KINDS = {kind: kind for kind in (*SEQUENCES, "seg")} | {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
PATTERN = re.compile(rf"(?P<case>.+)[-_](?P<kind>{'|'.join(KINDS)})\.nii(?:\.gz)?$", re.IGNORECASE)
MISNAMED = "W39_1998.09.19_Segm.nii"
"""Name that the mask of case 355 has in a common copy of BraTS2020."""
_CASE_FOLDER = re.compile(r"brats.*\d$", re.IGNORECASE)
_DECATHLON = {"flair": "flair", "t1w": "t1", "t1gd": "t1ce", "t2w": "t2"}
_DECATHLON_LABELS = {"edema": 2, "non-enhancing tumor": 1, "enhancing tumour": 4}

Files = dict[str, list[Path]]
"""Files of one case by kind."""


def find_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """Folder that holds the cases' folders: the one given, one below it, or two below where the names say BraTS; None where there is none.

    A single case's folder is its own root.

    Raises:
        UserError: several such folders, so that one would be taken by chance.
    """
    folder = Path(dataset_dir)
    if _is_case(folder):
        return folder
    level = [folder]
    for deeper in (_folders(folder), [b for a in _folders(folder) if "brats" in a.name.lower() for b in _folders(a)], []):
        roots = [place for place in level if any(_is_case(child) for child in _folders(place))]
        if len(roots) > 1:
            raise UserError(f"{folder}: holds {len(roots)} BraTS trees ({some(root.name for root in roots)}); give one of them.")
        if roots:
            return roots[0]
        level = deeper
    return None


def is_brats(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like BraTS or the Decathlon's Task01."""
    return find_root(dataset_dir) is not None or _decathlon_order(Path(dataset_dir)) is not None


def read_brats(dataset_dir: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases of a BraTS tree, one per case folder.

    Args:
        dataset_dir: folder of the case folders, a folder above, or one case folder; or ``Task01_BrainTumour``.
        labelled: whether every case must have a label; otherwise labels are taken where they exist (validation sets have none).

    Returns:
        Cases sorted by id, ``image`` = [T1, contrast-enhanced T1, T2, FLAIR], arbitrary units, 0 outside the brain. Where the label
        file's numbers are not those of ``LABELS``, ``label_map`` ({number in the file: number}) says so; where one 4D file holds the
        sequences in another order, ``channels`` lists them in ours. ``LoadSameGridd`` follows both.

    Raises:
        UserError: the folder is missing, empty or of another layout; a sequence is missing or there twice; labels are missing.

    Source: BraTS2020 (names and label numbers; methods/patchddm.md, section 1), BraTS2021 and 2023 as distributed by Synapse; Decathlon:
        ``dataset.json`` of Task01 (channels FLAIR, T1w, t1gd, T2w; labels 1 oedema, 2 non-enhancing, 3 enhancing).
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected\n{TREE}")
    root = find_root(folder)
    if root is None:
        order = _decathlon_order(folder)
        if order is not None:
            return [{**case, **order} for case in read_datalist(folder, labelled)]
        found = some(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")), 8)
        raise UserError(f"{folder}: not a BraTS tree: it {'holds ' + found if found else 'is empty'}. Expected\n{TREE}")
    files, _ = index_cases(root)
    errors = companion_errors(files)
    if errors:
        raise UserError(f"{root}: {'; '.join(errors[:5])}{f' and {len(errors) - 5} more' if len(errors) > 5 else ''}.")
    return finish_cases(complete_cases(files), root, labelled)


def index_cases(root: Path) -> tuple[dict[str, Files], list[Path]]:
    """Files of every case folder by kind, and the volumes in them whose names fit no pattern."""
    found: dict[str, Files] = {}
    strange = []
    for folder in [root] if _is_case(root) else [child for child in _folders(root) if _CASE_FOLDER.match(child.name)]:
        files: Files = {}
        for path in list_volumes(folder):
            kind = _kind(path)
            if kind is None:
                strange.append(path)
            else:
                files.setdefault(kind, []).append(path)
        found[folder.name] = files
    return found, strange


def companion_errors(cases: dict[str, Files]) -> list[str]:
    """One line per case and kind that is not there exactly once; a mask may be absent."""
    errors = []
    for name, files in sorted(cases.items()):
        for kind in (*SEQUENCES, "seg"):
            paths = files.get(kind, [])
            if len(paths) > 1:
                errors.append(f"case {name}: {len(paths)} files where one is expected: {some(path.name for path in paths)}")
            elif not paths and kind != "seg":
                errors.append(f"case {name}: missing {_expected(name, kind)}")
    return errors


def complete_cases(cases: dict[str, Files]) -> list[Case]:
    """Cases that have each sequence exactly once, with their labels where there is exactly one."""
    result = []
    for name, files in cases.items():
        single = {kind: os.path.abspath(paths[0]) for kind, paths in files.items() if len(paths) == 1}
        if not set(SEQUENCES) <= set(single):
            continue
        subject = re.match(r"(BraTS-\w+-\d+)-\d+$", name)  # the last number is the visit
        case: Case = {"id": name, "subject": subject[1] if subject else name, "image": [single[kind] for kind in SEQUENCES]}
        if "seg" in single:
            case["label"] = single["seg"]
        if name.startswith("BraTS-"):
            case["label_map"] = {"3": LABELS["enhancing tumour"]}
        result.append(case)
    return result


def check_brats(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Companions and counts of a BraTS tree, file by file, and the cases that are complete; those of the Decathlon as they are."""
    root = find_root(dataset_dir)
    if root is None:
        return [], read_brats(dataset_dir)
    files, strange = index_cases(root)
    counts = {kind: sum(len(own.get(kind, [])) for own in files.values()) for kind in (*SEQUENCES, "seg")}
    findings = [Finding("ok", ", ".join(f"{kind}: {count} files" for kind, count in counts.items()))]
    findings += [Finding("error", text) for text in companion_errors(files)]
    findings += [Finding("note", f"{path}: ignored, its name does not fit the layout") for path in strange]
    findings += [
        Finding("note", f"case {name}: its mask is named {MISNAMED}, as case 355 in common copies of BraTS2020; it is taken")
        for name, own in files.items()
        if any(path.name.startswith(MISNAMED) for path in own.get("seg", []))
    ]
    for start, public in PUBLIC_CASES.items():
        count = sum(name.startswith(start) for name in files)
        if count:
            level = "ok" if count == public or is_simulated(root) else "note"
            findings.append(Finding(level, f"{count} case folders {start}...; the public release has {public}"))
    return findings, complete_cases(files)


def look_at(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
    """Read a case for the check: shape, spacing in mm, and what is odd, in words."""
    from common.transforms.same_grid import LoadSameGridd

    volume = LoadSameGridd(channels=len(SEQUENCES), label_values=(0, *LABELS.values()))(case)  # type: ignore[arg-type]
    image, texts = volume["image"].numpy(), []
    brain = (image != 0).any(axis=0)
    if brain.mean() > 0.9:
        texts.append(f"{100 * brain.mean():.0f} % of the voxels are not 0; expected 0 outside the brain (skull-stripped)")
    if "label" in volume:
        label = volume["label"].numpy()[0]
        if not label.any():
            texts.append("the label is empty")
        outside = int(((label > 0) & ~brain).sum())
        if outside:
            texts.append(f"{outside} tumour voxels lie where all sequences are 0")
    return image.shape[1:], tuple(float(step) for step in volume["image"].pixdim), texts


def _kind(path: Path) -> str | None:
    """Kind of a volume: a sequence or "seg"; None where its name tells none."""
    if path.name.startswith(MISNAMED):
        return "seg"
    match = PATTERN.match(path.name)
    return KINDS[match["kind"].lower()] if match else None


def _expected(name: str, kind: str) -> str:
    if name.startswith("BraTS-"):
        return f"{name}-{next(new for new, old in KINDS.items() if old == kind and new not in SEQUENCES)}.nii.gz"
    return f"{name}_{kind}.nii.gz"


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")) if folder.is_dir() else []


def _is_case(folder: Path) -> bool:
    return bool(_CASE_FOLDER.match(Path(os.path.abspath(folder)).name)) and any(_kind(path) for path in list_volumes(folder))


def _decathlon_order(folder: Path) -> dict[str, Sequence[int] | dict[str, int]] | None:
    """``channels`` and ``label_map`` of a Decathlon folder whose ``dataset.json`` names the four sequences; None where it does not."""
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8-sig"))
        named = {_DECATHLON[str(name).lower()]: int(place) for place, name in content["modality"].items()}
        labels = {str(number): _DECATHLON_LABELS[str(name).lower()] for number, name in content["labels"].items() if int(number)}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return {"channels": [named[kind] for kind in SEQUENCES], "label_map": labels} if len(named) == len(SEQUENCES) else None
