"""Read one case into tensors on one grid, since MONAI's ``LoadImaged`` checks neither grids nor values and tries reader after reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, ITKReader, MetaTensor, NibabelReader
from monai.transforms import MapTransform

from common.data.dicom_series import CT_OR_MR, read_series
from common.data.head_ct import series_folder
from common.errors import UserError


def read_volume(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read one file with MONAI's reader for its format, and with no other; a DICOM series with ours, which looks at every slice.

    Args:
        path: ``.nii``, ``.nii.gz`` (nibabel), ``.mha``, ``.nrrd`` or another format of ITK; or a folder with one DICOM series (CT or MR),
            or a file of it.

    Returns:
        Voxels ``(C, X, Y, Z)``, float32, C = 1 for a 3D file, and the affine ``(4, 4)``, float64, voxel index to mm, RAS.

    Raises:
        UserError: the file is missing, cannot be read, or is neither 3D nor 4D; several series in a folder, or a missing slice.
    """
    file = series_folder(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; check the path (relative paths start at {os.getcwd()}).")
    if file.is_dir():
        volume, affine, _ = read_series(file, min_slices=2, min_extent_mm=0.0, modalities=CT_OR_MR)
        return volume[None], affine
    # LoadImage would try one reader after the other, and ITK reads a truncated .nii.gz without complaint
    reader: ImageReader = NibabelReader() if file.name.lower().endswith((".nii", ".nii.gz")) else ITKReader()
    try:
        array, meta = reader.get_data(reader.read(str(file)))
        array, affine = np.asarray(array, dtype=np.float32), np.asarray(meta["affine"], dtype=np.float64)
    except Exception as error:  # the readers raise what they like: OSError, EOFError, zlib.error, RuntimeError, ...
        raise UserError(
            f"{file}: cannot be read ({_reason(error)}). The file is truncated, damaged or not an image; get it again (check its size"
            " and checksum) or leave the case out."
        ) from error
    if array.ndim not in (3, 4):
        raise UserError(
            f"{file}: a {array.ndim}D image of shape {array.shape}; expected a 3D volume, or 4D with the inputs on the fourth axis."
        )
    channels = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    return channels, affine


def _reason(error: Exception) -> str:
    """A reader's error in one line, without ITK's source lines and its last system error, which mostly belongs to something else."""
    text = str(error).split("ITK ERROR:")[-1]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Reason:")]
    return f"{type(error).__name__}: {' '.join(lines)}" if lines else type(error).__name__


def check_same_grid(
    first: tuple[str, tuple[int, ...], np.ndarray], second: tuple[str, tuple[int, ...], np.ndarray], tolerance_mm: float
) -> None:
    """Two volumes of one case must lie on one grid.

    Args:
        first: name of the file, shape ``(X, Y, Z)``, affine ``(4, 4)`` in mm.
        second: the same of the other file.
        tolerance_mm: largest difference allowed between two entries of the affines.

    Raises:
        UserError: shapes or affines differ; the text names both files.
    """
    (name_a, shape_a, affine_a), (name_b, shape_b, affine_b) = first, second
    difference = float(np.abs(affine_a - affine_b).max())
    if shape_a == shape_b and difference <= tolerance_mm:
        return
    raise UserError(
        f"{name_b}: its grid differs from that of {name_a}: shape {tuple(shape_b)} against {tuple(shape_a)}, largest difference of the"
        f" affines {difference:.4g} mm (allowed {tolerance_mm:g}). All files of a case must lie on one grid: resample one to the"
        " other; where only a header is wrong, correct it or raise grid_tolerance_mm."
    )


def check_finite(array: np.ndarray, name: str) -> None:
    """Every voxel must be a number.

    Raises:
        UserError: NaN or infinite voxels; the text says how many.
    """
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise UserError(
            f"{name}: {bad} of {array.size} voxels are NaN or infinite; set them to a number (0 outside the brain) and save it again."
        )


def check_label(array: np.ndarray, name: str, label_values: Sequence[int]) -> np.ndarray:
    """Label as integers, after a look at its values.

    Args:
        array: label ``(1, X, Y, Z)``, any number type; floats that hold integers are fine.
        name: file, for the error.
        label_values: values that may occur.

    Returns:
        The same voxels as uint8.

    Raises:
        UserError: not one channel, or other values.
    """
    if len(array) != 1:
        raise UserError(f"{name}: a label with {len(array)} channels; expected one 3D volume with values {tuple(label_values)}.")
    rounded = np.rint(array)
    # scaled NIfTI labels come back with rounding errors of about 1e-6
    wrong = ~np.isin(rounded, label_values) | (np.abs(array - rounded) > 1e-3)
    if wrong.any():
        found = ", ".join(f"{value:g}" for value in np.unique(array[wrong])[:5])
        raise UserError(
            f"{name}: label values {found} in {int(wrong.sum())} voxels; expected only {tuple(label_values)}."
            " Map the values to these (a mask stored as 0/255 is divided by 255)."
        )
    return rounded.astype(np.uint8)


class LoadCased(MapTransform):
    """Read the files of a case, check them, and add the brain mask.

    Args:
        keys: key of the image, then those of labels; labels may be absent from a case.
        channels: number of inputs expected; None takes any.
        label_values: values that may occur in a label.
        brain_key: where the mask of the brain goes, ``(1, X, Y, Z)``, bool; None makes none.
        brain_channel: input that is 0 outside the brain; the brain is where it is above 0.
        grid_tolerance_mm: largest difference allowed between the affines of a case's files.

    Every result is a ``MetaTensor`` with the affine of the image's first file (RAS, mm) and its source in ``filename_or_obj``: the image
    is ``(C, X, Y, Z)``, float32, in the file's unit; a label is ``(1, X, Y, Z)``, uint8. Negative voxels are no error: real ADC maps hold
    some.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        channels: int | None = 2,
        label_values: Sequence[int] = (0, 1),
        brain_key: str | None = "brain",
        brain_channel: int = 0,
        grid_tolerance_mm: float = 1e-3,
    ) -> None:
        super().__init__(keys)
        self.channels, self.label_values = channels, tuple(label_values)
        self.brain_key, self.brain_channel, self.grid_tolerance_mm = brain_key, brain_channel, grid_tolerance_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by tensors.

        Raises:
            UserError: no image, or a file that cannot be used; the text names it.
        """
        case = dict(data)
        image_key, label_keys = self.keys[0], self.keys[1:]
        if case.get(image_key) is None:
            raise UserError(f"case {case.get('id', case)}: it has no {image_key!r}; give the path of a 4D file or a list of paths.")
        files = _as_paths(case[image_key])
        image, affine = self._read_image(files, str(case.get("id", files[0])))
        grid = (files[0], image.shape[1:], affine)
        for key in label_keys:
            if case.get(key) is not None:
                case[key] = self._read_label(_as_paths(case[key]), grid)
            else:
                case.pop(key, None)
        wrap = _wrapper(files[0], affine)
        if self.brain_key is not None:
            case[self.brain_key] = wrap(self._brain(image, files))
        case[image_key] = wrap(image)
        return case

    def _read_image(self, files: list[str], name: str) -> tuple[np.ndarray, np.ndarray]:
        volumes = []
        for file in files:
            array, affine = read_volume(file)
            check_finite(array, file)
            volumes.append((file, array, affine))
            check_same_grid((files[0], volumes[0][1].shape[1:], volumes[0][2]), (file, array.shape[1:], affine), self.grid_tolerance_mm)
        image = np.concatenate([array for _, array, _ in volumes])
        if self.channels is not None and len(image) != self.channels:
            counts = ", ".join(f"{file} ({len(array)})" for file, array, _ in volumes)
            raise UserError(
                f"case {name}: {len(image)} input channels in {counts}; expected {self.channels}: one file per input in the"
                " method's order, or one 4D file with the inputs on its fourth axis."
            )
        return image, volumes[0][2]

    def _read_label(self, files: list[str], grid: tuple[str, tuple[int, ...], np.ndarray]) -> MetaTensor:
        if len(files) != 1:
            raise UserError(f"{', '.join(files)}: {len(files)} label files for one case; expected one.")
        array, affine = read_volume(files[0])
        check_same_grid(grid, (files[0], array.shape[1:], affine), self.grid_tolerance_mm)
        check_finite(array, files[0])
        return _wrapper(files[0], grid[2])(check_label(array, files[0], self.label_values))

    def _brain(self, image: np.ndarray, files: list[str]) -> np.ndarray:
        brain: np.ndarray = image[self.brain_channel : self.brain_channel + 1] > 0
        if not brain.any():
            name = files[self.brain_channel] if len(files) == len(image) else files[0]
            raise UserError(
                f"{name}: the brain is empty, no voxel is above 0 (channel {self.brain_channel}, range {image[self.brain_channel].min():g}"
                f" to {image[self.brain_channel].max():g}); expected 0 outside the brain and positive values inside."
            )
        return brain


def _as_paths(value: Any) -> list[str]:
    """One path or several as a list of text."""
    return [os.fspath(value)] if isinstance(value, (str, os.PathLike)) else [os.fspath(path) for path in value]


def _wrapper(file: str, affine: np.ndarray) -> Callable[[np.ndarray], MetaTensor]:
    """Function that makes a ``MetaTensor`` with little meta: cases from unlike file formats must still collate."""

    def wrap(array: np.ndarray) -> MetaTensor:
        meta = {
            "filename_or_obj": str(file),
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(array.shape[1:]),
            "space": "RAS",
            "original_channel_dim": 0,
        }
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=torch.from_numpy(affine.copy()), meta=meta)

    return wrap
