import numpy as np
import pytest
import torch

from common.errors import UserError
from common.metrics.filter_sweep import sweep_filters

LEFT, RIGHT = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
LEFT[:, :8], RIGHT[:, 8:] = True, True


def cases(count=6):
    """Error maps with bright single voxels everywhere, which tell nothing, and a fainter cube of 5 voxels where there is blood."""
    generator = np.random.default_rng(0)
    errors, truths = [], []
    for case in range(count):
        error = torch.zeros(1, 16, 16, 16)
        for start in (0, 8):
            x, y, z = generator.integers(0, 8, 3)
            error[0, start + x, y, z] = 1 + float(generator.random())
        truth = (case % 2, int(case % 3 == 0))
        if truth[0]:
            error[0, 1:6, 9:14, 9:14] = 0.5
        if truth[1]:
            error[0, 9:14, 9:14, 9:14] = 0.5
        errors.append(error)
        truths.append(truth)
    return errors, truths


def test_the_filter_that_removes_specks_is_chosen():
    errors, truths = cases()
    rows, best = sweep_filters((e for e in errors), [(LEFT, RIGHT)] * 6, truths, sizes=(3, 5))
    assert [(row["filter"], row["size"]) for row in rows] == [("none", 1), ("median", 3), ("median", 5), ("erosion", 3), ("erosion", 5)]
    assert rows[0]["auroc"] < 1
    assert best == {"filter": "median", "size": 3, "auroc": 1.0, "cases": 6, "positives": 5}


def test_an_empty_structure_has_no_score_and_another_score_may_be_given():
    errors, truths = cases()
    masks = [(LEFT, RIGHT)] * 5 + [(LEFT, torch.zeros_like(RIGHT))]
    rows, _ = sweep_filters(errors, masks, truths, filters=["none"], score=torch.mean)
    assert len(rows) == 1
    assert 0 <= rows[0]["auroc"] <= 1


def test_one_class_alone_is_an_error_that_says_what_to_give():
    with pytest.raises(UserError, match=r"none of 2 is abnormal; give validation cases with and without the finding"):
        sweep_filters([torch.zeros(1, 16, 16, 16)], [(LEFT, RIGHT)], [(0, 0)], sizes=[3])


def test_no_cases_are_an_error():
    with pytest.raises(UserError, match="got no cases"):
        sweep_filters([], [], [])


def test_a_truth_too_many_is_an_error():
    with pytest.raises(UserError, match="truths: got 2 for the 1 masks of case 0"):
        sweep_filters([torch.zeros(1, 16, 16, 16)], [(LEFT,)], [(0, 1)])
