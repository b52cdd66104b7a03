"""Several evaluations of masks to one table and the figures 4, 5 and 8: ``python -m common.mask_study --runs ... --output ...``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.command_line import run_command
from common.evaluated_runs import read_evaluations

METRICS = ("dice", "hd95_mm", "detection_f1", "isolated_components", "mean_ece", "variance_ece", "variance_auroc")


class Run(NamedTuple):
    """An evaluation that is compared.

    Attributes:
        name: in tables and figures; what stands before its first ``_`` is the method, so that ``ddim_s5`` and ``ddim_s20`` share a line.
        rows: of ``metrics.csv``.
        summary: ``summary.json``.
        training: rows of ``training.csv``, empty where nothing was trained.
    """

    name: str
    rows: list[dict[str, str]]
    summary: dict[str, Any]
    training: list[dict[str, Any]]


def study(runs: str | Sequence[str], output: str) -> None:
    """Compare evaluations of the same cases; print and write one table, paired tests, and the figures that the runs allow.

    Writes ``table.csv``, ``ensembles.csv`` (each run by the size of its ensemble), ``comparisons.csv`` (Dice of each run minus the first,
    Wilcoxon by case), ``ensembles.png``, ``steps.png`` where the runs differ in them, ``training.png``.

    Args:
        runs: folders of evaluations, separated by commas; ``NAME=FOLDER`` names one.
        output: folder of the results.

    Raises:
        UserError: a folder without an evaluation, two runs of one name, or runs on different cases.
    """
    from common.atomic import write_atomic, write_csv

    read = read_runs(runs)
    table, comparisons = study_rows(read), comparison_rows(read)
    sizes = [{"run": run.name, **row} for run in read for row in run.summary.get("ensemble", [])]
    print(_as_text(table))
    for row in comparisons:
        print("{run} - {minus}: Dice {mean_difference:+.3f}, p {p:.3f}, Holm {p_holm:.3f}, n {n}".format(**row))
    tables = {"table": table, "ensembles": sizes, "comparisons": comparisons}
    written = [write_csv(Path(output) / f"{name}.csv", rows) for name, rows in tables.items() if rows]
    for name, png in study_figures(read, table, sizes).items():
        written.append(write_atomic(Path(output) / f"{name}.png", lambda temporary, png=png: temporary.write_bytes(png)))  # type: ignore[misc]
    print("\n".join(f"wrote {path}" for path in written))


def read_runs(runs: str | Sequence[str]) -> list[Run]:
    """Read evaluations that ``common.mask_evaluation.evaluate_masks`` wrote; see :func:`study`."""
    from common.handlers.epoch_log import read_log

    return [Run(run.name, run.rows, run.summary, read_log(run.folder / "training.csv")) for run in read_evaluations(runs)]


def study_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run: mean and SD of each metric, empty predictions, what the run was and what it cost where that is known."""
    table = []
    for run in runs:
        facts, cost = run.summary.get("facts", {}), run.summary.get("resources") or {}
        row: dict[str, Any] = {"run": run.name, "cases": run.summary["cases"]}
        for name in METRICS:
            found = run.summary["metrics"].get(name, {})
            row |= {name: found.get("mean"), f"{name}_sd": found.get("sd")}
        row["empty_predictions"] = run.summary["empty_predictions"]
        row |= {key: facts.get(key) for key in ("steps", "samples", "sampler", "process")}
        table.append(row | {key: cost.get(key) for key in ("parameters", "peak_memory_mib", "seconds", "iterations")})
    return table


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Dice of each further run minus the first one: paired Wilcoxon test by case, p corrected by Holm."""
    from common.metrics.statistics import holm, paired_wilcoxon

    dice = [[float(row["dice"]) for row in run.rows] for run in runs]
    tests = [paired_wilcoxon(own, dice[0]) for own in dice[1:]]
    corrected = holm([test["p"] for test in tests])
    return [{"run": run.name, "minus": runs[0].name, **test, "p_holm": p} for run, test, p in zip(runs[1:], tests, corrected, strict=True)]


def study_figures(runs: Sequence[Run], table: Sequence[Mapping[str, Any]], sizes: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Figures by name: ``ensembles`` and ``steps`` where there are several of them, ``training`` where something was trained."""
    from common.mask_charts import lines_figure

    title = "SIMULATED DATA, not patients" if any(run.summary.get("simulated") for run in runs) else ""
    panels = {"dice": "Dice", "hd95_mm": "HD95 (mm)"}
    figures = {}
    if len({row["samples"] for row in sizes}) > 1:
        points = [{"label": row["run"], "x": row["samples"], **row} for row in sizes]
        figures["ensembles"] = lines_figure(points, "samples", panels, title)
    stepped = [{"label": str(row["run"]).split("_")[0], "x": row["steps"], **row} for row in table if row["steps"]]
    if len({row["x"] for row in stepped}) > 1:
        figures["steps"] = lines_figure(stepped, "steps", panels, title)
    trained = [{"label": run.name, "x": row["epoch"], **row} for run in runs for row in run.training]
    if trained:
        panels = {"loss": "loss", "metric": "validation Dice", "val_hd95_mm": "validation HD95 (mm)"}
        known = {name: heading for name, heading in panels.items() if any(name in row for row in trained)}
        figures["training"] = lines_figure(trained, "epoch", known, title)
    return figures


def _as_text(table: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(str(row["run"])) for row in table) + 2
    lines = [f"{'run':<{width}}{'Dice':>15}{'HD95 mm':>17}{'isolated':>10}{'empty':>7}{'steps':>7}{'samples':>9}"]
    for row in table:
        dice, hd95 = (f"{_number(row[key]):.3f} ± {_number(row[key + '_sd']):.3f}" for key in ("dice", "hd95_mm"))
        last = f"{_number(row['isolated_components']):>10.1f}{row['empty_predictions']:>7}{row['steps'] or '':>7}{row['samples'] or '':>9}"
        lines.append(f"{row['run']:<{width}}{dice:>15}{hd95:>17}{last}")
    return "\n".join(lines)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command(study, "common.mask_study", arguments)


if __name__ == "__main__":
    main()
