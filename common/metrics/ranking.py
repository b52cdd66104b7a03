"""Mean rank of methods over the columns of a table, as the challenge and the paper rank."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.errors import UserError


def column_ranks(table: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]) -> dict[str, dict[str, float]]:
    """Rank the methods in each column: 1 is best, equal values share the mean of their ranks, NaN comes last.

    Args:
        table: method -> column -> value; other columns than those in ``higher_is_better`` are ignored.
        higher_is_better: column -> True where a larger value is better (Dice), False where a smaller one is (MASD).

    Returns:
        method -> column -> rank, in [1, number of methods].

    Raises:
        UserError: no methods, no columns, or a method without one of the columns.
    """
    from scipy.stats import rankdata

    if not table or not higher_is_better:
        raise UserError(f"table: got {len(table)} methods and {len(higher_is_better)} columns, expected at least one of each.")
    for method, values in table.items():
        missing = [column for column in higher_is_better if column not in values]
        if missing:
            raise UserError(f"table: method {method!r} has no value for {', '.join(missing)}. Give NaN where a value does not exist.")
    ranks: dict[str, dict[str, float]] = {method: {} for method in table}
    for column, higher in higher_is_better.items():
        values_of = np.array([table[method][column] for method in table], dtype=float)
        badness = np.where(np.isnan(values_of), np.inf, -values_of if higher else values_of)
        for method, rank in zip(table, rankdata(badness, method="average"), strict=True):
            ranks[method][column] = float(rank)
    return ranks


def mean_rank(table: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]) -> dict[str, float]:
    """Mean over the columns of a method's ranks; the smallest mean is the best method.

    Args:
        table: method -> column -> value.
        higher_is_better: column -> True where a larger value is better.

    Returns:
        method -> mean rank, in [1, number of methods], in the order of ``table``.

    Raises:
        UserError: as `column_ranks`.

    Source: LADP, table 1, last column; the rank printed there for the first LADP row (4) does not follow from its columns (4.5).
    """
    ranks = column_ranks(table, higher_is_better)
    return {method: sum(by_column.values()) / len(by_column) for method, by_column in ranks.items()}
