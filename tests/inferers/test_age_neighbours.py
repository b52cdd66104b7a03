"""Weights in age, and the two baselines: the input scan, and the mean of the neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import UserError
from common.inferers.age_neighbours import AgeNeighbours, copy_input, neighbour_weights

AGES = st.lists(st.floats(26, 45), min_size=1, max_size=12)


@given(AGES, st.floats(24, 47), st.integers(1, 4))
@example([27.0, *[26.457109721637188] * 3], 26.457109721637188, 3)
def test_weights_are_a_mean_of_at_most_k_scans_on_each_side(ages, target, count):
    weights = neighbour_weights(ages, target, count)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    above = np.array(ages) > target
    assert (weights[above] > 0).sum() <= count and (weights[~above] > 0).sum() <= count


@given(AGES, st.floats(24, 47), st.integers(1, 4))
def test_the_mean_age_is_the_target_where_scans_lie_on_both_sides(ages, target, count):
    if min(ages) <= target < max(ages):
        assert neighbour_weights(ages, target, count) @ np.array(ages) == pytest.approx(target)


def test_weights_by_hand():
    assert neighbour_weights([30, 34, 40], 35).tolist() == pytest.approx([0, 5 / 6, 1 / 6])
    assert neighbour_weights([30, 34, 40], 34).tolist() == [0, 1, 0], "a scan of that very age"
    assert neighbour_weights([30, 34, 40], 44).tolist() == [0, 0, 1], "the oldest stands for all beyond"
    # means 32 and 41: (41 - 35) / 9 below, halved
    assert neighbour_weights([30, 34, 40, 42], 35, 2).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])


def scan(value, age=30.0, subject="A", sides=(4, 5)):
    return {"image": torch.full((1, *sides), value), "age": age, "subject": subject}


def test_the_copy_is_the_input():
    item = {"input": scan(0.25), "target": scan(0.5, 40.0)}
    assert torch.equal(copy_input(item), item["input"]["image"])


def test_a_brain_that_grows_evenly_is_interpolated_exactly_by_other_subjects_only():
    scans = [scan(age / 100, age, subject) for age, subject in ((30.0, "A"), (34.0, "B"), (36.0, "me"), (40.0, "C"))]
    predict = AgeNeighbours(scans, scans)
    predicted = predict({"input": scan(0.1), "target": scan(0.9, 37.0, "me")})
    assert predicted.shape == (1, 4, 5) and torch.allclose(predicted, torch.tensor(0.37))


def test_only_scans_with_a_weight_are_read():
    class Lazy:
        def __init__(self):
            self.read = []

        def __len__(self):
            return 4

        def __getitem__(self, index):
            self.read.append(index)
            return scan(0.5)

    lazy = Lazy()
    cases = [{"age": age, "subject": str(age)} for age in (30, 34, 36, 40)]
    AgeNeighbours(lazy, cases)({"target": scan(0.5, 35.0, "me")})
    assert lazy.read == [1, 2]


def test_what_cannot_be_averaged_is_refused():
    scans = [scan(0.1), scan(0.2, 35.0)]
    with pytest.raises(UserError, match="all 2 training scans are of A, who is tested"):
        AgeNeighbours(scans, scans)({"target": scan(0.3)})
    with pytest.raises(UserError, match=r"scan 0 has shape \(1, 4, 5\), expected \(1, 6, 6\) as the target. Prepare both on one grid"):
        AgeNeighbours(scans, scans)({"target": scan(0.3, 30.0, "B", (6, 6))})
    with pytest.raises(UserError, match="got 2 scans and 1 cases"):
        AgeNeighbours(scans, scans[:1])
    with pytest.raises(UserError, match="got 3 scans and count 0"):
        neighbour_weights([30, 31, 32], 30, 0)
