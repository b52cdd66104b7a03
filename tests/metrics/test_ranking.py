import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.metrics.ranking import column_ranks, mean_rank

COLUMNS = {"<1": True, "1-5": True, ">5": True, "MASD": False, "NSD": True, "Dice": True}
# Table 1 of the LADP paper (methods/ladp.md section 8) and its printed rank.
TABLE = {
    "CarveMix": (51.92, 69.51, 65.72, 2.8364, 76.60, 59.19),
    "DAE": (51.24, 70.50, 65.92, 2.7483, 75.46, 59.08),
    "DDP 1": (48.11, 71.13, 64.80, 3.0238, 75.51, 57.25),
    "DDP 2": (50.65, 70.72, 65.44, 2.7617, 76.72, 58.71),
    "LADP 1": (48.17, 69.83, 65.88, 2.9015, 76.14, 57.23),
    "LADP 2": (51.64, 70.71, 65.46, 2.4886, 78.10, 59.34),
}
PRINTED = {"CarveMix": 3.17, "DAE": 3.17, "DDP 1": 4.83, "DDP 2": 3.33, "LADP 1": 4.5, "LADP 2": 2.0}  # LADP 1 is printed 4: an erratum
TABLES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1)


def as_table(rows, columns=COLUMNS):
    return {method: dict(zip(columns, values, strict=True)) for method, values in rows.items()}


def test_table_1_of_the_paper_gives_its_printed_ranks_but_for_one():
    ranks = mean_rank(as_table(TABLE), COLUMNS)
    assert list(ranks) == list(TABLE)
    assert {method: round(rank, 2) for method, rank in ranks.items()} == PRINTED


def test_the_row_that_the_paper_misprints_has_these_ranks():
    # 48.17 is 5th of 6 under 1 %, 69.83 5th, 65.88 2nd, MASD 2.9015 5th, NSD 76.14 4th, Dice 57.23 6th: 27/6 = 4.5.
    assert list(column_ranks(as_table(TABLE), COLUMNS)["LADP 1"].values()) == [5, 5, 2, 5, 4, 6]


def test_equal_values_share_the_mean_of_their_ranks_and_nan_comes_last():
    table = as_table({"a": [0.9], "b": [0.9], "c": [0.1], "d": [math.nan]}, {"Dice": True})
    assert mean_rank(table, {"Dice": True}) == {"a": 1.5, "b": 1.5, "c": 3.0, "d": 4.0}
    assert mean_rank(table, {"Dice": False}) == {"a": 2.5, "b": 2.5, "c": 1.0, "d": 4.0}


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_ranks_sum_to_the_same_whatever_the_values_and_survive_monotone_changes(rows):
    columns = {"x": True, "y": False, "z": True}
    ranks = mean_rank(as_table(rows, columns), columns)
    n = len(rows)
    assert sum(ranks.values()) == pytest.approx(n * (n + 1) / 2)
    stretched = {method: [value**3 + 7 for value in values] for method, values in rows.items()}
    assert mean_rank(as_table(stretched, columns), columns) == ranks
    turned = mean_rank(as_table(rows, columns), {name: not higher for name, higher in columns.items()})
    assert all(turned[method] == pytest.approx(n + 1 - rank) for method, rank in ranks.items())


def test_a_method_without_a_column_is_named():
    with pytest.raises(UserError, match="method 'b' has no value for Dice"):
        mean_rank({"a": {"Dice": 1.0}, "b": {}}, {"Dice": True})
    with pytest.raises(UserError, match="got 0 methods"):
        mean_rank({}, {"Dice": True})
