"""Rows per class: by hand, against MONAI's one-hot metrics, and what absent classes count."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.networks import one_hot

from common.data.btcv import ORGANS
from common.data.feta import TISSUES
from common.errors import UserError
from common.metrics.class_metrics import METRICS, class_table, foreground_mean, measure_classes, summarise_classes
from common.metrics.hausdorff_union import hd95_mm
from common.metrics.overlap import dice, volume_ml

SPACING = (1.0, 2.0, 0.5)
SHAPE = (7, 5, 6)
NAMES = ("spleen", "liver", "aorta")
LABELS = arrays(np.uint8, SHAPE, elements=st.integers(0, 3))


def rows_by_name(*arguments, **options):
    return {row["class"]: row for row in measure_classes(*arguments, **options)}


def block(value, x, y, z, shape=SHAPE):
    labels = np.zeros(shape, np.uint8)
    labels[slice(*x), slice(*y), slice(*z)] = value
    return labels


@given(LABELS)
@settings(deadline=None, max_examples=10)
def test_a_map_agrees_with_itself(labels):
    for row in measure_classes(labels, labels, SPACING, NAMES):
        if row["truth_ml"]:
            assert [row[key] for key in METRICS] == [1, 0, 0, 0]
        else:
            assert all(math.isnan(row[key]) for key in METRICS)
        assert row["volume_error_ml"] == row["missed"] == row["invented"] == 0


@given(LABELS, LABELS)
@settings(deadline=None, max_examples=10)
def test_metrics_are_symmetric_and_distances_scale_with_the_spacing(truth, prediction):
    forth, back = measure_classes(truth, prediction, SPACING, NAMES), measure_classes(prediction, truth, SPACING, NAMES)
    larger = measure_classes(truth, prediction, [3 * edge for edge in SPACING], NAMES)
    for one, other, scaled in zip(forth, back, larger, strict=True):
        for key in METRICS:
            assert one[key] == pytest.approx(other[key], nan_ok=True)
            assert scaled[key] == pytest.approx(one[key] * (1 if key == "dice" else 3), nan_ok=True)
        assert (one["missed"], one["volume_error_ml"]) == (other["invented"], -other["volume_error_ml"])
        assert scaled["truth_ml"] == pytest.approx(27 * one["truth_ml"])


@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_has_the_numbers_that_its_mask_alone_has_by_monai_and_by_our_metrics(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = (np.kron(rng.integers(0, 4, (4, 3, 3)), np.ones((3, 2, 3))).astype(np.int16) for _ in range(2))
    found = measure_classes(truth, prediction, SPACING, NAMES)
    union = measure_classes(truth, prediction, SPACING, NAMES, hd95="union")
    one = [one_hot(torch.from_numpy(labels.astype(np.float32))[None, None], 4) for labels in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        largest = compute_hausdorff_distance(*one, spacing=SPACING)[0]
        percentile = compute_hausdorff_distance(*one, spacing=SPACING, percentile=95)[0]
        mean = compute_average_surface_distance(*one, spacing=SPACING, symmetric=True)[0]
    for k, row in enumerate(found, 1):
        masks = truth == k, prediction == k
        assert row["dice"] == dice(*masks)
        assert (row["truth_ml"], row["prediction_ml"]) == tuple(volume_ml(mask, SPACING) for mask in masks)
        assert row["hd_mm"] == pytest.approx(float(largest[k - 1]), rel=1e-5)
        assert row["hd95_mm"] == pytest.approx(float(percentile[k - 1]), rel=1e-5)
        assert row["masd_mm"] == pytest.approx(float(mean[k - 1]), rel=1e-5)
        assert union[k - 1]["hd95_mm"] == pytest.approx(hd95_mm(*masks, SPACING))


def test_a_shift_by_hand():
    # 2 x 2 x 2 voxels of 1 mm^3, moved by two voxels of 2 mm: no overlap
    truth, prediction = block(2, (1, 3), (0, 2), (1, 3)), block(2, (1, 3), (2, 4), (1, 3))
    row = rows_by_name(truth, prediction, SPACING, NAMES)["liver"]
    # of each surface's 8 voxels 4 are 2 mm away and 4 are 4 mm away
    assert (row["dice"], row["hd_mm"], row["masd_mm"]) == (0, 4, 3)
    assert row["truth_ml"] == row["prediction_ml"] == pytest.approx(0.008)
    assert (row["missed"], row["invented"]) == (0, 0)


def test_a_class_that_only_one_has_is_missed_or_invented_with_dice_0_and_no_distance():
    truth, prediction = block(1, (0, 2), (0, 2), (0, 2)), block(3, (0, 2), (0, 2), (0, 2))
    for absent in ("leave_out", "count"):
        rows = rows_by_name(truth, prediction, SPACING, NAMES, absent=absent)
        assert (rows["spleen"]["dice"], rows["spleen"]["missed"], rows["spleen"]["invented"]) == (0, 1, 0)
        assert (rows["aorta"]["dice"], rows["aorta"]["missed"], rows["aorta"]["invented"]) == (0, 0, 1)
        assert math.isnan(rows["spleen"]["hd95_mm"]) and math.isnan(rows["aorta"]["masd_mm"])
        assert rows["spleen"]["volume_error_ml"] == -rows["aorta"]["volume_error_ml"] == pytest.approx(-0.008)


def test_a_class_that_neither_has_is_left_out_or_counts_as_agreement():
    labels = block(1, (0, 2), (0, 2), (0, 2))
    assert all(math.isnan(rows_by_name(labels, labels, SPACING, NAMES)["liver"][key]) for key in METRICS)
    counted = rows_by_name(labels, labels, SPACING, NAMES, absent="count")["liver"]
    assert [counted[key] for key in METRICS] == [1, 0, 0, 0]
    worse = np.where(labels > 0, 0, labels)
    # spleen missed: 0; liver and aorta are nowhere: left out, or 1 each
    assert foreground_mean(measure_classes(labels, worse, SPACING, NAMES))["dice"] == 0
    assert foreground_mean(measure_classes(labels, worse, SPACING, NAMES, absent="count"))["dice"] == pytest.approx(2 / 3)


def test_the_mean_is_over_the_foreground_and_does_not_change_with_the_background():
    truth, prediction = block(1, (0, 2), (0, 2), (0, 4)), block(1, (0, 2), (0, 2), (0, 2))
    truth[4:6, 0:2, 0:2] = prediction[4:6, 0:2, 0:2] = 2
    rows = measure_classes(truth, prediction, SPACING, NAMES)
    # spleen 2 * 8 / (16 + 8), liver 1
    assert foreground_mean(rows)["dice"] == pytest.approx((2 / 3 + 1) / 2)
    padded = [np.pad(labels, 4) for labels in (truth, prediction)]
    assert foreground_mean(measure_classes(*padded, SPACING, NAMES)) == foreground_mean(rows)
    assert foreground_mean(rows) | {"dice": 0} == {
        "dice": 0,
        "hd_mm": pytest.approx(0.5),
        "hd95_mm": pytest.approx(np.mean([rows[0]["hd95_mm"], 0])),
        "masd_mm": pytest.approx(rows[0]["masd_mm"] / 2),
        "missed_classes": 0,
        "invented_classes": 0,
    }


def test_an_empty_case_has_no_mean():
    empty = np.zeros(SHAPE, np.uint8)
    mean = foreground_mean(measure_classes(empty, empty, SPACING, NAMES))
    assert math.isnan(mean["dice"]) and math.isnan(mean["hd_mm"]) and mean["missed_classes"] == 0


def test_classes_are_summarised_over_cases():
    truth, half = block(1, (0, 2), (0, 2), (0, 4)), block(1, (0, 2), (0, 2), (0, 2))
    rows = [row for prediction in (truth, half, 0 * truth) for row in measure_classes(truth, prediction, SPACING, ("spleen", "liver"))]
    spleen, liver = summarise_classes(rows)
    assert (spleen["class"], spleen["missed"], spleen["invented"]) == ("spleen", 1, 0)
    assert spleen["dice"]["mean"] == pytest.approx((1 + 2 / 3 + 0) / 3) and spleen["dice"]["n"] == 3
    assert spleen["dice"]["sd"] == pytest.approx(np.std([1, 2 / 3, 0], ddof=1))
    assert spleen["dice"]["low"] < spleen["dice"]["mean"] < spleen["dice"]["high"]
    assert (spleen["hd_mm"]["n"], spleen["hd_mm"]["left_out"]) == (2, 1)
    assert liver["dice"]["n"] == 0 and liver["dice"]["left_out"] == 3


def test_numbers_may_be_missing_and_keys_may_be_text():
    assert class_table({"4": "enhancing", 1: "core"}) == {1: "core", 4: "enhancing"}
    labels = block(4, (0, 2), (0, 2), (0, 2))
    rows = rows_by_name(labels, labels.astype(np.float32), SPACING, {"4": "enhancing", 1: "core"})
    assert list(rows) == ["core", "enhancing"] and rows["enhancing"]["dice"] == 1 and rows["enhancing"]["label"] == 4


def test_names_may_come_with_their_numbers_as_data_readers_have_them():
    assert class_table({"liver": 6, "spleen": 1}) == {1: "spleen", 6: "liver"} == class_table({1: "spleen", "6": "liver"})
    assert class_table(TISSUES)[4] == "ventricles" and list(class_table(ORGANS)) == list(range(1, 14))


@pytest.mark.parametrize("names", [(), ("a", "a"), {0: "background", 1: "a"}, {"a": 1, "b": 1}, {"a": "b"}])
def test_names_without_sense_are_told(names):
    with pytest.raises(UserError, match=r"class_names: got .* expected different names of the labels 1, 2, ... without the background"):
        class_table(names)


def test_mistakes_are_told():
    labels = block(3, (0, 2), (0, 2), (0, 2))
    with pytest.raises(UserError, match=r"prediction: found the values 3, expected 0 \(background\) and 1 to 2 as in class_names"):
        measure_classes(np.zeros(SHAPE, np.uint8), labels, SPACING, NAMES[:2])
    with pytest.raises(UserError, match=r"truth: found the values 0.5, expected"):
        measure_classes(labels * (0.5 / 3), labels, SPACING, NAMES)
    with pytest.raises(UserError, match=r"truth: found the values nan"):
        measure_classes(np.full(SHAPE, np.nan), labels, SPACING, NAMES)
    with pytest.raises(UserError, match=r"prediction: got shape \(6, 5, 6\), expected \(7, 5, 6\)"):
        measure_classes(labels, labels[:6], SPACING, NAMES)
    with pytest.raises(UserError, match="3D volume"):
        measure_classes(labels[None], labels[None], SPACING, NAMES)
    with pytest.raises(UserError, match="hd95: got 'max', expected one of"):
        measure_classes(labels, labels, SPACING, NAMES, hd95="max")
    with pytest.raises(UserError, match="absent: got 'zero', expected one of"):
        measure_classes(labels, labels, SPACING, NAMES, absent="zero")
    with pytest.raises(UserError, match="spacing_mm"):
        measure_classes(labels, labels, (1, 1), NAMES)
