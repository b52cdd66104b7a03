"""Slices of growth as PNG: a predicted pair (figure 3), a brain over its ages (4b); pairs are kept small until those shown are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.charts import png_of
from common.errors import UserError
from common.figures import _orient
from common.growth_measure import pair_id, plain, spacing_of

AXES = "RAS"
"""Where the axes of a prepared grid point."""

PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
"""Plane -> the axes of the volume that it shows, to the right and upwards."""


DIFFERENCE = "prediction - target\n-0.5 blue, 0.5 red"


def planes_of(image: NDArray[Any], centre: Sequence[int] | None = None) -> list[NDArray[Any]]:
    """Slices of a volume through a point; of a slice the slice itself.

    Args:
        image: ``(X, Y)`` or ``(X, Y, Z)``.
        centre: voxel ``(3,)``; None for the centre of mass of what is not 0.

    Returns:
        One plane in 2D; axial, coronal and sagittal in 3D.
    """
    if image.ndim == 2:
        return [image]
    x, y, z = centre if centre is not None else centre_of(image)
    return [image[:, :, z], image[:, y, :], image[x, :, :]]


def centre_of(image: NDArray[Any]) -> tuple[int, ...]:
    """Voxel at the centre of mass of what is not 0; the middle of the grid where all is 0."""
    inside = np.nonzero(image)
    return tuple(int(index.mean()) if index.size else side // 2 for index, side in zip(inside, image.shape, strict=True))


def pair_figure(columns: Mapping[str, Sequence[NDArray[Any]]], spacing_mm: Sequence[float], title: str, axes: str = AXES) -> bytes:
    """Draw a pair: input, reconstruction, target, prediction (figure 3) and what the prediction adds to or lacks of the target.

    Args:
        columns: heading -> planes of the image, in [0, 1], as :func:`planes_of` gives them; those called ``target...`` and
            ``prediction...`` are subtracted in a further column beside the latter.
        spacing_mm: voxel edges, mm, 2 or 3.
        title: above the picture.
        axes: where the axes of the grid point.

    Returns:
        PNG; anterior or superior is up, the patient's left at the right, as radiologists look at it.

    Raises:
        UserError: columns with unequal numbers of planes, or none.
    """
    shown = {name: [np.asarray(plane, dtype=np.float32) for plane in planes] for name, planes in columns.items()}
    prediction, target = (next((name for name in shown if name.startswith(kind)), None) for kind in ("prediction", "target"))
    ordered: dict[str, list[NDArray[Any]]] = {}
    for name, planes in shown.items():
        ordered[name] = planes
        if name == prediction and target is not None:
            ordered[DIFFERENCE] = [p - y for p, y in zip(planes, shown[target], strict=True)]
    return plane_grid(ordered, spacing_mm, title, axes, signed=DIFFERENCE)


def ages_figure(
    growth: Mapping[str, NDArray[Any]], ages_weeks: Sequence[float], spacing_mm: Sequence[float], title: str, axes: str = AXES
) -> bytes:
    """Draw brains over their ages, a column per age (figure 4b).

    Args:
        growth: name, such as "zero latent" -> images ``(A, *grid)`` in [0, 1]; all planes cut through the centre of the oldest.
        ages_weeks: ``(A,)``, weeks.
        spacing_mm: voxel edges, mm, 2 or 3.
        title: above the picture.
        axes: where the axes of the grid point.

    Returns:
        PNG.

    Raises:
        UserError: as many images as ages are not there.
    """
    if wrong := [name for name, images in growth.items() if len(images) != len(ages_weeks)]:
        raise UserError(f"ages_figure: {wrong} have not as many images as there are ages, {len(ages_weeks)}.")
    cut = {name: [planes_of(image, centre_of(images[-1])) for image in images] for name, images in growth.items()}
    columns = {f"{age:.4g} weeks": [p for planes in cut.values() for p in planes[index]] for index, age in enumerate(ages_weeks)}
    heads = [f"{name}\n{plane}" if len(found[0]) > 1 else name for name, found in cut.items() for plane in list(PLANES)[: len(found[0])]]
    return plane_grid(columns, spacing_mm, title, axes, rows=heads)


def plane_grid(
    columns: Mapping[str, Sequence[NDArray[Any]]],
    spacing_mm: Sequence[float],
    title: str,
    axes: str = AXES,
    signed: str | None = None,
    rows: Sequence[str] = (),
) -> bytes:
    """Draw planes side by side, all of a row to one scale and cut to one box around what is not black in any of them.

    Args:
        columns: heading -> planes, as :func:`planes_of` gives them, once or several times over.
        spacing_mm: voxel edges, mm; two for slices.
        title: above the picture.
        axes: where the axes of the grid point.
        signed: the column with values of both signs.
        rows: names of the rows; the planes where there is none.

    Returns:
        PNG.

    Raises:
        UserError: columns with unequal numbers of planes, or none.
    """
    counts = {len(planes) for planes in columns.values()}
    if len(counts) != 1 or 0 in counts:
        raise UserError(f"plane_grid: got columns with {sorted(counts) or 'no'} planes, expected the same number in each, at least one.")
    names = list(PLANES)[: 3 if len(spacing_mm) == 3 else 1]
    height = [names[index % len(names)] for index in range(counts.pop())]
    edges = [[float(spacing_mm[axis]) for axis in PLANES[name]] for name in height]
    boxes = [_content(row) for row in zip(*columns.values(), strict=True)]
    cut = {name: [plane[box] for plane, box in zip(planes, boxes, strict=True)] for name, planes in columns.items()}
    first = next(iter(cut.values()))
    sizes = [(plane.shape[0] * e[0], plane.shape[1] * e[1]) for plane, e in zip(first, edges, strict=True)]
    tall = [h / w for w, h in sizes]

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(height), len(columns), squeeze=False, height_ratios=tall)
        for column, (name, planes) in enumerate(cut.items()):
            for row, plane in enumerate(planes):
                panel, style = panels[row, column], {"cmap": "gray", "vmin": 0, "vmax": 1}
                if name == signed:
                    style = {"cmap": "RdBu_r", "vmin": -0.5, "vmax": 0.5}
                panel.imshow(plane.T.astype(np.float32), origin="lower", interpolation="nearest", **style)
                code = "".join(axes[axis] for axis in PLANES[height[row]])
                _orient(panel, edges[row], code, letters=column == 0)
                if column == 0 and (len(height) > 1 or rows):
                    panel.set_ylabel(rows[row] if rows else height[row], fontsize=8)
            panels[0, column].set_title(name, fontsize=8)
        figure.suptitle(title, fontsize=10)

    return png_of((1.75 * len(columns) + 0.3, 1.75 * sum(tall) + 0.7), draw)


def _content(planes: Sequence[NDArray[Any]], margin: int = 3) -> tuple[slice, slice]:
    """Smallest box with all that is not black, and a margin in pixels; the whole plane where all is."""
    filled = np.any([np.abs(plane) > 0.05 for plane in planes], axis=0)
    ends = [np.flatnonzero(filled.any(axis=1 - axis)) for axis in (0, 1)]
    if not filled.any():
        return slice(None), slice(None)
    x, y = (slice(max(0, int(held[0]) - margin), int(held[-1]) + 1 + margin) for held in ends)
    return x, y


def pair_columns(item: Mapping[str, Any], result: Mapping[str, Any], images: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Images of a pair by the heading of their column.

    Args:
        item: ``input`` and ``target``, prepared scans.
        result: perhaps ``reconstruction``.
        images: predictions by method, the model's first.

    Returns:
        ``input``, ``reconstruction`` (where there is one), ``target``, ``prediction``, then the other methods; ``(*grid)`` each.
    """
    ages = {side: f"{float(item[side]['age']):.1f} weeks" for side in ("input", "target")}
    columns = {f"input\n{ages['input']}": plain(item["input"]["image"])}
    if result.get("reconstruction") is not None:
        columns[f"reconstruction\n{ages['input']}"] = plain(result["reconstruction"])
    columns[f"target\n{ages['target']}"] = plain(item["target"]["image"])
    first, *others = images
    columns[f"prediction\n{ages['target']}"] = images[first]
    # a method may bear any name, and one called "target" must not become the column that is subtracted
    return columns | {f"by {name}\nfor {ages['target']}": images[name] for name in others}


class KeptPairs:
    """Three planes of every image of every pair, as bytes: a megabyte per pair at the paper's size."""

    def __init__(self) -> None:
        self.columns: dict[str, dict[str, list[NDArray[np.uint8]]]] = {}
        self.spacing: dict[str, tuple[float, ...]] = {}

    def add(self, item: Mapping[str, Any], result: Mapping[str, Any], images: Mapping[str, NDArray[Any]]) -> None:
        """Keep a pair; see :func:`pair_columns`."""
        name, centre = pair_id(item), centre_of(plain(item["target"]["brain"]))
        columns = pair_columns(item, result, images)
        self.columns[name] = {
            heading: [np.rint(255 * plane.clip(0, 1)).astype(np.uint8) for plane in planes_of(image, centre)]
            for heading, image in columns.items()
        }
        self.spacing[name] = spacing_of(item["target"])

    def draw(self, pair: str, title: str) -> bytes:
        """Figure 3 of a kept pair."""
        columns = {heading: [plane.astype(np.float32) / 255 for plane in planes] for heading, planes in self.columns[pair].items()}
        return pair_figure(columns, self.spacing[pair], title)
