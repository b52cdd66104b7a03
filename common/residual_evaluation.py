"""Measure anomaly maps of restored volumes on healthy subjects and patients; ``common.anomaly_evaluation`` is for head CT."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Evaluator

from common.anomaly_charts import roc_figure
from common.anomaly_evaluation import read_resources
from common.atomic import write_csv, write_json
from common.evaluation import made_by_simulation, trained_on_note
from common.handlers.epoch_log import read_log
from common.inference import CaseRows, run_cases
from common.inferers.residual_map import ResidualMap
from common.metrics.pixel_anomaly import QUANTILES
from common.metrics.roc import roc_curve
from common.metrics.score_bias import score_bias
from common.report import pick_cases, write_report
from common.residual_measure import AGGREGATES, ResidualMeasure, auroc_rows, pixel_rows
from common.residual_pictures import bias_figure, residual_figure
from common.run_record import running_config

logger = logging.getLogger("brain_bundles")

NOTES = (
    "A residual shows where a scan is unlike the training scans; it does not say what is there.",
    "Oracle Dice takes the threshold that the truth prefers: an upper bound. Dice at a healthy quantile needs healthy volumes alone; the "
    "best of several quantiles is again chosen on the patients.",
    "The rule of intensity sees no other subject: a model that does not beat it has learned nothing useful for these lesions.",
    "An AUPRC is read against the prevalence, which is what chance scores.",
)


def evaluate_residuals(
    evaluator: Evaluator,
    output_dir: str,
    title: str,
    residual: ResidualMap | None = None,
    rule: str | None = "both",
    aggregates: Sequence[str] = AGGREGATES,
    quantiles: Sequence[float] = QUANTILES,
    facts: Mapping[str, Any] | None = None,
    data_note: str = "",
    notes: Sequence[str] = (),
    ckpt_dir: str | None = None,
    training_log: str | None = None,
    resources: Mapping[str, Any] | str | None = None,
) -> list[dict[str, Any]]:
    """Measure the maps of all volumes; writes ``metrics.csv``, ``slices.csv``, ``patients.csv``, ``summary.json`` and ``report.html``.

    A volume whose ``label`` has a voxel is a patient's, and one of a case with ``healthy`` false; all others count as healthy.

    Args:
        evaluator: its batches hold one volume ``image`` ``(1, 1, P, S, N)``, perhaps ``brain``, ``label`` and ``slices``; its inferer is a
            ``SliceRestorationInferer``, its postprocessing ends in ``ResidualMapd``.
        output_dir: folder of results.
        title: of the report.
        residual: the one that ``ResidualMapd`` has; None for the defaults.
        rule: of intensity, measured beside: ``both``, ``bright``, ``dark``; None leaves it out.
        aggregates: scores of volumes and slices; the first is what the figures are about.
        quantiles: shares of healthy voxels, for thresholds.
        facts: what the run was; into ``summary.json``.
        data_note: what data it was.
        notes: what was not verified.
        ckpt_dir: folder of the weights, whose record tells which cases they were trained on.
        training_log: ``training.csv`` for the loss curves.
        resources: cost of the training, or its JSON file.

    Returns:
        Rows of :func:`common.residual_measure.pixel_rows`.

    Raises:
        UserError: an output without a map, or cases that failed, named after the others are done.
    """
    cases: Any = [dict(case) for case in evaluator.data_loader.dataset.data]  # type: ignore[union-attr]
    simulated = made_by_simulation(cases)
    used = residual or ResidualMap()
    measure = ResidualMeasure(cases, used, rule, aggregates)
    rows = CaseRows(measure, str(Path(output_dir) / "metrics.csv"))
    with evaluator.add_event_handler(Events.ITERATION_COMPLETED, rows.add):
        run_cases(evaluator)
    healthy = [row for row in rows.rows if not row["patient"]]
    pixels, patients = pixel_rows(measure, quantiles)
    scores = [f"{name}_{part}" for name in measure.maps for part in measure.aggregates]
    found: dict[str, Any] = {"title": title, "simulated": simulated, "cases": len(rows.rows), "healthy": len(healthy)}
    found |= {"patients": len(rows.rows) - len(healthy), "residual": vars(used), "facts": dict(facts or {}), "pixels": pixels}
    found |= {"auroc": auroc_rows(rows.rows, measure), "bias": score_bias(healthy, scores) if healthy else []}
    found["resources"] = read_resources(resources)
    write_json(Path(output_dir) / "summary.json", found)
    for name, table in (("slices", measure.slice_rows), ("patients", patients)):
        if table:
            write_csv(Path(output_dir) / f"{name}.csv", table, digits=6)
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{len(healthy)} healthy volumes, {found['patients']} of patients. {data_note}".strip(),
        summary=pixels,
        rows=rows.rows,
        curves=read_log(training_log) if training_log else [],
        figures=[*_pictures(rows.rows, patients, measure, simulated), *_charts(rows.rows, found["auroc"], measure, healthy)],
        notes=[*trained_on_note(cases, ckpt_dir), *notes, *NOTES],
        config=running_config(),
        tables=_tables(found),
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d healthy volumes, %d of patients:\n%s", banner, title, len(healthy), found["patients"], as_table(found))
    logger.info("Report: %s", path.resolve())
    return pixels


def as_table(found: Mapping[str, Any]) -> str:
    """What was found as aligned text: voxels by map, AUROCs of volumes and slices, and what the score depends on."""
    lines = [f"{'map':<18}{'voxels':<13}{'AUROC':>7}{'AUPRC':>8}{'chance':>8}{'oracle Dice':>13}{'Dice q99':>10}"]
    for row in found["pixels"]:
        dice = row.get("dice_q99", math.nan)
        cells = f"{row['auroc']:>7.3f}{row['auprc']:>8.3f}{row['prevalence']:>8.4f}{row['oracle_dice']:>13.3f}{dice:>10.3f}"
        lines.append(f"{row['map']:<18}{row['voxels']:<13}{cells}")
    for row in found["auroc"]:
        if not row["reason"]:
            lines.append("{level} AUROC, {map} {score}: {auroc:.3f} [{low:.3f}, {high:.3f}]".format(**row))
    for row in found["bias"]:
        if not math.isnan(row["p_holm"]) and row["p_holm"] < 0.05:
            lines.append("Healthy {score} depends on {fact}: {test} effect {effect:.2f}, Holm p {p_holm:.2g}".format(**row))
    return "\n".join(lines)


def _tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables of the report behind the first one; those without rows are left out."""
    areas = [
        {key: row[key] for key in ("level", "map", "score", "auroc", "low", "high", "positives", "negatives")} for row in found["auroc"]
    ]
    order = ("score", "fact", "test", "n", "effect", "low", "high", "p", "p_holm", "medians")
    bias = [{key: row.get(key) for key in order} for row in found["bias"]]
    listed = [
        ("Volumes and slices with a lesion", areas, "AUROC with its 95 % interval, patients drawn whole."),
        (
            "Does the score of healthy subjects depend on age, sex or site?",
            bias,
            "Effect: Spearman's rho; chance to score higher; epsilon².",
        ),
        ("What the training cost", [found["resources"]] if found["resources"] else [], ""),
    ]
    return [{"heading": heading, "rows": rows, "note": note} for heading, rows, note in listed if rows]


