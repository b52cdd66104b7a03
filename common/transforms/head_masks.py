"""Masks of a head CT by HU and geometry: head without table, skull, brain, hemispheres. MONAI's ``ForegroundMask`` thresholds alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.ndimage import distance_transform_edt, label, maximum_filter, minimum_filter

AIR_HU: Final = -1024
TISSUE_HU: Final = -300.0
"""Head from this value on: fat is above, foam of the head rest below."""

OTHER, SKULL, BRAIN_LEFT, BRAIN_RIGHT = 1, 2, 3, 4
STRUCTURES: Final = {"left": BRAIN_LEFT, "right": BRAIN_RIGHT, "skull": SKULL}
"""Labels of the structures that findings belong to, by name; 0 is background and 1 the rest of the head."""

Spacing = float | Sequence[float]


def skull_threshold(spacing_mm: float) -> float:
    """HU above which a voxel counts as bone: 300 up to 1 mm, falling to 120 at 5.5 mm and coarser, where bone shares its voxel."""
    return float(np.clip(340.0 - 40.0 * spacing_mm, 120.0, 300.0))


def foreground_mask(hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Head as one solid: above -300 HU, without table and head rest, air of sinuses and airways filled.

    An opening of 6 mm parts the head from the table; the largest piece is the head, and what hangs together with it within 8 mm (ears,
    nose) returns. Distances are measured at about 4 mm, the border is that of ``hu``. Holes are filled in 3D and in each axial slice, so
    that an airway cut open at the lowest slice is filled too.

    Args:
        hu: ``(X, Y, Z)``, axes nearly R, A, S, HU.
        spacing_mm: size of a voxel, one number or one per axis, mm.

    Returns:
        ``(X, Y, Z)`` bool; all False where nothing as thick as 12 mm is denser than -300 HU.
    """
    step = _per_axis(spacing_mm)
    factors = [max(1, round(4.0 / size)) for size in step]
    coarse = [size * factor for size, factor in zip(step, factors, strict=True)]
    tissue = fill_holes(pool_mean(hu, factors) > TISSUE_HU)  # first, or the opening breaks the walls of sinuses
    core = largest_component(erode(tissue, 6.0, coarse))
    if not core.any():
        return np.zeros(hu.shape, dtype=bool)
    head = touching(tissue & dilate(core, 8.0, coarse), core)
    closed = erode(dilate(head, 6.0, coarse), 6.0, coarse)
    holes = _fill_axial(fill_holes(closed)) & ~closed
    near = unpool(dilate(head, 0.6 * max(coarse), coarse), factors, hu.shape)
    solid = (near & (hu > TISSUE_HU)) | unpool(holes, factors, hu.shape)
    box = bounding_box(solid)
    inner = largest_component(solid[box])
    solid[:] = False
    solid[box] = _fill_axial(fill_holes(inner))
    return solid


def skull_mask(hu: np.ndarray, spacing_mm: Spacing, foreground: np.ndarray | None = None) -> np.ndarray:
    """Bone of the head: above :func:`skull_threshold`, in pieces that reach within 30 mm of the head's surface, gaps of 3 mm closed.

    Calcifications of pineal gland and choroid plexus lie deeper and are left out; the closing keeps a fracture line inside the skull.

    Args:
        hu: ``(X, Y, Z)``, HU.
        spacing_mm: size of a voxel, one number or one per axis, mm.
        foreground: :func:`foreground_mask` of ``hu``, where it is known already.

    Returns:
        ``(X, Y, Z)`` bool.
    """
    step, head = _per_axis(spacing_mm), foreground_mask(hu, spacing_mm) if foreground is None else foreground
    box = bounding_box(head)
    head_in, hu_in = head[box], hu[box]
    factors = [max(1, round(4.0 / size)) for size in step]
    coarse = [size * factor for size, factor in zip(step, factors, strict=True)]
    depth = distance_transform_edt(np.pad(pool_mean(head_in, factors) > 0.5, 1), sampling=coarse)[1:-1, 1:-1, 1:-1]
    bone = touching((hu_in > skull_threshold(max(step))) & head_in, unpool(depth < 30.0, factors, head_in.shape))
    widths = [1 + 2 * round(1.5 / size) for size in step]
    if max(widths) > 1:
        bone = minimum_filter(maximum_filter(bone.view(np.uint8), widths), widths).view(bool) & head_in | bone
    skull = np.zeros(hu.shape, dtype=bool)
    skull[box] = bone
    return skull


