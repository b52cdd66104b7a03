"""Several evaluations of growth to one table: ``python -m common.growth_study --runs none_seed0=DIR,ssl_seed0=DIR,... --output DIR``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.command_line import run_command
from common.errors import UserError
from common.evaluated_runs import read_evaluations

IMAGES = ("psnr_db", "ssim", "mae", "psnr_brain_db", "ssim_brain", "mae_brain", "reconstruction_psnr_db")
OUTLINE = ("sigma_cm", "r", "slope_cm_per_week", "true_slope_cm_per_week")
COMPARED = ("psnr_db", "ssim", "mae")

_SEED = re.compile(r"[_.-]?seed[_.-]?\d+$")


class Run(NamedTuple):
    """An evaluation that is compared.

    Attributes:
        name: in tables; a last ``_seed0`` is the repetition.
        setting: the name without it.
        rows: the model's rows of ``metrics.csv``.
        summary: ``summary.json``.
    """

    name: str
    setting: str
    rows: list[dict[str, str]]
    summary: dict[str, Any]


def study(runs: str | Sequence[str], output: str) -> None:
    """Compare evaluations of the same pairs, such as the four cells SSL x SGLA or a sweep of p, each with some seeds.

    Writes ``table.csv`` (a row per run), ``settings.csv`` (mean and SD over the seeds), ``comparisons.csv`` (each setting minus the first,
    values averaged over seeds, Wilcoxon over children), ``circumference.png`` (figure 2) and, where the probability of the global latent
    differs, ``sgla_prob.png``.

    Args:
        runs: folders of evaluations, separated by commas; ``NAME=FOLDER`` names one. Names that differ only in a last ``_seed<n>`` are
            repetitions of one setting.
        output: folder of the results.

    Raises:
        UserError: a folder without an evaluation of growth, two runs of one name, or runs on different pairs.
    """
    from common.atomic import write_atomic, write_csv

    read = read_runs(runs)
    table = study_rows(read)
    settings, comparisons = setting_rows(table), comparison_rows(read)
    print(_as_text(settings))
    for row in comparisons:
        print("{setting} - {minus}, {metric}: {mean_difference:+.4f}, p {p:.2g}, Holm {p_holm:.2g}, n {n}".format(**row))
    tables = {"table": table, "settings": settings, "comparisons": comparisons}
    written = [write_csv(Path(output) / f"{name}.csv", rows) for name, rows in tables.items() if rows]
    for name, png in study_figures(read, table).items():
        written.append(write_atomic(Path(output) / f"{name}.png", lambda temporary, png=png: temporary.write_bytes(png)))  # type: ignore[misc]
    print("\n".join(f"wrote {path}" for path in written))


def read_runs(runs: str | Sequence[str]) -> list[Run]:
    """Read evaluations that ``common.growth_evaluation.evaluate_growth`` wrote; see :func:`study`."""
    found = []
    for run in read_evaluations(runs):
        if "pairs" not in run.summary:
            raise UserError(f"runs: {run.folder} is no evaluation of growth; expected the output_dir of common.growth_evaluation.")
        own = [row for row in run.rows if row["method"] == run.summary["method"]]
        found.append(Run(run.name, _SEED.sub("", run.name) or run.name, own, run.summary))
    return found


def study_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run: mean and SD over its pairs, the outline's agreement, the age's error, what the run was and what it cost."""
    table = []
    for run in runs:
        summary = run.summary
        facts, cost, images = summary.get("facts", {}), summary.get("resources") or {}, summary["images"][summary["method"]]
        row: dict[str, Any] = {"run": run.name, "setting": run.setting, "pairs": summary["pairs"]}
        row |= {key: facts.get(key) for key in ("ssl", "sgla_prob")}
        for name in IMAGES:
            row |= {name: images.get(name, {}).get("mean"), f"{name}_sd": images.get(name, {}).get("sd")}
        row |= {f"outline_{key}": _outline(summary).get(key) for key in OUTLINE}
        row["age_mae_weeks"] = next((found["mae_weeks"] for found in summary["ages"] if found["estimate"] == "image"), None)
        table.append(row | {key: cost.get(key) for key in ("parameters", "peak_memory_mib", "seconds")})
    return table


