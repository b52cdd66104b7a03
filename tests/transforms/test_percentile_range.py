import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd, ScaleIntensityRangePercentiles

from common.errors import UserError
from common.transforms.percentile_range import PercentileRanged, percentile_range


def a_brain(seed=0, shape=(12, 10, 9)):
    """Positive voxels in the middle, 0 around them (80 %)."""
    values = np.zeros(shape, np.float32)
    values[3:10, 2:8, 2:8] = np.random.default_rng(seed).gamma(3.0, 100.0, (7, 6, 6)) + 1
    return torch.from_numpy(values)


def test_the_background_stays_exactly_0_and_the_brain_fills_0_to_1():
    sequence = a_brain()
    scaled = percentile_range(sequence)
    assert scaled.dtype == torch.float32 and torch.equal(scaled[sequence == 0], torch.zeros(int((sequence == 0).sum())))
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_voxels_at_the_percentiles_become_0_and_1_and_those_beyond_are_clipped():
    # 1 ... 101: the 1st percentile is 2, the 99th is 100, so 51 becomes (51 - 2) / 98 = 0.5
    sequence = torch.zeros(103)
    sequence[1:102] = torch.arange(1, 102)
    scaled = percentile_range(sequence)
    assert [float(scaled[value]) for value in (0, 1, 2, 51, 100, 101, 102)] == pytest.approx([0, 0, 0, 0.5, 1, 1, 0])


def test_unit_and_amount_of_background_do_not_matter():
    sequence = a_brain()
    wide = torch.nn.functional.pad(sequence, (20,) * 6)
    torch.testing.assert_close(percentile_range(17 * sequence), percentile_range(sequence))
    assert torch.equal(percentile_range(wide)[20:-20, 20:-20, 20:-20], percentile_range(sequence))


def test_it_is_monais_scaling_of_the_non_zero_voxels_and_not_that_of_the_volume():
    sequence = a_brain()
    inside = sequence != 0
    theirs = ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)
    torch.testing.assert_close(percentile_range(sequence)[inside], theirs(sequence[inside]))
    assert (theirs(sequence)[inside] - percentile_range(sequence)[inside]).abs().max() > 0.05


def test_every_channel_has_its_own_percentiles_and_the_case_stays_as_it_was():
    image = torch.stack([a_brain(0), 50 * a_brain(1)])
    before, grid = image.clone(), torch.diag(torch.tensor([1.0, 2, 3, 1], dtype=torch.float64))
    case = {"image": MetaTensor(image, affine=grid, meta={"filename_or_obj": "a.nii"}), "label": 1}
    scaled = PercentileRanged("image")(case)
    assert torch.equal(case["image"].as_tensor(), before)
    for channel in range(2):
        assert torch.equal(scaled["image"].as_tensor()[channel], percentile_range(image[channel]))
    assert torch.equal(scaled["image"].affine, grid) and scaled["image"].meta["filename_or_obj"] == "a.nii" and scaled["label"] == 1


def test_what_was_done_to_an_image_before_can_still_be_undone():
    turned = Orientationd("image", axcodes="LPS", labels=None)({"image": MetaTensor(a_brain()[None])})
    scaled = PercentileRanged("image")(turned)["image"]
    assert scaled.applied_operations == turned["image"].applied_operations != []


def test_negative_voxels_belong_to_the_brain():
    sequence = a_brain()
    sequence[5, 5, 5] = -400
    assert percentile_range(sequence)[5, 5, 5] == 0
    assert percentile_range(sequence, 0, 100)[5, 5, 6] > 0.4  # the lowest value is now -400


def test_empty_and_flat_sequences_are_named():
    image = torch.stack([a_brain(), torch.zeros(12, 10, 9)])
    with pytest.raises(UserError, match=r"case p7, channel 1 of 'image': the sequence is empty: every voxel is 0"):
        PercentileRanged("image")({"id": "p7", "image": image})
    with pytest.raises(UserError, match="percentiles 1 and 99 of the non-zero voxels are both 1: the sequence shows no contrast"):
        percentile_range((a_brain() > 0).float())
    with pytest.raises(UserError, match="got lower 99, upper 1; expected percentiles"):
        PercentileRanged("image", 99, 1)
