"""Measure a network on labelled cases: a row per case, a summary, figures and one report page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Evaluator
from monai.utils import ensure_tuple

from common.atomic import write_text
from common.charts import load_figure, reliability_figure
from common.data.dataset import is_simulated
from common.data.splits import fingerprints
from common.handlers.case_pictures import case_picture, volume
from common.handlers.epoch_log import read_log
from common.inference import CaseRows, run_case, run_cases
from common.metrics.calibration import pool_reliability, reliability_table
from common.metrics.case_metrics import measure_case, summarise
from common.report import pick_cases, write_report
from common.run_record import running_config
from common.transforms.load_case import LoadCased
from common.weights import read_record

logger = logging.getLogger("brain_bundles")

COLUMNS = ("dice", "masd_mm", "nsd_2mm", "hd95_mm", "detection_f1", "volume_error_ml", "ece")
"""Metrics that are printed and stand in the report's first table; metrics.csv holds all."""


class CaseMeasure:
    """From a case and its prediction to one row of metrics, on the grid of the truth; keeps the reliability tables."""

    def __init__(self) -> None:
        self.tables: list[Any] = []

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of :func:`common.metrics.case_metrics.measure_case`, probability taken as mean over the members."""
        truth, brain = volume(item["label"]) > 0, volume(item["brain"]) > 0
        probability = volume(result["probability"]).clip(0, 1)
        spacing = [float(s) for s in item["label"].pixdim[:3]]
        self.tables.append(reliability_table(probability, truth, brain))
        return measure_case(truth, volume(result["pred"]), brain, spacing, probability)


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows (metric, mean, sd, low, high, n, left_out) of a summary: the printed metrics, then Dice by lesion load."""
    rows = [{"metric": name, **summary["metrics"][name]} for name in COLUMNS if name in summary["metrics"]]
    return rows + [{"metric": f"dice, lesion load {stratum}", **values} for stratum, values in summary["dice_by_stratum"].items()]


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Summary rows as aligned text."""
    lines = [f"{'metric':<28}{'mean':>9}{'sd':>9}{'95 % interval':>20}{'n':>5}"]
    for row in rows:
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if row["n"] else "-"
        mean, sd = (f"{row['mean']:.3f}", f"{row['sd']:.3f}") if row["n"] else ("-", "-")
        lines.append(f"{row['metric']:<28}{mean:>9}{sd:>9}{interval:>20}{row['n']:>5}")
    return "\n".join(lines)


def made_by_simulation(cases: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any case comes from a simulated cohort, see :func:`common.data.cases.is_simulated`."""
    return any(is_simulated(folder) for folder in {Path(ensure_tuple(case["image"])[0]).parent for case in cases})


def trained_on_note(cases: Sequence[Mapping[str, Any]], ckpt_dir: str | None) -> list[str]:
    """A note, also logged as a warning, when cases that are measured were trained on; empty when none was.

    Args:
        cases: the cases that are measured.
        ckpt_dir: folder of the weights; None where nothing was trained.
    """
    trained_on = set(read_record(ckpt_dir).get("trained_on", [])) if ckpt_dir is not None else set()
    seen = sum(mark in trained_on for mark in fingerprints(cases)) if trained_on else 0
    if not seen:
        return []
    note = f"{seen} of {len(cases)} cases were trained on: the numbers are too good. Give the seed (and folds, fold) of the training."
    logger.warning("%s", note)
    return [note]


def draw_case(evaluator: Evaluator, index: int, inputs: Sequence[str], title: str) -> bytes:
    """Picture of a case on its own grid: inputs, truth, prediction, mean probability and vote share.

    Args:
        evaluator: as for :func:`evaluate`.
        index: place in the data set.
        inputs: names of the image channels.
        title: above the picture.

    Returns:
        PNG.
    """
    loader: Any = evaluator.data_loader
    case = LoadCased(keys=("image", "label"), channels=len(inputs))(dict(loader.dataset.data[index]))
    _, result = run_case(evaluator, index)
    return case_picture(case, result, inputs, title)


def report_figures(
    evaluator: Evaluator, rows: Sequence[Mapping[str, Any]], tables: Sequence[Any], inputs: Sequence[str]
) -> list[dict[str, Any]]:
    """Figures of a report: best, median and worst case, Dice against lesion load, reliability of the mean probability.

    Args:
        evaluator: as for :func:`evaluate`.
        rows: one per case of the evaluator's data set, in its order.
        tables: reliability table of each case.
        inputs: names of the image channels.

    Returns:
        Dicts with ``caption`` and ``png``.
    """
    ids, figures = [row["id"] for row in rows], []
    for role, case in pick_cases(rows).items():
        index = ids.index(case)
        caption = f"{role}: {case}, Dice {rows[index]['dice']:.3f}"
        figures.append({"caption": caption, "png": draw_case(evaluator, index, inputs, caption)})
    load, dice = ([float(row[key]) for row in rows] for key in ("lesion_load", "dice"))
    figures.append({"caption": "Dice against lesion load", "png": load_figure(load, dice)})
    bins = pool_reliability(tables)
    bin_rows = [dict(zip(bins, values, strict=True)) for values in zip(*bins.values(), strict=True)]
    figures.append({"caption": "Reliability of the mean probability", "png": reliability_figure(bin_rows)})
    return figures


def evaluate(
    evaluator: Evaluator,
    output_dir: str,
    title: str,
    inputs: Sequence[str],
    data_note: str = "",
    notes: Sequence[str] = (),
    ckpt_dir: str | None = None,
    training_log: str | None = None,
) -> list[dict[str, Any]]:
    """Measure every case of an evaluator; writes ``metrics.csv``, ``summary.json`` and ``report.html``, prints the summary.

    Args:
        evaluator: postprocessing leaves ``pred``, ``probability`` and ``vote_share`` on the grid of ``label``.
        output_dir: folder of results.
        title: of the report.
        inputs: names of the image channels, for the pictures.
        data_note: what data it was.
        notes: what was not verified.
        ckpt_dir: folder of the weights, whose record tells which cases they were trained on; None where nothing was trained.
        training_log: ``training.csv`` for the loss curves.

    Returns:
        Rows of the summary, see :func:`summary_rows`.
    """
    loader: Any = evaluator.data_loader
    simulated = made_by_simulation(loader.dataset.data)
    notes = [*trained_on_note(loader.dataset.data, ckpt_dir), *notes]
    measure = CaseMeasure()
    rows = CaseRows(measure, str(Path(output_dir) / "metrics.csv"))
    handle = evaluator.add_event_handler(Events.ITERATION_COMPLETED, rows.add)
    run_cases(evaluator)
    handle.remove()
    summary = summarise(rows.rows)
    write_text(Path(output_dir) / "summary.json", json.dumps({"title": title, "simulated": simulated, **summary}, indent=2) + "\n")
    table = summary_rows(summary)
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{len(rows.rows)} cases. {data_note}",
        summary=table,
        rows=rows.rows,
        curves=read_log(training_log) if training_log else [],
        figures=report_figures(evaluator, rows.rows, measure.tables, inputs),
        notes=notes,
        config=running_config(),
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d cases (%d in the data set):\n%s", banner, title, len(rows.rows), len(loader.dataset), as_table(table))
    logger.info("Report: %s", path.resolve())
    return table
