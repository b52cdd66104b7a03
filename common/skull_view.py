"""The skull as a surface, shaded by its own light and coloured by an anomaly map: figure 5 of the paper without a 3D library.

Rays run along the axes of the volume, so that a picture is a search along one axis; VTK would be a heavy dependency for one figure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.charts import png_of
from common.errors import UserError
from common.metrics.masks import bounding_box

VIEWS = ("left", "right", "front", "back", "top")
"""Sides that the skull is looked at from, named after the patient's own left and right."""

_SIDES = {"left": "the left", "right": "the right", "front": "the front", "back": "behind", "top": "above"}

DEPTH_MM = 10.0
"""How far below the surface the map is looked at, mm: about the thickness of the skull."""

_LEVEL = 0.35  # below one half: a skull of one voxel loses more than half of its weight to the smoothing
_LIGHT = np.array([0.80, -0.30, 0.52])  # towards the light: to the viewer, to the viewer's left, upwards
_BONE = np.array([0.93, 0.90, 0.82])
_FINEST = 220  # volumes with fewer voxels along a side are drawn on a finer grid

Floats = NDArray[np.float32]


class SkullPicture(NamedTuple):
    """What the rays of one view found, each ``(across, up)``: ``shade`` in [0, 1], NaN where no bone is; ``value`` of the map."""

    shade: Floats
    value: Floats


def look_from(volume: NDArray[Any], view: str) -> NDArray[Any]:
    """Turn a volume so that rays run along its first axis, from the viewer on; the second axis is the viewer's right, the third up.

    Args:
        volume: ``(X, Y, Z)`` with RAS axes.
        view: one of `VIEWS`.

    Returns:
        A view of the same memory.
    """
    turned = {
        "left": lambda: volume[:, ::-1],
        "right": lambda: volume[::-1],
        "front": lambda: volume.transpose(1, 0, 2)[::-1, ::-1],
        "back": lambda: volume.transpose(1, 0, 2),
        "top": lambda: volume.transpose(2, 0, 1)[::-1],
    }
    if view not in turned:
        raise UserError(f"view: got {view!r}, expected one of {', '.join(VIEWS)}.")
    return turned[view]()


def cast_rays(skull: NDArray[Any], values: NDArray[Any], view: str, spacing_mm: float = 1.0, depth_mm: float = DEPTH_MM) -> SkullPicture:
    """Look at a skull from one side: where each ray first meets bone, how that place is lit, and the map's maximum below it.

    Args:
        skull: ``(X, Y, Z)``, bool or 0/1, RAS axes, equal spacing.
        values: map, same shape, real; only voxels of the skull count.
        view: one of `VIEWS`.
        spacing_mm: edge of a voxel, mm, above 0.
        depth_mm: how far the map is looked at along a ray, mm, from the surface on.

    Returns:
        Picture of the bounding box of the skull, on a finer grid where the volume is coarse.

    Raises:
        UserError: unequal shapes, not 3D, an empty skull, an unknown view.
    """
    return _cast(_prepare(skull, values), view, int(np.ceil(depth_mm / spacing_mm)) + 1)


class _Surface(NamedTuple):
    """A skull ready to be looked at from any side: soft bone, softer bone for the light, the map in the skull, and how much finer."""

    soft: Floats
    softer: Floats
    error: Floats
    fine: int


def _prepare(skull: NDArray[Any], values: NDArray[Any]) -> _Surface:
    from scipy.ndimage import gaussian_filter, zoom

    mask = np.asarray(skull) != 0
    if mask.ndim != 3 or mask.shape != np.shape(values):
        raise UserError(f"skull: got shape {mask.shape} and a map of shape {np.shape(values)}, expected two volumes (X, Y, Z) of one grid.")
    if not mask.any():
        raise UserError("skull: the mask holds no voxel; was the CT in HU, so that a skull could be found?")
    fine = int(np.clip(np.ceil(_FINEST / max(mask.shape)), 1, 4))
    box = bounding_box(mask)
    bone = np.pad(mask[box].astype(np.float32), 4)
    error = np.pad(np.where(mask, values, -np.inf)[box].astype(np.float32), 4, constant_values=-np.inf)
    soft = gaussian_filter(zoom(bone, fine, order=1, grid_mode=True, mode="nearest"), 0.8 * fine, truncate=3)
    return _Surface(soft, gaussian_filter(soft, 1.3 * fine, truncate=3), error, fine)


