"""Evaluations of reconstruction that are compared: which model each is, and its errors by subject, repetitions averaged."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.evaluated_runs import read_evaluations
from common.reconstruction_paper import Setting


class Run(NamedTuple):
    """An evaluation.

    Attributes:
        name: as given.
        setting: which model.
        rows: of ``metrics.csv``.
        summary: ``summary.json``.
        folder: where it lies.
    """

    name: str
    setting: Setting
    rows: list[dict[str, str]]
    summary: dict[str, Any]
    folder: Path


def read_runs(runs: str | Sequence[str]) -> list[Run]:
    """Read evaluations that ``common.reconstruction_evaluation.evaluate_reconstruction`` wrote.

    Args:
        runs: folders, separated by commas; ``NAME=FOLDER`` names one.

    Raises:
        UserError: another kind of evaluation, other cases, other corruptions, or runs that do not say what was trained.
    """
    found = []
    for run in read_evaluations(runs):
        if "corruptions" not in run.summary:
            raise UserError(f"runs: {run.folder} is no evaluation of reconstruction; expected the output_dir of evaluate_reconstruction.")
        config = run.folder / "evaluate_config.json"
        ran = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        facts = {key: value for key, value in ran.items() if not str(value).startswith(("$", "@"))} | run.summary.get("facts", {})
        found.append(Run(run.name, setting_of(facts, str(run.folder)), run.rows, run.summary, run.folder))
    for other in found[1:]:
        first, own = ((r.summary.get("corruption_seed"), list(r.summary["corruptions"])) for r in (found[0], other))
        if own != first:
            raise UserError(
                f"runs: {other.name} has (seed, corruptions) {own}, {found[0].name} has {first}; expected the same test images."
            )
    return found


def setting_of(facts: Mapping[str, Any], where: str) -> Setting:
    """Which model a run is, by what it says of itself.

    Args:
        facts: ``family``, ``loss``, perhaps ``block``, ``l2`` (a number or a switch) and ``augmentation`` (name or names of corruptions).
        where: for the error.

    Raises:
        UserError: no family or no loss.
    """
    if missing := [key for key in ("family", "loss") if key not in facts]:
        raise UserError(f"{where}: neither summary.json (facts) nor evaluate_config.json says its {' and '.join(missing)}.")
    family = str(facts["family"]).lower()
    block = "-" if family == "skip" else str(facts.get("block", "preactivation")).lower()
    augmentation = facts.get("augmentation", "none")
    if isinstance(augmentation, bool):
        augmentation = "all" if augmentation else "none"
    if not isinstance(augmentation, str):
        augmentation = "+".join(sorted(augmentation or ["none"]))
    l2 = str(facts.get("l2", 0)).lower()
    return Setting(family, block, str(facts["loss"]).lower(), l2 not in ("0", "0.0", "false", "none", "null", ""), augmentation.lower())


def by_setting(runs: Sequence[Run]) -> dict[Setting, list[Run]]:
    """Runs of one setting together, such as its seeds."""
    found: dict[Setting, list[Run]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return found


def subject_values(runs: Sequence[Run], column: str) -> dict[str, float]:
    """Subject -> a column's mean over its volumes and over the runs; infinite values are left out, NaN where none is finite.

    Args:
        runs: of one setting.
        column: of ``metrics.csv``.
    """
    held: dict[str, list[float]] = {}
    for run in runs:
        for row in run.rows:
            value = float(row.get(column) or "nan")
            held.setdefault(row.get("subject") or row["id"], []).extend([value] if math.isfinite(value) else [])
    return {subject: sum(values) / len(values) if values else math.nan for subject, values in sorted(held.items())}


def slice_values(runs: Sequence[Run], corruption: str, column: str) -> dict[tuple[str, str], float]:
    """(case, slice) -> a column's mean over the runs, of one corruption; empty where ``slices.csv`` is not there."""
    held: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        path = run.folder / "slices.csv"
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["corruption"] == corruption:
                    held.setdefault((row["id"], row["slice"]), []).append(float(row[column] or "nan"))
    return {place: sum(values) / len(values) for place, values in sorted(held.items())}
