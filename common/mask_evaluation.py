"""Measure an ensemble of masks on labelled cases, by its size, with its calibration; ``common.evaluation`` measures one probability map."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.engines import Evaluator

from common.anomaly_evaluation import read_resources
from common.atomic import write_csv, write_json
from common.charts import reliability_figure
from common.evaluation import as_table, made_by_simulation, trained_on_note
from common.handlers.epoch_log import read_log
from common.kept_cases import measure_cases
from common.mask_charts import lines_figure
from common.mask_measure import REGIONS, MaskMeasure
from common.mask_pictures import draw_ensemble, keep_ensemble
from common.metrics.calibration import pool_reliability
from common.metrics.case_metrics import summarise
from common.metrics.ensemble_calibration import pool_variance, variance_calibration_error
from common.metrics.statistics import describe
from common.report import write_report
from common.run_record import running_config

logger = logging.getLogger("brain_bundles")

COLUMNS = (
    "dice", "hd95_mm", "nsd_2mm", "detection_f1", "volume_error_ml", "components", "isolated_components", "mean_ece", "variance_ece",
    "variance_auroc",
)  # fmt: skip
"""Metrics that are printed and stand in the report's first table, with those of further regions; metrics.csv holds all."""


def ensemble_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and SD over the cases for each size of the ensemble.

    Args:
        rows: of ``MaskMeasure.by_size``.

    Returns:
        One row per size: ``samples``, ``cases``, ``dice``, ``dice_sd``, ``hd95_mm``, ``hd95_sd_mm``, ``isolated_components``,
        ``empty_predictions`` (a count).
    """
    table = []
    for size in sorted({int(row["samples"]) for row in rows}):
        own = [row for row in rows if row["samples"] == size]
        found = {key: describe(float(row[key]) for row in own) for key in ("dice", "hd95_mm", "isolated_components")}
        table.append(
            {
                "samples": size,
                "cases": len(own),
                "dice": found["dice"]["mean"],
                "dice_sd": found["dice"]["sd"],
                "hd95_mm": found["hd95_mm"]["mean"],
                "hd95_sd_mm": found["hd95_mm"]["sd"],
                "isolated_components": found["isolated_components"]["mean"],
                "empty_predictions": int(sum(row["empty_prediction"] for row in own)),
            }
        )
    return table


def calibration_tables(measure: MaskMeasure) -> dict[str, list[dict[str, Any]]]:
    """Pooled tables, a row per bin: ``mean`` (reliability of the mean) and ``variance`` (observed and expected error rate)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, tables, pool in (("mean", measure.reliability, pool_reliability), ("variance", measure.variances, pool_variance)):
        if tables:
            bins: Mapping[str, Any] = pool(tables)
            found[name] = [{key: float(v) for key, v in zip(bins, values, strict=True)} for values in zip(*bins.values(), strict=True)]
    return found


