"""Several evaluations to one table and the paper's figures 3, 6, 7, 10: ``python -m common.anomaly_study --runs ... --output ...``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.command_line import run_command
from common.evaluated_runs import read_evaluations


class Run(NamedTuple):
    """An evaluation that is compared.

    Attributes:
        name: in tables and figures; what stands before its first ``_`` is the method, so that ``ppr_m4`` and ``ppr_m8`` share a line.
        rows: of ``metrics.csv``, numbers as numbers, None where a cell is empty.
        summary: ``summary.json``.
        facts: ``resources`` of the summary, and ``patch_size`` of the config that ran.
    """

    name: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    facts: dict[str, Any]


def study(runs: str | Sequence[str], output: str) -> None:
    """Compare evaluations of the same cases; print and write one table, paired differences, and the figures that the runs allow.

    Writes ``table.csv``, ``comparisons.csv`` (each run minus the first, paired bootstrap), ``roc.png``, and where the runs differ in them
    ``parameters.png``, ``memory.png`` and ``patch_size.png``.

    Args:
        runs: folders of evaluations, separated by commas; ``NAME=FOLDER`` names one, ``METHOD_...`` groups several on one line.
        output: folder of the results.

    Raises:
        UserError: a folder without an evaluation, two runs of one name, or runs on different cases.
    """
    from common.atomic import write_atomic, write_csv

    read = read_runs(runs)
    table, comparisons = study_rows(read), comparison_rows(read)
    print(_as_text(table))
    for row in comparisons:
        print("{run} - {minus}: {task} {difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row))
    written = [write_csv(Path(output) / "table.csv", table)]
    written += [write_csv(Path(output) / "comparisons.csv", comparisons)] if comparisons else []
    for name, png in study_figures(read, table).items():
        written.append(write_atomic(Path(output) / f"{name}.png", lambda temporary, png=png: temporary.write_bytes(png)))  # type: ignore[misc]
    print("\n".join(f"wrote {path}" for path in written))


def read_runs(runs: str | Sequence[str]) -> list[Run]:
    """Read evaluations that ``common.anomaly_evaluation.evaluate_anomaly`` wrote; see :func:`study`."""
    read = []
    for run in read_evaluations(runs):
        rows = [{key: value if key == "id" else _number(value) for key, value in row.items()} for row in run.rows]
        config = run.folder / "evaluate_config.json"
        ran = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        facts = {key: ran[key] for key in ("patch_size",) if isinstance(ran.get(key), int)}
        read.append(Run(run.name, rows, run.summary, facts | dict(run.summary.get("resources") or {})))
    return read


def _number(text: str) -> float | None:
    return float(text) if text else None


def study_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run and task: ``run``, ``method``, ``task``, AUROC with interval, and what the run cost where that is known."""
    from common.anomaly_scores import TASKS, task_scores
    from common.metrics.roc import bootstrap_auroc

    table = []
    for run in runs:
        for task in TASKS:
            row = {
                "run": run.name,
                "method": run.name.split("_")[0],
                "task": task,
                "map": run.summary["map"],
                "score": run.summary["score"],
            }
            found = bootstrap_auroc(*task_scores(run.rows, task, run.summary["map"], run.summary["score"]))
            row |= {key: found[key] for key in ("auroc", "low", "high", "positives", "negatives")}
            table.append(row | {key: run.facts.get(key) for key in ("parameters", "peak_memory_mib", "seconds", "patch_size")})
    return table


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each further run minus the first one, for ICH of both hemispheres and for fractures; paired bootstrap by case."""
    from common.anomaly_scores import PAPER, task_scores
    from common.metrics.roc import compare_auroc

    table = []
    for run in runs[1:]:
        for task in PAPER:
            scores = [task_scores(r.rows, task, r.summary["map"], r.summary["score"]) for r in (run, runs[0])]
            difference = compare_auroc(scores[0][0], scores[1][0], scores[0][1], scores[0][2])
            table.append({"run": run.name, "minus": runs[0].name, "task": task, **difference})
    return table


def study_figures(runs: Sequence[Run], table: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Figures by name: ``roc`` always; ``parameters`` and ``memory`` where runs differ in them, ``patch_size`` where a method's do."""
    from common.anomaly_charts import memory_figure, parameters_figure, patch_size_figure, roc_figure
    from common.anomaly_scores import PAPER, task_scores
    from common.metrics.roc import roc_curve

    title = "SIMULATED DATA, not patients" if any(run.summary.get("simulated") for run in runs) else ""
    of_run = {(row["run"], row["task"]): row for row in table}
    curves = []
    for task in PAPER:
        for run in runs:
            scores, truth, _ = task_scores(run.rows, task, run.summary["map"], run.summary["score"])
            curves.append({"panel": task, "label": run.name, **roc_curve(scores, truth), **of_run[run.name, task]})
    figures = {"roc": roc_figure(curves, title)}
    known = [row for row in table if not math.isnan(row["auroc"])]  # an axis without a number cannot be drawn
    main = [row for row in known if row["task"] in PAPER]
    if sized := _differing(main, "parameters"):
        figures["parameters"] = parameters_figure(sized, title)
    if held := _differing([row for row in main if row["peak_memory_mib"]], "parameters"):
        figures["memory"] = memory_figure([row for row in held if row["task"] == next(iter(PAPER))], title)
    methods = [[row for row in known if row["task"].startswith("ICH") and row["method"] == name] for name in _methods(known)]
    if patched := [row for rows in methods for row in _differing(rows, "patch_size")]:
        figures["patch_size"] = patch_size_figure([{**row, "panel": row["method"]} for row in patched], title)
    return figures


def _methods(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(row["method"]) for row in rows))


def _differing(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """Rows that know a number above 0, where they know at least two different ones."""
    known = [row for row in rows if row.get(key)]
    return known if len({row[key] for row in known}) > 1 else []


def _as_text(table: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(str(row["run"])) for row in table) + 2
    lines = [f"{'run':<{width}}{'task':<24}{'AUROC':>7}{'95 % interval':>19}{'parameters':>13}{'peak MiB':>10}"]
    for row in table:
        area = "-" if math.isnan(row["auroc"]) else f"{row['auroc']:.3f}"
        interval = "" if math.isnan(row["auroc"]) else f"[{row['low']:.3f}, {row['high']:.3f}]"
        size = "" if row["parameters"] is None else f"{row['parameters']:,}"
        memory = "" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:.0f}"
        lines.append(f"{row['run']:<{width}}{row['task']:<24}{area:>7}{interval:>19}{size:>13}{memory:>10}".rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command(study, "common.anomaly_study", arguments)


if __name__ == "__main__":
    main()
