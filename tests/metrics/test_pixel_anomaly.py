"""Voxel scores: brute force over every pair and threshold, scikit-learn's number by hand, and the law that cases may be added."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import UserError
from common.metrics.pixel_anomaly import (
    BINS,
    average_precision,
    best_dice,
    count_scores,
    dice_at,
    healthy_quantile,
    pixel_auroc,
    pixel_summary,
)
from common.metrics.roc import auroc

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.random(300) < 0.2
SCORES = np.round(np.clip(0.3 * RANDOM.random(300) + 0.2 * TRUTH, -1, 1) * 50) / 50  # many ties


def test_auroc_agrees_with_the_exact_one() -> None:
    assert pixel_auroc(count_scores(SCORES, TRUTH)) == pytest.approx(auroc(SCORES, TRUTH), abs=1e-12)


def test_average_precision_agrees_with_a_loop_over_thresholds() -> None:
    expected, recall = 0.0, 0.0
    for threshold in np.unique(SCORES)[::-1]:
        called = threshold <= SCORES
        expected += ((called & TRUTH).sum() / TRUTH.sum() - recall) * (called & TRUTH).sum() / called.sum()
        recall = (called & TRUTH).sum() / TRUTH.sum()
    assert average_precision(count_scores(SCORES, TRUTH)) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    # scikit-learn's example: truth 0 0 1 1, scores 0.1 0.4 0.35 0.8 -> 1/2 * 1 + 1/2 * 2/3
    assert average_precision(count_scores([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])) == pytest.approx(0.5 + 1 / 3)


def test_the_best_dice_agrees_with_a_loop_over_thresholds() -> None:
    dices = {t: 2 * (TRUTH & (t <= SCORES)).sum() / (TRUTH.sum() + (t <= SCORES).sum()) for t in np.unique(SCORES)}
    found, threshold = best_dice(count_scores(SCORES, TRUTH))
    assert found == pytest.approx(max(dices.values()))
    called = threshold <= SCORES
    assert 2 * (TRUTH & called).sum() / (TRUTH.sum() + called.sum()) == pytest.approx(found)
    assert dice_at(count_scores(SCORES, TRUTH), threshold) == pytest.approx(found)


def test_a_healthy_quantile_leaves_its_share_of_healthy_voxels_below() -> None:
    values = np.arange(1, 101) / 200 - 0.1
    counts = count_scores(values)
    for share in (0.5, 0.9, 0.99):
        threshold = healthy_quantile(counts, share)
        assert (values < threshold).mean() == pytest.approx(share)
    lesions = count_scores([0.39, 0.41, 0.2, 0.1], [1, 1, 0, 1])
    # above the 99 % quantile (0.395): one of three lesion voxels, nothing else
    assert dice_at(lesions, healthy_quantile(counts, 0.99)) == pytest.approx(2 * 1 / (3 + 1))
    assert dice_at(lesions, 1.0) == 0 and math.isnan(dice_at(lesions, math.nan))


def test_cases_may_be_added() -> None:
    parts = [count_scores(SCORES[:100], TRUTH[:100]), count_scores(SCORES[100:], TRUTH[100:])]
    assert np.array_equal(parts[0] + parts[1], count_scores(SCORES, TRUTH))


def test_chance_and_perfection() -> None:
    perfect, useless = count_scores(TRUTH * 0.5, TRUTH), count_scores(np.zeros(300), TRUTH)
    found = pixel_summary(perfect, count_scores([0.0, 0.1, 0.2]), [0.5])
    assert (found["auroc"], found["auprc"], found["oracle_dice"], found["dice_q50"]) == (1, 1, 1, 1)
    assert pixel_auroc(useless) == 0.5 and average_precision(useless) == pytest.approx(TRUTH.mean())


def test_absent_classes_are_not_numbers() -> None:
    nothing = count_scores([0.1, 0.2])
    found = pixel_summary(nothing, nothing, [0.99])
    assert all(math.isnan(found[key]) for key in ("auroc", "auprc", "oracle_dice", "dice_q99")) and found["prevalence"] == 0
    assert math.isnan(healthy_quantile(np.zeros((2, BINS), np.int64), 0.9))


def test_scores_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"scores: from 0 to 3, expected maps of images in \[0, 1\]: \[-1, 1\]"):
        count_scores([0.0, 3.0])
    with pytest.raises(UserError, match="got 2 and 3 voxels"):
        count_scores([0.0, 0.1], [1, 0, 0])
    with pytest.raises(UserError, match=r"quantile: got 99"):
        healthy_quantile(count_scores([0.1]), 99)
