"""Several methods measured on the same cases: one table row each, mean ranks, and paired tests against one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import UserError
from common.metrics.case_metrics import Row, summarise
from common.metrics.lesion_load import STRATA
from common.metrics.ranking import mean_rank
from common.metrics.statistics import holm, paired_wilcoxon

STRATUM_COLUMNS: dict[str, str] = dict(zip(("dice_load_under_1", "dice_load_1_to_5", "dice_load_over_5"), STRATA, strict=True))
"""Column of the table -> stratum of lesion load."""

RANKED_COLUMNS: dict[str, bool] = {**dict.fromkeys(STRATUM_COLUMNS, True), "masd_mm": False, "nsd_2mm": True, "dice": True}
"""Columns of table 1 of the paper, in its order -> True where larger is better."""

TESTED_METRICS: tuple[str, ...] = ("dice", "masd_mm", "nsd_2mm")
"""Metrics of which paired tests are made; together with the compared methods they are the family of Holm's correction."""


def method_summary(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Summarise one method: all metrics and Dice in the three strata.

    Args:
        rows: one per case, from `measure_case`.

    Returns:
        column -> ``{n, left_out, mean, sd, low, high}``; the columns of `RANKED_COLUMNS` first.
    """
    summary = summarise(rows)
    columns = {column: summary["dice_by_stratum"][stratum] for column, stratum in STRATUM_COLUMNS.items()}
    metrics: dict[str, dict[str, float]] = summary["metrics"]
    columns |= {name: metrics[name] for name in RANKED_COLUMNS if name in metrics}
    return columns | {name: values for name, values in metrics.items() if name not in columns}


def rank_methods(summaries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Mean rank of each method over the columns of table 1; a column in which no method has a number is left out.

    Args:
        summaries: method -> `method_summary`.

    Returns:
        method -> mean rank; the smallest is best.

    Raises:
        UserError: no methods, or none has a number.
    """
    table = {method: {column: columns[column]["mean"] for column in RANKED_COLUMNS} for method, columns in summaries.items()}
    held = {column: higher for column, higher in RANKED_COLUMNS.items() if not all(math.isnan(row[column]) for row in table.values())}
    return mean_rank(table, held)


def compare_methods(rows_by_method: Mapping[str, Sequence[Row]], reference: str) -> list[dict[str, Any]]:
    """Test every other method against one, case by case (Wilcoxon signed-rank), Holm-corrected over all tests made here.

    Args:
        rows_by_method: method -> rows of `measure_case` with an ``id`` each; every method the same cases, in any order.
        reference: the method the others are compared with.

    Returns:
        One dict per method and metric of `TESTED_METRICS`: ``method``, ``reference``, ``metric``, ``n``, ``mean_difference`` and
        ``median_difference`` (method minus reference), ``p``, ``p_holm``. A case on which the metric is NaN for either is left out.

    Raises:
        UserError: unknown reference, or methods with different cases.
    """
    if reference not in rows_by_method:
        raise UserError(f"reference: got {reference!r}, expected one of {', '.join(rows_by_method)}.")
    base = {str(row["id"]): row for row in rows_by_method[reference]}
    tests: list[dict[str, Any]] = []
    for method, rows in rows_by_method.items():
        if method == reference:
            continue
        own = {str(row["id"]): row for row in rows}
        if own.keys() != base.keys():
            odd = sorted(own.keys() ^ base.keys())
            raise UserError(f"{method} and {reference} were not measured on the same cases: {', '.join(odd[:5])} only in one of them.")
        for metric in TESTED_METRICS:
            values = [float(own[case][metric]) for case in base], [float(base[case][metric]) for case in base]
            tests.append({"method": method, "reference": reference, "metric": metric, **paired_wilcoxon(*values)})
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    return tests
