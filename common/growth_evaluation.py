"""Measure predicted brains on pairs of scans of unseen children, with baselines, head outlines and ages; ``evaluate_masks`` has masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.anomaly_evaluation import read_resources
from common.atomic import write_csv, write_json
from common.errors import UserError
from common.evaluation import made_by_simulation, trained_on_note
from common.growth_charts import age_figure
from common.growth_measure import GrowthMeasure
from common.growth_pictures import KeptPairs
from common.growth_summary import ESTIMATES, Rows, by_method, growth_text, input_scans, outline_of, summarise_growth
from common.handlers.epoch_log import read_log
from common.report import pick_cases, write_report
from common.run_record import running_config

logger = logging.getLogger("brain_bundles")


def evaluate_growth(
    pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    output_dir: str,
    title: str,
    measure: GrowthMeasure,
    cases: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    data_note: str = "",
    notes: Sequence[str] = (),
    figures: Sequence[Mapping[str, Any]] = (),
    ckpt_dir: str | None = None,
    training_log: str | None = None,
    resources: Mapping[str, Any] | str | None = None,
) -> list[dict[str, Any]]:
    """Measure all pairs; writes ``metrics.csv`` (a row per pair and method), ``summary.json`` and ``report.html``.

    Args:
        pairs: (item, result) as ``GrowthMeasure`` takes them, made one after the other; both directions of a child are two pairs.
        output_dir: folder of results.
        title: of the report.
        measure: the model's name, baselines, rivals of the age and how heads are measured.
        cases: the scans, with their files, to tell whether they are simulated and whether they were trained on.
        facts: what the run was; ``ssl`` (bool) and ``sgla_prob`` are what ``common.growth_study`` draws over. Into ``summary.json``.
        data_note: what data it was.
        notes: what was not verified.
        figures: further figures of the report, such as growth charts.
        ckpt_dir: folder of the weights, whose record tells which cases they were trained on; None where nothing was trained.
        training_log: ``training.csv`` for the loss curves.
        resources: cost of the training, or its JSON file.

    Returns:
        Rows (method, metric, mean, sd, interval, n) of the summary.

    Raises:
        UserError: an image that cannot be measured, or a scan on another grid.
    """
    rows, kept = _measure_pairs(pairs, measure, Path(output_dir) / "metrics.csv")
    if not rows:
        raise UserError("evaluate_growth: got no pair; expected at least one child with two scans in the test set.")
    simulated = made_by_simulation(cases)
    found = {"title": title, "simulated": simulated, **summarise_growth(rows), "facts": dict(facts or {})}
    found["resources"] = read_resources(resources)
    write_json(Path(output_dir) / "summary.json", found)
    table = [{"method": m, "metric": name, **stats} for m, metrics in found["images"].items() for name, stats in metrics.items()]
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{found['pairs']} pairs of {found['subjects']} children. {data_note}".strip(),
        summary=table,
        rows=rows,
        curves=read_log(training_log) if training_log else [],
        figures=[*_pictures(rows, kept), *_charts(rows), *figures],
        notes=[*trained_on_note(cases, ckpt_dir), *notes, *_reading_notes(found)],
        config=running_config(),
        tables=_report_tables(found),
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d pairs of %d children:\n%s", banner, title, found["pairs"], found["subjects"], growth_text(found))
    logger.info("Report: %s", path.resolve())
    return table


def _measure_pairs(
    pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], measure: GrowthMeasure, file: Path
) -> tuple[list[dict[str, Any]], KeptPairs]:
    """Rows of all pairs, written after each, and the planes for their pictures."""
    rows: list[dict[str, Any]] = []
    kept = KeptPairs()
    for item, result in pairs:
        images = measure.predictions(item, result)
        rows += measure(item, result, images)
        kept.add(item, result, images)
        write_csv(file, rows, digits=6)
    return rows, kept


def _pictures(rows: Rows, kept: KeptPairs) -> list[dict[str, Any]]:
    """Figure 3 of the best, the median and the worst pair by SSIM."""
    own, figures = next(iter(by_method(rows).values())), []
    similarity = {row["id"]: row["ssim"] for row in own}
    for role, pair in pick_cases(own, "ssim").items():
        caption = f"{role}: {pair}, SSIM {similarity[pair]:.3f}"
        figures.append({"caption": caption, "png": kept.draw(pair, caption)})
    return figures


def _charts(rows: Rows) -> list[dict[str, Any]]:
    """Figure 2 of each method, and the estimated ages, where there are numbers for them."""
    figures = []
    name = outline_of(rows[0])
    quantity = "head circumference (cm)" if name == "circumference" else "slice perimeter (cm), a proxy"
    for reference, what in (("table", "the data set's table"), ("scan", "the real scan, measured likewise")):
        keys = {"age": "target_age_weeks", "predicted": f"{name}_cm", "truth": f"{name}_{reference}_cm"}
        if any(math.isfinite(row.get(keys["truth"], math.nan)) for row in rows):
            panels = {method: {part: [row[key] for row in own] for part, key in keys.items()} for method, own in by_method(rows).items()}
            figures.append({"caption": f"{quantity} against age; truth: {what}.", "png": age_figure(panels, quantity)})
    scans = input_scans(rows)
    true = [row["input_age_weeks"] for row in scans]
    ages = {name: [row.get(key, math.nan) for row in scans] for key, name in ESTIMATES.items() if any(key in row for row in scans)}
    if ages:
        panels = {f"age by {name}": {"age": true, "predicted": values, "truth": true} for name, values in ages.items()}
        png = age_figure(panels, "estimated age (weeks)")
        figures.append({"caption": "Estimated against true age of the input scans; truth is the diagonal.", "png": png})
    return figures


def _reading_notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers must know."""
    notes = ["Mean and SD are over pairs; intervals and tests are over children, since the pairs of a child are alike."]
    notes.append("PSNR, SSIM and MAE without 'brain' count the black background, which lifts them, as in the paper's tables.")
    if any(row["measure"] == "slice_perimeter" for row in found["outlines"]):
        notes.append("A slice has no head circumference: its perimeter is a proxy of ours.")
    else:
        notes.append(
            "The outline is that of the brain, the table's circumference that of the head: the bias holds both; SD and r ignore it."
        )
    notes.append("r over a wide range of ages is high for anything that grows; hold it against the baselines' r.")
    return notes


def _report_tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = [{"heading": "Outline of the head: predicted against true", "rows": found["outlines"], "note": "Slopes on age, cm per week."}]
    if found["comparisons"]:
        note = "Means over a child's pairs; Wilcoxon signed-rank test over children, Holm's correction over the table."
        tables.append({"heading": "The model minus its baselines", "rows": found["comparisons"], "note": note})
    if found["ages"]:
        note = "Each input scan once. By size: regressions fitted on the training scans."
        tables.append({"heading": "Age of the input scan", "rows": found["ages"], "note": note})
    if found["resources"]:
        tables.append({"heading": "What the training cost", "rows": [found["resources"]]})
    return tables
