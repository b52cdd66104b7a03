"""One self-contained HTML page per run: what data it was, metrics, cases, curves, pictures, and what was not verified."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import __version__
from common.atomic import write_text
from common.charts import curves_figure
from common.errors import UserError

_TEMPLATE = Path(__file__).with_name("report_template.html")
_DASH = "\u2013"
_CURVES = "Loss of each stage and validation metric over the epochs, one line per ensemble member."
_PNG = b"\x89PNG\r\n\x1a\n"
_NAMES = {
    "dice": "Dice",
    "masd": "MASD",
    "nsd": "NSD",
    "hd95": "HD95",
    "ece": "ECE",
    "auroc": "AUROC",
    "ich": "ICH",
    "f1": "F1",
    "sd": "SD",
    "adc": "ADC",
    "brier": "Brier",
    "2mm": "2 mm",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "mae": "MAE",
    "mse": "MSE",
    "dssim": "DSSIM",
    "auprc": "AUPRC",
    "hd": "HD",
}
_UNITS = {
    "percent": "%",
    "mm": "mm",
    "ml": "ml",
    "s": "s",
    "mm2": "mm²",
    "mm3": "mm³",
    "weeks": "weeks",
    "years": "years",
    "cm": "cm",
    "db": "dB",
}


def write_report(
    output_dir: str | os.PathLike[str],
    title: str,
    *,
    simulated: bool,
    data_note: str,
    summary: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    config: Mapping[str, Any] | None,
    tables: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write ``report.html``: one file that needs no network, script or font, and that a killed run never leaves half written.

    All text is escaped. Tables take their columns from the keys, in order of first appearance; a key that ends in a unit
    (``masd_mm``, ``volume_ml``) is headed with it, and
    so is a metric named in a column ``metric``. Missing, None and nan show as a dash that a legend explains. The page
    holds no date, so that the same input gives the same bytes.

    Args:
        output_dir: folder of the run; made when missing.
        title: what ran, one line.
        simulated: the data are not patients: the title and a banner then say so.
        data_note: which data, how many cases, which split, one paragraph.
        summary: one dict per line of the metrics table, such as ``{"metric", "stratum", "mean", "sd", "n"}``.
        rows: one dict per case, ``id`` first.
        curves: training log as :func:`common.charts.curves_figure` takes it; empty when nothing was trained.
        figures: ``{"caption": str, "png": bytes}`` each, in reading order.
        notes: what was not verified, one sentence each.
        config: the merged config that ran; None when there was none. Anything that JSON lacks is written as text.
        tables: further tables behind the metrics, ``{"heading": str, "rows": one dict per line, "note": str}`` each; without ``rows``
            only the note stands there, which may be left out.

    Returns:
        Path of the page.

    Raises:
        UserError: a figure without a caption or whose bytes are no PNG.
    """
    from jinja2 import Environment, StrictUndefined

    pictures = [_picture(i, figure) for i, figure in enumerate(figures)]
    drawn = [_picture(0, {"caption": _CURVES, "png": curves_figure(curves)})] if curves else []
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"SIMULATED DATA, not patients: {title}" if simulated else title,
        heading=title,
        simulated=simulated,
        data_note=data_note,
        summary=_table(summary),
        tables=[{"heading": str(t["heading"]), "note": str(t.get("note", "")), **_table(t["rows"])} for t in tables],
        cases=_table(rows),
        curves=drawn,
        figures=pictures,
        notes=list(notes),
        config=None if config is None else json.dumps(config, indent=2, ensure_ascii=False, default=str),
        version=__version__,
        dash=_DASH,
    )
    return write_text(Path(output_dir) / "report.html", page)


def pick_cases(rows: Sequence[Mapping[str, Any]], key: str = "dice", *, higher_is_better: bool = True) -> dict[str, Any]:
    """Choose the best, the median and the worst case of a table, for the pictures of a report.

    Equal values are ordered by id. Cases without a number (nan, None, missing) come last: they are chosen only where no case
    has one. No case is chosen twice: two cases give best and worst, one gives best.

    Args:
        rows: one dict per case with ``id`` and ``key``.
        key: the metric that ranks them.
        higher_is_better: False for distances and errors.

    Returns:
        id by role, in the order ``best``, ``median``, ``worst``; of an even number the better of the two middle cases is
        the median. Empty for no rows.
    """
    numbers = [(_number(row.get(key)), row["id"]) for row in rows]
    ranked = [p for p in numbers if not math.isnan(p[0])] or numbers
    sign = -1.0 if higher_is_better else 1.0
    ids = [case for value, case in sorted(ranked, key=lambda p: (0.0 if math.isnan(p[0]) else sign * p[0], str(p[1])))]
    places = {"best": 0, "median": (len(ids) - 1) // 2, "worst": len(ids) - 1}
    if len(ids) < 3:
        del places["median"]
    if len(ids) < 2:
        del places["worst"]
    return {role: ids[place] for role, place in places.items()} if ids else {}


def _picture(index: int, figure: Mapping[str, Any]) -> dict[str, str]:
    """Caption and inlined PNG of a figure."""
    caption, png = figure.get("caption"), figure.get("png")
    if not caption or not isinstance(png, bytes) or not png.startswith(_PNG):
        found = f"caption {caption!r} and {len(png)} bytes that are no PNG" if isinstance(png, bytes) else f"keys {sorted(figure)}"
        raise UserError(f'write_report: figures[{index}] has {found}, expected {{"caption": text, "png": bytes of a PNG file}}.')
    return {"caption": str(caption), "png": base64.b64encode(png).decode("ascii")}


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Headings and formatted cells: ``heads`` and each of ``lines`` are lists of (text, is it a number)."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [_column([_heading(row[key]) if key == "metric" and key in row else row.get(key) for row in rows]) for key in keys]
    numeric = [any(is_number for _, is_number in column) for column in columns]
    cells = [[(text, numeric[j]) for j, (text, _) in enumerate(line)] for line in zip(*columns, strict=True)]
    return {
        "heads": [(_heading(key), numeric[j]) for j, key in enumerate(keys)],
        "lines": cells,
        "has_dash": any(text == _DASH for line in cells for text, _ in line),
    }


def _heading(key: Any) -> str:
    """``masd_mm`` becomes ``MASD (mm)``; other keys lose their underscores."""
    words = str(key).split("_")
    unit = f" ({_UNITS[words.pop()]})" if len(words) > 1 and words[-1] in _UNITS else ""
    return re.sub(r"\w+", lambda word: _NAMES.get(word[0], word[0]), " ".join(words)) + unit


def _column(values: Sequence[Any]) -> list[tuple[str, bool]]:
    """Text of each value of a column and whether it is a number; floats of a column share their decimals."""
    plain = [v.item() if isinstance(v, np.generic) else v for v in values]
    floats = [abs(v) for v in plain if isinstance(v, float) and math.isfinite(v)]
    largest = max(floats, default=0.0)
    decimals = 3 if largest < 100 else 1 if largest < 10000 else 0
    return [(_text(v, decimals), isinstance(v, (int, float)) and not isinstance(v, bool)) for v in plain]


def _text(value: Any, decimals: int) -> str:
    """One cell."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return _DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value:.1e}" if 0 < abs(value) < 0.5 * 10.0**-decimals else f"{value:.{decimals}f}"
    return str(value)


def _number(value: Any) -> float:
    """A float; nan for None."""
    return math.nan if value is None else float(value)
