import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from common.errors import UserError
from common.metrics.detection import count_components, lesion_detection

MASKS = st.tuples(*[arrays(bool, (5, 4, 3), fill=st.nothing())] * 2)
SHAPE = (20, 12, 10)


@pytest.fixture(autouse=True)
def _needs_panoptica():
    pytest.importorskip("panoptica")


def bars(*spans):
    """Bars along X, one per row Y = 2, 5, 8: (first, last + 1)."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for row, (first, end) in zip((2, 5, 8), spans, strict=False):
        mask[first:end, row, 4] = 1
    return mask


def test_one_found_one_missed_one_invented_by_hand():
    truth, prediction = bars((0, 4), (0, 4)), bars((2, 6), (0, 0), (10, 12))
    measured = lesion_detection(truth, prediction)
    # TP 1 (first row), FN 1 (second), FP 1 (third): F1 = 2/(2 + 1 + 1) = 0.5. The pair: 2 of 4 + 4 voxels, Dice 2*2/8 = 0.5, volumes equal.
    assert measured == {
        "true_lesions": 2,
        "predicted_lesions": 2,
        "found_lesions": 1,
        "detection_f1": 0.5,
        "lesion_dice": 0.5,
        "lesion_volume_error": 0.0,
    }


def test_lesion_volume_error_is_signed_and_relative():
    # Predicted 3 of 4 voxels: 3/4 - 1 = -0.25.
    assert lesion_detection(bars((0, 4)), bars((0, 3)))["lesion_volume_error"] == pytest.approx(-0.25)


def test_one_blob_over_two_lesions_finds_one_of_them():
    two = np.zeros(SHAPE, dtype=np.uint8)
    two[2:5, 2, 4] = two[7:12, 2, 4] = 1
    one = np.zeros_like(two)
    one[2:12, 2, 4] = 1
    measured = lesion_detection(two, one)
    assert (measured["true_lesions"], measured["predicted_lesions"], measured["found_lesions"]) == (2, 1, 1)
    assert measured["detection_f1"] == pytest.approx(2 / 3)  # TP 1, FN 1, FP 0


def test_the_smallest_iou_of_a_match_can_be_asked_for():
    truth, prediction = bars((0, 4)), bars((2, 6))  # IoU 2/6
    assert lesion_detection(truth, prediction, min_iou=0.3)["found_lesions"] == 1
    strict = lesion_detection(truth, prediction, min_iou=0.5)
    assert strict["found_lesions"] == 0 and strict["detection_f1"] == 0 and math.isnan(strict["lesion_dice"])
    with pytest.raises(UserError, match="min_iou: got 0"):
        lesion_detection(truth, prediction, min_iou=0)


def test_conventions_for_empty_masks():
    empty, full = bars(), bars((0, 4), (0, 4))
    assert lesion_detection(empty, empty)["detection_f1"] == 1.0
    for truth, prediction, counts in ((full, empty, (2, 0)), (empty, full, (0, 2))):
        measured = lesion_detection(truth, prediction)
        assert (measured["true_lesions"], measured["predicted_lesions"]) == counts
        assert measured["detection_f1"] == 0.0 and math.isnan(measured["lesion_dice"]) and math.isnan(measured["lesion_volume_error"])


@settings(deadline=None, max_examples=25)
@given(MASKS)
def test_detection_is_symmetric_bounded_and_counts_what_scipy_counts(pair):
    truth, prediction = pair
    there, back = lesion_detection(truth, prediction), lesion_detection(prediction, truth)
    assert there["detection_f1"] == pytest.approx(back["detection_f1"])
    assert 0 <= there["detection_f1"] <= 1
    for name, mask in (("true_lesions", truth), ("predicted_lesions", prediction)):
        assert there[name] == label(mask, np.ones((3, 3, 3)))[1] == count_components(mask)
    assert lesion_detection(truth, truth)["detection_f1"] == 1.0


def test_voxels_that_touch_at_a_corner_are_one_component():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert count_components(mask) == 1
    mask[1, 1, 1], mask[2, 2, 2] = False, True
    assert count_components(mask) == 2


def test_more_than_255_lesions_keep_their_numbers():
    grid = np.zeros((40, 40, 6), dtype=np.uint8)
    grid[::2, ::2, ::3] = 1  # 20 * 20 * 2 = 800 single voxels
    assert lesion_detection(grid, grid)["found_lesions"] == 800


def test_nothing_is_printed(capfd):
    from common.metrics import detection

    detection._evaluator.cache_clear()
    lesion_detection(bars((0, 4)), bars((1, 4)))
    assert capfd.readouterr() == ("", "")


def test_without_panoptica_the_message_says_what_to_install(monkeypatch):
    from common.metrics import detection

    detection._evaluator.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "panoptica", None)
    with pytest.raises(UserError, match="pip install panoptica"):
        lesion_detection(bars((0, 4)), bars((1, 4)))
