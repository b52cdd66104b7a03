import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.metrics.detection import count_components
from common.metrics.map_lesions import detection_by_volume, healthy_threshold, measure_lesions, volume_bin

SPACING = (10.0, 10.0, 10.0)  # a voxel is 1 ml


def scene():
    """Lesions of 8 and 1 ml; the map flags half of the first and as much outside, and stays low at the second."""
    truth, values = np.zeros((12, 8, 6)), np.zeros((12, 8, 6), dtype=np.float32)
    truth[1:3, 1:3, 1:3] = truth[9, 5, 4] = 1
    values[2:4, 1:3, 1:3] = 0.9
    values[9, 5, 4] = 0.4
    values[6, 6, 1] = 0.95  # touches no lesion
    return values, truth


def test_found_and_missed_lesions_by_hand():
    first, second = measure_lesions(*scene(), 0.5, SPACING)
    assert (first["volume_ml"], first["volume_bin"], first["found"], first["flagged_ml"]) == (8, "5-20 ml", True, 8)
    assert first["size_ratio"] == 1 and first["dice"] == pytest.approx(0.5)  # 2*4/(8 + 8)
    assert first["maximum"] == pytest.approx(0.9) and second["maximum"] == pytest.approx(0.4)
    assert (second["found"], second["flagged_ml"]) == (False, 0) and math.isnan(second["size_ratio"]) and math.isnan(second["dice"])


def test_a_value_at_the_threshold_does_not_exceed_it():
    values, truth = scene()
    threshold = float(values[9, 5, 4])
    assert not measure_lesions(values, truth, threshold, SPACING)[1]["found"]
    assert measure_lesions(values, truth, np.nextafter(threshold, 0), SPACING)[1]["found"]


def test_the_truth_itself_as_map_is_perfect():
    truth = np.random.default_rng(0).random((10, 11, 12)) > 0.9
    rows = measure_lesions(truth.astype(np.float32), truth, 0.5, (1, 2, 3))
    assert len(rows) == count_components(truth)
    assert all(row["dice"] == row["size_ratio"] == 1 and row["flagged_ml"] == row["volume_ml"] for row in rows)
    assert sum(row["volume_ml"] for row in rows) == pytest.approx(truth.sum() * 0.006)


def test_no_lesion_gives_no_row():
    assert measure_lesions(np.ones((3, 3, 3)), np.zeros((3, 3, 3)), 0.5, SPACING) == []
    assert detection_by_volume([]) == []


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.floats(0, 0.99))
def test_threshold_keeps_the_false_positive_rate_and_no_smaller_one_does(maxima, rate):
    threshold = healthy_threshold(maxima, rate)
    assert sum(value > threshold for value in maxima) <= rate * len(maxima) + 1e-6
    below = [value for value in maxima if value < threshold]
    assert not below or sum(value > max(below) for value in maxima) > rate * len(maxima) - 1e-6


def test_threshold_by_hand():
    assert healthy_threshold([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.3) == 7  # 8, 9 and 10 exceed it
    assert healthy_threshold([1, 2, 3, 4, 5], 0.1) == 5  # of five none may
    assert healthy_threshold([3, math.nan, 1], 0) == 3
    assert math.isnan(healthy_threshold([]))


@pytest.mark.parametrize(
    ("ml", "name"), [(0, "< 1 ml"), (0.99, "< 1 ml"), (1, "1-5 ml"), (5, "5-20 ml"), (20, "> 20 ml"), (300, "> 20 ml")]
)
def test_bins_hold_their_lower_end(ml, name):
    assert volume_bin(ml) == name


def test_table_by_volume():
    rows = measure_lesions(*scene(), 0.5, SPACING)
    assert [(row["volume"], row["lesions"], row["found"]) for row in detection_by_volume(rows)] == [
        ("1-5 ml", 1, 0),
        ("5-20 ml", 1, 1),
        ("all", 2, 1),
    ]
    missed = detection_by_volume(rows)[0]
    assert missed["sensitivity"] == 0 and math.isnan(missed["size_ratio"]) and missed["true_ml"] == 1


def test_mistakes_are_named():
    values, truth = scene()
    with pytest.raises(UserError, match="threshold: got NaN"):
        measure_lesions(values, truth, math.nan, SPACING)
    with pytest.raises(UserError, match=r"map: got shape \(2, 2, 2\)"):
        measure_lesions(values[:2, :2, :2], truth, 0.5, SPACING)
    with pytest.raises(UserError, match="found the values 0, 2"):
        measure_lesions(values, truth * 2, 0.5, SPACING)
    with pytest.raises(UserError, match="false_positive_rate: got 1"):
        healthy_threshold([1], 1)


def test_components_below_the_smallest_volume_are_left_out():
    truth = np.zeros((8, 8, 8), dtype=bool)
    truth[0, 0, 0] = truth[4:6, 4:6, 4:6] = True
    volumes = [
        [row["volume_ml"] for row in measure_lesions(truth * 1.0, truth, 0.5, (1, 1, 1), smallest)] for smallest in (0.0, 0.005, 0.1)
    ]
    assert volumes == [[0.001, 0.008], [0.008], []]
