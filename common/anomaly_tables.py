"""Tables of an anomaly evaluation: a row per case with its lesions, then AUROCs, readers, composition and detection by lesion volume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.anomaly_scores import auroc_rows, difference_rows, is_healthy, known_findings, score_case, score_key
from common.handlers.case_pictures import volume
from common.inference import case_id
from common.metrics.agreement import FINDINGS, agreement_table, composition_table
from common.metrics.map_lesions import detection_by_volume, healthy_threshold, measure_lesions
from common.transforms.head_masks import STRUCTURES

FALSE_POSITIVE_RATE = 0.1
"""Share of healthy volumes that may exceed the threshold at which simulated lesions are looked for."""

SMALLEST_ML = 0.1
"""Smaller components of the simulated truth are crumbs of thin sheets (subdural, subarachnoid) that the cube's voxels cut."""

LESIONS = {"haemorrhage": (1, ("left", "right")), "fracture": (2, ("skull",))}
"""Kind of lesion -> its value in the truth, and the structures whose healthy maxima set its threshold."""


class AnomalyMeasure:
    """From a case and its maps to one row: findings and scores. Healthy cases come first, so that lesions are measured on the way.

    Args:
        cases: the cases, with ``id`` and perhaps ``findings``.
        maps: names of the maps that are measured; ``zmap`` is added where the output holds it.
        aggregates: scores that are measured.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], maps: Sequence[str], aggregates: Sequence[str]) -> None:
        self.cases, self.maps, self.aggregates = {str(case["id"]): case for case in cases}, list(maps), list(aggregates)
        self.healthy: list[Mapping[str, Any]] = []
        self.lesions: list[dict[str, Any]] = []

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of a case, behind its id."""
        name = case_id(item)
        findings = known_findings(self.cases.get(name, {}))
        if "zmap" in result and "zmap" not in self.maps:
            self.maps.append("zmap")
        scores = score_case(item, result, self.maps, self.aggregates)
        if is_healthy(findings):
            self.healthy.append(scores)
        if "truth" in item:
            self._measure_lesions(name, item, result)
        return {finding: findings.get(finding) for finding in FINDINGS} | dict(scores)

    def threshold(self, map_name: str, kind: str) -> float:
        """Value of a map that `FALSE_POSITIVE_RATE` of the healthy volumes so far exceed somewhere; NaN without any."""
        keys = [score_key(map_name, "max", structure) for structure in LESIONS[kind][1]]
        maxima = [max((v for v in (row[key] for key in keys) if not math.isnan(v)), default=math.nan) for row in self.healthy]
        return healthy_threshold(maxima, FALSE_POSITIVE_RATE)

    def _measure_lesions(self, name: str, item: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        truth, spacing = volume(item["truth"]), [float(edge) for edge in item["structures"].pixdim[:3]]
        for map_name in self.maps:
            for kind, (value, _) in LESIONS.items():
                threshold = self.threshold(map_name, kind)
                if not math.isnan(threshold):
                    rows = measure_lesions(volume(result[map_name]), truth == value, threshold, spacing, SMALLEST_ML)
                    self.lesions += [{"id": name, "map": map_name, "kind": kind, "threshold": threshold, **row} for row in rows]


def detection_rows(lesions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Detection by lesion volume for each kind of lesion and each map; empty where no truth was there."""
    groups = dict.fromkeys((lesion["kind"], lesion["map"]) for lesion in lesions)
    return [
        {"lesion": kind, "map": name, **row}
        for kind, name in groups
        for row in detection_by_volume([lesion for lesion in lesions if (lesion["kind"], lesion["map"]) == (kind, name)])
    ]


def measured_tables(rows: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]], measure: AnomalyMeasure) -> dict[str, Any]:
    """All tables of a run: AUROCs, their differences, tables 2 and 3 of the paper, detection by lesion volume with its thresholds."""
    kinds = {lesion["kind"] for lesion in measure.lesions}
    return {
        "auroc": auroc_rows(rows, measure.maps, measure.aggregates),
        "differences": difference_rows(rows, measure.maps, measure.aggregates),
        "composition": composition_table(cases),
        "agreement": agreement_table(cases),
        "detection": detection_rows(measure.lesions),
        "thresholds": [
            {"lesion": kind, "map": name, "threshold": measure.threshold(name, kind), "healthy_volumes": len(measure.healthy)}
            for kind in LESIONS
            for name in measure.maps
            if kind in kinds
        ],
    }


def report_tables(tables: Mapping[str, Any], head: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tables of the report behind the first one, with what their numbers mean; tables without rows are left out."""
    beside = [{k: v for k, v in shown_row(row).items() if k != "paper_CQ500"} for row in tables["auroc"] if row not in head]
    at = "; ".join(f"{t['lesion']}, {t['map']} > {t['threshold']:.4g}" for t in tables["thresholds"])
    healthy = max((t["healthy_volumes"] for t in tables["thresholds"]), default=0)
    share = (
        f"At most {100 * FALSE_POSITIVE_RATE:.0f} % of the {healthy} healthy volumes measured here exceed the threshold anywhere ({at})."
    )
    listed = [
        (
            "Other scores and maps",
            beside,
            "Same cases. To go on with the best line of this table would be to choose on the cases that are measured.",
        ),
        ("Differences of AUROC", tables["differences"], "Paired bootstrap over cases. Not corrected for the number of comparisons."),
        ("Composition (table 2 of the paper)", tables["composition"], "Cases by combination of findings."),
        (
            "Readers (table 3 of the paper)",
            tables["agreement"],
            "Fleiss' kappa; AUROC of each reader against the majority.",
        ),
        (
            "Detection by lesion volume",
            tables["detection"],
            f"Simulated lesions, connected voxels of the truth of at least {SMALLEST_ML} ml. {share} Sizes: medians.",
        ),
        ("Cost of the training", [tables["resources"]] if tables["resources"] else [], ""),
    ]
    return [{"heading": heading, "rows": rows, "note": note} for heading, rows, note in listed if rows]


def shown_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of AUROCs as the report shows it."""
    return {key: row[key] for key in ("task", "map", "score", "auroc", "low", "high", "positives", "negatives", "paper_CQ500")}


def report_row(row: Mapping[str, Any], maps: Sequence[str], aggregate: str) -> dict[str, Any]:
    """A case as the report lists it: its findings and the scores that the report is about; the file has all."""
    scores = [score_key(name, aggregate, structure) for name in maps for structure in STRUCTURES]
    return {key: row.get(key) for key in ("id", *FINDINGS, *scores)}


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of :func:`common.anomaly_scores.auroc_rows` as aligned text."""
    lines = [f"{'task':<24}{'map':<8}{'score':<8}{'AUROC':>7}{'95 % interval':>19}{'abnormal':>10}{'normal':>8}{'paper*':>8}"]
    for row in rows:
        area = f"{row['auroc']:.3f}" if not row["reason"] else "-"
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if not row["reason"] else "-"
        paper = f"{row['paper_CQ500']:.2f}" if not math.isnan(row["paper_CQ500"]) else ""
        counts = f"{row['positives']:>10}{row['negatives']:>8}"
        lines.append(f"{row['task']:<24}{row['map']:<8}{row['score']:<8}{area:>7}{interval:>19}{counts}{paper:>8}".rstrip())
    return "\n".join([*lines, "* the paper's own number, on CQ500: other data, other training."])
