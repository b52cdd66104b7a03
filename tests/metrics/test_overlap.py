import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import UserError
from common.metrics.overlap import dice, volume_error_ml, volume_ml

MASKS = st.tuples(*[arrays(bool, (3, 4, 2))] * 2)
EMPTY = np.zeros((3, 4, 2), dtype=bool)


def box(*corner_and_size):
    mask = np.zeros((6, 6, 6), dtype=np.uint8)
    (x, y, z), (a, b, c) = corner_and_size
    mask[x : x + a, y : y + b, z : z + c] = 1
    return mask


def test_dice_of_half_overlapping_bars_is_one_half():
    # |T| = |P| = 4, |T and P| = 2: 2 * 2 / (4 + 4) = 0.5
    assert dice(box((0, 0, 0), (4, 1, 1)), box((2, 0, 0), (4, 1, 1))) == 0.5


def test_dice_conventions_for_empty_masks():
    full = ~EMPTY
    assert dice(EMPTY, EMPTY) == 1.0
    assert dice(full, EMPTY) == 0.0
    assert dice(EMPTY, full) == 0.0


@settings(deadline=None, max_examples=50)
@given(MASKS)
def test_dice_is_symmetric_bounded_and_one_only_for_equal_masks(pair):
    truth, prediction = pair
    value = dice(truth, prediction)
    assert value == dice(prediction, truth)
    assert 0 <= value <= 1
    assert (value == 1) == np.array_equal(truth, prediction)


@settings(deadline=None, max_examples=30)
@given(MASKS, st.permutations(range(3)), st.integers(0, 2))
def test_dice_does_not_care_about_orientation(pair, order, axis):
    truth, prediction = (np.flip(mask.transpose(order), axis) for mask in pair)
    assert dice(truth, prediction) == dice(*pair)


@settings(deadline=None, max_examples=20)
@given(MASKS)
def test_dice_agrees_with_monai(pair):
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_dice

    truth, prediction = (torch.from_numpy(mask)[None, None] for mask in pair)
    theirs = float(compute_dice(prediction, truth, ignore_empty=False))
    assert dice(*pair) == pytest.approx(theirs, abs=1e-6)


def test_volume_counts_voxels_times_their_volume():
    # 3 * 2 * 2 = 12 voxels of 1 * 2 * 5 = 10 mm^3: 120 mm^3 = 0.12 ml
    assert volume_ml(box((1, 1, 1), (3, 2, 2)), (1.0, 2.0, 5.0)) == pytest.approx(0.12)


@settings(deadline=None, max_examples=30)
@given(MASKS)
def test_volume_error_is_antisymmetric_and_positive_where_the_prediction_is_too_large(pair):
    truth, prediction = pair
    error = volume_error_ml(truth, prediction, (1.0, 1.0, 3.0))
    assert error == -volume_error_ml(prediction, truth, (1.0, 1.0, 3.0))
    assert np.sign(error) == np.sign(int(prediction.sum()) - int(truth.sum()))


def test_unequal_shapes_are_refused():
    with pytest.raises(UserError, match="prediction: got shape"):
        dice(np.zeros((2, 2, 2)), np.zeros((2, 2, 1)))