def _cast(surface: _Surface, view: str, steps: int) -> SkullPicture:
    soft, softer, error = (look_from(volume, view) for volume in surface[:3])
    hit = soft > _LEVEL
    seen = np.asarray(hit.any(axis=0))
    first = np.where(seen, hit.argmax(axis=0), 0)
    shade = np.where(seen, _lit(softer, first), np.nan).astype(np.float32)
    return SkullPicture(shade, _below(error, first // surface.fine, seen, surface.fine, steps))


def skull_figure(
    skull: NDArray[Any],
    values: NDArray[Any],
    title: str,
    *,
    name: str = "position error",
    spacing_mm: float = 1.0,
    high: float | None = None,
    views: tuple[str, ...] = VIEWS,
) -> bytes:
    """Draw the skull from several sides: as bone above, coloured by the map below.

    Args:
        skull: ``(X, Y, Z)``, bool or 0/1, RAS axes, equal spacing.
        values: map, same shape, real, >= 0.
        title: text above the picture; say there when the volume is simulated.
        name: of the map, at its colour bar.
        spacing_mm: edge of a voxel, mm.
        high: value of the strongest colour; default the largest value of the map in the skull.
        views: some of `VIEWS`.

    Returns:
        PNG.

    Raises:
        UserError: as :func:`cast_rays`, or no view.

    Source: Bieder et al. 2022, figure 5.
    """
    if not views:
        raise UserError(f"views: got none, expected some of {', '.join(VIEWS)}.")
    surface = _prepare(skull, values)
    pictures = [_cast(surface, view, int(np.ceil(DEPTH_MM / spacing_mm)) + 1) for view in views]
    largest = float(np.max(np.asarray(values), initial=0.0, where=np.asarray(skull) != 0))
    top = high if high is not None and high > 0 else largest if largest > 0 else 1.0
    widths, tall = [p.shade.shape[0] for p in pictures], max(p.shade.shape[1] for p in pictures)

    def draw(figure: Any) -> None:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(0, top), colormaps["YlOrRd"])
        panels = figure.subplots(2, len(views), squeeze=False, width_ratios=widths)
        for column, (view, picture) in enumerate(zip(views, pictures, strict=True)):
            known = np.where(np.isfinite(picture.value), picture.value, 0)
            for panel, colour in ((panels[0, column], _BONE), (panels[1, column], scale.to_rgba(known)[..., :3])):
                _paint(panel, picture.shade, colour)
            panels[0, column].set_title(f"from {_SIDES[view]}", fontsize=9)
        bar = figure.colorbar(scale, ax=panels.ravel().tolist(), location="right", shrink=0.6, pad=0.01, aspect=25)
        bar.set_label(name, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        figure.suptitle(title, fontsize=10)

    inches = 2.2 / (sum(widths) / len(widths))
    return png_of((sum(widths) * inches + 1.0, 2 * tall * inches + 0.7), draw)


def _paint(panel: Any, shade: Floats, colour: NDArray[Any]) -> None:
    """Show a shaded surface on white, ``(across, up)``."""
    lit = np.nan_to_num(shade)[..., None] * colour
    picture = np.where(np.isnan(shade)[..., None], 1.0, lit).clip(0, 1)
    panel.imshow(picture.transpose(1, 0, 2), origin="lower", interpolation="bilinear")
    panel.set_axis_off()


def _lit(smooth: Floats, first: NDArray[np.int64]) -> Floats:
    """Brightness in [0, 1] of the surface that each ray meets: ambient light and Lambert's law, darker far from the viewer."""
    across, up = np.meshgrid(*(np.arange(size) for size in smooth.shape[1:]), indexing="ij")
    normal = np.zeros((3, *first.shape), dtype=np.float32)
    for axis in range(3):
        # Differences over two voxels on each side: bone is rough, and one voxel would draw the steps of the grid.
        ends = []
        for step in (2, -2):
            index = [first, across, up]
            index[axis] = np.clip(index[axis] + step, 0, smooth.shape[axis] - 1)
            ends.append(smooth[tuple(index)])
        normal[axis] = ends[1] - ends[0]  # outwards: from bone to air
    normal[0] *= -1  # the viewer is at the start of the first axis
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    facing = np.clip(np.tensordot(_LIGHT / np.linalg.norm(_LIGHT), normal, axes=1), 0, 1)
    near, far = first[first > 0].min(initial=smooth.shape[0]), first.max(initial=1)
    fade = 1 - 0.35 * (first - near) / max(far - near, 1)
    lit: Floats = (0.22 + 0.78 * facing) * fade
    return lit


def _below(error: NDArray[Any], first: NDArray[np.int64], seen: NDArray[np.bool_], fine: int, steps: int) -> Floats:
    """Largest value of the map along each ray from one voxel before the surface on; -inf where there is no bone."""
    across, up = np.meshgrid(*(np.arange(size) // fine for size in first.shape), indexing="ij")
    found = np.full(first.shape, -np.inf, dtype=np.float32)
    for step in range(-1, steps):
        depth = np.clip(first + step, 0, error.shape[0] - 1)
        found = np.maximum(found, error[depth, across, up])
    held: Floats = np.where(seen, found, -np.inf).astype(np.float32)
    return held
