"""A slice beside its restoration and its anomaly maps as PNG, with the outline of the lesions; ``anomaly_figures`` draws head CT in HU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.charts import _PALETTE, _tidy, png_of
from common.errors import UserError
from common.figures import _MASK_STYLES, _orient, _outline

AXES = "PS"
_HEADS = {"image": "image", "restored": "restored", "residual": "residual"}


def residual_figure(
    rows: Mapping[str, Mapping[str, NDArray[Any]]], title: str, spacing_mm: Sequence[float] = (1.0, 1.0), axes: str = AXES
) -> bytes:
    """Draw a row per case: image, restoration, then each map, with the truth's outline in green.

    Args:
        rows: label of the case -> ``image`` and ``restored`` in [0, 1], maps by name, ``truth`` (bool), ``(P, S)`` each.
        title: above the picture.
        spacing_mm: pixel edges, mm.
        axes: where the axes point.

    Returns:
        PNG; each map has one scale for all rows, from 0 to its largest value in them.

    Raises:
        UserError: no row.
    """
    if not rows:
        raise UserError("residual_figure: got no case, expected at least one.")
    names = [key for key in next(iter(rows.values())) if key != "truth"]
    maps = [key for key in names if key not in ("image", "restored")]
    high = {key: max(*(float(np.max(row[key])) for row in rows.values()), 1e-3) for key in maps}
    scales: dict[str, Any] = {}
    tall = max(row["image"].shape[1] * spacing_mm[1] / (row["image"].shape[0] * spacing_mm[0]) for row in rows.values())

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(rows), len(names), squeeze=False)
        for line, (label, planes) in zip(panels, rows.items(), strict=True):
            for panel, key in zip(line, names, strict=True):
                plane = np.asarray(planes[key], dtype=np.float32).T
                style = {"cmap": "inferno", "vmax": high[key]} if key in maps else {"cmap": "gray", "vmax": 1.0}
                shown = panel.imshow(plane, origin="lower", interpolation="nearest", vmin=0, **style)
                _orient(panel, spacing_mm, axes, letters=panel is panels[0, 0])
                _outline(panel, np.asarray(planes["truth"]), _MASK_STYLES["truth"] | {"linewidths": 1.0})
                if key in maps:
                    scales[key] = shown
            line[0].set_ylabel(label, fontsize=8)
        for key, shown in scales.items():  # beside all panels, so that none of them shrinks alone
            bar = figure.colorbar(shown, ax=panels.ravel().tolist(), location="right", shrink=0.6, pad=0.01, aspect=30)
            bar.ax.tick_params(labelsize=7)
            bar.set_label(_HEADS.get(key, key.replace("_", ", ")), fontsize=8)
        for panel, key in zip(panels[0], names, strict=True):
            panel.set_title(_HEADS.get(key, key.replace("_", ", ")), fontsize=9)
        figure.suptitle(title, fontsize=10)

    return png_of((2.3 * len(names) + 0.3 + 0.8 * len(maps), 2.3 * min(max(tall, 0.3), 3.0) * len(rows) + 0.7), draw)


def bias_figure(rows: Sequence[Mapping[str, Any]], score: str, title: str = "") -> bytes:
    """Draw a score of healthy subjects against age, and by sex and by site.

    Args:
        rows: one per subject, with the score and perhaps ``age`` (years), ``sex`` and ``site``.
        score: column.
        title: above the panels.

    Returns:
        PNG.

    Raises:
        UserError: no subject.
    """
    if not rows:
        raise UserError("bias_figure: got no healthy subject.")

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 3, sharey=True)
        known = [(float(row["age"]), float(row[score])) for row in rows if row.get("age") is not None]
        panels[0].scatter(*(np.array(known).T if known else ([], [])), s=18, color=_PALETTE[0], alpha=0.8, linewidths=0)
        panels[0].set(xlabel="age (years)", ylabel=score.replace("_", " "))
        for panel, fact in zip(panels[1:], ("sex", "site"), strict=True):
            groups = sorted({str(row[fact]) for row in rows if row.get(fact)})
            for place, group in enumerate(groups):
                own = [float(row[score]) for row in rows if str(row.get(fact)) == group]
                panel.scatter(place + np.linspace(-0.15, 0.15, len(own)), own, s=18, color=_PALETTE[place % 8], alpha=0.8, linewidths=0)
                panel.hlines(np.median(own), place - 0.25, place + 0.25, color="black", linewidth=1.5)
            panel.set_xticks(range(len(groups)), groups)
            panel.set(xlabel=f"{fact} (line: median)", xlim=(-0.5, max(len(groups), 1) - 0.5))
        for panel in panels:
            _tidy(panel)
        if title:
            figure.suptitle(title, fontsize=10)

    return png_of((9.5, 3.3 + 0.25 * bool(title)), draw)