def _pictures(
    rows: Sequence[Mapping[str, Any]], patients: Sequence[Mapping[str, Any]], measure: ResidualMeasure, simulated: bool
) -> list[dict[str, Any]]:
    """Best, median and worst patient by the residual's AUPRC, then the healthy volume with the highest score (false alarm first)."""
    own = [row for row in patients if row["map"] == "residual"]
    area = {row["id"]: row["auprc"] for row in own}
    picked = {f"{role}: {case}, slice {measure.number[case]}": case for role, case in pick_cases(own, "auprc").items()}
    healthy = [row for row in rows if not row["patient"]]
    score = f"residual_{measure.aggregates[0]}"
    alarm = pick_cases(healthy, score).get("best")
    if alarm is not None:
        picked[f"healthy, highest {measure.aggregates[0]}: {alarm}, slice {measure.number[alarm]}"] = alarm
    if not picked:
        return []
    told = ", ".join(f"{case} {area[case]:.3f}" for case in picked.values() if case in area)
    planes = {label.replace(": ", "\n").replace(", slice", "\nslice"): measure.planes[case] for label, case in picked.items()}
    title = "SIMULATED, not patients" if simulated else "Anomaly maps"
    caption = f"Slices with the most lesion (AUPRC of the volume: {told or 'no patient'}) and of the healthy volume with the highest score."
    return [{"caption": caption, "png": residual_figure(planes, title)}]


def _charts(
    rows: Sequence[Mapping[str, Any]], areas: Sequence[Mapping[str, Any]], measure: ResidualMeasure, healthy: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """ROC of volumes and slices by the first score, and that score of the healthy by age, sex and site."""
    figures, part, curves = [], measure.aggregates[0], []
    for row in areas:
        if row["score"] == part and not row["reason"]:
            held, truth = (rows, "patient") if row["level"] == "volume" else (measure.slice_rows, "lesion_voxels")
            curve = roc_curve([float(r[f"{row['map']}_{part}"]) for r in held], [int(r[truth] > 0) for r in held])
            curves.append({**row, **curve, "panel": f"{row['level']}s with a lesion", "label": row["map"].replace("_", ", ")})
    if curves:
        figures.append({"caption": f"ROC curves, score {part}.", "png": roc_figure(curves)})
    if any(row.get(fact) is not None for row in healthy for fact in ("age", "sex", "site")):
        caption = f"Healthy subjects: {part} of the residual by age, sex and site."
        figures.append({"caption": caption, "png": bias_figure(healthy, f"residual_{part}")})
    return figures
