"""Measure how a network restores the slices of test volumes, clean and corrupted; ``common.evaluation`` measures masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Evaluator

from common.anomaly_evaluation import read_resources
from common.atomic import write_csv, write_json
from common.errors import UserError
from common.evaluation import made_by_simulation, trained_on_note
from common.handlers.epoch_log import read_log
from common.inference import CaseRows, run_cases
from common.metrics.slice_similarity import METRICS
from common.reconstruction_charts import corruption_chart
from common.reconstruction_measure import KINDS, MEASURED, Corrupt, ReconstructionMeasure, summarise_reconstruction
from common.reconstruction_pictures import restoration_figure
from common.report import pick_cases, write_report
from common.run_record import running_config
from common.transforms.corruptions import corrupted_test
from common.weights import read_record

logger = logging.getLogger("brain_bundles")

FACTS = ("family", "block", "loss", "l2", "augmentation", "spatial_dims", "seed")
"""What ``common.reconstruction_study`` tells runs apart by; taken from the record of the weights where the config does not give them."""

NOTES = (
    "SD is over slices, as the paper prints it; intervals are over subjects, since slices of one volume are alike.",
    "The paper's tables measure clean input alone, which rewards the identity: 'corrupted input' is what doing nothing would score.",
    "PSNR: slices that equal their original are infinite and left out of the mean, unless all are.",
)


def evaluate_reconstruction(
    evaluator: Evaluator,
    output_dir: str,
    title: str,
    corruptions: Sequence[str] = KINDS,
    seed: int = 0,
    corrupt: Corrupt = corrupted_test,
    facts: Mapping[str, Any] | None = None,
    validation_loss: float | None = None,
    data_note: str = "",
    notes: Sequence[str] = (),
    ckpt_dir: str | None = None,
    training_log: str | None = None,
    resources: Mapping[str, Any] | str | None = None,
) -> list[dict[str, Any]]:
    """Measure every volume of an evaluator; writes ``slices.csv``, ``metrics.csv``, ``summary.json`` and ``report.html``.

    Args:
        evaluator: its batches hold one volume ``image`` ``(1, 1, P, S, N)`` in [0, 1], the last axis counting slices, and perhaps
            ``slices`` (numbers of the selected ones); its inferer is a ``SliceRestorationInferer``. No mixed precision.
        output_dir: folder of results.
        title: of the report.
        corruptions: ``none`` (clean) and kinds that ``corrupt`` knows.
        seed: of the corruptions: a slice's depend on it, the case's id and the slice's number alone.
        corrupt: makes them; a ``partial`` of ``corrupted_test`` sets other strengths.
        facts: what was trained, see `FACTS`; into ``summary.json``.
        validation_loss: None takes the best of ``training_log``.
        data_note: what data it was.
        notes: what was not verified.
        ckpt_dir: folder of the weights, whose record tells which cases they were trained on, and with which settings.
        training_log: ``training.csv`` for the loss curves.
        resources: cost of the training, or its JSON file.

    Returns:
        Rows (corruption, image, metric, mean and SD over slices, interval over subjects).

    Raises:
        UserError: no corruption, mixed precision, or cases that failed, named after the others are done.
    """
    if not corruptions or getattr(evaluator, "amp", False):
        found = "mixed precision" if corruptions else "no corruption"
        raise UserError(f"evaluate_reconstruction: got {found}, expected at least one of {', '.join(KINDS)}, and amp false (--amp false).")
    cases: Any = [dict(case) for case in evaluator.data_loader.dataset.data]  # type: ignore[union-attr]
    simulated = made_by_simulation(cases)
    measure = ReconstructionMeasure(evaluator, cases, corruptions, int(seed), corrupt)
    rows = CaseRows(measure, str(Path(output_dir) / "metrics.csv"))
    with evaluator.add_event_handler(Events.ITERATION_COMPLETED, rows.add):
        run_cases(evaluator)
    write_csv(Path(output_dir) / "slices.csv", measure.slice_rows, digits=6)
    curves = read_log(training_log) if training_log else []
    record = read_record(ckpt_dir).get("settings", {}) if ckpt_dir is not None else {}
    summary: dict[str, Any] = {
        "title": title,
        "simulated": simulated,
        "cases": len(rows.rows),
        "slices": len(measure.slice_rows) // len(corruptions),
    }
    summary["subjects"] = len({row["subject"] for row in rows.rows})
    summary["facts"] = {key: record[key] for key in FACTS if key in record} | dict(facts or {})
    summary["validation_loss"] = best_validation_loss(curves) if validation_loss is None else float(validation_loss)
    summary |= {"corruption_seed": int(seed), "corruptions": summarise_reconstruction(rows.rows, measure.slice_rows, corruptions)}
    summary["resources"] = read_resources(resources)
    write_json(Path(output_dir) / "summary.json", summary)
    table = summary_rows(summary["corruptions"])
    path = write_report(
        output_dir,
        title,
        simulated=simulated,
        data_note=f"{summary['cases']} volumes of {summary['subjects']} subjects, {summary['slices']} slices. {data_note}".strip(),
        summary=[shown_row(row) for row in table],
        rows=[{key: value for key, value in row.items() if "_input_" not in key} for row in rows.rows],
        curves=curves,
        figures=[*_pictures(rows.rows, measure, simulated), _chart(rows.rows, corruptions)],
        notes=[*trained_on_note(cases, ckpt_dir), *notes, *NOTES],
        config=running_config(),
        tables=[{"heading": "What the training cost", "rows": [summary["resources"]]}] if summary["resources"] else [],
    )
    banner = "SIMULATED DATA, not patients. " if simulated else ""
    logger.info("%s%s, %d volumes, %d slices:\n%s", banner, title, summary["cases"], summary["slices"], as_table(table))
    logger.info("Report: %s", path.resolve())
    return table


def best_validation_loss(curves: Sequence[Mapping[str, Any]]) -> float | None:
    """Lowest validation loss of a training log: of its column ``val_loss``, else of its key metric, which is the loss in train.json."""
    column = "val_loss" if any("val_loss" in row for row in curves) else "metric"
    losses = [float(row[column]) for row in curves if math.isfinite(row.get(column, math.nan))]
    return min(losses) if losses else None


def summary_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a summary: a line per corruption, image (restored or corrupted input) and metric.

    Args:
        found: see ``common.reconstruction_measure.summarise_reconstruction``.
    """
    table = []
    for kind, images in found.items():
        for image in ("restored", "input"):
            for key in MEASURED:
                if key in images[image]:
                    own = images[image][key]
                    means = {name: own["slices"][name] for name in ("mean", "sd", "n", "infinite")}
                    over = {f"subject_{name}": own["subjects"][name] for name in ("mean", "sd", "low", "high", "n")}
                    table.append({"corruption": kind, "image": image, "metric": key, **means, **over})
    return table


