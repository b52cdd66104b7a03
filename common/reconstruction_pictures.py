"""Slices as PNG: original, corrupted, restored and the error left; ``common.reconstruction_figure`` shows no error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.charts import png_of
from common.errors import UserError
from common.figures import _orient

COLUMNS = ("original", "corrupted", "restored", "|restored - original|")
AXES = "PS"
"""Where the axes of a sagittal slice point."""


def restoration_figure(
    rows: Mapping[str, Sequence[NDArray[Any]]],
    title: str,
    feet: Mapping[str, str] | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0),
    axes: str = AXES,
) -> bytes:
    """Draw a row per corruption: original, corrupted, restored, and the absolute error, all errors on one scale.

    Args:
        rows: corruption -> original, corrupted and restored slice, ``(P, S)`` each, in [0, 1].
        title: above the picture.
        feet: corruption -> words below the restored slice.
        spacing_mm: pixel edges, mm.
        axes: where the two axes point.

    Returns:
        PNG; anterior is at the left and superior up for ``PS``.

    Raises:
        UserError: no row, or not three slices of one shape in each.
    """
    planes = {kind: [np.asarray(part, dtype=np.float32) for part in parts] for kind, parts in rows.items()}
    shapes = {part.shape for parts in planes.values() for part in parts}
    if len(shapes) != 1 or any(len(parts) != 3 for parts in planes.values()):
        raise UserError(f"restoration_figure: got slices of shapes {sorted(shapes)}, expected original, corrupted, restored of one shape.")
    errors = {kind: np.abs(parts[2] - parts[0]) for kind, parts in planes.items()}
    high = max(float(np.percentile(list(errors.values()), 99.9)), 1e-3)
    (width, height) = (side * edge for side, edge in zip(shapes.pop(), spacing_mm, strict=True))

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(planes), len(COLUMNS), squeeze=False)
        for line, (kind, parts) in zip(panels, planes.items(), strict=True):
            for panel, part in zip(line, [*parts, errors[kind]], strict=True):
                style = {"cmap": "inferno", "vmax": high} if panel is line[-1] else {"cmap": "gray", "vmax": 1.0}
                shown = panel.imshow(part.T, origin="lower", interpolation="nearest", vmin=0, **style)
                _orient(panel, spacing_mm, axes, letters=panel is panels[0, 0])
            line[0].set_ylabel("clean" if kind == "none" else kind, fontsize=9)
            line[2].set_xlabel((feet or {}).get(kind, ""), fontsize=8)
        for panel, name in zip(panels[0], COLUMNS, strict=True):
            panel.set_title(name, fontsize=9)
        bar = figure.colorbar(shown, ax=panels.ravel().tolist(), location="right", shrink=0.6, pad=0.02, aspect=25)
        bar.ax.tick_params(labelsize=7)
        figure.suptitle(title, fontsize=10)

    tall = 1.9 * min(max(height / width, 0.3), 3.0) + 0.2
    return png_of((1.9 * len(COLUMNS) + 0.7, tall * len(planes) + 0.6), draw)
