import math

import numpy as np
import pytest

from common.errors import UserError
from common.metrics import case_metrics
from common.metrics.case_metrics import measure_case, summarise
from common.metrics.comparison import RANKED_COLUMNS, compare_methods, method_summary, rank_methods

SPACING = (1.0, 1.0, 2.0)
MASK_KEYS = {"dice", "masd_mm", "nsd_2mm", "hd95_mm", "lesion_load", "stratum", "truth_ml", "prediction_ml", "volume_error_ml"}
SHARE_KEYS = {"ece", "brier", "volume_low_ml", "volume_high_ml", "volume_in_interval"}


@pytest.fixture
def case():
    brain = np.zeros((20, 18, 10), dtype=np.uint8)
    brain[2:18, 2:16, 1:9] = 1
    truth, prediction = np.zeros_like(brain), np.zeros_like(brain)
    truth[5:9, 5:8, 3:5] = 1
    prediction[6:9, 5:8, 3:6] = 1
    return truth, prediction, brain


def test_a_row_agrees_with_the_metrics_one_by_one(case):
    from common.metrics.overlap import dice
    from common.metrics.surface import surface_agreement

    truth, prediction, brain = case
    row = measure_case(truth, prediction, brain, SPACING)
    surface = surface_agreement(truth, prediction, SPACING)
    assert row["dice"] == dice(truth, prediction)
    assert (row["masd_mm"], row["nsd_2mm"], row["hd95_mm"]) == (surface["masd_mm"], surface["nsd"], surface["hd95_mm"])
    assert row["lesion_load"] == pytest.approx(24 / (16 * 14 * 8)) and row["stratum"] == "1-5 %"
    # 4*3*2 = 24 and 3*3*3 = 27 voxels of 2 mm^3
    assert (row["truth_ml"], row["prediction_ml"], row["volume_error_ml"]) == pytest.approx((0.048, 0.054, 0.006))
    assert (row["true_lesions"], row["predicted_lesions"]) == (1, 1)
    assert row.keys() >= MASK_KEYS and not SHARE_KEYS & row.keys()


def test_a_vote_share_adds_calibration_and_a_volume_interval(case):
    truth, prediction, brain = case
    share = prediction * 0.5 + truth * 0.5
    row = measure_case(truth, prediction, brain, SPACING, share)
    assert row.keys() >= SHARE_KEYS
    # Both: 3*3*2 = 18 voxels at 1; either: 24 + 27 - 18 = 33 voxels at 0.5 or more.
    assert (row["volume_low_ml"], row["volume_high_ml"]) == pytest.approx((0.036, 0.066))
    assert row["volume_in_interval"] == 1.0
    assert measure_case(truth, prediction, brain, SPACING, share * 0)["volume_in_interval"] == 0.0


@pytest.mark.parametrize(("lesion", "found", "dice"), [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0)])
def test_empty_masks_give_a_full_row(case, lesion, found, dice):
    truth, prediction, brain = case
    row = measure_case(truth * lesion, prediction * found, brain, SPACING)
    assert row["dice"] == dice
    assert math.isnan(row["masd_mm"]) == (lesion != found)
    assert row["nsd_2mm"] == float(lesion == found)
    assert row["volume_error_ml"] == pytest.approx(0.054 * found - 0.048 * lesion)


def test_a_case_without_brain_has_no_load(case):
    row = measure_case(case[0], case[1], None, SPACING)
    assert math.isnan(row["lesion_load"]) and row["stratum"] == "unknown"


def test_without_panoptica_the_lesionwise_columns_are_left_out_and_that_is_said(case, monkeypatch, caplog):
    case_metrics._detects.cache_clear()
    monkeypatch.setattr(case_metrics, "detection_available", lambda: False)
    row = measure_case(*case, SPACING)
    case_metrics._detects.cache_clear()
    assert "detection_f1" not in row and row["true_lesions"] == 1
    assert "pip install panoptica" in caplog.text


