"""Bring a brain onto a fixed grid by one interpolation, turned but never scaled; MONAI's ``SpatialResample`` knows no brain and no pose."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy.ndimage import affine_transform

from common.errors import UserError
from common.transforms.brain_pose import BrainReference, find_pose
from common.transforms.head_volume import pool_to

MODES: Final = ("none", "centre", "rigid")
CUT_TOLERANCE: Final = 1e-3
"""Share of the brain that may lie outside the grid without a word: the rim of a generous mask."""
_logger = logging.getLogger("brain_bundles")


def grid_affine(pose: np.ndarray, grid: Sequence[int], spacing_mm: float) -> np.ndarray:
    """Affine ``(4, 4)`` of a grid whose middle, ``(n - 1) / 2``, lies at the origin of a pose's frame, with axes along the frame's.

    Args:
        pose: ``(4, 4)`` rigid matrix, frame to world, mm.
        grid: sides, voxels.
        spacing_mm: voxel size, isotropic.
    """
    local = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    local[:3, 3] = -spacing_mm * (np.asarray(grid) - 1) / 2
    return np.asarray(pose, np.float64) @ local


def own_axes(affine: np.ndarray) -> np.ndarray:
    """Rotation ``(3, 3)`` whose columns are a volume's own axes, in the order and direction nearest to right, front, up."""
    from nibabel.orientations import io_orientation

    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    rotation = np.empty((3, 3))
    for axis, (place, sign) in enumerate(io_orientation(affine)):
        rotation[:, int(place)] = sign * axes[:, axis]
    return rotation


