"""Read a case's files onto the grid of the first; MONAI's ``ResampleToMatch``, which does it, resamples heads that do not overlap too."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapLabelValue, MapTransform, ResampleToMatch

from common.errors import UserError
from common.transforms.load_case import LoadCased, check_finite, check_label, check_same_grid, read_volume

_logger = logging.getLogger("brain_bundles")


def to_grid_of(volume: MetaTensor, reference: MetaTensor, mode: str = "bilinear") -> MetaTensor:
    """Resample a volume to another one's grid; outside its field of view it is 0.

    Args:
        volume: ``(C, X, Y, Z)`` with its affine (RAS, mm).
        reference: its shape and affine are taken.
        mode: "bilinear" (trilinear) for images, "nearest" for labels.

    Returns:
        ``(C, *reference's)`` float32.

    Raises:
        UserError: the middle of one field of view lies outside the other, so that the two cannot show the same head.
    """
    names = [str(part.meta.get("filename_or_obj", "?")) for part in (volume, reference)]
    for one, other in ((volume, reference), (reference, volume)):
        if not _holds_middle(one, other):
            raise UserError(
                f"{names[0]}: its field of view does not cover that of {names[1]} (the middle of one lies outside the other by their"
                " affines). Register both files to one space, or correct the header that is wrong."
            )
    result: MetaTensor = ResampleToMatch(mode=mode, padding_mode="zeros", align_corners=False, dtype=np.float64)(volume, reference)  # type: ignore[assignment]
    return result


def _holds_middle(one: MetaTensor, other: MetaTensor) -> bool:
    middle = np.append((np.array(other.shape[1:]) - 1) / 2, 1.0)
    index = (np.linalg.inv(one.affine.numpy()) @ other.affine.numpy() @ middle)[:3]
    return bool(np.all(index >= -0.5) and np.all(index <= np.array(one.shape[1:]) - 0.5))


class LoadSameGridd(MapTransform):
    """Read the files of a case as ``LoadCased`` does; files on another grid than the first one's are resampled to it, and the log says so.

    The first file decides the grid on which predictions are written.

    Args:
        keys: key of the image, then those of labels; labels may be absent from a case.
        channels: number of inputs expected; None takes any.
        label_values: values that may occur in a label, after ``label_map``.
        label_map: number in the label file -> number wanted; a case's own ``label_map`` wins. None keeps the file's.
        resample: False refuses files on different grids.
        grid_tolerance_mm: largest difference between two affines that counts as one grid.

    A case may also hold ``channels``: which channel of its file is our first, second, ... (``common.data.brats``). The results are
    ``MetaTensor``: the image ``(C, X, Y, Z)`` float32 in the file's unit, labels ``(1, X, Y, Z)`` uint8.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        channels: int | None = 4,
        label_values: Sequence[int] = (0, 1, 2, 4),
        label_map: Mapping[str, int] | None = None,
        resample: bool = True,
        grid_tolerance_mm: float = 1e-3,
    ) -> None:
        super().__init__(keys)
        self.label_values, self.label_map = tuple(label_values), dict(label_map or {})
        self.resample, self.grid_tolerance_mm = resample, grid_tolerance_mm
        self.load_one = LoadCased(("image",), None, brain_key=None)
        self.load_all = LoadCased((keys[0],), channels, brain_key=None, grid_tolerance_mm=grid_tolerance_mm)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by tensors.

        Raises:
            UserError: no image, or a file that cannot be used; the text names it.
        """
        case = dict(data)
        order, numbers = case.pop("channels", None), {**self.label_map, **case.pop("label_map", {})}
        image_key, label_keys = self.keys[0], self.keys[1:]
        image = self._read_image(case, image_key)
        case[image_key] = image if order is None else image[list(order)]
        for key in label_keys:
            if case.get(key) is not None:
                case[key] = self._read_label(case[key], image, numbers)
            else:
                case.pop(key, None)
        return case

    def _read_image(self, case: Mapping[Hashable, Any], key: Hashable) -> MetaTensor:
        files = case.get(key)
        if files is None or isinstance(files, (str, os.PathLike)) or not self.resample:
            return self.load_all(case)[key]  # it has the words for every mistake
        parts = [self.load_one({"image": file})["image"] for file in files]
        count = sum(len(part) for part in parts)
        if self.channels is not None and count != self.channels:
            raise UserError(
                f"case {case.get('id', files[0])}: {count} input channels in {', '.join(map(str, files))}; expected {self.channels}: one"
                " file per input in the method's order, or one 4D file with the inputs on its fourth axis."
            )
        same = [self._on_grid(part, parts[0], "bilinear") for part in parts]
        return MetaTensor(torch.cat([part.as_tensor() for part in same]), meta=parts[0].meta)

    def _read_label(self, file: Any, image: MetaTensor, numbers: Mapping[str, int]) -> MetaTensor:
        name = os.fspath(file if isinstance(file, (str, os.PathLike)) else file[0])
        array, affine = read_volume(name)
        check_finite(array, name)
        meta = {**image.meta, "filename_or_obj": name, "original_affine": affine.copy(), "spatial_shape": np.asarray(array.shape[1:])}
        if numbers:
            array = np.asarray(MapLabelValue([int(old) for old in numbers], list(numbers.values()), dtype=np.float32)(array))
        label = MetaTensor(torch.from_numpy(check_label(array, name, self.label_values)), meta={**meta, "affine": torch.from_numpy(affine)})
        result: MetaTensor = self._on_grid(label, image, "nearest").to(torch.uint8)  # type: ignore[assignment]
        return result

    def _on_grid(self, part: MetaTensor, reference: MetaTensor, mode: str) -> MetaTensor:
        grids = [(str(p.meta["filename_or_obj"]), tuple(p.shape[1:]), p.affine.numpy()) for p in (reference, part)]
        try:
            check_same_grid(grids[0], grids[1], self.grid_tolerance_mm)
        except UserError as error:
            if not self.resample:
                raise
            _logger.info("RESAMPLED to the grid of the first file: %s", error)
            return to_grid_of(part, reference, mode)
        return part