def evaluate_masks(
    evaluator: Evaluator,
    output_dir: str,
    title: str,
    inputs: Sequence[str],
    classes: Sequence[int] | None = None,
    sizes: Sequence[int] = (1, 3, 5, 7, 15),
    hd95: str = "union",
    min_component: int = 10,
    shown: Sequence[str] = ("t1ce", "flair"),
    facts: Mapping[str, Any] | None = None,
    data_note: str = "",
    notes: Sequence[str] = (),
    ckpt_dir: str | None = None,
    training_log: str | None = None,
    resources: Mapping[str, Any] | str | None = None,
) -> list[dict[str, Any]]:
    """Measure every case of an evaluator; writes ``metrics.csv``, ``ensemble.csv``, ``summary.json`` and ``report.html``.

    Args:
        evaluator: postprocessing leaves ``pred``, ``mean``, ``variance`` and perhaps ``samples`` on the grid of ``label``.
        output_dir: folder of results.
        title: of the report.
        inputs: names of the image channels.
        classes: see ``MaskMeasure``.
        sizes: of the ensemble; those above the number of samples are left out.
        hd95: definition, see ``common.metrics.hausdorff_union.hd95_mm``.
        min_component: a component of fewer voxels is counted as isolated.
        shown: inputs in the pictures.
        facts: what the run was, such as steps and samples; into ``summary.json``.
        data_note: what data it was.
        notes: what was not verified.
        ckpt_dir: folder of the weights, whose record tells which cases they were trained on; None where nothing was trained.
        training_log: ``training.csv`` for the loss curves.
        resources: cost of the training, or its JSON file.

    Returns:
        Rows (metric, mean, sd, interval, n) of the summary.
    """
    loader: Any = evaluator.data_loader
    cases = loader.dataset.data
    simulated = made_by_simulation(cases)
    measure = MaskMeasure(classes, sizes, hd95, min_component)
    drawn = [name for name in shown if name in inputs]
    keep, draw = partial(keep_ensemble, inputs=inputs, shown=drawn), partial(draw_ensemble, shown=drawn)
    rows, figures = measure_cases(evaluator, measure, Path(output_dir) / "metrics.csv", keep, draw)
    if measure.by_size:
        write_csv(Path(output_dir) / "ensemble.csv", measure.by_size)
    found = {"title": title, "simulated": simulated, **_found(rows, measure), "facts": dict(facts or {})}
    found["resources"] = read_resources(resources)
    write_json(Path(output_dir) / "summary.json", found)
    names = [name for name in found["metrics"] if name in COLUMNS or name.split("_")[0] in REGIONS]
    table = [{"metric": name, **found["metrics"][name]} for name in names]
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{len(rows)} cases. {data_note}",
        summary=table,
        rows=rows,
        curves=read_log(training_log) if training_log else [],
        figures=figures + _charts(found),
        notes=[*trained_on_note(cases, ckpt_dir), *notes, *_empty_note(found)],
        config=running_config(),
        tables=_report_tables(found),
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d cases (%d in the data set):\n%s", banner, title, len(rows), len(cases), as_table(table))
    logger.info("Report: %s", path.resolve())
    return table


def _found(rows: Sequence[Mapping[str, Any]], measure: MaskMeasure) -> dict[str, Any]:
    """All that was measured, for ``summary.json``."""
    found = summarise(rows)
    found.pop("dice_by_stratum")  # the strata are those of another disease
    found |= {f"empty_{what}s": int(sum(row[f"empty_{what}"] for row in rows)) for what in ("prediction", "truth")}
    found |= {"ensemble": ensemble_rows(measure.by_size), "calibration": calibration_tables(measure)}
    if measure.variances:
        found["variance_calibration_error"] = variance_calibration_error(pool_variance(measure.variances))
    return found


def _empty_note(found: Mapping[str, Any]) -> list[str]:
    count = found["empty_predictions"]
    return [f"{count} of {found['cases']} predictions are empty: Dice 0, HD95 the diagonal of the volume."] if count else []


def _charts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures over the size of the ensemble and of the mean's reliability, where there are numbers for them."""
    figures = []
    if len(found["ensemble"]) > 1:
        points = [{"label": found["title"], "x": row["samples"], **row} for row in found["ensemble"]]
        png = lines_figure(points, "samples", {"dice": "Dice", "hd95_mm": "HD95 (mm)"})
        figures.append({"caption": "Dice and HD95 (mm) over the size of the ensemble.", "png": png})
    if "mean" in found["calibration"]:
        figures.append({"caption": "Reliability of the ensemble's mean.", "png": reliability_figure(found["calibration"]["mean"])})
    return figures


def _report_tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = []
    if found["ensemble"]:
        note = "The first n samples of each case; mean and SD over the cases."
        tables.append({"heading": "By size of the ensemble", "rows": found["ensemble"], "note": note})
    if "variance" in found["calibration"]:
        note = "Error rate of the mask where the variance lies in a bin, and what it would be if the samples were calibrated."
        tables.append({"heading": "Is the variance calibrated?", "rows": found["calibration"]["variance"], "note": note})
    if found["resources"]:
        tables.append({"heading": "What the training cost", "rows": [found["resources"]]})
    return tables
