"""Many results to one table: ``score`` measures folders of predictions, ours or anyone's, alike; ``run`` trains and evaluates all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import flag
from common.command_line import run_command
from common.errors import UserError


def score(
    predictions: str,
    truth: str,
    output: str,
    dataset: str | None = None,
    name: str | None = None,
    compare: str | Sequence[str] = (),
    pattern: str = "*",
    brain: str | None = None,
    union: bool = False,
) -> None:
    """Score folders of predicted lesion masks against the truth and print one row per method.

    Args:
        predictions: folder of predicted masks (0/1), on the grid of the truth, with the case id in the file name.
        truth: root of a dataset in a known layout, or a folder with one label file per case.
        output: folder for ``metrics.csv`` (one line per method and case), ``summary.csv`` (one line per method) and, with several
            methods, ``comparisons.csv`` (paired tests against the first); made where it does not exist.
        dataset: name of the dataset layout of ``truth``; found by itself where not given.
        name: name of the method in the table; by default the name of the folder.
        compare: further folders of predictions, separated by commas; ``NAME=FOLDER`` names the method.
        pattern: names of the files that are predictions, such as ``'*_lesion.mha'`` where vote shares lie beside the masks.
        brain: folder of brain masks or skull-stripped images (brain = voxels above 0) for a truth that is a folder of label files.
        union: every label above 0 counts as one structure, such as the whole tumour of BraTS; otherwise only 0 and 1 are accepted.

    Raises:
        UserError: missing or doubled predictions, different grids, wrong values. Nothing is written then.
    """
    from common.metrics.comparison import compare_methods, method_summary, rank_methods
    from common.pairing import truth_cases

    folders = _methods(predictions, name, compare)
    rows = measure_methods(truth_cases(str(truth), dataset), folders, str(pattern), brain, flag(union, "union"))
    summaries = {method: method_summary(own) for method, own in rows.items()}
    ranks = rank_methods(summaries)
    tests = compare_methods(rows, next(iter(folders))) if len(folders) > 1 else []
    print(_table(summaries, ranks))
    print(_notes(rows, summaries))
    for line in _test_lines(tests):
        print(line)
    for path in _write(Path(str(output)), rows, summaries, ranks, tests):
        print(f"wrote {path}")


def run(study: str, output: str, dataset_dir: str | None = None) -> None:
    """Train and evaluate every row of a study file that is not done yet, then write one table and its figures.

    Args:
        study: JSON file; see `common.study_runs.read_study`, and ``configs/study_*.json`` of a bundle for examples.
        output: folder with one folder per row, ``table.csv``, ``comparisons.csv`` and the figures; made where it does not exist.
        dataset_dir: data set of all rows; by default a simulated cohort, or what the configs say.

    Raises:
        UserError: a mistake in the study, or rows that failed, named after the others are done.
    """
    from common.study_runs import run_study

    run_study(str(study), str(output), None if dataset_dir is None else str(dataset_dir))


def _methods(predictions: str, name: str | None, compare: str | Sequence[str]) -> dict[str, str]:
    """Return method name -> folder, the first being the one the others are compared with."""
    # `fire` turns "a,b" into a tuple when both are plain words and leaves it a string otherwise.
    others = [part for part in compare.split(",") if part] if isinstance(compare, str) else [str(part) for part in compare]
    first = str(predictions)
    named = [(str(name) if name is not None else Path(first).resolve().name, first)]
    for other in others:
        label, mark, folder = other.partition("=")
        named.append((label, folder) if mark else (Path(other).resolve().name, other))
    doubled = {label for label, _ in named if sum(label == known for known, _ in named) > 1}
    if doubled:
        raise UserError(f"two methods are called {', '.join(sorted(doubled))}. Name them: --name A --compare B=FOLDER,C=FOLDER")
    return dict(named)


def measure_methods(
    cases: Sequence[Mapping[str, Any]], folders: Mapping[str, str], pattern: str = "*", brain: str | None = None, union: bool = False
) -> dict[str, list[dict[str, float | str]]]:
    """Measure every method on every case; each truth is read once.

    Args:
        cases: dicts with ``id``, ``subject``, ``label`` and, where there is one, ``image`` (its first file > 0 is the brain).
        folders: method -> folder of predictions.
        pattern: names of the files that are predictions.
        brain: folder of brain masks, paired by id; None takes the image of the case.
        union: labels above 0 count as one structure.

    Returns:
        method -> rows of `measure_case`, each led by ``method`` and ``id``, in the order of ``cases``.

    Raises:
        UserError: missing or doubled predictions (before anything is measured), different grids, wrong values; the file is named.
    """
    from tqdm import tqdm

    from common.pairing import pair_by_id, read_volume

    known = [dict(case) for case in cases]
    paired = {method: pair_by_id(known, folder, pattern) for method, folder in folders.items()}
    brains = pair_by_id(known, brain) if brain else {str(case["id"]): _first_image(case) for case in known}
    rows: dict[str, list[dict[str, float | str]]] = {method: [] for method in folders}
    for case in tqdm(known, desc="scoring", unit="case", disable=None):
        case_id = str(case["id"])
        truth = read_volume(case["label"])
        inside = _brain(brains[case_id], truth, case["label"])
        for method, files in paired.items():
            row = _measure(case["label"], truth, files[case_id], inside, union)
            rows[method].append({"method": method, "id": case_id, **row})
    return rows


def _measure(label: str, truth: Any, prediction: Path, inside: Any, union: bool) -> dict[str, float | str]:
    from common.metrics.case_metrics import measure_case
    from common.pairing import check_same_grid, read_volume, spacing_mm_of

    predicted = read_volume(prediction)
    check_same_grid(truth, predicted, label, prediction)
    true, found = (voxels > 0 if union else voxels for voxels in (truth[0], predicted[0]))
    try:
        return measure_case(true, found, inside, spacing_mm_of(truth[1]))
    except UserError as error:
        raise UserError(f"{prediction} against {label}: {error}") from error


def _brain(image: str | Path | None, truth: Any, label: str) -> Any:
    """Read the brain mask: voxels above 0 of the first channel."""
    if image is None:
        return None
    from common.pairing import check_same_grid, read_volume

    voxels, affine = read_volume(image)
    first = voxels[..., 0] if voxels.ndim == 4 else voxels
    check_same_grid(truth, (first, affine), label, image)
    return first > 0


def _first_image(case: Mapping[str, Any]) -> str | None:
    image = case.get("image")
    return image if image is None or isinstance(image, str) else str(image[0])


def _table(summaries: Mapping[str, Mapping[str, Mapping[str, float]]], ranks: Mapping[str, float]) -> str:
    """Lay out the columns of table 1 of the paper: Dice and NSD in percent, MASD in mm."""
    from common.metrics.comparison import RANKED_COLUMNS, STRATUM_COLUMNS

    heads = ["method", *(f"Dice {stratum}" for stratum in STRATUM_COLUMNS.values()), "MASD mm", "NSD 2 mm", "Dice", "mean rank"]
    lines = [heads]
    for method, columns in summaries.items():
        shown = [columns[c]["mean"] * (1 if c == "masd_mm" else 100) for c in RANKED_COLUMNS]
        digits = [4 if column == "masd_mm" else 2 for column in RANKED_COLUMNS]
        numbers = [f"{value:.{places}f}" if value == value else "-" for value, places in zip(shown, digits, strict=True)]
        lines.append([method, *numbers, f"{ranks[method]:.2f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    aligned = [[line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _notes(rows: Mapping[str, Sequence[Any]], summaries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    from common.metrics.comparison import STRATUM_COLUMNS

    first = next(iter(summaries.values()))
    sizes = ", ".join(f"{first[column]['n']:d} {stratum}" for column, stratum in STRATUM_COLUMNS.items())
    left = ", ".join(f"{method} {columns['masd_mm']['left_out']:d}" for method, columns in summaries.items())
    cases = len(next(iter(rows.values())))
    return f"{cases} cases ({sizes} of brain volume). Dice and NSD in percent. Left out of MASD, one mask being empty: {left}."


def _test_lines(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say each paired test in a line."""
    return [
        f"{test['method']} - {test['reference']}: {test['metric']} {test['mean_difference']:+.4f} (n {test['n']}, "
        f"Wilcoxon p {test['p']:.4f}, Holm {test['p_holm']:.4f})"
        for test in tests
    ]


def _write(
    folder: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    summaries: Mapping[str, Mapping[str, Mapping[str, float]]],
    ranks: Mapping[str, float],
    tests: Sequence[Mapping[str, Any]],
) -> list[Path]:
    """Write the tables, each under its name only when complete."""
    from common.atomic import write_csv

    flat = [
        {"method": method, "cases": len(rows[method]), "mean_rank": ranks[method]}
        | {f"{column}_{what}": value for column, values in columns.items() for what, value in values.items()}
        for method, columns in summaries.items()
    ]
    tables: dict[str, list[Mapping[str, Any]]] = {"metrics.csv": [row for own in rows.values() for row in own], "summary.csv": [*flat]}
    if tests:
        tables["comparisons.csv"] = [dict(test) for test in tests]
    return [write_csv(folder / name, table) for name, table in tables.items()]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command({"score": score, "run": run}, "common.study", arguments)


if __name__ == "__main__":
    main()
