"""Charts of growth as PNG: predicted and true heads against age (figure 2), average brains over a growth chart (figure 4a)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.charts import _PALETTE, _tidy, png_of
from common.errors import UserError
from common.metrics.head_circumference import circumference_agreement


def age_figure(
    panels: Mapping[str, Mapping[str, ArrayLike]], quantity: str = "head circumference (cm)", title: str = "", x: str = "age (weeks)"
) -> bytes:
    """Scatter of predicted and true values against age, a panel per method or run, with both regression lines (figure 2).

    Args:
        panels: heading -> ``age``, ``predicted``, ``truth``, ``(N,)`` each; NaN is left out.
        quantity: name of the vertical axis, which all panels share.
        title: above the panels.
        x: name of the horizontal axis.

    Returns:
        PNG.

    Raises:
        UserError: no panel, or none with a value.
    """
    values = {name: _known(panel) for name, panel in panels.items()}
    if not any(found.size for found in values.values()):
        raise UserError("age_figure: no panel has a scan with age, prediction and truth; draw it only where heads were measured.")
    columns = min(len(values), 2 if len(values) in (2, 4) else 3)
    rows = math.ceil(len(values) / columns)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for panel in grid[len(values) :]:
            panel.set_visible(False)
        for panel, (name, (age, predicted, truth)) in zip(grid, values.items(), strict=False):
            for y, label, colour, marker in ((truth, "truth", "0.45", "x"), (predicted, "prediction", _PALETTE[0], "o")):
                panel.scatter(age, y, s=22, marker=marker, color=colour, alpha=0.8, linewidths=1.1 if marker == "x" else 0, label=label)
                if len(age) > 1 and np.ptp(age) > 0:
                    ends = np.array([age.min(), age.max()])
                    panel.plot(ends, np.poly1d(np.polyfit(age, y, 1))(ends), color=colour, linewidth=1.2, linestyle="--")
            panel.set_title(f"{name}\n{_agreement_text(predicted, truth, age)}", fontsize=9)
            _tidy(panel, whole_x=True)
        for panel in grid[::columns]:
            panel.set_ylabel(quantity, fontsize=9)
        for panel in grid[max(0, len(values) - columns) : len(values)]:
            panel.set_xlabel(x, fontsize=9)
            panel.tick_params(labelbottom=True)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        if title:
            figure.suptitle(title, fontsize=11)

    return png_of((3.5 * columns, 3.2 * rows + 0.5), draw)


def growth_chart(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    percentiles: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    atlases: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    title: str = "",
) -> bytes:
    """Head circumference of average brains over a growth chart (figure 4a).

    Args:
        curves: average brain -> (ages in weeks, circumferences in cm).
        percentiles: line of the chart, such as "3rd" or "+3 SD" -> (ages, cm); thin grey lines, named at their right end.
        atlases: atlas -> (ages, cm); dashed lines with marks.
        title: above the picture.

    Returns:
        PNG.

    Raises:
        UserError: no curve.
    """
    if not curves:
        raise UserError("growth_chart: got no curve, expected the circumference of at least one average brain by age.")

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for name, (age, cm) in (percentiles or {}).items():
            panel.plot(age, cm, color="0.7", linewidth=1)
            panel.annotate(name, (np.asarray(age)[-1], np.asarray(cm)[-1]), (3, 0), textcoords="offset points", fontsize=7, va="center")
        for index, (name, (age, cm)) in enumerate(curves.items()):
            panel.plot(age, cm, color=_PALETTE[index % len(_PALETTE)], linewidth=2, label=name)
        for index, (name, (age, cm)) in enumerate((atlases or {}).items(), start=len(curves)):
            panel.plot(age, cm, color=_PALETTE[index % len(_PALETTE)], linestyle="--", marker="s", markersize=4, linewidth=1.2, label=name)
        panel.set(xlabel="age (weeks)", ylabel="head circumference (cm)")
        _tidy(panel, whole_x=True)
        figure.legend(loc="outside lower center", ncols=min(3, len(curves) + len(atlases or {})), fontsize=8, frameon=False)
        if title:
            figure.suptitle(title, fontsize=11)

    return png_of((5.6, 4.4), draw)


def _known(panel: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Ages, predictions and truths of the scans that have all three, ``(3, N)``."""
    values = np.array([np.asarray(panel[key], dtype=np.float64).ravel() for key in ("age", "predicted", "truth")])
    return np.asarray(values[:, np.isfinite(values).all(axis=0)])


def _agreement_text(predicted: NDArray[Any], truth: NDArray[Any], age: NDArray[Any]) -> str:
    found = circumference_agreement(predicted, truth, age)
    slopes = f"slope {found['slope_cm_per_week']:.2f} (truth {found['true_slope_cm_per_week']:.2f})"
    return f"SD {found['sigma_cm']:.3f}, r {found['r']:.3f}, {slopes}"
