"""The brain in a T1 with skull, by thresholds and distances in mm: MONAI's ``ForegroundMask`` finds the head, its networks need weights.

It stands in where neither masks nor a table of counts are given (DeepBrain in the original). It is good enough to choose slices by their
share of brain and to limit a map of anomalies to the brain; it is no segmentation to measure volumes with.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy.ndimage import center_of_mass, gaussian_filter, zoom

from common.errors import UserError
from common.transforms.head_masks import bounding_box, dilate, erode, fill_holes, largest_component, pool_mean, touching

WORK_MM: Final = 2.0
"""Voxel size at which the brain is looked for, about; finer volumes are averaged, much coarser ones interpolated."""
COARSEST_MM: Final = 2.5
VAULT_MM, REACH_MM, MIDDLE_MM = 150.0, 105.0, 60.0
"""How far below the top of the head its centre is measured, farthest brain from there, and radius of what is surely inside the skull."""
TISSUE = (0.62, 1.5)
"""Signal of brain in units of the mean of brain around it: below is fluid or bone, above fat."""
BRIDGE_MM, BRIDGE_VOXELS, WIDER = 3.0, 1.25, (1.0, 1.3, 1.6, 2.0)
"""Half width of the bridges to muscle, eyes and scalp that are cut: mm, but at least so many voxels of the source (the skull is thin), and
factors on it, of which the first is taken after which a wider cut takes little more away."""
CORE_ML, STABLE = (600.0, 1700.0), 0.89
"""What could be a brain without its fluid, and the share of it that a wider cut must leave (muscle that hangs on takes more with it)."""
CLOSE_MM, CORD_MM, FIELD_SD_MM = 8.0, 8.0, 15.0
"""Half width of sulci that are closed, and of the spinal cord that is cut off; reach of the mean around a voxel."""
STRIPPED_SHARE, STRIPPED_ML = 0.5, 2100.0
"""A volume whose voxels are 0 by more than this share, and whose others hold less than this, is stripped of its skull already."""


def extract_t1_brain(volume: np.ndarray, spacing_mm: Sequence[float], superior_axis: int = 1) -> np.ndarray:
    """Mask of the brain, with ventricles and sulci, of a T1 with skull.

    Otsu's threshold among the voxels near the middle of the head parts brain from fluid; brain is what has about the mean signal of the
    brain around it (the coil's field drops out), after bridges of 6 mm to muscle, eyes and scalp are cut. Then sulci are closed, holes
    filled, and the spinal cord cut off. A volume that has no skull any more gives its foreground.

    Args:
        volume: ``(X, Y, Z)``, any number type and unit; one axis must point to the top of the head.
        spacing_mm: size of a voxel per axis, mm.
        superior_axis: the axis whose index grows towards the top of the head; 1 for the axes P, S, R.

    Returns:
        ``(X, Y, Z)`` bool, one piece; all False where nothing of a head is found.

    Raises:
        UserError: not a volume of three axes.
    """
    if volume.ndim != 3 or len(spacing_mm) != 3:
        raise UserError(f"extract_t1_brain: got a volume of shape {volume.shape}, spacing {tuple(spacing_mm)}; expected three axes.")
    values = np.nan_to_num(np.asarray(volume, np.float32)).clip(min=0)
    stripped = _stripped(values, spacing_mm)
    if stripped is not None:
        return stripped
    factors = [max(1, round(WORK_MM / size)) for size in spacing_mm]
    coarse = pool_mean(values, factors)
    wanted = [max(n, round(n * f * s / COARSEST_MM)) for n, f, s in zip(coarse.shape, factors, spacing_mm, strict=True)]
    grid = zoom(coarse, np.divide(wanted, coarse.shape), order=1, mode="nearest", grid_mode=True)
    step = [n * f * s / w for n, f, s, w in zip(coarse.shape, factors, spacing_mm, wanted, strict=True)]
    brain = np.zeros(grid.shape, dtype=bool)
    distance = _from_centre(grid, step, superior_axis)
    if distance is not None:
        box = bounding_box(distance < REACH_MM)
        brain[box] = _find(grid[box], distance[box], step, max(BRIDGE_MM, BRIDGE_VOXELS * max(spacing_mm)))
    back = [n * f / w for n, f, w in zip(coarse.shape, factors, wanted, strict=True)]
    fine = zoom(brain.astype(np.float32), back, order=1, mode="nearest", grid_mode=True) if max(map(abs, np.subtract(back, 1))) else brain
    cut = fine[tuple(slice(size) for size in volume.shape)] > 0.5
    return largest_component(cut)


def _stripped(values: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray | None:
    """Foreground of a volume without skull, None where there is one."""
    inside = values > 0
    if inside.mean() > 1 - STRIPPED_SHARE or not inside.any():
        return None if inside.any() else inside
    filled: np.ndarray = fill_holes(largest_component(inside))
    return filled if filled.sum() * float(np.prod(spacing_mm)) / 1000.0 < STRIPPED_ML else None


def _find(grid: np.ndarray, distance: np.ndarray, step: Sequence[float], bridge_mm: float) -> np.ndarray:
    """The brain at about 2 mm, within reach of the middle of the head."""
    middle = grid[(distance < MIDDLE_MM) & (grid > 0)]
    middle = middle[middle < 1.5 * np.percentile(middle, 90)] if middle.size else middle
    if middle.size == 0 or middle.min() == middle.max():
        return np.zeros(grid.shape, dtype=bool)
    border = otsu_threshold(middle)
    level = np.median(middle[middle > border])
    near = distance < REACH_MM
    start = erode((grid > border) & (grid < 1.4 * level) & near, 2.0, step)
    voxel_ml = float(np.prod(step)) / 1000.0
    core = _cut(grid, start, near, WIDER[0] * bridge_mm, step)
    for factor in WIDER[1:]:
        narrower = _cut(grid, start, near, factor * bridge_mm, step)
        stable = narrower.sum() >= STABLE * core.sum() and core.sum() * voxel_ml <= CORE_ML[1]
        if stable or narrower.sum() * voxel_ml < CORE_ML[0]:
            break
        core = narrower
    return _solid(core, step)


def _cut(grid: np.ndarray, core: np.ndarray, near: np.ndarray, bridge_mm: float, step: Sequence[float]) -> np.ndarray:
    """Voxels with about the mean signal around them, in the largest piece after bridges are cut; sharpened once with its own mean."""
    for _ in range(2):
        around = _mean_around(grid, core, step)
        tissue = (grid > TISSUE[0] * around) & (grid < TISSUE[1] * around) & near & (around > 0)
        seed = largest_component(erode(tissue, bridge_mm, step))
        core = touching(tissue & dilate(seed, bridge_mm + max(step), step), seed)
    return core


def _from_centre(grid: np.ndarray, step: Sequence[float], superior_axis: int) -> np.ndarray | None:
    """Distance of every voxel from the middle of the upper head, mm; None where there is no head."""
    head = largest_component(grid > 0.5 * otsu_threshold(np.minimum(grid, np.percentile(grid, 99.5))))
    others = tuple(axis for axis in range(3) if axis != superior_axis)
    areas = head.sum(axis=others) * float(np.prod(step)) / step[superior_axis]
    tops = np.flatnonzero(areas > 500.0)
    if not tops.size:
        return None
    heights = np.arange(grid.shape[superior_axis]).reshape([-1 if axis == superior_axis else 1 for axis in range(3)])
    centre = center_of_mass(fill_holes(head & (heights > tops[-1] - VAULT_MM / step[superior_axis])))
    axes = np.ogrid[tuple(slice(0, size) for size in grid.shape)]
    result: np.ndarray = np.sqrt(sum(((axis - c) * s) ** 2 for axis, c, s in zip(axes, centre, step, strict=True)))
    return result


def _mean_around(grid: np.ndarray, core: np.ndarray, step: Sequence[float]) -> np.ndarray:
    """Mean of the core's voxels around every voxel; 0 far from all of them."""
    sigma = [FIELD_SD_MM / size for size in step]
    weight = gaussian_filter(core.astype(np.float32), sigma, truncate=3.0)
    total = gaussian_filter(grid * core, sigma, truncate=3.0)
    return np.where(weight > 1e-4, total / np.maximum(weight, 1e-4), 0.0)


def _solid(core: np.ndarray, step: Sequence[float]) -> np.ndarray:
    """Sulci closed, holes filled, spinal cord cut off."""
    pad = 1 + int(np.ceil(CLOSE_MM / min(step)))
    closed = erode(dilate(np.pad(core, pad), CLOSE_MM, step), CLOSE_MM, step)
    filled = fill_holes(closed[(slice(pad, -pad),) * 3])
    trunk = largest_component(erode(filled, CORD_MM, step))
    return largest_component(filled & dilate(trunk, CORD_MM + min(step), step))


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    r"""Threshold that parts two classes best: the largest variance between them (scikit-image has it, which is not a dependency).

    .. math:: t = \arg\max_t \; w_0(t)\,w_1(t)\,(\mu_0(t) - \mu_1(t))^2

    Args:
        values: any shape and unit.
        bins: of the histogram.

    Source: Otsu, IEEE Trans Syst Man Cybern 1979; 9:62-66.
    """
    counts, edges = np.histogram(values, bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts)[:-1].astype(float), np.cumsum(counts[::-1])[::-1][1:].astype(float)
    sums = np.cumsum(counts * centres)
    low, high = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * (low - high) ** 2)])


