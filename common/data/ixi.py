"""Read IXI's T1 as unpacked: whole heads of healthy people from three hospitals, and the spreadsheet of their ages (not in MONAI)."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

from common.data.cases import Case, Finding, finish_cases, is_simulated, known_root, list_volumes, single_root, some, volume_stem
from common.data.ixi_people import People, find_people, read_people

TREE = """IXI-T1/                                        (the folder itself or one that holds it)
  IXI002-Guys-0828-T1.nii.gz                   IXI<3 digits>-<Guys, HH or IOP>-<4 digits>-T1.nii.gz
  IXI012-HH-1211-T1.nii.gz
  brains/IXI002-Guys-0828-T1-brain.nii.gz      (optional masks of the brain; not IXI's)
  lesions/IXI002-Guys-0828-T1-lesion.nii.gz    (optional masks of lesions; not IXI's)
IXI.xls                                        (or IXI.xlsx or IXI.csv; in the folder or one level up)"""

FACTS: Final = ("age", "sex", "ethnicity", "site")
"""What a case carries beside its image, as far as it is known."""
PUBLIC_CASES = 581
PLAUSIBLE_YEARS = (18.0, 90.0)
PLAUSIBLE_MM = (0.8, 1.3)
_NAME = re.compile(r"IXI(\d{3})-([A-Za-z]+)-(\d{4})-T1$")
_logger = logging.getLogger("brain_bundles")


def find_root(dataset_dir: str | os.PathLike[str]) -> Path | None:
    """Folder of the volumes: the one given, or the one folder in it; None where there is none.

    Raises:
        UserError: several such folders.
    """
    return single_root(Path(dataset_dir), ("", "*/"), _has_volumes, "IXI T1")


def is_ixi(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like IXI's T1."""
    return find_root(dataset_dir) is not None


def read_ixi(dataset_dir: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases of IXI's T1, one per volume.

    Args:
        dataset_dir: folder of the volumes, or the one above.
        labelled: whether every case must have a mask of lesions; otherwise they are taken where they exist (IXI has none).

    Returns:
        Cases sorted by id (the file's name without suffix, as in the author's table of counts): ``subject`` (``IXI002``), ``image`` = [T1,
        arbitrary units], ``site`` and, where known, ``age`` (years), ``sex`` ("m" or "f"), ``ethnicity`` (code, 1 is white), ``brain`` and
        ``label`` (paths of masks).

    Raises:
        UserError: the folder is missing or of another layout, or a spreadsheet that cannot be read.

    Source: IXI's T1 archive and spreadsheet (methods/brain_autoencoder.md, section 1).
    """
    root = known_root(dataset_dir, find_root, "IXI's T1", TREE)
    cases, people = index_cases(root)
    _logger.info("%s: %s", root, "; ".join(_gaps(cases, people)) or "every volume has age, sex and ethnicity")
    return finish_cases(cases, root, labelled)


def index_cases(root: Path) -> tuple[list[Case], People | None]:
    """Cases of a folder with what the spreadsheet knows of them, sorted by name, and the spreadsheet (None without one)."""
    file = find_people(root)
    people = read_people(file) if file else None
    masks = {kind: {volume_stem(path): path for path in list_volumes(root / f"{kind}s")} for kind in ("brain", "lesion")}
    cases = []
    for path in list_volumes(root):
        name, match = volume_stem(path), _NAME.match(volume_stem(path))
        if match is None:
            continue
        case: Case = {"id": name, "subject": f"IXI{match[1]}", "image": [os.path.abspath(path)], "site": match[2]}
        for key, kind in (("brain", "brain"), ("label", "lesion")):
            if f"{name}-{kind}" in masks[kind]:
                case[key] = os.path.abspath(masks[kind][f"{name}-{kind}"])
        cases.append(case | (people.facts.get(int(match[1]), {}) if people else {}))
    return cases, people


def _gaps(cases: list[Case], people: People | None) -> list[str]:
    """What is missing or double, each in a few words."""
    if people is None:
        return ["no IXI.xls, IXI.xlsx or IXI.csv beside or above the volumes: age, sex and ethnicity are not known"]
    there = {int(case["subject"].removeprefix("IXI")) for case in cases}
    counts = {
        "volumes without a row": len(there - set(people.facts)),
        "numbers without a volume": len(set(people.facts) - there),
        "numbers with equal rows": len(people.repeated),
        "numbers whose rows contradict": len(people.contradicted),
        **{f"volumes without {fact}": sum(fact not in case for case in cases) for fact in FACTS[:-1]},
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def check_ixi(dataset_dir: Path) -> tuple[list[Finding], list[Case]]:
    """Names, spreadsheet and ages of a folder, and its volumes."""
    root = find_root(dataset_dir)
    cases, people = index_cases(root) if root else ([], None)
    level = "ok" if len(cases) == PUBLIC_CASES or is_simulated(dataset_dir) else "note"
    findings = [Finding(level, f"{len(cases)} volumes; the public release has {PUBLIC_CASES}")]
    findings += [Finding("note", text) for text in _gaps(cases, people)]
    low, high = PLAUSIBLE_YEARS
    findings += [
        Finding("note", f"case {case['id']}: age {case['age']:g}; expected {low:g} to {high:g} years")
        for case in cases
        if "age" in case and not low <= case["age"] <= high
    ]
    sites = Counter(case["site"] for case in cases)
    findings.append(Finding("ok", "sites: " + some(f"{site} ({count})" for site, count in sorted(sites.items()))))
    return findings, cases


def look_at(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
    """Read a case for the check: shape, spacing in mm, and what is odd, in words."""
    import nibabel

    from common.transforms.same_grid import LoadSameGridd

    keyed: Any = case
    volume = LoadSameGridd(("image", "brain", "label"), channels=1, label_values=(0, 1))(keyed)
    image, texts = volume["image"], []
    spacing = tuple(float(step) for step in image.pixdim)
    if not all(PLAUSIBLE_MM[0] <= step <= PLAUSIBLE_MM[1] for step in spacing):
        texts.append(f"spacing {' x '.join(f'{step:.3g}' for step in spacing)} mm; IXI's is 0.9375 x 0.9375 x 1.2 mm")
    axes = "".join(nibabel.aff2axcodes(image.affine.numpy()))
    if axes != "PSR":
        texts.append(f"voxel axes {axes}; IXI's are PSR (they are turned; slices are sagittal in any case)")
    if float(image.min()) == float(image.max()):
        texts.append("the image is empty")
    if "label" in volume and not bool(volume["label"].any()):
        texts.append("the label is empty")
    if "brain" in volume and not 0.01 <= float((volume["brain"] > 0).float().mean()) <= 0.7:
        texts.append(f"the mask of the brain covers {100 * float((volume['brain'] > 0).float().mean()):.1f} % of the volume")
    return tuple(image.shape[1:]), spacing, texts


def _has_volumes(folder: Path) -> bool:
    return any(_NAME.match(volume_stem(path)) for path in folder.glob("IXI*-T1.nii*"))