def brain_mask(hu: np.ndarray, spacing_mm: Spacing, foreground: np.ndarray | None = None, skull: np.ndarray | None = None) -> np.ndarray:
    """Inside of the skull: brain, CSF and blood.

    A voxel is enclosed if closed bone (gaps of 12 mm bridged) lies before it and in three of the directions left, right, behind and
    above; below need not be bone, since a scan is cut there. Of what is enclosed and no bone, the largest piece after an opening of
    7 mm is the brain: orbits, canals and the neck hang on it by narrower necks.

    Args:
        hu: ``(X, Y, Z)``, axes nearly R, A, S, HU.
        spacing_mm: size of a voxel, one number or one per axis, mm.
        foreground: :func:`foreground_mask` of ``hu``, where it is known already.
        skull: :func:`skull_mask` of ``hu``, where it is known already.

    Returns:
        ``(X, Y, Z)`` bool; all False where no skull encloses anything.
    """
    step = _per_axis(spacing_mm)
    head = foreground_mask(hu, spacing_mm) if foreground is None else foreground
    bone = skull_mask(hu, spacing_mm, head) if skull is None else skull
    box = bounding_box(head)
    head_in, bone_in, hu_in = head[box], bone[box], hu[box]
    factors = [max(1, round(2.0 / size)) for size in step]
    coarse = [size * factor for size, factor in zip(step, factors, strict=True)]
    bone_c = pool_mean(bone_in, factors) > 0.3
    region = _enclosed(erode(dilate(bone_c, 6.0, coarse), 6.0, coarse), coarse) & ~bone_c
    region &= (pool_mean(head_in, factors) > 0.5) & (pool_mean(hu_in, factors) > -100.0)
    core = largest_component(erode(region, 7.0, coarse))
    brain = np.zeros(hu.shape, dtype=bool)
    if core.any():
        grown = touching(region & dilate(core, 11.0, coarse), core)
        allowed = head_in & ~bone_in & (hu_in > -100.0)
        fine = grown if max(factors) == 1 else unpool(dilate(grown, 1.1 * max(coarse), coarse), factors, hu_in.shape)
        brain[box] = fill_holes(fine & allowed) & ~bone_in
    return brain


def structures(hu: np.ndarray, spacing_mm: Spacing, midline_x_index: float | None = None) -> np.ndarray:
    """Label map of a head CT: 0 background, 1 other head tissue, 2 skull, 3 brain left, 4 brain right.

    Args:
        hu: ``(X, Y, Z)``, axes R, A, S (x grows towards the patient's right), HU.
        spacing_mm: size of a voxel, one number or one per axis, mm.
        midline_x_index: first-axis index of the mid-sagittal plane, voxels; None is the middle of the axis, as in the reference cube.

    Returns:
        ``(X, Y, Z)`` uint8.
    """
    head = foreground_mask(hu, spacing_mm)
    labels = head.astype(np.uint8) * OTHER
    if not head.any():
        return labels
    skull = skull_mask(hu, spacing_mm, head)
    brain = brain_mask(hu, spacing_mm, head, skull)
    midline = (hu.shape[0] - 1) / 2 if midline_x_index is None else midline_x_index
    is_left = (np.arange(hu.shape[0]) < midline)[:, None, None]
    labels[skull] = SKULL
    labels[brain & is_left] = BRAIN_LEFT
    labels[brain & ~is_left] = BRAIN_RIGHT
    return labels