def setting_rows(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per setting: ``runs``, and of each number the mean and the SD over the runs (``_seed_sd``, empty for one run)."""
    from common.metrics.statistics import describe

    names = [*IMAGES, *(f"outline_{key}" for key in OUTLINE), "age_mae_weeks"]
    found = []
    for setting in dict.fromkeys(row["setting"] for row in table):
        own = [row for row in table if row["setting"] == setting]
        row: dict[str, Any] = {"setting": setting, "runs": len(own), "ssl": own[0]["ssl"], "sgla_prob": own[0]["sgla_prob"]}
        for name in names:
            values = [float(line[name]) for line in own if line[name] is not None]
            stats = describe(values)
            row |= {name: stats["mean"] if values else None, f"{name}_seed_sd": stats["sd"] if len(values) > 1 else None}
        found.append(row)
    return found


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each further setting minus the first: values averaged over seeds and over a child's pairs, Wilcoxon by child, Holm over all rows."""
    import numpy as np

    from common.metrics.statistics import holm, paired_wilcoxon

    children: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        by_metric = children.setdefault(run.setting, {name: {} for name in COMPARED})
        for row in run.rows:
            for name in COMPARED:
                by_metric[name].setdefault(row["subject"], []).append(float(row[name]))
    first, *others = children
    subjects = list(children[first][COMPARED[0]])
    tests: list[dict[str, Any]] = []
    for other in others:
        for name in COMPARED:
            values = [[float(np.mean(children[setting][name][subject])) for subject in subjects] for setting in (other, first)]
            tests.append({"setting": other, "minus": first, "metric": name, **paired_wilcoxon(*values)})
    corrected = holm([test["p"] for test in tests])
    return [test | {"p_holm": p} for test, p in zip(tests, corrected, strict=True)]


def study_figures(runs: Sequence[Run], table: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """``circumference`` (figure 2; all seeds of a setting in one panel) and ``sgla_prob`` where the runs differ in it (supplement D.1)."""
    from common.growth_charts import age_figure
    from common.mask_charts import lines_figure

    title = "SIMULATED DATA, not patients" if any(run.summary.get("simulated") for run in runs) else ""
    name = _outline(runs[0].summary)["measure"]
    reference = _outline(runs[0].summary)["reference"]
    keys = {"age": "target_age_weeks", "predicted": f"{name}_cm", "truth": f"{name}_{reference}_cm"}
    panels: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        panel = panels.setdefault(run.setting, {part: [] for part in keys})
        for row in run.rows:
            for part, key in keys.items():
                panel[part].append(float(row[key] or "nan"))
    quantity = "head circumference (cm)" if name == "circumference" else "slice perimeter (cm), a proxy"
    figures = {"circumference": age_figure(panels, quantity, title)}
    swept = [row for row in table if row["sgla_prob"] is not None]
    if len({row["sgla_prob"] for row in swept}) > 2:
        labels = {True: "SSL", False: "without SSL", None: "runs"}
        points = [{"label": labels[row["ssl"]], "x": row["sgla_prob"], **row} for row in _by_probability(swept)]
        shown = {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE", "outline_sigma_cm": "SD of the outline's error (cm)"}
        figures["sgla_prob"] = lines_figure(points, "probability p of the global latent", shown, title)
    return figures


def _by_probability(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings of the sweep, each the mean of its runs."""
    return [row for row in setting_rows(table) if row["sgla_prob"] is not None]


def _outline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Agreement of the model's outlines, see ``headline_outline``."""
    from common.growth_summary import headline_outline

    return headline_outline(summary, summary["method"])


def _as_text(settings: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(str(row["setting"])) for row in settings) + 2
    lines = [f"{'setting':<{width}}{'runs':>5}{'PSNR dB':>16}{'SSIM':>18}{'MAE':>20}{'outline SD cm':>18}{'r':>8}{'slope (truth)':>16}"]
    for row in settings:
        cells = [_mean_sd(row, name, digits) for name, digits in (("psnr_db", 2), ("ssim", 4), ("mae", 4), ("outline_sigma_cm", 3))]
        r, slope, true = (f"{row[f'outline_{key}']:.2f}" if row[f"outline_{key}"] is not None else "-" for key in OUTLINE[1:])
        text = f"{cells[0]:>16}{cells[1]:>18}{cells[2]:>20}{cells[3]:>18}"
        lines.append(f"{row['setting']:<{width}}{row['runs']:>5}{text}{r:>8}{f'{slope} ({true})':>16}")
    return "\n".join(lines)


def _mean_sd(row: Mapping[str, Any], name: str, digits: int) -> str:
    mean, sd = row[name], row[f"{name}_seed_sd"]
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command(study, "common.growth_study", arguments)


if __name__ == "__main__":
    main()
