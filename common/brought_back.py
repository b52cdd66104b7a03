"""Results of prepared files back onto the grid of the scan as it came; MONAI's ``Invertd`` forgets when its process ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from common.data.cases import list_volumes, volume_stem, volume_suffix
from common.errors import UserError
from common.provenance import sha256_of
from common.transforms.bring_to_grid import bring_to_grid, labels_to_grid
from common.transforms.load_case import read_volume
from common.transforms.save_like_source import has_own_grid, save_like_source, save_volume

RECORD_SUFFIX = "_provenance.json"


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A provenance record, or the one in a folder that holds one.

    Raises:
        UserError: no record, several in a folder, or a file that is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(place.glob(f"*{RECORD_SUFFIX}"))
        if len(found) != 1:
            raise UserError(f"{place}: holds {len(found)} files *{RECORD_SUFFIX}; expected one. Name the file of the case.")
        place = found[0]
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        native, grid = content["native"], content["prepared"]
        ok = {"path", "shape", "affine"} <= set(native) and {"shape", "affine"} <= set(grid)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: no record of prepared files can be read from it ({error}); expected one that prepare wrote.") from error
    if not ok:
        raise UserError(f"{place}: the record names no native grid; expected one that prepare wrote.")
    return content


def bring_back(result: str | os.PathLike[str], record: str | os.PathLike[str], output: str | os.PathLike[str]) -> str:
    """Bring a mask or a map from the prepared grid to the native grid of the reference scan.

    Voxels of a mask (integers) get the label with the largest share of them, those of a map (floats) the mean. Where the scan was
    only cropped or padded, every voxel is copied.

    Args:
        result: file on the prepared grid.
        record: provenance of the case, or the folder that holds it.
        output: file to write; like the native scan's format, or ``.nii.gz`` where that is DICOM.

    Returns:
        The path that was written; its header is that of the native scan where that is a file of the same format.

    Raises:
        UserError: a result on another grid, or a native scan that has changed since.
    """
    content = read_record(record)
    native, grid = content["native"], content["prepared"]
    values, affine = read_volume(result)
    expected = np.asarray(grid["affine"])
    if len(values) != 1 or values.shape[1:] != tuple(grid["shape"]) or np.abs(affine - expected).max() > 1e-2:
        raise UserError(
            f"{result}: {values.shape[1:]} voxels, first at {np.round(affine[:3, 3], 2).tolist()} mm; expected the prepared grid,"
            f" {grid['shape']} voxels, first at {np.round(expected[:3, 3], 2).tolist()} mm. Give a result of these prepared files."
        )
    is_mask = _is_mask(values[0])
    volume = values[0].astype(np.uint8) if is_mask else values[0]
    target, shape = np.asarray(native["affine"]), tuple(native["shape"])
    back = (labels_to_grid if is_mask else bring_to_grid)(volume, expected, target, shape)
    source, kind = Path(native["path"]), np.uint8 if is_mask else np.float32
    if not has_own_grid(source) and source.is_file() and volume_suffix(source) == volume_suffix(output):
        if sha256_of(source) != native["sha256"]:
            raise UserError(f"{source}: it is not the file any more that was prepared (another sha256); prepare again.")
        return save_like_source(back, source, output, kind)
    return save_volume(back, target, output, kind)


def bring_folder_back(results: str | os.PathLike[str], record: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[str]:
    """:func:`bring_back` of every volume of a case in a folder of results: those whose names begin with the case's.

    Raises:
        UserError: no such volume.
    """
    content = read_record(record)
    files = [file for file in list_volumes(Path(results)) if volume_stem(file).startswith(str(content["case"]))]
    if not files:
        raise UserError(f"{results}: no volume begins with '{content['case']}'; expected results of the prepared case. Predict first.")
    suffix = volume_suffix(content["native"]["path"])
    suffix = suffix if suffix in (".nii", ".nii.gz") else ".nii.gz"
    return [bring_back(file, record, Path(output) / f"{volume_stem(file)}{suffix}") for file in files]


def _is_mask(values: np.ndarray) -> bool:
    """Whole numbers from 0 to 255, few of them."""
    return bool(values.min() >= 0 and values.max() <= 255 and np.array_equal(values, np.rint(values)) and len(np.unique(values)) <= 16)