def shown_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the report shows it: numbers with three digits each, whatever their size."""
    image = "restored" if row["image"] == "restored" else "corrupted input"
    shown = {"corruption": "clean" if row["corruption"] == "none" else row["corruption"], "image": image, "metric": row["metric"]}
    shown["mean ± SD over slices"] = _with_sd(row)
    interval = f" [{row['subject_low']:.3g}, {row['subject_high']:.3g}]" if math.isfinite(row["subject_low"]) else ""
    shown["mean over subjects [95 %]"] = f"{row['subject_mean']:.3g}{interval}"
    return shown | {"slices": row["n"] + row["infinite"], "subjects": row["subject_n"]}


def as_table(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text: of each corruption, what was restored and what doing nothing would have left."""
    lines = [f"{'corruption':<12}{'image':<18}{'MSE':>20}{'DSSIM':>20}{'PSNR dB':>16}"]
    for kind, image in dict.fromkeys((row["corruption"], row["image"]) for row in table):
        own = {row["metric"]: row for row in table if (row["corruption"], row["image"]) == (kind, image)}
        cells = [_with_sd(own[key]) for key in METRICS]
        name = "restored" if image == "restored" else "corrupted input"
        lines.append(f"{'clean' if kind == 'none' else kind:<12}{name:<18}{cells[0]:>20}{cells[1]:>20}{cells[2]:>16}")
    return "\n".join(lines)


def _with_sd(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3g} ± {row['sd']:.2g}" if math.isfinite(row["sd"]) else f"{row['mean']:.3g}"


def _pictures(rows: Sequence[Mapping[str, Any]], measure: ReconstructionMeasure, simulated: bool) -> list[dict[str, Any]]:
    """The best, the median and the worst volume by DSSIM of the first kind, in its middle slice."""
    kind = measure.corruptions[0]
    key, figures = f"{kind}_dssim", []
    by_slice = {(row["id"], row["slice"], row["corruption"]): row for row in measure.slice_rows}
    for role, case in pick_cases(rows, key, higher_is_better=False).items():
        number = measure.number[case]
        own = {name: by_slice[case, number, name] for name in measure.corruptions}
        feet = {name: "DSSIM {dssim:.2g}, MSE {mse:.2g}".format(**row) for name, row in own.items()}
        mean = next(row[key] for row in rows if row["id"] == case)
        caption = f"{role}: {case}, slice {number}, mean DSSIM of its {'clean' if kind == 'none' else kind} slices {mean:.3g}"
        title = f"{'SIMULATED, not a patient: ' if simulated else ''}{role}, {case}, slice {number}"
        figures.append({"caption": caption, "png": restoration_figure(measure.planes[case], title, feet)})
    return figures


def _chart(rows: Sequence[Mapping[str, Any]], corruptions: Sequence[str]) -> dict[str, Any]:
    caption = "Each volume by corruption: what was restored, and what doing nothing would have left. Both axes of errors are logarithmic."
    return {"caption": caption, "png": corruption_chart(rows, corruptions)}
