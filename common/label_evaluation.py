"""Measure a segmentation of many classes on labelled cases; ``common.evaluation`` measures one structure and its vote."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.engines import Evaluator
from monai.utils import ensure_tuple

from common.anomaly_evaluation import read_resources
from common.atomic import write_csv, write_json
from common.evaluation import as_table, made_by_simulation, trained_on_note
from common.handlers.epoch_log import read_log
from common.kept_cases import measure_cases
from common.label_charts import classes_figure
from common.label_measure import ClassMeasure
from common.label_pictures import Planes, label_planes, planes_figure
from common.metrics.case_metrics import summarise
from common.metrics.class_metrics import METRICS, ClassNames, summarise_classes
from common.report import write_report
from common.run_record import running_config

logger = logging.getLogger("brain_bundles")

DEFINITIONS = (
    "Means are over the foreground classes; the background is never counted. HD is the largest distance of the two surfaces (100th"
    " percentile), HD95 its 95th percentile ({hd95}), MASD the mean distance of both surfaces together, in mm, between borders of voxels.",
    "A class that truth or prediction alone has counts Dice 0 and no distance (missed, invented); one that neither has {absent}.",
)
HD95_WORDS = {"larger": "the larger of the two directions, as in MONAI", "union": "of both directions together, as in medpy"}
ABSENT_WORDS = {"leave_out": "is left out", "count": "counts Dice 1 and 0 mm"}


def class_table_rows(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What ``summarise_classes`` found as rows of a table: mean, SD and interval of Dice, means of the others, counts."""
    table = []
    for found in classes:
        dice = found["dice"]
        row = {"class": found["class"], "cases": dice["n"], "dice": dice["mean"], "dice_sd": dice["sd"]}
        row |= {"dice_low": dice["low"], "dice_high": dice["high"]}
        row |= {key: found[key]["mean"] for key in (*METRICS[1:], "truth_ml", "prediction_ml")}
        table.append(row | {"missed": found["missed"], "invented": found["invented"]})
    return table


def evaluate_labels(
    evaluator: Evaluator,
    output_dir: str,
    title: str,
    class_names: ClassNames,
    hd95: str = "larger",
    absent: str = "leave_out",
    channel: int = 0,
    facts: Mapping[str, Any] | None = None,
    data_note: str = "",
    notes: Sequence[str] = (),
    ckpt_dir: str | Sequence[str] | None = None,
    training_log: str | None = None,
    resources: Mapping[str, Any] | str | None = None,
) -> list[dict[str, Any]]:
    """Measure every case of an evaluator; prints the summary.

    Writes ``metrics.csv`` (a row per case; ``dice`` is the foreground mean, by which ``common.study`` compares), ``classes.csv`` (a row
    per case and class), ``summary.json`` (``metrics``: foreground means over the cases, ``classes``: each class) and ``report.html``.

    Args:
        evaluator: postprocessing leaves ``pred``, and perhaps ``entropy``, on the grid of ``label``.
        output_dir: folder of results.
        title: of the report.
        class_names: names of the labels 1, 2, ... without the background, or number -> name.
        hd95: ``larger`` or ``union``, see ``common.metrics.class_metrics.measure_classes``.
        absent: ``leave_out`` or ``count``, likewise.
        channel: of the image, to draw on.
        facts: what the run was, such as members and flips; into ``summary.json``.
        data_note: what data it was.
        notes: what was not verified.
        ckpt_dir: folders of the weights, whose records tell which cases they were trained on; None where nothing was trained.
        training_log: ``training.csv`` for the loss curves.
        resources: cost of the training, or its JSON file; None where it is not known.

    Returns:
        Rows (metric, mean, sd, low, high, n, left_out) of the foreground means.

    Raises:
        UserError: cases that failed, or a mistake in the arguments.
    """
    loader: Any = evaluator.data_loader
    cases, measure = loader.dataset.data, ClassMeasure(class_names, hd95, absent)

    def draw(planes: Planes, caption: str) -> bytes:
        return planes_figure(planes, measure.class_names, caption)

    keep = partial(label_planes, channel=channel)
    rows, pictures = measure_cases(evaluator, measure, Path(output_dir) / "metrics.csv", keep, draw, "mean Dice")
    write_csv(Path(output_dir) / "classes.csv", measure.class_rows)
    simulated, summary = made_by_simulation(cases), summarise(rows)
    summary.pop("dice_by_stratum")  # the strata are those of another disease
    found = {"title": title, "simulated": simulated, "facts": dict(facts or {}), "hd95": hd95, "absent": absent, **summary}
    found |= {"empty_predictions": int(sum(row["empty_prediction"] for row in rows)), "classes": summarise_classes(measure.class_rows)}
    found["resources"] = read_resources(resources)
    write_json(Path(output_dir) / "summary.json", found)
    table = [{"metric": key, **found["metrics"][key]} for key in METRICS]
    heading = "SIMULATED DATA, not patients" if simulated else ""
    chart = classes_figure(measure.class_rows, {"dice": "Dice", "hd95_mm": "HD95 (mm)"}, heading)
    seen = [note for folder in ensure_tuple(ckpt_dir or ()) for note in trained_on_note(cases, folder)]
    words = [text.format(hd95=HD95_WORDS[hd95], absent=ABSENT_WORDS[absent]) for text in DEFINITIONS]
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{len(rows)} cases. {data_note}",
        summary=table,
        rows=[{key: value for key, value in row.items() if not key.endswith("_hd95_mm")} for row in rows],
        curves=read_log(training_log) if training_log else [],
        figures=[{"caption": "Each class: cases, and their mean with its 95 % interval.", "png": chart}, *pictures],
        notes=[*seen, *notes, *words],
        config=running_config(),
        tables=_report_tables(found),
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d cases (%d in the data set):\n%s", banner, title, len(rows), len(cases), as_table(table))
    logger.info("By class:\n%s", classes_as_text(found["classes"]))
    logger.info("Report: %s", path.resolve())
    return table


def classes_as_text(classes: Sequence[Mapping[str, Any]]) -> str:
    """What ``summarise_classes`` found as aligned text."""
    width = max(len(found["class"]) for found in classes) + 2
    lines = [f"{'class':<{width}}{'Dice':>16}{'HD95 mm':>10}{'MASD mm':>10}{'n':>5}{'missed':>8}{'invented':>10}"]
    for found in classes:
        dice = f"{found['dice']['mean']:.3f} ± {found['dice']['sd']:.3f}"
        numbers = "".join(f"{found[key]['mean']:>10.2f}" for key in ("hd95_mm", "masd_mm"))
        lines.append(f"{found['class']:<{width}}{dice:>16}{numbers}{found['dice']['n']:>5}{found['missed']:>8}{found['invented']:>10}")
    return "\n".join(lines)


def _report_tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    note = "Means over the cases; of Dice also SD and 95 % interval. Missed, invented: cases where only truth, only prediction has it."
    tables = [{"heading": "By class", "rows": class_table_rows(found["classes"]), "note": note}]
    if found["resources"]:
        tables.append({"heading": "What the training cost", "rows": [found["resources"]]})
    return tables
