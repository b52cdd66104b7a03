"""Write a result exactly on the grid of its source file, since MONAI's ``SaveImaged`` recomputes the geometry from the affine."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import SaveImaged
from monai.utils import ensure_tuple_rep

from common.atomic import write_atomic
from common.data.cases import volume_stem, volume_suffix
from common.data.dicom_files import is_dicom_file
from common.data.head_ct import sheared_axis
from common.errors import UserError

# .mhd keeps its voxels in a second file, which one rename cannot bring into place
RESULT_SUFFIX = {".mha": ".mha", ".mhd": ".mha", ".nrrd": ".nrrd", ".nii": ".nii", ".nii.gz": ".nii.gz"}


def result_suffix(source_path: str | os.PathLike[str]) -> str:
    """Suffix of results that belong to a source file; those of a DICOM series are NIfTI.

    Raises:
        UserError: a source in a format that cannot be written.
    """
    if is_dicom(source_path):
        return ".nii.gz"
    suffix = volume_suffix(source_path)
    if suffix not in RESULT_SUFFIX:
        raise UserError(f"{source_path}: results cannot be written in this format; convert the input to one of {', '.join(RESULT_SUFFIX)}.")
    return RESULT_SUFFIX[suffix]


def result_name(case: Mapping[Hashable, Any], source_path: str | os.PathLike[str]) -> str:
    """Beginning of the names of a case's files: its ``id``, without the signs that no file name may hold, or the source's stem."""
    return re.sub(r'[\\/:*?"<>|]', "-", str(case.get("id", volume_stem(source_path))))


def is_dicom(source_path: str | os.PathLike[str]) -> bool:
    """Whether a source is a folder of DICOM files or one of them."""
    path = Path(source_path)
    return path.is_dir() or (path.is_file() and not volume_suffix(path) and is_dicom_file(path))


def has_own_grid(source_path: str | os.PathLike[str]) -> bool:
    """Whether results cannot lie on the voxels of the source file: a DICOM series, or a NIfTI file with sheared axes (gantry tilt).

    Such volumes were brought onto an even, orthogonal grid when they were read; results lie on that.
    """
    if is_dicom(source_path):
        return True
    if volume_suffix(source_path) not in (".nii", ".nii.gz") or not Path(source_path).is_file():
        return False
    import nibabel as nib

    reference: Any = nib.load(source_path)
    return sheared_axis(np.asarray(reference.affine)) is not None


def save_volume(array: np.ndarray, affine: np.ndarray, output_path: str | os.PathLike[str], dtype: Any) -> str:
    """Write a volume as NIfTI with an affine; the file appears whole or not at all.

    Args:
        array: volume ``(X, Y, Z)`` or ``(1, X, Y, Z)``.
        affine: voxel index to mm, RAS, ``(4, 4)``.
        output_path: ``.nii`` or ``.nii.gz`` file; its folder is made.
        dtype: voxel type on disk; a float array is written as an integer type only if it holds integers.

    Returns:
        The path that was written. Read again, its affine is equal to the one given within the float32 of NIfTI.

    Raises:
        UserError: another format, or not one volume.
        ValueError: values that ``dtype`` cannot hold.
    """
    output = Path(output_path)
    volume = _cast(array[0] if array.ndim == 4 and len(array) == 1 else array, np.dtype(dtype), output)
    if volume.ndim != 3 or volume_suffix(output) not in (".nii", ".nii.gz"):
        raise UserError(f"{output}: got shape {tuple(array.shape)}; expected one 3D volume and a name that ends in .nii or .nii.gz.")

    def write(temporary: Path) -> None:
        import nibabel as nib

        image = nib.Nifti1Image(volume, np.asarray(affine, np.float64))
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        nib.save(image, temporary)

    return str(write_atomic(output, write))


def save_like_source(array: np.ndarray, source_path: str | os.PathLike[str], output_path: str | os.PathLike[str], dtype: Any) -> str:
    """Write a volume with the geometry of a source file; the file appears whole or not at all.

    Args:
        array: volume ``(X, Y, Z)`` or ``(1, X, Y, Z)`` in the source's axis order, as MONAI holds it.
        source_path: file whose spacing, origin, direction (ITK formats) or whole spatial header (NIfTI) is taken.
        output_path: file to write, of the same family as the source; its folder is made.
        dtype: voxel type on disk; a float array is written as an integer type only if it holds integers.

    Returns:
        The path that was written. Read again, its geometry is bit-equal to the source's; in NRRD, which stores the product of direction
        and spacing, ITK parts them with an error in the last bit.

    Raises:
        UserError: the source is missing or the array has another shape.
        ValueError: values that ``dtype`` cannot hold.
    """
    source, output = Path(source_path), Path(output_path)
    if not source.is_file():
        raise UserError(f"{source}: no such file; the result {output.name} takes its geometry from it.")
    volume = _cast(array[0] if array.ndim == 4 and len(array) == 1 else array, np.dtype(dtype), output)
    write = _write_nifti if volume_suffix(source) in (".nii", ".nii.gz") else _write_itk
    return str(write_atomic(output, lambda temporary: write(volume, source, temporary)))


def _cast(array: np.ndarray, dtype: np.dtype, output: Path) -> np.ndarray:
    """Array as ``dtype`` without silent loss of integers."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not np.array_equal(array, np.rint(array)) or (array.size and (array.min() < limits.min or array.max() > limits.max)):
            raise ValueError(f"{output}: values from {array.min()} to {array.max()} do not fit {dtype} without loss.")
    return array.astype(dtype)


