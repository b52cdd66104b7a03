"""Charts of an anomaly method as PNG bytes: ROC curves, and AUROC or memory over the size of the network or of the patch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.charts import _PALETTE, _plain_log, _tidy, png_of
from common.errors import UserError

_MARKERS = ("o", "s", "^", "D", "v", "P")


def roc_figure(curves: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Draw ROC curves, a panel per task and a line per method, with the areas in the legend.

    Args:
        curves: one dict per line: ``panel`` (task), ``label`` (method), ``false_positive_rate`` and ``true_positive_rate`` (sequences in
            [0, 1], as `common.metrics.roc.roc_curve` gives them; empty where there is none), ``auroc``, ``low``, ``high``.
        title: text above the picture; may be empty.

    Returns:
        PNG.

    Raises:
        UserError: no curve.

    Source: Bieder et al. 2022, figure 6.
    """
    panels = _panels(curves, "roc_figure", "a curve per task and method")

    def draw(figure: Any) -> None:
        for panel, (heading, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            panel.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="chance: 0.50")
            for index, line in enumerate(lines):
                area = "no AUROC" if math.isnan(line["auroc"]) else "{auroc:.2f} ({low:.2f} to {high:.2f})".format(**line)
                panel.plot(
                    line["false_positive_rate"],
                    line["true_positive_rate"],
                    linewidth=1.7,
                    linestyle=("-", "--", ":")[index // len(_PALETTE) % 3],
                    color=_PALETTE[index % len(_PALETTE)],
                    label=f"{line['label']}: {area}",
                )
            panel.set(
                xlim=(-0.02, 1.02),
                ylim=(-0.02, 1.02),
                xlabel="false positive rate",
                ylabel="true positive rate",
                aspect="equal",
                anchor="N",
            )
            panel.set_title(heading, fontsize=10)
            key = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "title": "AUROC (95 % interval)"}
            panel.legend(fontsize=8, title_fontsize=8, frameon=False, **key)
            _tidy(panel)
        if title:
            figure.suptitle(title, fontsize=10)

    lines = 2 + max(len(held) for held in panels.values())
    return png_of((4.1 * len(panels), 4.3 + 0.21 * lines + 0.3 * bool(title)), draw)


def parameters_figure(rows: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Draw AUROC over the number of parameters, a panel per task and a line per method.

    Args:
        rows: ``task``, ``method``, ``parameters`` (count, > 0), ``auroc``, perhaps ``low`` and ``high`` (interval, drawn as a band) and
            ``marked`` (bool: gets an asterisk, as the model that the paper goes on with).
        title: text above the picture; may be empty.

    Returns:
        PNG.

    Source: Bieder et al. 2022, figure 3.
    """
    return _sweep(rows, "parameters", "auroc", "task", "method", ("parameters of the network", "AUROC"), title, log_x=True)


def patch_size_figure(rows: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Draw AUROC over the side of the patch, a line per task (left, right, both hemispheres).

    Args:
        rows: ``task``, ``patch_size`` (voxels), ``auroc``, perhaps ``low`` and ``high``, and ``panel`` where there are several.
        title: text above the picture; may be empty.

    Returns:
        PNG.

    Source: Bieder et al. 2022, figure 7.
    """
    return _sweep(rows, "patch_size", "auroc", "panel", "task", ("side of the patch (voxels)", "AUROC"), title)


def memory_figure(rows: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Draw peak memory over the number of parameters, a line per method, both axes logarithmic.

    Args:
        rows: ``method``, ``parameters`` (count, > 0), ``peak_memory_mib`` (> 0), and ``panel`` (training, inference) where there are
            several.
        title: text above the picture; may be empty.

    Returns:
        PNG.

    Source: Bieder et al. 2022, figure 10.
    """
    labels = ("parameters of the network", "peak memory (MiB)")
    return _sweep(rows, "parameters", "peak_memory_mib", "panel", "method", labels, title, log_x=True, log_y=True)


def _panels(rows: Sequence[Mapping[str, Any]], caller: str, expected: str, key: str = "panel") -> dict[str, list[Mapping[str, Any]]]:
    """Rows by their panel, in order of appearance."""
    if not rows:
        raise UserError(f"{caller}: got nothing to draw, expected {expected}.")
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault(str(row.get(key, "")), []).append(row)
    return panels


def _sweep(
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    panel_key: str,
    line_key: str,
    labels: tuple[str, str],
    title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> bytes:
    """Draw one number over another: a panel per value of one column, a line per value of a second one."""
    panels = _panels(rows, f"figure of {y} over {x}", f"a row with {x} and {y} per run", panel_key)

    def draw(figure: Any) -> None:
        names = list(dict.fromkeys(str(row[line_key]) for row in rows))
        for panel, (heading, held) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for index, name in enumerate(names):
                _line(panel, [row for row in held if str(row[line_key]) == name], x, y, name, index)
            if y == "auroc":
                panel.axhline(0.5, color="0.6", linestyle="--", linewidth=1)
                panel.set_ylim(min(0.4, panel.get_ylim()[0]), 1.02)
            steps = sorted({float(row[x]) for row in held})
            if not log_x and len(steps) <= 10:
                panel.set_xticks(steps)
            panel.set(xlabel=labels[0], ylabel=labels[1], xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
            for axis in [panel.xaxis] * log_x + [panel.yaxis] * log_y:
                _plain_log(axis)
                axis.set_major_formatter(lambda value, _: _short(value))
            panel.set_title(heading, fontsize=10)
            _tidy(panel)
        handles, shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, shown, loc="outside lower center", ncols=min(4, len(shown)), fontsize=8, frameon=False)
        if title:
            figure.suptitle(title, fontsize=10)

    return png_of((4.3 * len(panels), 3.5 + 0.3 * bool(title)), draw)


def _short(value: float) -> str:
    """A count as people say it: 300, 10 k, 2 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _line(panel: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str, name: str, index: int) -> None:
    """Draw the rows of one line in the order of their x, with the band of their intervals and asterisks at marked ones."""
    ordered = sorted((row for row in rows if np.isfinite(row[y])), key=lambda row: float(row[x]))
    places, colour = [float(row[x]) for row in ordered], _PALETTE[index % len(_PALETTE)]
    panel.plot(places, [row[y] for row in ordered], marker=_MARKERS[index % len(_MARKERS)], markersize=5, color=colour, label=name)
    bands = [(float(row.get("low", math.nan)), float(row.get("high", math.nan))) for row in ordered]
    if bands and y == "auroc" and np.isfinite(bands).all():
        panel.fill_between(places, *zip(*bands, strict=True), color=colour, alpha=0.13, linewidth=0)
    for row in ordered:
        if row.get("marked"):
            panel.annotate("*", (row[x], row[y]), xytext=(0, 3), textcoords="offset points", fontsize=16, color=colour, ha="center")
