"""An even, orthogonal grid from parallel slices, since MONAI's readers take the first gap for all and drop the tilt silently."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

AIR_HU = -1024.0
"""What stands where no slice has a voxel."""

SPACING_TOLERANCE = 0.01
"""Gaps that differ by this share count as even (methods/position_regression.md, section 1)."""

HEADER_ROUNDING_MM = 0.02
"""Positions are often rounded to a hundredth of a millimetre in headers; such unevenness is none."""

DRIFT_TOLERANCE_PX = 0.5
"""Slices that wander less than this in their plane, from the first to the last, count as stacked straight."""

MISSING_FACTOR = 1.5
"""A gap larger than this times the gaps around it on both sides is a missing slice, not another slice thickness."""


@dataclass(frozen=True)
class SliceStack:
    """Where parallel slices of one size lie.

    Args:
        positions: centre of the first pixel of every slice, ``(N, 3)``, mm, N >= 2, in the order of their heights.
        axes: unit vectors ``(3, 3)``: rows are the first pixel axis, the second, and the normal, at right angles.
        pixel_mm: size of a pixel along the first and second axis, mm.
    """

    positions: np.ndarray
    axes: np.ndarray
    pixel_mm: tuple[float, float]

    @property
    def heights(self) -> np.ndarray:
        """Place of every slice along the normal, ``(N,)``, mm, the first at 0."""
        return (self.positions - self.positions[0]) @ self.axes[2]

    @property
    def gaps(self) -> np.ndarray:
        """Distances between neighbouring slices along the normal, ``(N - 1,)``, mm."""
        return np.diff(self.heights)

    @property
    def drift(self) -> np.ndarray:
        """How far every slice is moved in its plane against the first, ``(N, 2)``, pixels; tilt makes it grow with the height."""
        return (self.positions - self.positions[0]) @ self.axes[:2].T / np.asarray(self.pixel_mm)

    @property
    def is_even(self) -> bool:
        """Whether all gaps are one, within 1 % or the rounding of headers."""
        middle = float(np.median(self.gaps))
        return bool(np.all(np.abs(self.gaps - middle) <= max(SPACING_TOLERANCE * middle, HEADER_ROUNDING_MM)))

    @property
    def is_straight(self) -> bool:
        """Whether the slices lie straight above each other."""
        return bool(np.abs(self.drift).max() < DRIFT_TOLERANCE_PX)

    @property
    def tilt_deg(self) -> float:
        """Angle between the way from the first to the last slice and the normal, degrees: the gantry tilt; 0 where they are straight."""
        if self.is_straight:
            return 0.0
        way = self.positions[-1] - self.positions[0]
        along = float(way @ self.axes[2])
        return math.degrees(math.atan2(float(np.linalg.norm(way - along * self.axes[2])), along))

    @property
    def step_mm(self) -> float:
        """Spacing of the even grid: the mean gap of an even stack, else the finest gap that occurs repeatedly, else the median.

        A single narrow gap where two thicknesses meet must not set the spacing of the whole volume.
        """
        if self.is_even:
            return float(self.heights[-1]) / len(self.gaps)
        needed = max(2, math.ceil(0.1 * len(self.gaps)))
        for gap in np.sort(self.gaps):
            alike = self.gaps[np.abs(self.gaps - gap) <= max(SPACING_TOLERANCE * gap, HEADER_ROUNDING_MM)]
            if len(alike) >= needed:
                return float(np.mean(alike))
        return float(np.median(self.gaps))

    def missing_after(self) -> list[int]:
        """Numbers of the slices after which one is missing: a gap out of scale with the three before it and with the three after it."""
        found = []
        for index, gap in enumerate(self.gaps):
            before, after = self.gaps[max(0, index - 3) : index], self.gaps[index + 1 : index + 4]
            around = max((float(np.median(part)) for part in (before, after) if len(part)), default=float(gap))
            if gap > MISSING_FACTOR * around:
                found.append(index)
        return found


def even_grid(stack: SliceStack, load: Callable[[int], np.ndarray], fill: float = AIR_HU) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Bring the slices onto an even, orthogonal grid; an even and straight stack is passed on voxel by voxel.

    Every slice is moved in its plane by its drift (linear between pixels), then new slices are made at even heights (linear between
    neighbours), so that any volume which is linear in space comes back exactly. The grid grows to hold all voxels; the rest is ``fill``.

    Args:
        stack: where the slices lie.
        load: gives slice k as ``(X, Y)``, float32; called once per slice, in order.
        fill: value where no slice has a voxel: air in a CT, 0 in an MR.

    Returns:
        Volume ``(X', Y', Z')``, float32; affine ``(4, 4)``, float64, in the frame of the positions, mm; and what was corrected, in words.
    """
    notes = []
    drift = np.zeros((len(stack.positions), 2)) if stack.is_straight else stack.drift
    if not stack.is_straight:
        notes.append(f"gantry tilt of {stack.tilt_deg:.1f} degrees removed by shifting the slices in their planes")
    heights, step = stack.heights, stack.step_mm
    if stack.is_even:
        targets = heights
    else:
        targets = step * np.arange(math.floor(heights[-1] / step + 1e-6) + 1)
        low, high = float(stack.gaps.min()), float(stack.gaps.max())
        notes.append(f"uneven slices ({low:.2f} to {high:.2f} mm apart) interpolated to {step:.3g} mm")
    first = np.floor(drift.min(axis=0) + 1e-6).astype(int)
    margin = np.ceil(drift.max(axis=0) - 1e-6).astype(int) - first
    moved = _Slices(load, drift - first, margin, fill)
    volume = np.empty((len(targets), *moved.shape), np.float32)
    for index, target in enumerate(targets):
        volume[index] = _between(moved, heights, float(target))
    affine = np.eye(4)
    affine[:3, :3] = (stack.axes * np.array([*stack.pixel_mm, step])[:, None]).T
    affine[:3, 3] = stack.positions[0] + affine[:3, :2] @ first
    return np.moveaxis(volume, 0, -1), affine, notes


