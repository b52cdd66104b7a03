"""Many trainings and evaluations, one after the other: ``python -m common.study run STUDY.json --output OUT``.

MONAI runs one config; which rows a study has, which of them are done, and the table of all of them are nobody's there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import __version__, config_dir
from common.errors import UserError

Start = Callable[[Sequence[str], Path], int]
"""Runs a command, its output to a log file; gives the exit code."""

KEYS = {"_desc_", "bundle", "overlays", "test_cohort", "rows"}
ROW_KEYS = {"_desc_", "name", "overlays", "overrides", "evaluate_only", "weights_of"}


class Row(NamedTuple):
    """One line of a study's table.

    Attributes:
        name: of its folder and in the table; what stands before its first ``_`` is the method.
        overlays: paths, those of the study first.
        own: paths of the row's own overlays.
        overrides: values by config id, behind all overlays.
        weights_of: the row whose weights are evaluated; None where the row is trained.
    """

    name: str
    overlays: tuple[str, ...]
    own: tuple[str, ...]
    overrides: dict[str, Any]
    weights_of: str | None


class Study(NamedTuple):
    """A study file, read: the bundle's folder of configs, the rows in order, and what makes every evaluation one of another cohort."""

    bundle: str
    configs: str
    rows: list[Row]
    test_cohort: dict[str, Any]


class Job(NamedTuple):
    """A command of a row: its config files in order, the values behind them, and a digest of what they make together."""

    files: list[str]
    values: dict[str, Any]
    digest: str

    def command(self, ckpt_dir: Path, output_dir: Path, overrides_file: Path) -> list[str]:
        """Words of the command; the values are read from a file, since texts on a command line may turn into numbers."""
        files = repr([*self.files, str(overrides_file)])
        folders = ["--ckpt_dir", str(ckpt_dir), "--output_dir", str(output_dir)]
        return [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *folders]


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read and check a study file.

    ``{"_desc_", "bundle": "position_regression", "overlays": ["quick.json"], "rows": [{"name": "ppr_m4", "overlays": [...], "overrides":
    {"width": 4}}, {"name": "threshold", "evaluate_only": true, "weights_of": "ppr_m4", "overlays": ["variant_threshold.json"]}]}``.
    An overlay is a file of the bundle's ``configs/`` or lies beside the study file. A row that only evaluates begins with the overlays and
    overrides of the row whose weights it takes, which stands above it. ``"test_cohort": {"evaluate_on": "all", "simulated::seed": 1001}``
    beside the rows holds values of all evaluations, but of no training, where no data set is given.

    Args:
        path: JSON file.

    Raises:
        UserError: no such file, no JSON, unknown keys, names that are doubled or no file names, overlays or rows that are not there.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"STUDY: {path} does not exist (relative paths start at {os.getcwd()}).")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}).") from error
    if not isinstance(found, dict) or not isinstance(found.get("bundle"), str) or not found.get("rows"):
        raise UserError(f"{path}: expected an object with 'bundle' (a name) and 'rows' (a list with at least one row).")
    _check_keys(found, KEYS, str(path))
    configs = config_dir(found["bundle"])
    shared = [_overlay(name, configs, path, "overlays") for name in found.get("overlays", [])]
    rows: dict[str, Row] = {}
    for entry in found["rows"]:
        row = _read_row(entry, shared, configs, path, rows)
        rows[row.name] = row
    return Study(found["bundle"], configs, list(rows.values()), dict(found.get("test_cohort", {})))


def _check_keys(found: Mapping[str, Any], known: set[str], where: str) -> None:
    if odd := sorted(set(found) - known):
        raise UserError(f"{where}: unknown {', '.join(odd)}; expected only {', '.join(sorted(known))}.")


def _overlay(name: str, configs: str, study: Path, where: str) -> str:
    places = [os.path.abspath(os.path.join(folder, name)) for folder in (study.parent, configs)]
    for place in places:
        if os.path.isfile(place):
            return place
    raise UserError(f"{study}: {where} names {name}, but there is neither {' nor '.join(places)}.")


