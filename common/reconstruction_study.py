"""Evaluations to the thesis' tables and its claims, tested: ``python -m common.reconstruction_study --runs A=DIR,... --output DIR``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from common.command_line import run_command
from common.reconstruction_runs import Run, by_setting, read_runs, slice_values, subject_values

METRICS = ("mse", "dssim", "psnr_db")


def study(runs: str | Sequence[str], output: str) -> None:
    """Compare evaluations of the same test images; print and write the tables, paired tests and verdicts on the thesis' claims.

    Writes ``table_augmented.csv`` and ``table_plain.csv`` (mean and SD over slices on clean input, validation loss, the thesis' numbers),
    ``corruptions.csv`` (each run on each corruption beside doing nothing), ``comparisons.csv`` (all pairs within a table: paired t-test and
    Wilcoxon over subjects, Holm's correction over the table; the thesis' test over slices too, which takes alike slices for independent),
    ``claims.csv`` with ``claim_parts.csv``, ``augmented.png`` and ``plain.png``.

    Args:
        runs: folders of evaluations, separated by commas; ``NAME=FOLDER`` names one. Runs of one model, such as seeds, are averaged in
            ``comparisons.csv`` and the claims.
        output: folder of the results.

    Raises:
        UserError: a folder without an evaluation of reconstruction, two runs of one name, or runs on other cases or corruptions.
    """
    from common.atomic import write_atomic, write_csv
    from common.reconstruction_claims import judge_claims

    read = read_runs(runs)
    groups, kinds = by_setting(read), list(read[0].summary["corruptions"])
    table, comparisons = study_rows(read), comparison_rows(read) if "none" in kinds else []
    parts = {"augmented": [row for row in table if row["augmentation"] != "none"]}
    parts["plain"] = [row for row in table if row["augmentation"] == "none"]
    verdicts, details = judge_claims(groups, kinds)
    tables = {f"table_{name}": rows for name, rows in parts.items()} | {"corruptions": corruption_rows(read), "comparisons": comparisons}
    tables |= {"claims": verdicts, "claim_parts": details}
    for name, rows in parts.items():
        print(
            *([f"{'With' if name == 'augmented' else 'Without'} augmentation, clean test slices", _as_text(rows)] if rows else []), sep="\n"
        )
    print(_claims_text(verdicts))
    written = [write_csv(Path(output) / f"{name}.csv", rows) for name, rows in tables.items() if rows]
    for name, png in study_figures(read, parts).items():
        written.append(write_atomic(Path(output) / f"{name}.png", lambda temporary, png=png: temporary.write_bytes(png)))  # type: ignore[misc]
    print("\n".join(f"wrote {path}" for path in written))


def study_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run, in the order of the thesis' tables: setting, metrics on clean input, validation loss, the thesis' numbers, cost."""
    from common.reconstruction_paper import PAPER

    order = {setting: place for place, setting in enumerate(PAPER)}
    table = []
    for run in sorted(runs, key=lambda run: order.get(run.setting, len(order))):
        clean = run.summary["corruptions"].get("none", {}).get("restored", {})
        row: dict[str, Any] = {"run": run.name, "row": run.setting.name, **run.setting._asdict()}
        row |= {"subjects": run.summary["subjects"], "slices": run.summary["slices"]}
        for key in METRICS:
            found = clean.get(key, {}).get("slices", {})
            row |= {key: found.get("mean"), f"{key}_sd": found.get("sd")}
        row["validation_loss"] = run.summary.get("validation_loss")
        row |= {f"paper_{key}": PAPER.get(run.setting, {}).get(key) for key in METRICS}
        cost = run.summary.get("resources") or {}
        table.append(row | {key: cost.get(key) for key in ("parameters", "peak_memory_mib", "seconds")})
    return table


def corruption_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run and corruption: metrics of what was restored and of the corrupted input, mean and SD over slices."""
    table = []
    for run in runs:
        for kind, images in run.summary["corruptions"].items():
            row: dict[str, Any] = {"run": run.name, "row": run.setting.name, "corruption": kind}
            for image, prefix in (("restored", ""), ("input", "input_")):
                for key, found in images[image].items():
                    row |= {prefix + key: found["slices"]["mean"], f"{prefix}{key}_sd": found["slices"]["sd"]}
            table.append(row)
    return table


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All pairs of models of one of the two tables, on clean input, by each metric; tests over subjects, p corrected by Holm over all.

    ``p_slices`` is the thesis' test over slices: anti-conservative, since the slices of a volume are alike. It decides nothing here.
    """
    from common.metrics.paired_t import paired_t
    from common.metrics.statistics import holm, paired_wilcoxon

    groups = by_setting(runs)
    values = {(s, key): subject_values(own, f"none_{key}") for s, own in groups.items() for key in METRICS}
    slices = {(s, key): slice_values(own, "none", key) for s, own in groups.items() for key in METRICS}
    table: list[dict[str, Any]] = []
    pairs = [pair for pair in combinations(groups, 2) if len({setting.augmentation == "none" for setting in pair}) == 1]
    for first, second in pairs:
        for key in METRICS:
            a, b = (list(values[s, key].values()) for s in (first, second))
            places = [place for place in slices[first, key] if place in slices[second, key]]
            by_slice = paired_t([slices[first, key][place] for place in places], [slices[second, key][place] for place in places])
            row: dict[str, Any] = {"first": first.name, "second": second.name, "metric": key, **paired_t(a, b)}
            row |= {"p_wilcoxon": paired_wilcoxon(a, b)["p"] if row["n"] == len(a) else math.nan}
            table.append(row | {"slices": by_slice["n"], "p_slices_anticonservative": by_slice["p"]})
    for name in ("p", "p_wilcoxon"):
        for row, corrected in zip(table, holm([row[name] for row in table]), strict=True):
            row[f"{name}_holm"] = corrected
    return table


def study_figures(runs: Sequence[Run], parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, bytes]:
    """A chart for each of the two tables that has rows."""
    from common.reconstruction_charts import networks_chart

    banner = "SIMULATED DATA, not patients: " if any(run.summary.get("simulated") for run in runs) else ""
    words = {"augmented": "trained with augmentation, clean test slices", "plain": "trained without augmentation, clean test slices"}
    return {name: networks_chart(rows, banner + words[name]) for name, rows in parts.items() if rows}


def _as_text(table: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(str(row["row"])) for row in table) + 2
    lines = [f"{'':<{width}}{'MSE':>20}{'DSSIM':>20}{'PSNR dB':>14}{'val. loss':>11}   paper: {'MSE':>9}{'DSSIM':>10}{'PSNR':>7}"]
    for row in table:
        cells = [f"{_number(row[key]):.3g} ± {_number(row[f'{key}_sd']):.2g}" for key in METRICS]
        loss = "" if row["validation_loss"] is None else f"{row['validation_loss']:.3g}"
        paper = ["" if row[f"paper_{key}"] is None else f"{row[f'paper_{key}']:.3g}" for key in METRICS]
        ours = f"{row['row']:<{width}}{cells[0]:>20}{cells[1]:>20}{cells[2]:>14}{loss:>11}"
        lines.append(f"{ours}          {paper[0]:>9}{paper[1]:>10}{paper[2]:>7}".rstrip())
    return "\n".join([*lines, "paper: the thesis' numbers on IXI, other data and training."])


def _claims_text(verdicts: Sequence[Mapping[str, Any]]) -> str:
    lines = ["Claims of the thesis, tested over subjects (smallest advantage with its 95 % interval)"]
    for row in verdicts:
        line = f"  {row['verdict'].upper():<14} {row['claim']} By {row['metric']}"
        if row["parts"]:
            interval = "{smallest_advantage:+.3g} [{low:.3g}, {high:.3g}]".format(**row)
            line += f": {row['supported']} of {row['parts']} parts, {interval}"
        lines.append(line)
    return "\n".join(lines)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command(study, "common.reconstruction_study", arguments)


if __name__ == "__main__":
    main()