def test_unequal_shapes_are_refused_with_the_argument_named(case):
    truth, prediction, brain = case
    with pytest.raises(UserError, match="prediction: got shape"):
        measure_case(truth, prediction[1:], brain, SPACING)
    with pytest.raises(UserError, match="brain: got shape"):
        measure_case(truth, prediction, brain[1:], SPACING)
    with pytest.raises(UserError, match="probability: got shape"):
        measure_case(truth, prediction, brain, SPACING, np.zeros((2, 2, 2)))


def test_a_summary_leaves_nan_out_counts_it_and_splits_dice_by_stratum():
    rows = [
        {"id": "a", "dice": 0.2, "masd_mm": math.nan, "stratum": "<1 %"},
        {"id": "b", "dice": 0.6, "masd_mm": 3.0, "stratum": "<1 %"},
        {"id": "c", "dice": 0.8, "masd_mm": 1.0, "stratum": ">5 %"},
    ]
    summary = summarise(rows)
    assert summary["cases"] == 3 and set(summary["metrics"]) == {"dice", "masd_mm"}
    assert summary["metrics"]["masd_mm"]["mean"] == 2.0
    assert (summary["metrics"]["masd_mm"]["n"], summary["metrics"]["masd_mm"]["left_out"]) == (2, 1)
    assert summary["dice_by_stratum"]["<1 %"]["mean"] == pytest.approx(0.4) and summary["dice_by_stratum"]["<1 %"]["n"] == 2
    assert summary["dice_by_stratum"]["1-5 %"]["n"] == 0
    assert summary == summarise(rows) or str(summary) == str(summarise(rows))


def rows_of(values):
    return [{"id": f"c{i}", "dice": v, "masd_mm": 1 - v, "nsd_2mm": v, "stratum": "<1 %"} for i, v in enumerate(values)]


def test_methods_are_tested_against_the_reference_and_corrected_together():
    rows = {
        "ours": rows_of([0.5, 0.6, 0.7, 0.8, 0.9]),
        "theirs": rows_of([0.4, 0.4, 0.4, 0.4, 0.4])[::-1],
        "same": rows_of([0.5, 0.6, 0.7, 0.8, 0.9]),
    }
    tests = compare_methods(rows, "ours")
    assert [(test["method"], test["metric"]) for test in tests] == [
        (m, c) for m in ("theirs", "same") for c in ("dice", "masd_mm", "nsd_2mm")
    ]
    assert tests[0]["mean_difference"] == pytest.approx(-0.3) and tests[0]["p"] == pytest.approx(0.0625)
    assert tests[0]["p_holm"] == pytest.approx(6 * 0.0625)  # smallest of six tests
    assert tests[3]["p"] == 1.0
    with pytest.raises(UserError, match=r"theirs and ours were not measured on the same cases: c4"):
        compare_methods(rows | {"theirs": rows["theirs"][1:]}, "ours")
    with pytest.raises(UserError, match="reference: got 'x'"):
        compare_methods(rows, "x")


def test_ranks_pass_over_a_stratum_without_cases():
    summaries = {"good": method_summary(rows_of([0.8, 0.9])), "bad": method_summary(rows_of([0.1, 0.2]))}
    assert list(summaries["good"])[: len(RANKED_COLUMNS)] == list(RANKED_COLUMNS)
    assert rank_methods(summaries) == {"good": 1.0, "bad": 2.0}


def test_an_ordinary_large_case_is_measured_within_three_seconds():
    import time

    truth = np.zeros((256, 256, 50), dtype=np.uint8)
    truth[100:140, 90:130, 20:30] = 1
    brain = np.zeros_like(truth)
    brain[40:216, 40:216, 5:45] = 1
    share = truth * np.float32(0.9)
    measure_case(truth[:20, :20], truth[:20, :20], None, SPACING)  # imports
    start = time.process_time()
    measure_case(truth, np.roll(truth, 3, axis=0), brain, SPACING, share)
    assert time.process_time() - start < 3
