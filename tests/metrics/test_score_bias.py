"""Scores of healthy subjects against age, sex and site: ranks by hand, scipy's tests, a coverage, and Holm over the table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import UserError
from common.metrics.score_bias import age_dependence, group_dependence, score_bias


def test_a_monotone_score_has_correlation_one_and_ranks_alone_count() -> None:
    ages = [20.0, 30, 40, 50, 60]
    found = age_dependence([1, 2, 4, 8, 1000], ages)
    assert found["effect"] == pytest.approx(1) and found["n"] == 5 and found["high"] == pytest.approx(1)
    # ranks 1 2 3 5 4 against 1..5: 1 - 6 * 2 / (5 * 24)
    assert age_dependence([1, 2, 4, 9, 8], [*ages])["effect"] == pytest.approx(0.9)


def test_the_interval_covers_the_correlation_as_often_as_it_says() -> None:
    random, true, held = np.random.default_rng(0), 0.5, 0
    spearman = 6 / math.pi * math.asin(true / 2)
    for _ in range(150):
        x = random.standard_normal(40)
        found = age_dependence(x, true * x + math.sqrt(1 - true**2) * random.standard_normal(40))
        held += found["low"] <= spearman <= found["high"]
    assert 0.9 <= held / 150 <= 0.99


def test_subjects_without_age_are_left_out_and_few_are_no_test() -> None:
    assert age_dependence([1, 2, 3, 5, 4, 9], [1, 2, 3, 4, 5, math.nan])["n"] == 5
    few = age_dependence([1, 2, 3], [1, 2, 3])
    assert few["n"] == 3 and math.isnan(few["effect"]) and math.isnan(few["p"])


def test_two_groups_are_compared_by_the_chance_to_score_higher() -> None:
    # of 9 pairs (f, m), f is above in 1 (5 > 4)
    found = group_dependence([1, 2, 5, 4, 6, 7], ["f", "f", "f", "m", "m", "m"])
    assert (found["test"], found["n"]) == ("Mann-Whitney", 6) and found["effect"] == pytest.approx(1 / 9)
    assert found["medians"] == "f 2 (n 3), m 6 (n 3)"
    assert found["p"] == pytest.approx(0.2)  # 2 * P(U <= 1) = 2 * 2 / 20


def test_more_groups_are_compared_by_kruskal_and_wallis() -> None:
    found = group_dependence([1, 2, 3, 4, 5, 6, 7, 8, 9, 50], [*"aaabbbccc", "d"])
    # H = 12 / (9 * 10) * (6^2 + 15^2 + 24^2) / 3 - 3 * 10 = 7.2
    assert (found["test"], found["n"]) == ("Kruskal-Wallis", 9) and found["effect"] == pytest.approx(7.2 / 8)
    assert "d 50 (n 1)" in found["medians"], "a group of one is named, not tested"


def test_one_group_or_no_spread_is_no_test() -> None:
    assert math.isnan(group_dependence([1, 2, 3, 4], ["f"] * 4)["p"])
    assert math.isnan(group_dependence([1.0] * 6, ["f"] * 3 + ["m"] * 3)["p"])


def test_a_table_has_a_test_per_fact_and_p_is_corrected_over_all() -> None:
    random = np.random.default_rng(0)
    rows = [
        {"residual_mean": age / 100 + 0.01 * random.random(), "age": age, "sex": "fm"[k % 2], "site": ("Guys", "HH", "IOP")[k % 3]}
        for k, age in enumerate(range(20, 50))
    ]
    table = score_bias(rows, ["residual_mean"])
    assert [row["fact"] for row in table] == ["age", "sex", "site"]
    assert table[0]["effect"] > 0.9 and table[0]["p_holm"] == pytest.approx(3 * table[0]["p"]) and table[1]["p_holm"] > 0.5
    assert [row["fact"] for row in score_bias([{"s": 1.0, "sex": "f"}, {"s": 2.0, "sex": None}], ["s"])] == ["sex"]


def test_a_score_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="the rows have no p99; they have mean, age"):
        score_bias([{"mean": 1.0, "age": 3.0}], ["p99"])
