"""What every reader returns: cases, plain JSON-able dicts with absolute paths, so that overlays, MONAI Label and tables can hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError

Case = dict[str, Any]
"""``{"id": str, "subject": str, "image": [path per input] or path of a 4D file}`` and, where known, ``"label"``, ``"fold"``, ``"age"``,
``"modality"`` (a name in ``common.data.modalities``), ``"pathology"``, and of head CTs ``"findings"`` ({name: 0 or 1}), ``"reads"``
({name: [0 or 1 per reader]}), ``"healthy"`` (bool), ``"truth"`` (path)."""


class Finding(NamedTuple):
    """One line of a check: ``level`` is "ok", "note" (worth a look) or "error" (a run would stop or be wrong)."""

    level: str
    text: str


VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")


def volume_suffix(path: str | os.PathLike[str]) -> str:
    """Suffix of a volume in lower case (``.nii.gz`` is one suffix); empty where the name is not a volume's."""
    name = os.path.basename(os.fspath(path)).lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), "")


def volume_stem(path: str | os.PathLike[str]) -> str:
    """File name without folder and volume suffix."""
    name = os.path.basename(os.fspath(path))
    return name[: len(name) - len(volume_suffix(name))]


def list_volumes(folder: Path) -> list[Path]:
    """Volumes that lie directly in a folder, sorted by name; hidden files (such as macOS's ``._*``) are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if volume_suffix(path) and not path.name.startswith(".") and path.is_file())


def absolute(path: str, folder: Path) -> str:
    """Absolute path as text; a relative one starts at ``folder`` (that of the file which names it)."""
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))


def existing(path: str, folder: Path, where: str) -> str:
    """Absolute path of a file that a table or datalist names.

    Raises:
        UserError: no such file; ``where`` says who named it.
    """
    result = absolute(path, folder)
    if not os.path.exists(result):
        raise UserError(
            f"{where}: names {path}, but {result} does not exist; relative paths start at the folder of the file that names them."
        )
    return result


def single_root(folder: Path, patterns: Sequence[str], fits: Callable[[Path], bool], name: str) -> Path | None:
    """Where a data set's tree begins: the first pattern under which a place fits; None where none does.

    Args:
        folder: given by the user.
        patterns: globs relative to it, in the order of trial; an empty one is the folder itself.
        fits: whether a place is the root of such a tree.
        name: of the data set, for the error.

    Raises:
        UserError: several places fit one pattern, so that one would be taken by chance.
    """
    for pattern in patterns:
        roots = [place for place in (sorted(folder.glob(pattern)) if pattern else [folder]) if fits(place)]
        if len(roots) > 1:
            raise UserError(f"{folder}: holds {len(roots)} {name} trees ({some(root.name for root in roots)}); give one of them.")
        if roots:
            return roots[0]
    return None


def known_root(dataset_dir: str | os.PathLike[str], find_root: Callable[[Path], Path | None], name: str, tree: str) -> Path:
    """Root of a data set's tree in a folder that a user gave.

    Args:
        dataset_dir: the folder.
        find_root: gives the root, or None where there is none.
        name: what was expected, for the error: "not ...".
        tree: the tree as text, for the error.

    Raises:
        UserError: no such folder, or no such tree in it; the text says what was found.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected\n{tree}")
    root = find_root(folder)
    if root is None:
        found = some(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")), 8)
        raise UserError(f"{folder}: not {name}: it {'holds ' + found if found else 'is empty'}. Expected\n{tree}")
    return root


def is_simulated(dataset_dir: str | os.PathLike[str]) -> bool:
    """Whether data were made by the simulator: ``SIMULATED.txt`` lies in the folder or at most four above, as above a DICOM series."""
    path = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    folder = path.parent if path.is_file() else path
    return any((place / "SIMULATED.txt").is_file() for place in (folder, *folder.parents[:4]))


def subject_of(name: str) -> str:
    """Subject where the data set names none: ``sub-<label>`` of a BIDS-like name, which keeps sessions together, else the whole name."""
    match = re.match(r"sub-[A-Za-z0-9]+(?=_|$)", name)
    return match[0] if match else name


def some(names: Iterable[Any], limit: int = 5) -> str:
    """First names of a list for a message, with the number of the others."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")


def parse_age(text: Any, where: str) -> float:
    """Age as a number, unit as in the data set.

    Raises:
        UserError: text that is not a number.
    """
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the age {text!r} is not a number; leave the cell empty (or n/a) where it is not known.") from error


def parse_fold(text: Any, where: str) -> int:
    """Fold as an integer from 0.

    Raises:
        UserError: text that is not an integer of at least 0.
    """
    if not re.fullmatch(r"\d+(\.0+)?", str(text).strip()):
        raise UserError(f"{where}: the fold {text!r} is not an integer of 0 or more.")
    return int(float(text))


def finish_cases(cases: Sequence[Case], source: str | os.PathLike[str], labelled: bool = False) -> list[Case]:
    """Cases sorted by id, after the checks that all readers share.

    Args:
        cases: cases of one reader, in any order.
        source: file or folder they were read from; named in errors.
        labelled: whether every case must have a label.

    Returns:
        The cases, sorted by ``id``.

    Raises:
        UserError: no cases, two cases of one id, or missing labels.
    """
    if not cases:
        raise UserError(f"{source}: no cases in it.")
    ids = [case["id"] for case in cases]
    double = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if double:
        raise UserError(
            f"{source}: the case {some(double)} occurs more than once; give each visit its own id or session and remove copies."
        )
    bare = sorted(case["id"] for case in cases if "label" not in case)
    if labelled and bare:
        raise UserError(
            f"{source}: {len(bare)} of {len(cases)} cases have no label: {some(bare)}. Training and evaluation need one for every case;"
            " add the missing files or leave these cases out."
        )
    return sorted(cases, key=lambda case: case["id"])