def _read_row(entry: Any, shared: Sequence[str], configs: str, path: Path, above: Mapping[str, Row]) -> Row:
    """A row of the file, checked against those above it."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name in above:
        raise UserError(f"{path}: a row has the name {name!r}; expected letters, digits, '_', '-', '.', and another for each row.")
    where = f"{path}: row {name}"
    _check_keys(entry, ROW_KEYS, where)
    source = entry.get("weights_of")
    if bool(entry.get("evaluate_only")) != (source is not None):
        raise UserError(f"{where}: evaluate_only and weights_of belong together; give both or neither.")
    own = tuple(_overlay(overlay, configs, path, f"row {name}") for overlay in entry.get("overlays", []))
    overrides = dict(entry.get("overrides", {}))
    if source is None:
        return Row(name, tuple(shared), own, overrides, None)
    if source not in above or above[source].weights_of is not None:
        trained = [row.name for row in above.values() if row.weights_of is None]
        raise UserError(f"{where}: weights_of names {source!r}, expected a trained row above it: {', '.join(trained) or 'there is none'}.")
    base = above[source]
    return Row(name, base.overlays, (*base.own, *own), {**base.overrides, **overrides}, source)


def plan_row(study: Study, row: Row, dataset_dir: str | None = None) -> tuple[Job | None, Job]:
    """The training (None for a row that only evaluates) and the evaluation of a row.

    Args:
        study: holds the row.
        row: the overlays of ``evaluate.json`` stand before the row's own, which may replace parts of them.
        dataset_dir: the data set, absolute; None takes what the configs say.

    Raises:
        UserError: an override that names nothing in the configs.
    """
    from monai.bundle import ConfigParser

    train, evaluate = (os.path.join(study.configs, name) for name in ("train.json", "evaluate.json"))
    given = row.overrides | ({} if dataset_dir is None else {"dataset_dir": dataset_dir})
    measured = given if dataset_dir is not None else study.test_cohort | given
    jobs = []
    for values, files in ((given, [train, *row.overlays, *row.own]), (measured, [train, *row.overlays, evaluate, *row.own])):
        merged = ConfigParser.load_config_files(files)
        parser = ConfigParser(dict(merged))
        text = json.dumps(_without_words([__version__, merged, values]), sort_keys=True)
        jobs.append(Job(files, values, hashlib.sha256(text.encode()).hexdigest()[:16]))
    # the last parser is that of the evaluation, which knows all ids
    if odd := [key for key in measured if key not in parser]:
        raise UserError(f"row {row.name}: overrides name {', '.join(odd)}, which the configs do not have: {', '.join(jobs[1].files)}.")
    return (None if row.weights_of is not None else jobs[0]), jobs[1]


def _without_words(value: Any) -> Any:
    """The same without descriptions: a better word is no reason to train again."""
    return json.loads(json.dumps(value), object_hook=lambda found: {key: held for key, held in found.items() if key != "_desc_"})


def start_process(command: Sequence[str], log: Path) -> int:
    """Run a command to its end, its output to a log file, and return its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        return subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode


