"""What the rows of all pairs of scans say together: image metrics, head outlines, ages, and the model against its baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.growth_measure import FIT
from common.metrics.head_circumference import circumference_agreement
from common.metrics.head_size_age import age_agreement
from common.metrics.image_similarity import METRICS
from common.metrics.statistics import RESAMPLES, describe, holm, paired_wilcoxon

IMAGE_METRICS = (*METRICS, "psnr_brain_db", "ssim_brain", "mae_brain")

ESTIMATES = {"age_estimate_weeks": "image", "age_from_brain_size_weeks": "brain size", "age_from_outline_weeks": "outline"}
"""Column of an estimated age -> what it was estimated from."""

Rows = Sequence[Mapping[str, Any]]


def subject_interval(values: Sequence[float], subjects: Sequence[str], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over pairs, subjects drawn with replacement, since both pairs of a child are alike.

    Args:
        values: one number per pair; NaN is left out.
        subjects: the child of each pair.
        level: coverage, in (0, 1).
        seed: of the resampling.

    Returns:
        Lower and upper end; NaN for fewer than 2 subjects.
    """
    by_subject: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        if not math.isnan(value):
            by_subject.setdefault(subject, []).append(value)
    if len(by_subject) < 2:
        return math.nan, math.nan
    sums, counts = np.array([(sum(own), len(own)) for own in by_subject.values()]).T
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def image_summary(rows: Rows) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and SD over the pairs, and the interval over subjects: method -> metric -> ``{n, left_out, mean, sd, low, high}``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method, own in by_method(rows).items():
        names = [*IMAGE_METRICS, *(f"reconstruction_{name}" for name in METRICS), *FIT]
        for name in [name for name in names if name in own[0]]:
            values = [float(row[name]) for row in own]
            with np.errstate(invalid="ignore"):  # equal images have an infinite PSNR, whose SD is NaN
                low, high = subject_interval(values, [row["subject"] for row in own])
                found.setdefault(method, {})[name] = describe(values) | {"low": low, "high": high}
    return found


def outline_of(row: Mapping[str, Any]) -> str:
    """Beginning of the columns of a row's outline: ``circumference`` in 3D, ``slice_perimeter`` in 2D."""
    return "circumference" if "circumference_cm" in row else "slice_perimeter"


def outline_summary(rows: Rows) -> list[dict[str, Any]]:
    """Agreement of the heads' outlines by method and reference: the table's circumference (3D) and the real scan measured likewise."""
    table = []
    name = outline_of(rows[0])
    for method, own in by_method(rows).items():
        for reference in ("table", "scan"):
            if f"{name}_{reference}_cm" in own[0]:
                values = ([float(row[key]) for row in own] for key in (f"{name}_cm", f"{name}_{reference}_cm", "target_age_weeks"))
                table.append({"method": method, "measure": name, "reference": reference, **circumference_agreement(*values)})
    return table


def input_scans(rows: Rows) -> list[Mapping[str, Any]]:
    """The model's rows, one per input scan: a child of three scans has each of them twice."""
    return list({row["input"]: row for row in rows if row["method"] == rows[0]["method"]}.values())


def age_summary(rows: Rows) -> list[dict[str, Any]]:
    """Error of the ages of the input scans, each scan once, by what they were estimated from; empty where none was estimated."""
    scans = input_scans(rows)
    true = [float(row["input_age_weeks"]) for row in scans]
    found = {name: [float(row.get(key, math.nan)) for row in scans] for key, name in ESTIMATES.items() if any(key in row for row in scans)}
    return [{"estimate": name, **age_agreement(values, true)} for name, values in found.items()]


def compare_methods(rows: Rows) -> list[dict[str, Any]]:
    """The model minus each baseline: paired Wilcoxon tests over subjects (their pairs averaged), p corrected by Holm over all rows."""
    methods = by_method(rows)
    first, *others = methods
    tests: list[dict[str, Any]] = []
    for other in others:
        for name in METRICS:
            values = [_subject_means(methods[method], name) for method in (first, other)]
            subjects = list(values[0])
            test = paired_wilcoxon(*([own[subject] for subject in subjects] for own in values))
            tests.append({"method": first, "minus": other, "metric": name, **test})
    corrected = holm([test["p"] for test in tests])
    return [test | {"p_holm": p} for test, p in zip(tests, corrected, strict=True)]


def summarise_growth(rows: Rows) -> dict[str, Any]:
    """All that the rows of all pairs say together, for ``summary.json``; the first row's method is the model."""
    return {
        "pairs": len({row["id"] for row in rows}),
        "subjects": len({row["subject"] for row in rows}),
        "method": rows[0]["method"],
        "images": image_summary(rows),
        "outlines": outline_summary(rows),
        "ages": age_summary(rows),
        "comparisons": compare_methods(rows),
    }


def growth_text(found: Mapping[str, Any]) -> str:
    """The summary as aligned lines: image metrics and outline by method, then ages."""
    lines = [f"{'method':<14}{'PSNR dB':>15}{'SSIM':>16}{'MAE':>18}{'outline SD cm':>14}{'r':>8}{'slope (truth)':>16}"]
    outlines = {row["method"]: headline_outline(found, row["method"]) for row in found["outlines"]}
    for method, metrics in found["images"].items():
        cells = [f"{metrics[name]['mean']:.{d}f} ± {metrics[name]['sd']:.{d}f}" for name, d in zip(METRICS, (2, 3, 4), strict=True)]
        o = outlines[method]
        slopes = f"{o['slope_cm_per_week']:.2f} ({o['true_slope_cm_per_week']:.2f})"
        lines.append(f"{method:<14}{cells[0]:>15}{cells[1]:>16}{cells[2]:>18}{o['sigma_cm']:>14.3f}{o['r']:>8.3f}{slopes:>16}")
    lines += [f"age by {row['estimate']}: MAE {row['mae_weeks']:.2f} weeks, r {row['r']:.3f}, n {row['n']}" for row in found["ages"]]
    return "\n".join(lines)


def headline_outline(found: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A method's agreement with the table's circumferences; in 2D, or where the table has none, with the real scans."""
    own: list[dict[str, Any]] = [row for row in found["outlines"] if row["method"] == method]
    return next((row for row in own if row["n"]), own[-1])


def by_method(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of each method, in order of first appearance."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def _subject_means(rows: Rows, name: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["subject"], []).append(float(row[name]))
    return {subject: float(np.mean(own)) for subject, own in values.items()}
