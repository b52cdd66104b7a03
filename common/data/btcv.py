"""Read BTCV (the abdomen of "Multi-Atlas Labeling Beyond the Cranial Vault") as unpacked, and with MONAI's names and datalists."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from common.data.cases import Case, Finding, finish_cases, is_simulated, known_root, list_volumes, single_root, some
from common.data.decathlon import read_datalist
from common.errors import UserError

TREE = """Abdomen/RawData/Training/                       (any of these folders, or one that holds them)
  img/                                         img0001.nii.gz
  label/                                       label0001.nii.gz    (not needed for inference)
or, as in MONAI's tutorials,
dataset_0.json                                 (a Decathlon-style datalist; not needed)
imagesTr/                                      img0001.nii.gz
labelsTr/                                      label0001.nii.gz"""

ORGANS: Final = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "oesophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "portal and splenic vein": 10,
    "pancreas": 11,
    "right adrenal gland": 12,
    "left adrenal gland": 13,
}
"""Label numbers; 0 is background."""
MODALITY = "ct"
PUBLIC_CASES = 30
"""Labelled scans of the public release; their numbers run to 40, with gaps."""

FOLDERS = (("img", "label"), ("imagesTr", "labelsTr"))
"""Folders of images and labels, by source."""
PATTERNS: Final = {"image": re.compile(r"img(?P<number>\d+)\.nii(?:\.gz)?$"), "label": re.compile(r"label(?P<number>\d+)\.nii(?:\.gz)?$")}
_PLACES = ("", "Training", "*/Training", "*/RawData/Training", "*")

Files = dict[str, list[Path]]
"""Files by number, zeros in front included."""


def find_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """Folder that holds ``img`` or ``imagesTr``: the one given, one below it (``Training`` first) or, for ``img`` itself, the one above.

    Raises:
        UserError: several such folders, so that one would be taken by chance.
    """
    folder = Path(os.path.abspath(dataset_dir))
    if folder.name in {name for pair in FOLDERS for name in pair} and _image_folder(folder.parent):
        return folder.parent
    return single_root(folder, _PLACES, _image_folder, "BTCV")


def is_btcv(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like one of the layouts; where a ``dataset.json`` lies in it, that list is read instead."""
    root = find_root(dataset_dir)
    return root is not None and not (root / "dataset.json").is_file()


def read_btcv(dataset_dir: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases of a BTCV tree, one per scan, image and label joined by their number.

    Args:
        dataset_dir: ``Abdomen`` or any folder below it down to ``img``; ``Testing`` for the scans without labels; or the folder with
            ``imagesTr``. Where that folder has one list ``dataset_<n>.json``, the list says which scans there are.
        labelled: whether every case must have a label; otherwise labels are taken where they exist.

    Returns:
        Cases sorted by id (``img0001``): ``image`` = [CT in HU], ``modality`` ct and, where there is one, ``label`` (see ``ORGANS``).

    Raises:
        UserError: the folder is missing or of another layout, a file is there twice, or labels are missing.

    Source: BTCV as distributed by Synapse (names; methods/dae.md, section 1), and MONAI's tutorials for ``imagesTr``.
    """
    root = known_root(dataset_dir, find_root, "a BTCV tree", TREE)
    datalist = find_datalist(root)
    if datalist is not None:
        cases = read_datalist(datalist, labelled, modality=MODALITY)
        return [{**case, "image": [case["image"]] if isinstance(case["image"], str) else case["image"]} for case in cases]
    images, labels = index_files(root)
    errors = double_errors(images, labels)
    if errors:
        raise UserError(f"{root}: {some(errors, 3)}. Keep one of each.")
    return finish_cases(complete_cases(images, labels), root, labelled)


def find_datalist(root: Path) -> Path | None:
    """MONAI's ``dataset_<n>.json`` beside ``imagesTr``; None where there is none.

    Raises:
        UserError: several of them, which are different splits.
    """
    lists = sorted(root.glob("dataset_*.json")) if (root / "imagesTr").is_dir() else []
    if len(lists) > 1:
        raise UserError(f"{root}: {len(lists)} datalists ({some(file.name for file in lists)}); give the path of one of them.")
    return lists[0] if lists else None


def index_files(root: Path) -> tuple[Files, Files]:
    """Images and labels by their number."""
    pair = next((pair for pair in FOLDERS if _numbered(root / pair[0], "image")), FOLDERS[0])
    return _numbered(root / pair[0], "image"), _numbered(root / pair[1], "label")


def double_errors(images: Files, labels: Files) -> list[str]:
    """One line per number that has several files."""
    return [
        f"{len(paths)} files where one is expected: {some(path.name for path in paths)}"
        for files in (images, labels)
        for paths in files.values()
        if len(paths) > 1
    ]


def complete_cases(images: Files, labels: Files) -> list[Case]:
    """Cases that have exactly one image, with their labels where there is exactly one."""
    cases = []
    for number, paths in sorted(images.items()):
        if len(paths) != 1:
            continue
        name = f"img{number}"
        case: Case = {"id": name, "subject": name, "modality": MODALITY, "image": [os.path.abspath(paths[0])]}
        if len(labels.get(number, [])) == 1:
            case["label"] = os.path.abspath(labels[number][0])
        cases.append(case)
    return cases


def check_btcv(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Companions and counts of a BTCV tree, and the scans that can be looked at; those of a datalist as they are."""
    root = find_root(dataset_dir)
    if root is None or find_datalist(root) is not None:
        return [], read_btcv(dataset_dir)
    images, labels = index_files(root)
    findings = [Finding("ok", f"img: {sum(map(len, images.values()))} files, label: {sum(map(len, labels.values()))} files")]
    findings += [Finding("error", text) for text in double_errors(images, labels)]
    findings += [
        Finding("error", f"{paths[0]}: a label without an image; expected img{number}.nii.gz, get it again")
        for number, paths in sorted(labels.items())
        if number not in images
    ]
    level = "ok" if len(images) == PUBLIC_CASES or is_simulated(root) else "note"
    findings.append(Finding(level, f"{len(images)} scans; the public training release has {PUBLIC_CASES}"))
    return findings, complete_cases(images, labels)


def look_at(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
    """Read a case for the check: shape, spacing in mm, and what is odd, in words."""
    from common.transforms.same_grid import LoadSameGridd

    keyed: Any = case
    volume = LoadSameGridd(channels=1, label_values=range(1 + len(ORGANS)), resample=False)(keyed)
    image = volume["image"].numpy()
    texts = hu_oddities(float(image.min()), float(image.max()))
    if "label" in volume:
        label = volume["label"].numpy()
        missing = [name for name, number in ORGANS.items() if not (label == number).any()]
        texts += ["the label is empty"] if len(missing) == len(ORGANS) else [f"the label has no {name}" for name in missing]
    return image.shape[1:], tuple(float(step) for step in volume["image"].pixdim), texts


def hu_oddities(low: float, high: float) -> list[str]:
    """What speaks against Hounsfield units, in words: no air, or nothing denser than soft tissue."""
    if low < -300 and high > 200:
        return []
    return [f"values from {low:g} to {high:g}; expected Hounsfield units with air (about -1000) and bone (above 200)"]


def _numbered(folder: Path, kind: str) -> Files:
    files: Files = {}
    for path in list_volumes(folder):
        match = PATTERNS[kind].match(path.name)
        if match:
            files.setdefault(match["number"], []).append(path)
    return files


def _image_folder(root: Path) -> bool:
    return any(_numbered(root / images, "image") for images, _ in FOLDERS)