def run_study(study_file: str, output: str, dataset_dir: str | None = None, start: Start = start_process) -> list[str]:
    """Train and evaluate every row that is not done yet, then compare all rows that are.

    Each row has a folder ``<output>/<name>`` with ``models/``, ``eval/``, log and overrides of both commands, and ``done.json``, by which
    it is recognised when its configs are the same the next time. Data set, cohort and prepared volumes are shared.

    Args:
        study_file: see :func:`read_study`.
        output: folder of results; also of the tables and the figures, see :func:`common.anomaly_study.study`,
            :func:`common.mask_study.study`, :func:`common.growth_study.study` and :func:`common.reconstruction_study.study`.
        dataset_dir: data set of all rows; None takes what the configs say.
        start: runs one command.

    Returns:
        Names of the rows that are compared.

    Raises:
        UserError: a mistake in the study, before anything is started; or rows that failed, named after the others are done and compared.
    """
    study, root = read_study(study_file), Path(output).expanduser().absolute()
    data = None if dataset_dir is None else os.path.abspath(os.path.expanduser(dataset_dir))
    if data is not None and not os.path.exists(data):
        raise UserError(f"dataset_dir: {data} does not exist.")
    plans = [(row, *plan_row(study, row, data)) for row in study.rows]
    failed: dict[str, str] = {}
    for number, (row, train, evaluate) in enumerate(plans, 1):
        print(f"{number} of {len(plans)}: {row.name}", flush=True)
        needed = f"{row.weights_of} failed, whose weights it needs" if row.weights_of in failed else None
        if reason := needed or run_row(row, train, evaluate, root, start):
            print(f"  FAILED: {reason}", flush=True)
            failed[row.name] = reason
    done = [row.name for row in study.rows if row.name not in failed]
    if done:
        compare = comparison_of(root / done[0] / "eval")
        compare([f"{name}={root / name / 'eval'}" for name in done], str(root))
    if failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise UserError(f"{len(failed)} of {len(plans)} rows failed, the others are done:\n{reasons}")
    return done


def comparison_of(results: Path) -> Callable[[list[str], str], None]:
    """What compares evaluations, by their summary: of masks (``metrics``), pairs of scans (``pairs``), restored slices, else of maps."""
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    if "metrics" in summary:
        from common.mask_study import study
    elif "pairs" in summary:
        from common.growth_study import study
    elif "corruptions" in summary:
        from common.reconstruction_study import study
    else:
        from common.anomaly_study import study
    return study


def run_row(row: Row, train: Job | None, evaluate: Job, root: Path, start: Start) -> str | None:
    """Do what is left to do of a row.

    Args:
        row: the row.
        train: its training; None where it takes the weights of another.
        evaluate: its evaluation.
        root: folder of the study.
        start: runs one command.

    Returns:
        Why it failed, or None.
    """
    from common.atomic import write_text

    folder = root / row.name
    models, results = root / (row.weights_of or row.name) / "models", folder / "eval"
    weights = train.digest if train is not None else str(_record(root / str(row.weights_of)).get("weights"))
    wanted = {"weights": weights, "evaluation": f"{weights}-{evaluate.digest}"}
    found = _record(folder)
    if found == wanted and (results / "summary.json").is_file():
        print("  done before", flush=True)
        return None
    jobs = {"train": train, "evaluate": evaluate}
    if train is None or (found.get("weights") == weights and (models / "model.pt").is_file()):
        del jobs["train"]
    else:
        write_text(folder / "done.json", "{}\n")
    for kind, job in jobs.items():
        assert job is not None
        log = folder / f"{kind}.log"
        overrides = write_text(folder / f"{kind}_overrides.json", json.dumps(job.values, indent=4) + "\n")
        print(f"  {kind}, {log}", flush=True)
        code = start(job.command(models, results, overrides), log)
        missing = [path for path in ([models / "model.pt"] if kind == "train" else [results / "summary.json"]) if not path.is_file()]
        if code or missing:
            return f"{kind} ended with exit code {code}" + (f" without {missing[0]}" if missing and not code else "") + _end_of(log)
        write_text(folder / "done.json", json.dumps(wanted if kind == "evaluate" else {"weights": weights}, indent=4) + "\n")
    return None


def _record(folder: Path) -> dict[str, Any]:
    """What ``done.json`` of a row says; empty where nothing is done, or it cannot be read."""
    try:
        found = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _end_of(log: Path, lines: int = 3) -> str:
    """Where the log is, and its last lines that are not empty."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    shown = "".join(f"\n    {line}" for line in [line for line in text if line.strip()][-lines:])
    return f"; see {log}{shown}"