def pool_mean(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Mean over blocks of ``factors`` voxels, float32; the last block of an axis is filled up with the edge."""
    if max(factors) == 1:
        return np.asarray(array, dtype=np.float32)
    padding = [(0, -size % factor) for size, factor in zip(array.shape, factors, strict=True)]
    whole = np.pad(array, padding, mode="edge") if any(after for _, after in padding) else array
    for axis, factor in reversed(list(enumerate(factors))):  # the last axis first: it lies together in memory
        shape = (*whole.shape[:axis], whole.shape[axis] // factor, factor, *whole.shape[axis + 1 :])
        whole = whole.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return whole


def unpool(mask: np.ndarray, factors: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Repeat each voxel ``factors`` times and cut to ``shape``: the inverse of :func:`pool_mean` for masks."""
    for axis, factor in enumerate(factors):
        mask = np.repeat(mask, factor, axis=axis) if factor > 1 else mask
    return mask[tuple(slice(size) for size in shape)]


def erode(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels farther than ``radius_mm``, and at least one voxel, from the background; the array's edge is no background."""
    if mask.all():
        return mask.copy()
    return distance_transform_edt(mask, sampling=spacing_mm) > max(radius_mm, min(spacing_mm))


def dilate(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels within ``radius_mm``, and at least one voxel, of the mask."""
    if not mask.any():
        return mask.copy()
    return distance_transform_edt(~mask, sampling=spacing_mm) <= max(radius_mm, min(spacing_mm))


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest piece, face-connected; the first of equal ones; an empty mask stays empty."""
    pieces, count = label(mask)
    if count < 2:
        return np.array(mask, dtype=bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax()


def touching(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The pieces of ``mask``, connected by faces, edges or corners, that hold a voxel of ``seed``."""
    pieces, count = label(mask, structure=np.ones((3, 3, 3)))
    keep = np.zeros(count + 1, dtype=bool)
    keep[pieces[seed]] = True
    keep[0] = False
    return keep[pieces]


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with what it encloses in 3D (as scipy's ``binary_fill_holes``, which is slower by far on large volumes)."""
    return _fill(mask, np.array([[[0, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]]))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Slices of the smallest box around the mask; the whole array where the mask is empty."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(None))
    return tuple(box)


def _fill_axial(mask: np.ndarray) -> np.ndarray:
    """The mask with what it encloses within each slice along the last axis."""
    plane = np.zeros((3, 3, 3), dtype=int)
    plane[:, 1, 1] = plane[1, :, 1] = 1
    return _fill(mask, plane, faces=(0, 1))


def _fill(mask: np.ndarray, connectivity: np.ndarray, faces: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Fill the pieces of the background that touch none of the faces of these axes."""
    pieces, count = label(np.pad(~mask, 1, constant_values=True), structure=connectivity)
    outside = np.zeros(count + 1, dtype=bool)
    for axis in faces:
        outside[np.take(pieces, [0, -1], axis=axis)] = True
    filled = ~outside
    filled[0] = True
    return filled[pieces][1:-1, 1:-1, 1:-1]


def _enclosed(bone: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels with bone in front (+y) and in at least three of left, right, behind and above, seen through beams 9 mm wide."""

    def beam(axis: int) -> np.ndarray:
        # a single ray would slip through the optic canal and cut a line through the brain
        widths = [1 if other == axis else 1 + 2 * max(1, round(4.5 / size)) for other, size in enumerate(spacing_mm)]
        return np.asarray(maximum_filter(bone.view(np.uint8), widths))

    beams = [beam(axis) for axis in range(3)]
    right, front, above = (np.flip(np.maximum.accumulate(np.flip(beams[axis], axis), axis=axis), axis) for axis in range(3))
    left, behind = (np.maximum.accumulate(beams[axis], axis=axis) for axis in range(2))
    return (front > 0) & (left + right + behind + above >= 3)


def _per_axis(spacing_mm: Spacing) -> list[float]:
    return [float(spacing_mm)] * 3 if isinstance(spacing_mm, (int, float)) else [float(size) for size in spacing_mm]
