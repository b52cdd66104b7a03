"""Metrics of an ensemble of masks: rows by hand, sizes, regions, what the evaluation writes about empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.inferers.ensemble_mask import EnsembleMaskd
from common.mask_evaluation import calibration_tables, ensemble_rows
from common.mask_measure import MaskMeasure, whole_tumour_maps
from common.mask_pictures import ensemble_picture

SHAPE = (8, 8, 8)
AFFINE = torch.diag(torch.tensor([-2.0, -1, 1, 1], dtype=torch.float64))


def cube(start: int, stop: int, value: float = 1.0) -> torch.Tensor:
    mask = torch.zeros(1, *SHAPE)
    mask[:, start:stop, 2:6, 2:6] = value
    return mask


def an_item(label: torch.Tensor) -> dict[str, object]:
    brain = torch.ones(1, *SHAPE, dtype=torch.uint8)
    return {"id": "a", "label": MetaTensor(label, affine=AFFINE), "brain": MetaTensor(brain, affine=AFFINE)}


def a_result(*samples: torch.Tensor, labels: tuple[int, ...] = (1,)) -> dict[str, torch.Tensor]:
    stack = torch.stack(samples)
    stacked = torch.cat([stack.mean(0), stack.var(0, correction=0), *samples])
    return dict(EnsembleMaskd("pred", labels=labels)({"pred": stacked}))


def test_a_perfect_ensemble_has_no_error_and_no_variance() -> None:
    row = MaskMeasure(sizes=[1, 2, 3])(an_item(cube(2, 6, 4)), a_result(cube(2, 6), cube(2, 6)))
    assert row["dice"] == 1 and row["hd95_mm"] == 0 and row["empty_prediction"] == row["empty_truth"] == 0
    assert row["components"] == 1 and row["isolated_components"] == 0
    assert row["mean_ece"] == row["variance_ece"] == row["error_rate"] == 0 and math.isnan(row["variance_auroc"])


def test_sizes_take_the_first_samples_and_stop_where_there_are_no_more() -> None:
    measure = MaskMeasure(sizes=[1, 3, 5])
    measure(an_item(cube(2, 6)), a_result(cube(2, 4), cube(2, 6), cube(2, 6)))
    assert [row["samples"] for row in measure.by_size] == [1, 3]
    # one sample: 2 * 32 / (32 + 64); three: the majority is the truth
    assert [row["dice"] for row in measure.by_size] == pytest.approx([2 / 3, 1.0])
    # the truth ends two slices of 2 mm behind the first sample
    assert measure.by_size[0]["hd95_mm"] == 4.0


def test_an_empty_prediction_is_counted_and_has_the_diagonal_as_distance() -> None:
    measure = MaskMeasure(sizes=[1])
    row = measure(an_item(cube(2, 6)), a_result(torch.zeros(1, *SHAPE)))
    assert row["dice"] == 0 and row["empty_prediction"] == 1
    assert row["hd95_mm"] == pytest.approx(math.hypot(7 * 2, 7, 7))
    (summary,) = ensemble_rows(measure.by_size)
    assert summary["empty_predictions"] == 1 and summary["cases"] == 1


def test_the_variance_where_samples_differ_points_at_the_errors() -> None:
    measure = MaskMeasure(sizes=[1])
    row = measure(an_item(cube(2, 6)), a_result(cube(2, 5), cube(2, 6), cube(2, 5)))
    assert row["variance_auroc"] == 1 and row["error_rate"] == pytest.approx(16 / 512)
    bins = calibration_tables(measure)
    assert sum(line["count"] for line in bins["variance"]) == 512
    # variance 2/9 in the wrong slice: expected error 1/3, observed 1; it lies in the bin from 0.2 to 0.225
    (wrong,) = [line for line in bins["variance"] if line["observed"] == 1]
    assert wrong["count"] == 16 and wrong["expected"] == pytest.approx(1 / 3)


def test_classes_have_their_regions_and_a_whole_of_their_sum() -> None:
    label = cube(2, 6, 2)
    label[:, 2:3] = torch.where(label[:, 2:3] > 0, 4.0, 0.0)  # enhancing
    label[:, 3:4] = torch.where(label[:, 3:4] > 0, 1.0, 0.0)  # core
    channels = torch.cat([(label == number).float() for number in (1, 2, 4)])
    swapped = channels[[2, 1, 0]]
    right, wrong = a_result(channels, labels=(1, 2, 4)), a_result(swapped, labels=(1, 2, 4))
    rows = [MaskMeasure((1, 2, 4), sizes=[1])(an_item(label), result) for result in (right, wrong)]
    assert [row["dice"] for row in rows] == [1, 1]
    assert [row["core_dice"] for row in rows] == [1, 1]
    assert [row["enhancing_dice"] for row in rows] == [1, 0]
    maps = whole_tumour_maps(right)
    assert maps is not None and np.array_equal(maps[0], (label[0] > 0).float().numpy()) and not maps[1].any()
    assert whole_tumour_maps({key: value for key, value in right.items() if key != "samples"}) is None, "the sum's variance is not known"


def test_sizes_are_averaged_over_cases() -> None:
    rows = [
        {"samples": size, "dice": dice, "hd95_mm": 2 * dice, "isolated_components": 1, "empty_prediction": 0}
        for size, dice in ((1, 0.2), (1, 0.6), (3, 1.0), (3, 1.0))
    ]
    first, second = ensemble_rows(rows)
    # SD with divisor n - 1: sqrt(2 * 0.2^2)
    assert first["dice"] == pytest.approx(0.4) and first["dice_sd"] == pytest.approx(0.2 * 2**0.5)
    assert first["hd95_mm"] == pytest.approx(0.8)
    assert second["samples"] == 3 and second["dice_sd"] == 0


def test_a_picture_is_drawn_with_and_without_a_truth() -> None:
    image = MetaTensor(torch.rand(2, *SHAPE), affine=AFFINE)
    result = a_result(cube(2, 5), cube(2, 6))
    for item in ({"image": image}, {"image": image, "label": cube(2, 6)}):
        assert ensemble_picture(item, result, ["t1", "flair"], ["flair"], "a").startswith(b"\x89PNG")
