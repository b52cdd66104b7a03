"""Charts of reconstruction: each subject's error by corruption beside doing nothing, and many networks beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.charts import _PALETTE, _plain_log, _tidy, png_of
from common.errors import UserError

HEADINGS = {"mse": "MSE", "dssim": "DSSIM", "psnr_db": "PSNR (dB)", "changed_mse": "MSE of changed pixels"}


def corruption_chart(rows: Sequence[Mapping[str, Any]], corruptions: Sequence[str], title: str = "") -> bytes:
    """Draw a panel per metric and a column per corruption: a dot per volume for what was restored and for what the network got.

    Args:
        rows: of ``metrics.csv``: ``<kind>_<metric>`` and ``<kind>_input_<metric>``.
        corruptions: kinds.
        title: above the panels.

    Returns:
        PNG; MSE and DSSIM on logarithmic axes, values of 0 and infinity are not drawn.

    Raises:
        UserError: no rows.
    """
    if not rows or not corruptions:
        raise UserError(f"corruption_chart: got {len(rows)} rows and {len(corruptions)} corruptions, expected at least one of each.")
    looks = (("", "restored", _PALETTE[0], "o", 0.14), ("input_", "corrupted (doing nothing)", "0.5", "x", -0.14))

    def draw(figure: Any) -> None:
        for panel, key in zip(figure.subplots(1, 3), ("mse", "dssim", "psnr_db"), strict=True):
            for prefix, label, colour, marker, shift in looks:
                for place, kind in enumerate(corruptions):
                    values = np.asarray([_number(row.get(f"{kind}_{prefix}{key}")) for row in rows])
                    values = values[np.isfinite(values) & (values > 0)]
                    spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(len(values))
                    style = {"color": colour, "marker": marker, "s": 16, "alpha": 0.75, "linewidths": 1 if marker == "x" else 0}
                    panel.scatter(place + shift + spread, values, label=label if place == 0 else None, **style)
            panel.set_xticks(range(len(corruptions)), ["clean" if kind == "none" else kind for kind in corruptions], rotation=25)
            if key != "psnr_db":
                panel.set_yscale("log")
                _plain_log(panel.yaxis)
            panel.set_xlim(-0.5, len(corruptions) - 0.5)
            panel.set_title(HEADINGS[key], fontsize=10)
            _tidy(panel)
        handles = [figure.axes[0].scatter([], [], color=c, marker=m, label=name) for _, name, c, m, _ in looks]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        if title:
            figure.suptitle(title, fontsize=10)

    return png_of((10.2, 3.7 + 0.25 * bool(title)), draw)


def networks_chart(rows: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Draw a line per network and a panel per metric: mean and SD over slices, and the paper's mean.

    Args:
        rows: ``row`` (name), ``mse``, ``mse_sd``, ``paper_mse`` and likewise the other metrics; None and NaN are not drawn.
        title: above the panels.

    Returns:
        PNG.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("networks_chart: got no row, expected one per network.")
    places = np.arange(len(rows))[::-1]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 3, sharey=True)
        for panel, key in zip(panels, ("mse", "dssim", "psnr_db"), strict=True):
            mean, sd, paper = (np.asarray([_number(row.get(name)) for row in rows]) for name in (key, f"{key}_sd", f"paper_{key}"))
            low = np.minimum(sd, mean * 0.9) if key != "psnr_db" else sd
            width = np.nan_to_num(np.stack([low, sd]))
            panel.errorbar(mean, places, xerr=width, fmt="o", color=_PALETTE[0], markersize=5, capsize=2, linewidth=1, label="this cohort")
            panel.scatter(paper, places, marker="D", s=28, facecolors="none", edgecolors=_PALETTE[1], label="paper (IXI)")
            if key != "psnr_db":
                panel.set_xscale("log")
                _plain_log(panel.xaxis)
            panel.set_title(HEADINGS[key], fontsize=10)
            _tidy(panel)
        panels[0].set_yticks(places, [str(row["row"]) for row in rows], fontsize=8)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        if title:
            figure.suptitle(title, fontsize=10)

    return png_of((11.0, 1.6 + 0.3 * len(rows) + 0.25 * bool(title)), draw)


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)
