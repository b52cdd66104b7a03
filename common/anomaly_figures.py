"""Slices of a head CT beside its anomaly maps, through the place where a map is largest: figures 4 and 9 of the paper, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.charts import png_of
from common.errors import UserError
from common.figures import _MASK_STYLES, _orient, _outline, _show

BRAIN_WINDOW = (0.0, 80.0)
"""Darkest and brightest value of a brain window, HU: level 40, width 80."""

BONE_WINDOW = (-450.0, 1050.0)
"""Darkest and brightest value of a bone window, HU: level 300, width 1500."""

_PLANES = (("axial", 2, "RAS"), ("coronal", 1, "RSA"), ("sagittal", 0, "ASR"))
_PANEL_INCHES = 2.6


def brightest_voxel(values: NDArray[Any], mask: NDArray[Any] | None = None) -> tuple[int, int, int]:
    """Place of the largest value of a map.

    Args:
        values: map, ``(X, Y, Z)``, real; NaN is never the place.
        mask: where to look, ``(X, Y, Z)``, bool or 0/1; None or an empty one looks everywhere.

    Returns:
        Voxel indices; of equal values the first in memory order.
    """
    inside = np.asarray(mask) != 0 if mask is not None else np.ones(values.shape, dtype=bool)
    held = np.where((inside if inside.any() else ~inside) & np.isfinite(values), values, -np.inf)
    x, y, z = np.unravel_index(int(np.argmax(held)), held.shape)
    return int(x), int(y), int(z)


def anomaly_figure(
    image: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    title: str,
    *,
    head: NDArray[Any] | None = None,
    at: Sequence[int] | None = None,
    truth: NDArray[Any] | None = None,
    window: tuple[float, float] = BRAIN_WINDOW,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> bytes:
    """Draw three planes through one voxel: a row with the CT, then a row per map, all cut to the same cube around the head.

    Planes are turned as radiologists look at them: the patient's left at the right, anterior or superior up; in the sagittal plane
    anterior at the left. A cross marks the voxel, a green line the truth.

    Args:
        image: CT in HU, ``(N, N, N)``, on the cube of the reference frame (RAS axes, equal spacing).
        maps: anomaly maps by name, same shape, real, >= 0, any unit; one per method. At least one.
        title: text above the picture; say there when the volume is simulated.
        head: voxels that belong to the head, same shape, bool, or labels of which 3 and 4 are the brain: the picture is then cut to the
            brain with a margin. Outside of the head the maps are black. None: all.
        at: voxel that the planes go through; None takes the largest value of the first map inside the head.
        truth: mask whose outline is drawn, same shape, bool or a label volume; None draws none.
        window: darkest and brightest HU.
        ranges: (darkest, brightest) value by map name; default 0 to the largest value in the head.

    Returns:
        PNG, the same bytes for the same input and matplotlib version.

    Raises:
        UserError: no map, unequal shapes, not 3D, a voxel outside of the volume, a window or range without sense.

    Source: Bieder et al. 2022, figures 4 and 9.
    """
    volumes = {"CT": image, **maps, **({} if truth is None else {"truth": truth}), **({} if head is None else {"head": head})}
    _check(volumes, maps, window, ranges or {}, at)
    inside = np.ones(image.shape, dtype=bool) if head is None or not np.any(head) else np.asarray(head) != 0
    place = tuple(at) if at is not None else brightest_voxel(next(iter(maps.values())), inside)
    shades = {name: (ranges or {}).get(name) or _range(np.asarray(values)[inside]) for name, values in maps.items()}
    brain = inside if head is None else np.asarray(head) >= 3
    box, offset = _cube(brain if brain.any() else inside, place, margin=0.16 if brain.any() else 0.02)
    rows: list[tuple[str, NDArray[Any], str, tuple[float, float]]] = [("CT", _cut(image, box), "gray", window)]
    rows += [(name, _cut(np.where(inside, values, np.nan), box), "inferno", shades[name]) for name, values in maps.items()]
    outline = None if truth is None else _cut(np.asarray(truth) != 0, box) == 1

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(rows), 3, squeeze=False)
        for line, (name, values, colours, shade) in zip(panels, rows, strict=True):
            for panel, (_, axis, axes) in zip(line, _PLANES, strict=True):
                drawn = _show(panel, values.take(offset[axis], axis), colours, shade)
                _orient(panel, (1.0, 1.0, 1.0), axes, letters=line is panels[0])
                if outline is not None:
                    _outline(panel, outline.take(offset[axis], axis), _MASK_STYLES["truth"])
                across, up = (offset[other] for other in range(3) if other != axis)
                panel.plot(across, up, marker="+", markersize=9, markeredgewidth=1.1, color="#56B4E9")
            line[0].set_ylabel(name, fontsize=9)
            unit = "HU" if name == "CT" else ""
            bar = figure.colorbar(drawn, ax=line.tolist(), location="right", shrink=0.8, pad=0.01, aspect=18)
            bar.ax.tick_params(labelsize=7)
            bar.set_label(unit, fontsize=8)
        for panel, (name, axis, _) in zip(panels[0], _PLANES, strict=True):
            panel.set_title(f"{name}, slice {place[axis]}", fontsize=9)
        figure.suptitle(title, fontsize=10)

    return png_of((3 * _PANEL_INCHES + 0.9, len(rows) * _PANEL_INCHES + 0.6), draw)


def _check(
    volumes: Mapping[str, NDArray[Any]],
    maps: Mapping[str, NDArray[Any]],
    window: tuple[float, float],
    ranges: Mapping[str, tuple[float, float]],
    at: Sequence[int] | None,
) -> None:
    """Refuse input that cannot be drawn."""
    if not maps:
        raise UserError("anomaly_figure: got no map, expected at least one beside the CT.")
    shape = np.shape(volumes["CT"])
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"anomaly_figure: the CT has shape {shape}, expected a volume (X, Y, Z). Drop the channel axis.")
    for name, values in volumes.items():
        if np.shape(values) != shape:
            raise UserError(f"anomaly_figure: {name} has shape {np.shape(values)}, expected {shape} as the CT.")
    for name, (low, high) in {"window": window, **ranges}.items():
        if not low < high:
            raise UserError(f"anomaly_figure: {name} is ({low}, {high}), expected (darkest, brightest) with darkest below brightest.")
    if at is not None and (len(at) != 3 or not all(0 <= place < size for place, size in zip(at, shape, strict=True))):
        raise UserError(f"anomaly_figure: at is {tuple(at)}, expected a voxel of the volume of shape {shape}.")


def _range(values: NDArray[Any]) -> tuple[float, float]:
    """From 0 to the largest finite value, to three digits; 1 where nothing is above 0."""
    high = float(f"{float(np.max(values, initial=0.0, where=np.isfinite(values))):.3g}")
    return 0.0, high if high > 0 else 1.0


def _cube(inside: NDArray[np.bool_], place: Sequence[int], margin: float) -> tuple[list[tuple[int, int]], list[int]]:
    """Where a cube around a mask starts and ends per axis (maybe outside the volume), and the voxel in it; margin: share of the side."""
    held = [np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    side = round((1 + margin) * (max(int(h[-1] - h[0]) for h in held) + 1)) + 2
    starts = [(int(h[0] + h[-1]) - side + 1) // 2 for h in held]
    starts = [min(max(start, at - side + 1), at) for start, at in zip(starts, place, strict=True)]
    return [(start, start + side) for start in starts], [at - start for at, start in zip(place, starts, strict=True)]


def _cut(values: NDArray[Any], box: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """The part of a volume inside a box, NaN where the box leaves the volume."""
    cut = np.full([end - start for start, end in box], np.nan, dtype=np.float32)
    seen = [slice(max(start, 0), min(end, size)) for (start, end), size in zip(box, values.shape, strict=True)]
    put = tuple(slice(s.start - start, s.stop - start) for s, (start, _) in zip(seen, box, strict=True))
    cut[put] = values[tuple(seen)]
    return cut
