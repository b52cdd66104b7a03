"""Choose the filter of a reconstruction's error map on labelled validation cases, never on those it is tested on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Evaluator

from common.anomaly_scores import PAPER, TASKS, auroc_rows, known_findings, score_case
from common.anomaly_tables import as_table
from common.atomic import write_csv
from common.errors import UserError
from common.inference import CaseRows, case_id, run_cases
from common.transforms.map_filters import filter_maps

logger = logging.getLogger("brain_bundles")


class FilteredScores:
    """Row of a case: its findings, and the score of each structure after every filter.

    Args:
        cases: hold ``id`` and ``findings`` (or ``healthy``).
        filters: names that :func:`common.transforms.map_filters.filter_maps` knows; ``none`` is tried once, as size 1.
        sizes: sides of the filters, odd, voxels.
        aggregate: see :func:`common.metrics.roc.structure_score`.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], filters: Sequence[str], sizes: Sequence[int], aggregate: str = "max") -> None:
        self.findings = {str(case["id"]): known_findings(case) for case in cases}
        self.tried = {f"{name} {size}": (name, size) for name in filters for size in ([1] if name == "none" else sizes)}
        self.aggregate = aggregate

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Findings and scores, see :func:`common.anomaly_scores.score_case`; the map of a filter is called ``median 5`` and so on.

        Args:
            item: holds ``id`` and ``structures``, label map ``(1, n, n, n)``.
            result: holds the unfiltered ``error``, ``(1, n, n, n)``.
        """
        error = torch.as_tensor(result["error"])
        maps = {key: filter_maps(error[None], name, size)[0] for key, (name, size) in self.tried.items()}
        return {**self.findings[case_id(item)], **score_case(item, maps, list(maps), [self.aggregate])}


def choose_filter(
    evaluator: Evaluator,
    output_dir: str,
    filters: Sequence[str] = ("none", "median", "erosion"),
    sizes: Sequence[int] = (3, 5, 7),
    aggregate: str = "max",
) -> list[dict[str, Any]]:
    """AUROC of every filter type and size; prints them and, per task of the paper, the best.

    Writes ``filters.csv``: a row per task and filter, with ``filter``, ``size``, ``auroc`` and its 95 % interval.

    Args:
        evaluator: its cases are labelled ones that nothing is tested on; its maps are unfiltered.
        output_dir: folder of the table.
        filters: names that :func:`common.transforms.map_filters.filter_maps` knows.
        sizes: sides of the filters, odd, voxels.
        aggregate: see :func:`common.metrics.roc.structure_score`.

    Returns:
        The rows; of one task the best comes first.

    Raises:
        UserError: no cases, or a task of the paper whose cases are all of one class.

    Source: Bieder et al., MIDL 2022, Sec. 3.4 (filter type and kernel size optimised; on which cases is not stated).
    """
    loader: Any = evaluator.data_loader
    measure = FilteredScores(loader.dataset.data, filters, sizes, aggregate)
    rows = CaseRows(measure)
    with evaluator.add_event_handler(Events.ITERATION_COMPLETED, rows.add):
        run_cases(evaluator)
    found = [row for row in auroc_rows(rows.rows, list(measure.tried), [aggregate]) if row["task"] in PAPER]
    for row in found:
        if row["reason"]:
            raise UserError(
                f"{row['task']}: {row['reason']}, so that no filter can be chosen. Give --validation_abnormal (subjects with findings that"
                " are then not tested), or name the filter in the config."
            )
    found.sort(key=lambda row: (list(TASKS).index(row["task"]), -row["auroc"]))
    logger.info("Filters (in place of the map) on %d validation cases:\n%s", len(rows.rows), as_table(found))
    numbers = ("auroc", "low", "high", "positives", "negatives")
    table = []
    for row in found:
        name, size = measure.tried[row["map"]]
        table.append({"task": row["task"], "filter": name, "size": size} | {key: row[key] for key in numbers})
    write_csv(Path(output_dir) / "filters.csv", table)
    for task in PAPER:
        best = next(row for row in table if row["task"] == task)
        logger.info("Best for %s: --error_filter %s --filter_size %d", task, best["filter"], best["size"])
    return table
