"""Pictures of a case as PNG bytes: slices of volumes with lesion contours, maps of a share beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.charts import png_of
from common.errors import UserError

# After Okabe and Ito, lightened for dark images; told apart with every common form of colour blindness, and by line style in grey prints.
_MASK_STYLES: dict[str, dict[str, Any]] = {
    "truth": {"color": "#00C78B", "linewidths": 1.8, "linestyles": "solid"},
    "prediction": {"color": "#FFA61A", "linewidths": 1.2, "linestyles": (0, (3, 1.5))},
}
_OTHER_MASKS: tuple[dict[str, Any], ...] = (
    {"color": "#56B4E9", "linewidths": 1.3, "linestyles": "dotted"},
    {"color": "#F0A3CF", "linewidths": 1.3, "linestyles": "dashdot"},
)
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}
_LETTER_BOX = {"facecolor": "black", "alpha": 0.6, "pad": 0.8, "linewidth": 0}
_PANEL_INCHES = 2.5


def pick_slices(images: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray], slices: int) -> list[int]:
    """Choose the slices worth looking at: those with the largest union of the masks, else even steps through the head.

    Args:
        images: volumes by name, ``(X, Y, Z)``; non-zero in any of them is head.
        masks: masks by name, ``(X, Y, Z)``; non-zero is lesion. May be empty.
        slices: how many at most, >= 1. Fewer come back when fewer hold a lesion or the volume is thinner.

    Returns:
        Indices along the third axis, ascending; of equal areas the lower index wins.
    """
    head = _head(images)
    area = np.any([np.zeros_like(head), *(np.asarray(mask) != 0 for mask in masks.values())], axis=0).sum((0, 1))
    if area.any():
        largest = np.argsort(-area, kind="stable")[:slices]
        return sorted(int(z) for z in largest if area[z])
    first, last = np.flatnonzero(head.any((0, 1)))[[0, -1]]
    steps = np.arange(1, slices + 1) / (slices + 1)
    return sorted({int(z) for z in np.floor(first + steps * (last - first) + 0.5)})


def overlay_figure(
    images: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    title: str,
    windows: Mapping[str, tuple[float, float]] | None = None,
    slices: int = 3,
    *,
    axes: str | None = None,
) -> bytes:
    """Draw one case: a row per slice, a column per image (with the contours of all masks) and per map (with the truth's).

    Contours follow voxel borders, without smoothing. All panels are cut to the same box around the head. Voxels that are
    0 in every image count as outside and are black. Without ``axes`` the first axis runs to the right and the second one
    upwards, as stored: anterior is up for an RAS array, down for LPS. With ``axes`` the picture is turned as radiologists
    look at it (anterior up, the patient's left at the right) and the letters are drawn.

    Args:
        images: volumes by name, ``(X, Y, Z)``, any real dtype and unit; at least one.
        masks: masks by name, same shape, non-zero is lesion; ``truth`` is green and solid, ``prediction`` orange and dashed.
        maps: shares by name, same shape, float in [0, 1].
        spacing_mm: size of a voxel per axis in mm, positive.
        title: text above the picture; letters that the font lacks (Chinese, Japanese) are drawn as boxes.
        windows: (darkest, brightest) value by image name; default percentiles 1 to 99 of the head, symmetric about 0
            when the image has values below 0.
        slices: rows at most, see :func:`pick_slices`.
        axes: where the axes point, such as ``"LPS"``: ``"".join(nibabel.aff2axcodes(affine))``. None: not known.

    Returns:
        PNG, the same bytes for the same input and matplotlib version.

    Raises:
        UserError: no image, unequal shapes, not 3D, a spacing, window or axis code without sense.
    """
    _check(images, masks, maps, spacing_mm, axes, slices)
    head = _head(images)
    shades = _windows(images, windows or {}, head)
    chosen = pick_slices(images, masks, slices)
    styles = _mask_styles(masks)
    box = (_bounds(head, axis=0), _bounds(head, axis=1))
    cut_images = {name: np.where(head, volume, np.nan)[box] for name, volume in images.items()}
    cut_maps = {name: np.where(head | (np.asarray(volume) > 0), volume, np.nan)[box] for name, volume in maps.items()}
    cut_masks = {name: np.asarray(mask)[box] != 0 for name, mask in masks.items()}
    width, height = (n * s for n, s in zip(head[box].shape[:2], spacing_mm[:2], strict=True))

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(chosen), len(images) + len(maps), squeeze=False)
        for row, z in zip(panels, chosen, strict=True):
            for panel, (name, volume) in zip(row, cut_images.items(), strict=False):
                _show(panel, volume[..., z], "gray", shades[name])
            for column, volume in enumerate(cut_maps.values(), start=len(images)):
                picture = _show(row[column], volume[..., z], "cividis", (0.0, 1.0))
                if z == chosen[-1]:
                    figure.colorbar(
                        picture, ax=panels[:, column].tolist(), location="bottom", panchor=False, shrink=0.8, pad=0.02, ticks=[0, 0.5, 1]
                    )
            for column, panel in enumerate(row):
                _orient(panel, spacing_mm, axes, letters=panel is panels[0, 0])
                for name in [m for m in masks if column < len(images) or m == "truth"]:
                    _outline(panel, cut_masks[name][..., z], styles[name])
            row[0].set_ylabel(f"slice {z}", fontsize=9)
        for panel, name in zip(panels[0], [*images, *maps], strict=True):
            panel.set_title("{}\n{:.4g} to {:.4g}".format(name, *shades.get(name, (0, 1))), fontsize=9)
        figure.suptitle(title, fontsize=11)
        _mask_legend(figure, styles, masks)

    tall = min(max(height / width, 0.3), 3.0)  # a sheet of paper at most, also for a sliver of a volume
    inches = (_PANEL_INCHES * (len(images) + len(maps)) + 0.3, _PANEL_INCHES * len(chosen) * tall + 1.0 + 0.35 * bool(maps))
    return png_of(inches, draw)


def _show(panel: Any, plane: np.ndarray, colours: str, shades: tuple[float, float]) -> Any:
    """Draw one slice ``(X, Y)`` with its first axis to the right and the second one upwards; nan is black."""
    picture = panel.imshow(
        plane.T.astype(np.float32), cmap=colours, vmin=shades[0], vmax=shades[1], interpolation="nearest", origin="lower"
    )
    panel.set_facecolor("black")
    return picture


def _check(
    images: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    axes: str | None,
    slices: int,
) -> None:
    """Refuse input that cannot be drawn."""
    if not images:
        raise UserError("overlay_figure: got no image, expected at least one volume to draw contours on.")
    first, shape = next((name, np.shape(v)) for name, v in images.items())
    if len(shape) != 3 or 0 in shape:
        raise UserError(
            f"overlay_figure: {first} has shape {shape}, expected a volume (X, Y, Z). Drop the channel axis, or add one for a single slice."
        )
    for name, volume in [*images.items(), *masks.items(), *maps.items()]:
        if np.shape(volume) != shape:
            raise UserError(
                f"overlay_figure: {name} has shape {np.shape(volume)}, expected {shape} as {first}. Resample it to that grid first."
            )
    if len(spacing_mm) != 3 or not all(0 < s < float("inf") for s in spacing_mm):
        raise UserError(f"overlay_figure: spacing_mm is {tuple(spacing_mm)}, expected three positive numbers in mm.")
    if slices < 1:
        raise UserError(f"overlay_figure: slices is {slices}, expected at least 1.")
    if axes is not None and (len(axes) != 3 or {min(a, _OPPOSITE.get(a, a)) for a in axes} != set("LAI")):
        raise UserError(f"overlay_figure: axes is {axes!r}, expected three letters such as 'RAS' or 'LPS', or None when it is not known.")


def _windows(
    images: Mapping[str, np.ndarray], given: Mapping[str, tuple[float, float]], head: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Darkest and brightest value of each image."""
    if unknown := sorted(set(given) - set(images)):
        raise UserError(f"overlay_figure: windows name {unknown}, expected names of images: {sorted(images)}.")
    found = {}
    for name, volume in images.items():
        values = np.asarray(volume)[head]
        values = values[np.isfinite(values)].astype(np.float64)
        low, high = given[name] if name in given else _default_window(values)
        if not low < high:
            raise UserError(
                f"overlay_figure: window of {name} is ({low}, {high}), expected (darkest, brightest) with darkest below brightest."
            )
        found[name] = (float(low), float(high))
    return found


def _default_window(values: np.ndarray) -> tuple[float, float]:
    """Percentiles 1 to 99 of finite values, to three digits; symmetric about 0 where values are negative."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(f"{v:.3g}") for v in np.percentile(values, (1, 99)))
    if low < 0:
        low, high = -max(-low, high), max(-low, high)
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _head(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """Voxels that are not 0 in every image, ``(X, Y, Z)`` bool; all of them when there is none."""
    head = np.any([np.asarray(v) != 0 for v in images.values()], axis=0)
    return head if head.any() else np.ones_like(head)


def _bounds(inside: np.ndarray, axis: int, margin: int = 3) -> slice:
    """From the first to the last True along an axis of a volume, with a margin in voxels."""
    index = np.nonzero(inside)[axis]
    return slice(max(0, int(index.min()) - margin), int(index.max()) + 1 + margin)


def _outline(panel: Any, inside: np.ndarray, style: dict[str, Any]) -> None:
    """Draw the borders of the voxels of a mask, ``(X, Y)`` bool; the outside of the picture counts as out."""
    if not inside.any():
        return
    box = tuple(_bounds(inside, axis, margin=1) for axis in (0, 1))
    fine = 6  # contour lines cut corners; on voxels split that finely they follow the voxel borders for the eye
    padded = np.kron(np.pad(inside[box], 1), np.ones((fine, fine), dtype=np.uint8))
    x, y = ((np.arange(n) + 0.5) / fine - 1.5 + b.start for n, b in zip(padded.shape, box, strict=True))
    panel.contour(x, y, padded.T, levels=[0.5], colors=[style["color"]], **{k: [v] for k, v in style.items() if k != "color"})


def _orient(panel: Any, spacing_mm: Sequence[float], axes: str | None, letters: bool) -> None:
    """Set the aspect and the direction of the axes of a panel, and write where they point."""
    right, up = (axes[0] in "LPSI", axes[1] in "ASLR") if axes else (True, True)
    panel.set(aspect=spacing_mm[1] / spacing_mm[0], xticks=[], yticks=[], anchor="N")
    if not right:
        panel.invert_xaxis()
    if not up:
        panel.invert_yaxis()
    if axes and letters:
        sides = [(axes[0] if right else _OPPOSITE[axes[0]], 0.97, 0.5), (axes[1] if up else _OPPOSITE[axes[1]], 0.5, 0.96)]
        for letter, x, y in [*sides, *((_OPPOSITE[s], 1 - x, 1 - y) for s, x, y in sides)]:
            panel.text(x, y, letter, transform=panel.transAxes, color="white", fontsize=8, ha="center", va="center", bbox=_LETTER_BOX)


def _mask_styles(masks: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Line style by mask name: fixed for truth and prediction, the others in turn."""
    others = [name for name in masks if name not in _MASK_STYLES]
    return {n: _MASK_STYLES[n] if n in _MASK_STYLES else _OTHER_MASKS[others.index(n) % len(_OTHER_MASKS)] for n in masks}


def _mask_legend(figure: Any, styles: Mapping[str, dict[str, Any]], masks: Mapping[str, np.ndarray]) -> None:
    """Name the contours below the panels, and say which mask has no voxel at all."""
    from matplotlib.lines import Line2D

    names = [name if np.any(masks[name]) else f"{name} (empty)" for name in styles]
    lines = [Line2D([], [], color=s["color"], linewidth=s["linewidths"], linestyle=s["linestyles"]) for s in styles.values()]
    if lines:
        figure.legend(
            lines, names, loc="outside lower center", ncols=len(lines), fontsize=9, facecolor="0.25", labelcolor="white", framealpha=1
        )