class ExtractT1Braind(MapTransform):
    """Add the mask of the brain where the case has none (``extract_t1_brain``).

    Args:
        keys: image ``(1, X, Y, Z)`` with an affine, axes P, S, R (``Orientationd``).
        brain_key: where the mask goes, ``(1, X, Y, Z)`` uint8 with the image's affine; a mask that is there already stays.
        superior_axis: axis that points to the top of the head.
    """

    def __init__(self, keys: KeysCollection = "image", brain_key: str = "brain", superior_axis: int = 1) -> None:
        super().__init__(keys)
        self.brain_key, self.superior_axis = brain_key, superior_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask.

        Raises:
            UserError: nothing like a brain in it; the text names the case.
        """
        result = dict(data)
        if result.get(self.brain_key) is not None:
            return result
        image = result[self.keys[0]]
        spacing = [float(size) for size in image.pixdim] if isinstance(image, MetaTensor) else [1.0] * 3
        brain = extract_t1_brain(torch.as_tensor(image)[0].cpu().numpy(), spacing, self.superior_axis)
        if not brain.any():
            raise UserError(
                f"case {data.get('id', '?')}: no brain found in the T1; give a mask (a column brain in the table), or look at the image: is"
                " it a T1 of a whole head?"
            )
        mask = torch.from_numpy(brain[None].astype(np.uint8))
        result[self.brain_key] = MetaTensor(mask, affine=image.affine) if isinstance(image, MetaTensor) else mask
        return result
