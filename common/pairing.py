"""Pair files of predictions with the cases they belong to, and read a pair on one grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cases import VOLUME_SUFFIXES, Case, list_volumes, some, volume_stem, volume_suffix
from common.errors import UserError

_LABEL_WORDS = re.compile(r"[-_.](lesion|lesions|label|labels|seg|mask|gt|truth)$", re.IGNORECASE)


def volume_files(folder: str | Path, pattern: str = "*") -> list[Path]:
    """List the volumes below a folder, sorted; hidden and temporary files (a leading dot) are passed over.

    Args:
        folder: folder to search, subfolders included.
        pattern: file names that count, such as ``*_lesion.mha``.

    Raises:
        UserError: not a folder, or no volume in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: is not a folder. Give the folder that holds the volumes ({', '.join(VOLUME_SUFFIXES)}).")
    files = sorted(p for p in root.rglob(pattern) if volume_suffix(p) and not p.name.startswith(".") and p.is_file())
    if not files:
        raise UserError(f"{root}: found no volume named {pattern}, expected files ending in {', '.join(VOLUME_SUFFIXES)}.")
    return files


def truth_cases(folder: str | Path, layout: str | None = None) -> list[Case]:
    """List the cases of a truth folder: a dataset in a known layout, or simply a folder of label files.

    Args:
        folder: any form that `common.data.dataset.find_cases` reads, or a folder with one label file per case directly in it (id = file
            name without extension and without a last word such as ``_lesion``, ``_label``, ``_seg``).
        layout: name of the public layout that the folder has; None finds out.

    Returns:
        Case dicts with ``id``, ``subject``, ``label`` (path) and, from a dataset, ``image``; only cases that have a label.

    Raises:
        UserError: no such folder, nothing readable in it, no case with a label, or two label files of one id.
    """
    from common.data.dataset import detect_form, find_cases

    root = Path(folder).expanduser()
    if layout is None and detect_form(root) == "volumes":
        return _label_cases(list_volumes(root))
    found = find_cases(root) if layout is None else find_cases(root, layout)
    cases = [case for case in found if case.get("label")]
    if not cases:
        raise UserError(f"{root}: no case in it has a label, so there is no truth to score against.")
    return cases


def _label_cases(files: Sequence[Path]) -> list[Case]:
    cases: dict[str, Case] = {}
    for file in files:
        name = _LABEL_WORDS.sub("", volume_stem(file))
        if name in cases:
            raise UserError(f"{file} and {cases[name]['label']} are both labels of case {name}: keep one label file per case.")
        cases[name] = {"id": name, "subject": name, "label": str(file)}
    return [cases[name] for name in sorted(cases)]


def pair_by_id(cases: Sequence[Case], folder: str | Path, pattern: str = "*") -> dict[str, Path]:
    """Find each case's file: the one whose name holds the case id as whole words (``P1`` is not in ``P10``).

    A file goes to the longest id in its name, so ``P1-V2.nii`` belongs to ``P1-V2`` where that is a case, not to ``P1``. A case
    without a file takes the one named after its subject, where the subject has a single case.

    Args:
        cases: dicts with ``id`` and ``subject``.
        folder: folder of volumes, searched with subfolders.
        pattern: file names that count.

    Returns:
        id -> file, for every case.

    Raises:
        UserError: cases without a file (counted and named), or with several.
    """
    files = volume_files(folder, pattern)
    held = _assign({str(case["id"]): str(case["id"]) for case in cases}, files)
    subjects = [str(case.get("subject", case["id"])) for case in cases]
    lone = {str(c["id"]): s for c, s in zip(cases, subjects, strict=True) if subjects.count(s) == 1 and not held[str(c["id"])]}
    taken = {file for own in held.values() for file in own}
    held |= _assign(lone, [file for file in files if file not in taken])
    missing = [name for name, own in held.items() if not own]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(cases)} cases have no file in it: {some(missing, 20)}. "
            f"Looked for the id in the names of {len(files)} files, such as {files[0].name}. Add or rename files; nothing was written."
        )
    several = {name: own for name, own in held.items() if len(own) > 1}
    for name, own in several.items():
        names = ", ".join(file.name for file in own)
        raise UserError(f"{folder}: case {name} has {len(own)} files: {names}. Narrow them by --pattern, such as --pattern '*_lesion*'.")
    return {name: own[0] for name, own in held.items()}


def _assign(tokens: dict[str, str], files: Sequence[Path]) -> dict[str, list[Path]]:
    """Give each file to the case with the longest token in its name."""
    held: dict[str, list[Path]] = {name: [] for name in tokens}
    longest_first = sorted(tokens.items(), key=lambda item: -len(item[1]))
    patterns = [(name, re.compile(rf"(?<![0-9A-Za-z]){re.escape(token)}(?![0-9A-Za-z])")) for name, token in longest_first]
    for file in files:
        owner = next((name for name, pattern in patterns if pattern.search(volume_stem(file))), None)
        if owner is not None:
            held[owner].append(file)
    return held


def read_volume(path: str | Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a volume and its grid, as `common.transforms.load_case.read_volume` does, but without a channel axis in front.

    Args:
        path: file of a family in ``common.data.cases.VOLUME_SUFFIXES``.

    Returns:
        Voxels ``(X, Y, Z)``, or ``(X, Y, Z, C)`` of a 4D file, float32, and the affine ``(4, 4)`` from voxel indices to mm (RAS).

    Raises:
        UserError: missing or unreadable (truncated) file.
    """
    from common.transforms import load_case

    channels, affine = load_case.read_volume(path)
    return channels[0] if len(channels) == 1 else np.moveaxis(channels, 0, -1), affine


def check_same_grid(
    truth: tuple[NDArray[Any], NDArray[np.float64]],
    other: tuple[NDArray[Any], NDArray[np.float64]],
    truth_path: str | Path,
    other_path: str | Path,
) -> None:
    """Raise unless two volumes share shape, spacing, direction and origin (to 0.001 mm per entry of the affine).

    Raises:
        UserError: the grids differ; names both files and both grids.
    """
    from common.transforms import load_case

    grids = [(str(path), voxels.shape, affine) for path, (voxels, affine) in ((truth_path, truth), (other_path, other))]
    try:
        load_case.check_same_grid(grids[0], grids[1], tolerance_mm=1e-3)
    except UserError as error:  # the cure is another one than for the files of a case
        raise UserError(
            f"{other_path} is not on the grid of {truth_path}: got {_grid(*other)}, expected {_grid(*truth)}. "
            "Resample it to the grid of the truth (masks by nearest neighbour) and score again."
        ) from error


def spacing_mm_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the voxel edges along X, Y, Z in mm: the lengths of the affine's columns."""
    x, y, z = (float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def _grid(voxels: NDArray[Any], affine: NDArray[np.float64]) -> str:
    spacing = " x ".join(f"{edge:.4g}" for edge in spacing_mm_of(affine))
    origin = ", ".join(f"{value:.4g}" for value in affine[:3, 3])
    axes = ", ".join(f"{value:.4g}" for value in np.diag(affine)[:3])
    return f"shape {voxels.shape}, spacing {spacing} mm, origin ({origin}), affine diagonal ({axes})"
