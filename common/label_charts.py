"""Chart of the classes of a segmentation: every case, and the mean with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.charts import _PALETTE, _tidy, png_of
from common.errors import UserError
from common.metrics.statistics import describe


def classes_figure(rows: Sequence[Mapping[str, Any]], panels: Mapping[str, str], title: str = "") -> bytes:
    """Draw a panel per metric and a line per class: points are cases, the diamond is their mean with its 95 % interval.

    Args:
        rows: of ``measure_classes``, of all cases; nan is left out.
        panels: metric -> heading, such as ``{"dice": "Dice"}``; an axis of Dice ends at 0 and 1.
        title: above the panels.

    Returns:
        PNG.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("classes_figure: got no row, expected one per case and class.")
    names = list(dict.fromkeys(str(row["class"]) for row in rows))

    def draw(figure: Any) -> None:
        for panel, (key, heading) in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True):
            for place, name in enumerate(names):
                values = np.array([float(row[key]) for row in rows if row["class"] == name])
                values = values[~np.isnan(values)]
                # spread by the golden ratio: even, and the same in every run
                spread = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.5
                panel.scatter(values, place + spread, s=14, color=_PALETTE[0], alpha=0.55, linewidths=0)
                found = describe(values)
                panel.plot([found["low"], found["high"]], [place, place], color=_PALETTE[1], linewidth=2)
                panel.plot(found["mean"], place, marker="D", markersize=6, color=_PALETTE[1], markeredgecolor="white")
            panel.set_title(heading, fontsize=10)
            _tidy(panel)
            high = 1.0 if key == "dice" else panel.get_xlim()[1]
            panel.set_xlim(-0.03 * high, 1.03 * high)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        if title:
            figure.suptitle(title, fontsize=11)

    return png_of((4.2 * len(panels) + 0.8, 1.0 + 0.34 * len(names)), draw)
