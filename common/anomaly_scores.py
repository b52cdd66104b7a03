"""From an anomaly map to numbers: scores by structure, what they say of each finding, and a row for a case whose truth nobody knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.anomaly_figures import brightest_voxel
from common.errors import UserError
from common.handlers.case_pictures import volume
from common.metrics.roc import bootstrap_auroc, compare_auroc, roc_curve, structure_score
from common.networks.head_ct_model import MAPS
from common.transforms.head_masks import STRUCTURES

FINDING_OF = {"left": "bleed_left", "right": "bleed_right", "skull": "fracture"}
"""Structure -> the finding that makes it abnormal."""

TASKS: dict[str, tuple[str, ...]] = {
    "ICH, both hemispheres": ("left", "right"),
    "ICH, left hemisphere": ("left",),
    "ICH, right hemisphere": ("right",),
    "fracture, skull": ("skull",),
}
"""Task -> the structures whose scores it pools: of both hemispheres each case gives two."""

PAPER = {"ICH, both hemispheres": 0.81, "fracture, skull": 0.79}
"""AUROC of the paper on CQ500 (figure 6), by task."""

AGGREGATES = ("max", "p99.5", "mean")
"""Scores that are always measured; see :func:`common.metrics.roc.structure_score`."""

Row = Mapping[str, Any]


def known_findings(case: Mapping[str, Any]) -> dict[str, int]:
    """Findings of a case, 0 or 1 each; all 0 for one that is only said to be ``healthy``, empty where nothing is known."""
    if "findings" in case:
        return {finding: int(value) for finding, value in case["findings"].items() if value is not None}
    return dict.fromkeys(FINDING_OF.values(), 0) if case.get("healthy") is True else {}


def is_healthy(findings: Mapping[str, Any]) -> bool:
    """Whether a case, by its findings or its row, is known to have no finding at all."""
    return all(findings.get(finding) == 0 for finding in FINDING_OF.values())


def score_key(map_name: str, aggregate: str, structure: str) -> str:
    """Column of a score, such as ``error_max_left``."""
    return f"{map_name}_{aggregate}_{structure}"


def score_case(item: Mapping[str, Any], result: Mapping[str, Any], maps: Sequence[str], aggregates: Sequence[str] = AGGREGATES) -> Row:
    """Scores of a case by map, aggregate and structure.

    Args:
        item: holds ``structures``, label map ``(1, n, n, n)``.
        result: holds the maps, ``(1, n, n, n)`` each.
        maps: names of the maps.
        aggregates: see :func:`common.metrics.roc.structure_score`.

    Returns:
        Column of :func:`score_key` -> score in the unit of the map, NaN for a structure without voxels.

    Raises:
        UserError: a map that is not there, or not on the grid of the structures.
    """
    labels, row = volume(item["structures"]), dict[str, float]()
    for name in maps:
        if name not in result:
            have = ", ".join(sorted(str(key) for key in result))
            raise UserError(f"maps: there is no map {name!r} in the output, which holds {have}. Name the maps that the config makes.")
        values = volume(result[name])
        for structure, label in STRUCTURES.items():
            mask = labels == label
            row |= {score_key(name, aggregate, structure): structure_score(values, mask, aggregate) for aggregate in aggregates}
    return row


def task_scores(rows: Sequence[Row], task: str, map_name: str, aggregate: str) -> tuple[list[float], list[int], list[str]]:
    """Scores of a task with their truth and the case of each; structures whose finding is unknown are left out.

    A volume with a fracture alone is a negative of both hemispheres, and one with bleeding alone a negative of the skull.

    Args:
        rows: one per case, with ``id``, findings (0, 1 or None) and scores.
        task: one of `TASKS`.
        map_name: name of the map.
        aggregate: one of the aggregates that were measured.
    """
    found = [
        (float(row[score_key(map_name, aggregate, structure)]), int(row[FINDING_OF[structure]]), str(row["id"]))
        for row in rows
        for structure in TASKS[task]
        if row.get(FINDING_OF[structure]) is not None
    ]
    return [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]


def auroc_rows(rows: Sequence[Row], maps: Sequence[str], aggregates: Sequence[str]) -> list[dict[str, Any]]:
    """AUROC with its 95 % interval, resampled by case, for each map, aggregate and task.

    Args:
        rows: as for :func:`task_scores`.
        maps: names of the maps.
        aggregates: aggregates that were measured.

    Returns:
        Dicts with ``task``, ``map``, ``score``, ``auroc``, ``low``, ``high``, ``positives``, ``negatives``, ``cases``, ``left_out``,
        ``reason`` (why there is no area, else empty), and ``paper_CQ500`` (number of the paper, at the
        first map and aggregate; else NaN).
    """
    table = []
    for map_name in maps:
        for aggregate in aggregates:
            for task in TASKS:
                row: dict[str, Any] = {"task": task, "map": map_name, "score": aggregate}
                row |= bootstrap_auroc(*task_scores(rows, task, map_name, aggregate))
                first = (map_name, aggregate) == (maps[0], aggregates[0])
                table.append(row | {"paper_CQ500": PAPER.get(task, math.nan) if first else math.nan})
    return table


def difference_rows(rows: Sequence[Row], maps: Sequence[str], aggregates: Sequence[str]) -> list[dict[str, Any]]:
    """Other maps and aggregates against the first of each, on the same cases: difference of AUROC with its 95 % interval.

    Args:
        rows: as for :func:`task_scores`.
        maps: names of the maps; the first one is what the others are compared with.
        aggregates: likewise.
    """
    pairs = [(name, aggregate) for name in maps for aggregate in aggregates]
    table = []
    for task in PAPER:
        base, truth, cases = task_scores(rows, task, *pairs[0])
        for name, aggregate in pairs[1:]:
            difference = compare_auroc(task_scores(rows, task, name, aggregate)[0], base, truth, cases)
            table.append({"task": task, "map": name, "score": aggregate, "minus": " ".join(pairs[0]), **difference})
    return table


def curve_rows(rows: Sequence[Row], maps: Sequence[str], aggregates: Sequence[str]) -> list[dict[str, Any]]:
    """Points of all ROC curves: ``task``, ``map``, ``score``, ``threshold``, ``false_positive_rate``, ``true_positive_rate``."""
    table = []
    for name, aggregate, task in ((n, a, t) for n in maps for a in aggregates for t in TASKS):
        scores, truth, _ = task_scores(rows, task, name, aggregate)
        curve = roc_curve(scores, truth)
        for point in zip(*curve.values(), strict=True):
            table.append({"task": task, "map": name, "score": aggregate, **{k: float(v) for k, v in zip(curve, point, strict=True)}})
    return table


def describe_anomaly(
    item: Mapping[str, Any], result: Mapping[str, Any], healthy: NDArray[Any] | None = None, *, in_mm: bool = True
) -> dict[str, Any]:
    """Row of an inference: how large the map is in each structure, where, and how many healthy heads stay below that.

    Args:
        item: holds ``structures``, label map ``(1, n, n, n)`` whose affine leads to the source's world, perhaps ``registered`` (bool, also
            looked for in its ``meta``).
        result: holds ``error``, ``(1, n, n, n)``, perhaps ``zmap``.
        healthy: quantiles 0, 1, ..., 100 % of the largest value in healthy validation heads, ``(maps, structures, 101)`` in the order of
            `MAPS` and ``STRUCTURES``; None, or all 0 for a map, where it was not calibrated.
        in_mm: the error is one of position in units of the cube's side, and is given in mm: times (n - 1) times the spacing. False for
            reconstruction errors.

    Returns:
        ``registered`` (bool, None where unknown); per structure ``<structure>_max`` and ``<structure>_p99.5`` of the error (``_mm`` behind
        it where ``in_mm``), ``<structure>_at_ras_mm`` (x y z of the maximum in the world of the source file, mm), and
        ``<structure>_healthy_percentile`` (share of healthy heads below its maximum, 0 to 100); with a ``zmap`` also
        ``<structure>_z_max`` and ``<structure>_z_healthy_percentile``. NaN and empty text for a structure without voxels.
    """
    structures = item["structures"]
    labels, affine = volume(structures), np.asarray(structures.affine.cpu(), dtype=np.float64)
    spacing = float(np.linalg.norm(affine[:3, 0]))
    meta = getattr(structures, "meta", {})
    row: dict[str, Any] = {"registered": item.get("registered", meta.get("registered"))}
    scale, unit = ((labels.shape[0] - 1) * spacing, "_mm") if in_mm else (1.0, "")
    for place, (structure, label) in enumerate(STRUCTURES.items()):
        mask = labels == label
        for index, name in enumerate(MAPS):
            if name not in result:
                continue
            values, prefix = volume(result[name]), structure if name == "error" else f"{structure}_z"
            largest = structure_score(values, mask)
            if name == "error":
                row[f"{prefix}_max{unit}"] = largest * scale
                row[f"{prefix}_p99.5{unit}"] = structure_score(values, mask, "p99.5") * scale
                row[f"{prefix}_at_ras_mm"] = _world(affine, brightest_voxel(values, mask)) if mask.any() else ""
            else:
                row[f"{prefix}_max"] = largest
            if healthy is not None and np.any(healthy[index]):
                row[f"{prefix}_healthy_percentile"] = healthy_percentile(largest, np.asarray(healthy)[index, place])
    return row


def healthy_percentile(score: float, quantiles: NDArray[Any]) -> float:
    """Share of healthy heads below a score, in percent, interpolated between their quantiles.

    Args:
        score: largest value of a map in a structure.
        quantiles: 0, 1, ..., 100 % of that score in healthy heads, ``(101,)``, not falling.

    Returns:
        0 to 100; 100 above all healthy heads; NaN where the score or the quantiles are.
    """
    if math.isnan(score) or np.isnan(quantiles).any():
        return math.nan
    return float(np.interp(score, quantiles, np.linspace(0, 100, len(quantiles))))


def _world(affine: NDArray[np.float64], voxel: Sequence[int]) -> str:
    """World coordinates of a voxel, mm, as ``x y z``."""
    return " ".join(f"{value:.1f}" for value in (affine @ [*voxel, 1.0])[:3])