class _Slices:
    """Slices moved onto the common plane; the last two are kept, for neighbours are asked for in turn."""

    def __init__(self, load: Callable[[int], np.ndarray], shifts: np.ndarray, margin: np.ndarray, fill: float) -> None:
        self.load, self.shifts, self.margin, self.fill = load, shifts, margin, fill
        self.kept: dict[int, np.ndarray] = {}
        self.shape = self[0].shape

    def __getitem__(self, index: int) -> np.ndarray:
        if index not in self.kept:
            self.kept = {key: kept for key, kept in self.kept.items() if key >= index - 1}
            self.kept[index] = shift_slice(self.load(index), self.shifts[index], self.margin, self.fill)
        return self.kept[index]


def _between(slices: _Slices, heights: np.ndarray, target: float) -> np.ndarray:
    """The slice at a height, linear between its neighbours."""
    above = int(np.clip(np.searchsorted(heights, target), 1, len(heights) - 1))
    weight = float(np.clip((target - heights[above - 1]) / (heights[above] - heights[above - 1]), 0, 1))
    if weight <= 1e-6:
        return slices[above - 1]
    if weight >= 1 - 1e-6:
        return slices[above]
    return ((1 - weight) * slices[above - 1] + weight * slices[above]).astype(np.float32)


def shift_slice(pixels: np.ndarray, shift: np.ndarray, margin: np.ndarray, fill: float = AIR_HU) -> np.ndarray:
    """Move a slice in its plane, linear between pixels.

    .. math:: y[i] = (1 - f)\\,x[i - n] + f\\,x[i - n - 1], \\qquad n + f = \\text{shift}

    Args:
        pixels: slice ``(X, Y)``.
        shift: pixels to move along each axis, at least 0 and at most ``margin``.
        margin: pixels by which the result is larger, per axis.
        fill: value outside the slice.

    Returns:
        ``(X + margin[0], Y + margin[1])``, float32; a whole shift copies the pixels exactly.
    """
    result = np.asarray(pixels, np.float32)
    for axis in (0, 1):
        if margin[axis] == 0:
            continue
        whole = math.floor(shift[axis] + 1e-6)
        part = max(0.0, float(shift[axis]) - whole)
        pads = [(0, 0), (0, 0)]
        pads[axis] = (whole, int(margin[axis]) - whole)
        padded = np.pad(result, pads, constant_values=fill)
        if part > 1e-6:
            before = np.full_like(padded, fill)
            keep = padded.shape[axis] - 1
            before[(slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))] = padded.take(range(keep), axis)
            padded = ((1 - part) * padded + part * before).astype(np.float32)
        result = padded
    return result