def snapped(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The target affine moved by less than half a voxel so that its voxels fall on the source's, where axes and spacing are the same.

    Bringing a scan onto such a grid is padding and cropping: every voxel keeps its value.
    """
    step = np.linalg.inv(source) @ target
    if np.abs(step[:3, :3] - np.rint(step[:3, :3])).max() > 1e-4:
        return target
    step[:3] = np.rint(step[:3])
    return np.asarray(source @ step)


def resample_brain(volume: np.ndarray, source: np.ndarray, target: np.ndarray, grid: Sequence[int], order: int) -> np.ndarray:
    """Resample a volume to a grid once, after averaging blocks where the grid is coarser; 0 outside the source.

    Args:
        volume: ``(X, Y, Z)``.
        source: its affine, ``(4, 4)``, mm.
        target: affine of the grid in the same world.
        grid: sides, voxels.
        order: 0 nearest (nothing is averaged), 1 linear, 3 cubic splines.

    Returns:
        ``grid`` float32.
    """
    spacing = float(np.linalg.norm(target[:3, 0]))
    pooled, affine = pool_to(volume.astype(np.float32), source, spacing) if order else (volume.astype(np.float32), source)
    to_source = np.linalg.inv(affine) @ target
    where = (to_source[:3, :3], to_source[:3, 3])
    return np.asarray(affine_transform(pooled, *where, output_shape=tuple(grid), order=order, cval=0.0, output=np.float32))


class AlignBraind(MapTransform):
    """Bring image, mask and labels of a brain onto one fixed grid; its size in mm stays what it is.

    Axes of the grid run to the right, front and top. The results are MetaTensors whose affine leads to the world of the source file; their
    meta holds ``filename_or_obj``, ``source_affine``, ``source_shape`` (what ``ToSourceGridd`` needs to go back), ``registered`` and, where
    registration failed, ``reason``. The case gets ``spacing_mm``.

    Args:
        keys: image ``(C, X, Y, Z)``, then labels (nearest neighbour), which a case may lack.
        grid: sides of the grid, voxels.
        spacing_mm: voxel size, isotropic.
        mode: "none" keeps the middle of the volume in the middle of the grid, "centre" brings the centroid of the brain there, "rigid" also
            turns the brain (and its middle) to that of a reference. "none" and "centre" keep the scan's own axes; where they and the
            spacing are those of the grid, voxels are only padded and cropped.
        reference: for "rigid": ``BrainReference`` or the file of one.
        order: of the interpolation of the image, 1 linear or 3 cubic splines (as in the paper).
        brain_key: mask of the brain ``(1, X, Y, Z)`` on the image's grid, > 0 inside.
        on_cut: "warn" or "error" where part of the brain lies outside the grid.

    Source: neonatal INR, Sec. 4 (scans co-registered beforehand); rigid, because scaling would remove the growth. Deviation: the released
        code zooms to 192 x 256 x 256 (voxels of 0.566 mm for 217 x 290 x 290) in place of a fixed spacing.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        grid: Sequence[int] = (192, 256, 256),
        spacing_mm: float = 0.566,
        mode: str = "rigid",
        reference: BrainReference | str | os.PathLike[str] | None = None,
        order: int = 1,
        brain_key: str = "brain",
        on_cut: str = "warn",
    ) -> None:
        super().__init__(keys)
        for name, value, choices in (("mode", mode, MODES), ("order", order, (1, 3)), ("on_cut", on_cut, ("warn", "error"))):
            if value not in choices:
                raise UserError(f"{name}: got {value!r}; expected one of {', '.join(map(str, choices))}.")
        if len(grid) != 3 or min(grid) < 1 or spacing_mm <= 0:
            raise UserError(f"grid, spacing_mm: got {tuple(grid)}, {spacing_mm}; expected three sides of 1 voxel or more, and mm above 0.")
        if mode == "rigid" and reference is None:
            raise UserError("reference: got None for mode 'rigid'; give the reference brain, or align by 'centre'.")
        self.grid, self.spacing_mm, self.mode = tuple(int(side) for side in grid), float(spacing_mm), mode
        self.order, self.brain_key, self.on_cut = order, brain_key, on_cut
        self.reference = reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Align one case.

        Raises:
            UserError: no mask, an empty one, or a brain that is cut where that is an error.
        """
        result = dict(data)
        name, image = str(data.get("id", "?")), result[self.keys[0]]
        brain = self._brain(result, name)
        source = np.asarray(image.affine, np.float64)
        affine, meta = self._target(image.numpy()[0], brain, source, name)
        self._check_cut(brain, source, affine, name)
        meta |= {key: image.meta[key] for key in ("filename_or_obj",) if key in image.meta}
        meta |= {"source_affine": torch.from_numpy(source), "source_shape": torch.tensor(brain.shape)}

        def put(key: Hashable, arrays: list[np.ndarray], kind: type) -> None:
            result[key] = MetaTensor(torch.from_numpy(np.stack(arrays).astype(kind)), affine=torch.from_numpy(affine), meta=dict(meta))

        put(self.keys[0], [resample_brain(channel, source, affine, self.grid, self.order) for channel in image.numpy()], np.float32)
        put(self.brain_key, [resample_brain(brain, source, affine, self.grid, 1) > 0.5], np.uint8)
        for key in self.keys[1:]:
            if key in result:
                put(key, [resample_brain(channel, source, affine, self.grid, 0) for channel in result[key].numpy()], np.uint8)
        return result | {"spacing_mm": self.spacing_mm}

    def _brain(self, case: Mapping[Hashable, Any], name: str) -> np.ndarray:
        if case.get(self.brain_key) is None:
            raise UserError(f"case {name}: no mask of the brain ({self.brain_key!r}); give one, in a table in the column 'brain'.")
        brain = np.asarray(torch.as_tensor(case[self.brain_key]))[0] > 0
        if not brain.any() or brain.shape != tuple(case[self.keys[0]].shape[1:]):
            raise UserError(
                f"case {name}: its mask of the brain has shape {brain.shape} and {int(brain.sum())} voxels above 0; expected some, on the"
                f" image's grid {tuple(case[self.keys[0]].shape[1:])}."
            )
        return brain

    def _target(self, image: np.ndarray, brain: np.ndarray, source: np.ndarray, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Affine of the grid, and what is known of the alignment."""
        if self.mode == "rigid":
            if not isinstance(self.reference, BrainReference):
                assert self.reference is not None  # checked at the start
                self.reference = BrainReference.load(self.reference)
            pose = find_pose(image, brain, source, self.reference)
            if not pose.ok:
                _logger.warning("case %s: NOT REGISTERED to the reference (%s); its brain is centred only.", name, pose.reason)
            return grid_affine(pose.matrix, self.grid, self.spacing_mm), {"registered": pose.ok, "reason": pose.reason}
        matrix = np.eye(4)
        matrix[:3, :3] = own_axes(source)
        middle = np.argwhere(brain).mean(axis=0) if self.mode == "centre" else (np.array(brain.shape) - 1) / 2
        matrix[:3, 3] = source[:3, :3] @ middle + source[:3, 3]
        return snapped(grid_affine(matrix, self.grid, self.spacing_mm), source), {"registered": False, "reason": f"mode {self.mode}"}

    def _check_cut(self, brain: np.ndarray, source: np.ndarray, target: np.ndarray, name: str) -> None:
        """Say so where part of the brain lies outside the grid."""
        to_target = np.linalg.inv(target) @ source
        index = np.argwhere(brain) @ to_target[:3, :3].T + to_target[:3, 3]
        outside = float(np.any((index < -0.5) | (index > np.array(self.grid) - 0.5), axis=1).mean())
        if outside <= CUT_TOLERANCE:
            return
        text = (
            f"case {name}: {100 * outside:.1f} % of the brain lie outside the grid of {' x '.join(map(str, self.grid))} voxels of"
            f" {self.spacing_mm:g} mm"
        )
        if self.on_cut == "error":
            raise UserError(f"{text}; choose a larger grid, or another alignment than '{self.mode}'.")
        _logger.warning("%s: that part is CUT OFF.", text)
