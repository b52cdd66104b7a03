"""Charts of a run as PNG bytes: training curves, reliability of the vote share, Dice against lesion load."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from common.errors import UserError

# Okabe and Ito's palette: told apart with every common form of colour blindness.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
_DPI = 110


def png_of(inches: tuple[float, float], draw: Callable[[Any], None]) -> bytes:
    """Let ``draw`` fill a new figure and return it as PNG, whatever the user's matplotlib settings or display.

    Args:
        inches: (width, height).
        draw: called with an empty ``matplotlib.figure.Figure`` of constrained layout.

    Returns:
        PNG without dates or version marks, so that equal pictures have equal bytes.
    """
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        rcdefaults()
        rcParams["text.parse_math"] = False  # an id such as "a$b$" is text, not a formula
        figure = Figure(figsize=inches, dpi=_DPI, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        stream = BytesIO()
        canvas.print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def curves_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the loss of each stage over its epochs and the validation metric, one line per ensemble member.

    Args:
        rows: one per member, stage and epoch, with keys ``stage`` (text), ``epoch`` (int), ``loss`` (float) and, where there is
            one, ``member`` (default 0) and ``metric`` (float; absent, None and nan are left out). A loss axis is logarithmic
            when its values are positive and span more than a factor of 20.

    Returns:
        PNG.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError(
            "curves_figure: got no row, expected one per epoch with stage, epoch and loss. Draw curves only for a run that trained."
        )
    stages = list(dict.fromkeys(str(r["stage"]) for r in rows))
    members = list(dict.fromkeys(r.get("member", 0) for r in rows))
    scored = [s for s in stages if any(np.isfinite(_number(r.get("metric"))) for r in rows if str(r["stage"]) == s)]
    panels = [(f"{s}: loss", "loss", s) for s in stages] + [
        (f"{s}: validation metric" if len(scored) > 1 else "validation metric", "metric", s) for s in scored
    ]

    def draw(figure: Any) -> None:
        for panel, (heading, key, stage) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            seen: list[float] = []
            for k, member in enumerate(members):
                of_member = sorted(
                    (r["epoch"], _number(r.get(key))) for r in rows if str(r["stage"]) == stage and r.get("member", 0) == member
                )
                points = np.array([p for p in of_member if np.isfinite(p[1])], dtype=float).reshape(-1, 2)
                seen.extend(points[:, 1])
                panel.plot(
                    *points.T,
                    marker=".",
                    markersize=4,
                    linewidth=1.3,
                    linestyle=("-", "--", ":")[k // len(_PALETTE) % 3],
                    color=_PALETTE[k % len(_PALETTE)],
                )
            if key == "loss" and seen and min(seen) > 0 and max(seen) > 20 * min(seen):
                panel.set_yscale("log")
                _plain_log(panel.yaxis)
            panel.set_title(heading, fontsize=10)
            panel.set_xlabel("epoch")
            _tidy(panel, whole_x=True)
        lines = figure.axes[0].get_lines()
        figure.legend(
            lines, [f"member {m}" for m in members], loc="outside lower center", ncols=min(8, len(members)), fontsize=8, frameon=False
        )

    return png_of((3.6 * len(panels), 3.0), draw)


def reliability_figure(bins: Sequence[Mapping[str, float]]) -> bytes:
    """Draw how often the predicted share comes true: observed over predicted frequency, with the counts below.

    Args:
        bins: one per bin, with ``mean_predicted`` and ``observed`` in [0, 1] and ``count`` (voxels); bins with count 0 are left out.

    Returns:
        PNG.

    Raises:
        UserError: no bin holds a voxel.
    """
    filled = [b for b in bins if _number(b.get("count")) > 0]
    if not filled:
        raise UserError(
            "reliability_figure: got no bin with a count above 0, expected at least one. Was the vote share measured on any voxel?"
        )
    x, y, count = (np.array([_number(b[k]) for b in filled]) for k in ("mean_predicted", "observed", "count"))

    def draw(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color="0.55", linestyle="--", linewidth=1, label="calibrated")
        upper.plot(x, y, color=_PALETTE[0], marker="o", label="this run")
        upper.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel="observed share of lesion")
        upper.legend(fontsize=8, frameon=False, loc="upper left")
        lower.vlines(x, 0.5, count, color=_PALETTE[0], linewidth=5)
        lower.set(yscale="log", ylim=(0.5, 3 * count.max()), ylabel="voxels", xlabel="predicted share")
        _plain_log(lower.yaxis)
        for panel in (upper, lower):
            _tidy(panel)

    return png_of((3.9, 4.9), draw)


def load_figure(load: Sequence[float], dice: Sequence[float], borders: Sequence[float] = (0.01, 0.05)) -> bytes:
    """Draw the Dice of each case over its lesion load (logarithmic), with the borders of the strata.

    Args:
        load: lesion volume over brain volume, one per case, >= 0 (0.01 is 1 %); cases without lesion stand at the left end.
        dice: Dice in [0, 1], same order; cases with nan are left out and counted in the title.
        borders: lesion loads between the strata, fractions.

    Returns:
        PNG.

    Raises:
        UserError: the two lists differ in length or are empty.
    """
    x, y = 100 * np.asarray(load, dtype=float), np.asarray(dice, dtype=float)
    if x.shape != y.shape or x.size == 0:
        raise UserError(f"load_figure: got {x.size} lesion loads and {y.size} Dice values, expected the same number of both, at least one.")
    known = np.isfinite(x) & np.isfinite(y)
    positive = known & (x > 0)
    none_at = min([0.02, *x[positive]]) / 3

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        panel.scatter(x[positive], y[positive], s=26, color=_PALETTE[0], alpha=0.75, linewidths=0, label="case")
        if (free := known & (x == 0)).any():
            panel.scatter(
                np.full(free.sum(), none_at),
                y[free],
                s=30,
                color=_PALETTE[1],
                marker="D",
                alpha=0.75,
                linewidths=0,
                label="no lesion in the truth",
            )
        for border in borders:
            panel.axvline(100 * border, color="0.55", linestyle="--", linewidth=1)
        panel.set(xscale="log", ylim=(-0.04, 1.04), xlabel="lesion load (% of brain volume)", ylabel="Dice")
        _plain_log(panel.xaxis)
        if not known.all():
            panel.set_title(f"{(~known).sum()} cases without a value are not drawn", fontsize=9)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        _tidy(panel)

    return png_of((4.9, 3.4), draw)


def _number(value: Any) -> float:
    """A float; nan for None."""
    return float("nan") if value is None else float(value)


def _tidy(panel: Any, whole_x: bool = False) -> None:
    """Light grid, no frame at the top and right; whole numbers on the x axis where it counts epochs."""
    from matplotlib.ticker import MaxNLocator

    panel.grid(color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    if whole_x:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _plain_log(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as numbers: formulas are off, and 0.1 reads better than a power of ten."""
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(lambda value, _: "")
