import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import UserError
from common.metrics.agreement import agreement_table, composition_table, fleiss_kappa, majority_vote, reader_aurocs

READS = st.integers(1, 12).flatmap(lambda cases: arrays(np.int64, (cases, 3), elements=st.integers(0, 1)))


def test_kappa_by_hand():
    # 4 cases, 3 readers, ones per case 3 0 2 0: squares 9 + 9 + (1 + 4) + 9 = 32, P = (32 - 4*3)/(4*3*2) = 20/24.
    # Shares 5/12 and 7/12: chance (25 + 49)/144 = 74/144. Kappa = (120/144 - 74/144)/(70/144) = 46/70.
    assert fleiss_kappa([[1, 1, 1], [0, 0, 0], [0, 1, 1], [0, 0, 0]]) == pytest.approx(46 / 70)


def test_two_readers_who_always_differ_have_the_lowest_kappa():
    assert fleiss_kappa([[0, 1], [1, 0]]) == pytest.approx(-1.0)  # P 0, chance 1/2


@given(READS)
def test_kappa_is_bounded_and_ignores_the_order_of_readers_and_the_names_of_the_categories(reads):
    kappa = fleiss_kappa(reads)
    if math.isnan(kappa):
        assert reads.min() == reads.max()
        return
    assert -0.5 - 1e-9 <= kappa <= 1 + 1e-9
    assert fleiss_kappa(reads[:, ::-1]) == pytest.approx(kappa) and fleiss_kappa(1 - reads) == pytest.approx(kappa)


def test_full_agreement_is_one_and_chance_is_about_zero():
    assert fleiss_kappa([[1, 1, 1], [0, 0, 0]]) == pytest.approx(1)
    assert fleiss_kappa(np.random.default_rng(0).integers(0, 2, (4000, 3))) == pytest.approx(0, abs=0.03)


def test_majority_by_hand():
    assert majority_vote([[0, 1, 1], [0, 0, 1], [1, 1, 1]]).tolist() == [1, 0, 1]


def test_a_readers_area_is_the_mean_of_sensitivity_and_specificity():
    # Majority 1 1 0 0. R1 finds 1 of 2 and clears 2 of 2: 0.75. R2 finds 2 and clears 1: 0.75. R3 is the majority.
    reads = [[0, 1, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert reader_aurocs(reads) == pytest.approx([0.75, 0.75, 1.0])
    assert all(math.isnan(area) for area in reader_aurocs([[1, 1, 1]]))


def case(left, right, fracture, reads=None):
    found = {"id": "x", "findings": {"bleed_left": left, "bleed_right": right, "fracture": fracture}}
    return found | ({"reads": reads} if reads else {})


def test_composition_counts_every_combination_of_the_paper():
    paper = {(1, 1, 1): 4, (1, 0, 1): 3, (0, 1, 1): 7, (0, 0, 1): 6, (1, 1, 0): 16, (1, 0, 0): 16, (0, 1, 0): 13, (0, 0, 0): 21}
    cases = [case(*key) for key, count in paper.items() for _ in range(count)] + [{"id": "unread"}]
    assert composition_table(cases) == [
        {"skull": "fracture", "left_and_right": 4, "left_only": 3, "right_only": 7, "no_bleeding": 6, "all": 20},
        {"skull": "no fracture", "left_and_right": 16, "left_only": 16, "right_only": 13, "no_bleeding": 21, "all": 66},
    ]
    assert composition_table([{"id": "a"}]) == []


def test_table_of_agreement_has_a_row_per_finding_that_was_read():
    reads = {"bleed_left": [0, 1, 1], "fracture": [0, 0, 0]}
    rows = agreement_table([case(1, 0, 0, reads), case(0, 0, 0, {"bleed_left": [0, 0, 0], "fracture": [1, 1, 1]}), case(0, 0, 0)])
    assert [row["finding"] for row in rows] == ["bleeding left", "fracture"]
    assert (rows[0]["cases"], rows[0]["positive"], rows[0]["R1"], rows[0]["R2"]) == (2, 1, 0.5, 1.0)
    assert rows[0]["mean_reader"] == pytest.approx(2.5 / 3) and rows[1]["kappa"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: majority_vote([[0, 1]]), "got 2 readers, expected an odd number"),
        (lambda: fleiss_kappa([[0], [1]]), "got 1 reader, expected at least 2"),
        (lambda: fleiss_kappa([]), r"expected a table \(cases, readers\)"),
        (lambda: fleiss_kappa([[0, 2]]), "found 2, expected only 0 and 1"),
        (lambda: agreement_table([case(0, 0, 0, {"fracture": [0]}), case(0, 0, 0, {"fracture": [0, 1, 0]})]), r"got \[1, 3\] readers"),
    ],
)
def test_mistakes_are_named(call, text):
    with pytest.raises(UserError, match=text):
        call()
