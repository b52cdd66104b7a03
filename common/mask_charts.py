"""Charts of masks over a number, such as the size of the ensemble, the steps of the sampler or the hours of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.charts import _PALETTE, png_of
from common.errors import UserError


def lines_figure(rows: Sequence[Mapping[str, Any]], x: str, panels: Mapping[str, str], title: str = "") -> bytes:
    """Draw a panel per quantity and a line per label.

    Args:
        rows: dicts with ``label``, ``x`` and the quantities; None and nan are left out.
        x: name of the axis; it is logarithmic where the values are positive and span more than a factor of 20.
        panels: quantity -> heading.
        title: above the panels.

    Returns:
        PNG.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("lines_figure: got no row, expected one per point with label, x and the quantities.")
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))

    def draw(figure: Any) -> None:
        places = [float(row["x"]) for row in rows]
        for panel, (key, heading) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for index, label in enumerate(labels):
                own = sorted((float(row["x"]), row.get(key)) for row in rows if str(row["label"]) == label)
                points = np.array([(a, float(b)) for a, b in own if b is not None and np.isfinite(b)], dtype=float).reshape(-1, 2)
                panel.plot(*points.T, marker="o", markersize=4, color=_PALETTE[index % len(_PALETTE)], label=label)
            if min(places) > 0 and max(places) > 20 * min(places):
                panel.set_xscale("log")
            panel.set_xlabel(x)
            panel.set_title(heading, fontsize=10)
            panel.grid(alpha=0.3)
        if len(labels) > 1:
            figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
        if title:
            figure.suptitle(title, fontsize=11)

    return png_of((4.2 * len(panels), 3.4 + 0.25 * (len(labels) > 1)), draw)