def _check_shape(volume: np.ndarray, expected: Sequence[int], source: Path) -> None:
    if tuple(volume.shape) != tuple(expected):
        raise UserError(
            f"{source}: the result has shape {tuple(volume.shape)}, the source grid {tuple(expected)}; bring the result back to the"
            " source grid (undo resizing, cropping and reorientation) before it is written."
        )


def _write_itk(volume: np.ndarray, source: Path, output: Path) -> None:
    """Write with ITK; only the source's header is read."""
    import itk

    header = itk.ImageIOFactory.CreateImageIO(str(source), itk.CommonEnums.IOFileMode_ReadMode)
    if header is None:
        raise UserError(f"{source}: ITK cannot read it.")
    header.SetFileName(str(source))
    header.ReadImageInformation()
    _check_shape(volume, [header.GetDimensions(i) for i in range(3)], source)
    image = itk.image_from_array(np.ascontiguousarray(volume.T))
    image.SetSpacing([header.GetSpacing(i) for i in range(3)])
    image.SetOrigin([header.GetOrigin(i) for i in range(3)])
    # GetDirection(i) is the direction of axis i, a column of the matrix; a 4D source has a fourth component, 0
    columns = np.array([list(header.GetDirection(i))[:3] for i in range(3)])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(columns.T)))
    itk.imwrite(image, str(output), compression=True)


def _write_nifti(volume: np.ndarray, source: Path, output: Path) -> None:
    """Write with nibabel: the source's qform, sform, their codes and units; no extensions, which may name the patient."""
    import nibabel as nib

    reference: Any = nib.load(source)  # its declared type is too wide
    _check_shape(volume, reference.shape[:3], source)
    header = reference.header.copy()
    header.extensions.clear()
    header.set_data_shape(volume.shape)
    header.set_data_dtype(volume.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    for field in ("descrip", "aux_file", "db_name", "intent_name"):  # free text; NIfTI-2 has no db_name
        if field in header.keys():  # noqa: SIM118 - a header iterates over keys but has no __contains__
            header[field] = b""
    image = type(reference)(volume, None, header)
    nib.save(image, output)


class SaveLikeSourced(SaveImaged):
    """Write results of a case in the format and on the grid of its source file.

    Results of a DICOM series, or of a NIfTI file with sheared axes, are NIfTI with the affine of the result itself: the even, orthogonal
    grid onto which ``common.data.head_ct.read_head_ct`` brings such scans.

    It is a ``SaveImaged`` by type, because MONAI Label removes those from a bundle's postprocessing and writes results itself.

    Args:
        keys: results ``(1, X, Y, Z)`` on the source grid.
        output_dir: folder for all files; made when needed.
        postfix: end of the file name, one or one per key: ``<id>_<postfix><suffix>``, with the source's stem where the case has no ``id``.
        dtype: voxel type on disk, one or one per key, by name or as a numpy type; uint8 for masks, float32 for maps.
        source_key: tensor whose meta names the source file (``filename_or_obj``).
        print_path: print each path that was written.
        allow_missing_keys: skip results that a case does not have.

    The path goes to ``data[f"{key}_path"]``.
    """

    def __init__(
        self,
        keys: Sequence[str] | str = "pred",
        output_dir: str | os.PathLike[str] = "eval",
        postfix: Sequence[str] | str = "lesion",
        dtype: Any = np.uint8,
        source_key: str = "image",
        print_path: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), print_log=False, allow_missing_keys=allow_missing_keys)
        self.output_dir, self.source_key, self.print_path = Path(output_dir).expanduser(), source_key, print_path
        self.postfixes = ensure_tuple_rep(postfix, len(self.keys))
        self.dtypes = ensure_tuple_rep(dtype, len(self.keys))
        if len(set(self.postfixes)) < len(self.keys):
            raise UserError(
                f"postfix: got {self.postfixes} for the keys {self.keys}; each key needs its own, or the files overwrite each other."
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files and note their paths.

        Raises:
            UserError: the source is not known or the result is not on its grid.
        """
        case = dict(data)
        meta = getattr(case.get(self.source_key), "meta", {})
        source = meta.get("filename_or_obj")
        if not source:
            raise UserError(f"{self.source_key}: its meta names no source file (filename_or_obj); keep the MetaTensor that LoadCased made.")
        name = result_name(case, source)
        for key, postfix, dtype in self.key_iterator(case, self.postfixes, self.dtypes):
            path = self.output_dir / f"{name}_{postfix}{result_suffix(source)}"
            if has_own_grid(source):
                case[f"{key}_path"] = save_volume(as_array(case[key]), affine_of(case[key], key, source), path, dtype)
            else:
                case[f"{key}_path"] = save_like_source(as_array(case[key]), source, path, dtype)
            if self.print_path:
                print(f"Wrote {path}")
        return case


def affine_of(value: Any, key: Hashable, source: str) -> np.ndarray:
    """Affine that a result carries itself."""
    affine = getattr(value, "affine", None)
    if affine is None:
        raise UserError(
            f"{key}: a result for {source} without an affine; its grid is not that of the files, so the result must be a MetaTensor."
        )
    return np.asarray(affine.detach().cpu() if isinstance(affine, torch.Tensor) else affine, np.float64)


def as_array(value: Any) -> np.ndarray:
    """Tensor of any device, or array, as numpy."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
