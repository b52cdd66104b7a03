"""Measure anomaly maps on cases with findings: scores, AUROCs with intervals, the paper's tables, figures and one report page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Evaluator

from common.anomaly_pictures import case_figures, roc_of_rows
from common.anomaly_scores import AGGREGATES, curve_rows, is_healthy, known_findings
from common.anomaly_tables import AnomalyMeasure, as_table, measured_tables, report_row, report_tables, shown_row
from common.atomic import write_csv, write_json
from common.errors import UserError
from common.evaluation import made_by_simulation, trained_on_note
from common.handlers.epoch_log import read_log
from common.inference import CaseRows, run_cases
from common.report import write_report
from common.run_record import running_config

logger = logging.getLogger("brain_bundles")

PAPER_NOTE = "The column of the paper holds its own numbers on CQ500: other data, other training, no comparison."


def read_resources(resources: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """What a run cost, from a dict or from a JSON file that ``common.handlers.resource_log`` wrote; empty where there is none."""
    if resources is None:
        return {}
    if isinstance(resources, Mapping):
        return dict(resources)
    path = Path(resources)
    if not path.is_file():
        logger.warning("%s: there is no such file, so the report has no cost.", path)
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"resources: {path} is no JSON ({error}); expected the resources.json of a training.") from error
    if not isinstance(found, dict):
        raise UserError(f"resources: {path} holds a {type(found).__name__}, expected one object of names and numbers.")
    return found


def evaluate_anomaly(
    evaluator: Evaluator,
    output_dir: str,
    title: str,
    maps: Sequence[str] = ("error",),
    aggregate: str = "max",
    data_note: str = "",
    notes: Sequence[str] = (),
    ckpt_dir: str | None = None,
    training_log: str | None = None,
    resources: Mapping[str, Any] | str | None = None,
) -> list[dict[str, Any]]:
    """Measure every case of an evaluator by its findings; prints the AUROCs.

    Writes ``metrics.csv`` (a row per case), ``roc.csv`` (points), ``lesions.csv`` (simulated truth), ``summary.json``, ``report.html``.

    Args:
        evaluator: its batches hold ``image``, ``structures`` and perhaps ``truth``, its output the maps, all ``(1, n, n, n)`` on the cube;
            ``findings`` and ``reads`` come from ``data_loader.dataset.data``, by id.
        output_dir: folder of results.
        title: of the report.
        maps: names of the maps; the first one is what the report is about. ``zmap`` joins them where the output holds it.
        aggregate: score that the report is about; the others of ``AGGREGATES`` stand beside it.
        data_note: what data it was.
        notes: what was not verified.
        ckpt_dir: folder of the weights, whose record tells which cases they were trained on; None where nothing was trained.
        training_log: ``training.csv`` for the loss curves.
        resources: cost of the training (parameters, peak memory, seconds), or its JSON file; None where it is not known.

    Returns:
        Rows of :func:`common.anomaly_scores.auroc_rows` for the first map and the aggregate.

    Raises:
        UserError: no maps, a map that is not made, or cases that failed.
    """
    if not maps:
        raise UserError("maps: got none, expected names of maps such as error.")
    loader: Any = evaluator.data_loader
    cases = [dict(case) for case in loader.dataset.data]
    simulated = made_by_simulation(cases)
    notes = [*trained_on_note(cases, ckpt_dir), *notes, PAPER_NOTE]
    measure = AnomalyMeasure(cases, maps, list(dict.fromkeys([aggregate, *AGGREGATES])))
    rows = run_measure(evaluator, measure, str(Path(output_dir) / "metrics.csv"))
    tables = measured_tables(rows, cases, measure) | {"resources": read_resources(resources)}
    head = [row for row in tables["auroc"] if (row["map"], row["score"]) == (maps[0], aggregate)]
    notes += list(dict.fromkeys(f"No AUROC for {row['task']}: {row['reason']}." for row in head if row["reason"]))
    write_csv(Path(output_dir) / "roc.csv", curve_rows(rows, measure.maps, measure.aggregates))
    if measure.lesions:
        write_csv(Path(output_dir) / "lesions.csv", measure.lesions)
    found = {"title": title, "simulated": simulated, "cases": len(rows), "map": maps[0], "score": aggregate, **tables}
    write_json(Path(output_dir) / "summary.json", found)
    roc = {"caption": f"ROC curves, score {aggregate}.", "png": roc_of_rows(rows, measure.maps, aggregate, simulated)}
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{len(rows)} cases. {data_note}",
        summary=[shown_row(row) for row in head],
        rows=[report_row(row, measure.maps, aggregate) for row in rows],
        curves=read_log(training_log) if training_log else [],
        figures=[roc, *case_figures(evaluator, rows, measure.maps, aggregate, simulated)],
        notes=notes,
        config=running_config(),
        tables=report_tables(tables, head),
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d cases (%d in the data set):\n%s", banner, title, len(rows), len(cases), as_table(tables["auroc"]))
    logger.info("Report: %s", path.resolve())
    return head


def run_measure(evaluator: Evaluator, measure: AnomalyMeasure, output_file: str) -> list[dict[str, Any]]:
    """Run all cases, the healthy ones first: their maxima are the thresholds for lesions.

    Args:
        evaluator: as for :func:`evaluate_anomaly`.
        measure: makes the rows.
        output_file: CSV of the rows.

    Returns:
        The rows, in the order of the data set.
    """
    loader: Any = evaluator.data_loader
    cases = loader.dataset.data
    healthy = [is_healthy(known_findings(case)) for case in cases]
    rows = CaseRows(measure, output_file)
    handle = evaluator.add_event_handler(Events.ITERATION_COMPLETED, rows.add)
    try:
        run_cases(evaluator, order=sorted(range(len(cases)), key=lambda index: not healthy[index]))
    finally:
        handle.remove()
    place = {str(case["id"]): index for index, case in enumerate(cases)}
    rows.rows.sort(key=lambda row: place[str(row["id"])])
    rows.write()
    return rows.rows
