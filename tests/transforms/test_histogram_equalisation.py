import numpy as np
import pytest
import torch

from common.errors import UserError
from common.transforms.histogram_equalisation import HU_RANGE, count_intensities, equalise, fit_equalisation


def head(seed, voxels=20_000):
    """HU of a head: a third fat, a half brain, the rest bone; and background around it."""
    generator = torch.Generator().manual_seed(seed)
    tissue = torch.randint(0, 6, (voxels,), generator=generator)
    mean = torch.tensor([-90.0, -90.0, 35.0, 35.0, 35.0, 900.0])[tissue]
    sd = torch.tensor([20.0, 20.0, 6.0, 6.0, 6.0, 250.0])[tissue]
    hu = (mean + sd * torch.randn(voxels, generator=generator)).round()
    return torch.cat([hu, torch.full((voxels // 4,), HU_RANGE[0])]).to(torch.int16)


@pytest.fixture(scope="module")
def levels():
    return fit_equalisation(count_intensities([head(seed) for seed in range(4)], 1024))


def test_the_levels_are_the_shares_below_each_edge():
    # 4 bins over 4095 HU begin at -1024, -0.25, 1023.5, 2047.25; 8 voxels: 1 below -0.25, 4 up to 1023.5, none, 3 above
    hu = torch.tensor([-1024, -1024, -500, 0, 10, 20, 1023, 2048, 3000, 3071])
    counts = count_intensities([hu], 4)
    assert counts.tolist() == [1, 4, 0, 3]
    assert fit_equalisation(counts).tolist() == [0, 0.125, 0.625, 0.625, 1]


def test_values_between_two_edges_are_interpolated():
    levels = torch.tensor([0, 0.125, 0.625, 0.625, 1], dtype=torch.float64)
    edge, width = -1024 + 4095 / 4, 4095 / 4
    hu = torch.tensor([edge, edge + width / 5, edge + width / 2, edge + width, edge + 1.5 * width, edge + 2.5 * width], dtype=torch.float64)
    # 0.125 + 0.5 / 5 = 0.225, 0.125 + 0.5 / 2 = 0.375; flat over the empty bin; 0.625 + 0.375 / 2 = 0.8125
    torch.testing.assert_close(equalise(hu, levels), torch.tensor([0.125, 0.225, 0.375, 0.625, 0.625, 0.8125]).double(), rtol=0, atol=1e-7)


def test_the_map_agrees_with_numpys_interpolation(levels):
    hu = torch.linspace(-1100, 3200, 4001, dtype=torch.float64)
    edges = np.linspace(*HU_RANGE, len(levels))
    expected = np.interp(hu.numpy(), edges, levels.double().numpy())
    np.testing.assert_allclose(equalise(hu, levels.double()).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_map_never_falls_and_goes_from_0_to_1(levels, dtype):
    mapped = equalise(torch.arange(-1024, 3072, dtype=torch.int16), levels.to(dtype))
    assert mapped.dtype == dtype
    assert bool((mapped.diff() >= 0).all())
    assert mapped[0] == 0
    assert mapped[-1] == 1


def test_values_beyond_the_range_of_a_12_bit_scanner_count_as_its_ends(levels):
    assert equalise(torch.tensor([-3000.0, -1024.0, 3071.0, 20_000.0]), levels).tolist() == [0, 0, 1, 1]
    assert torch.equal(count_intensities([torch.tensor([3071, 9000])], 4), torch.tensor([0, 0, 0, 2]).double())


def test_the_training_voxels_are_uniform_once_mapped(levels):
    voxels = torch.cat([head(seed) for seed in range(4)])
    mapped = equalise(voxels[voxels > HU_RANGE[0]], levels).sort().values
    uniform = (torch.arange(len(mapped)) + 0.5) / len(mapped)
    assert (mapped - uniform).abs().max() < 0.05  # integer HU of brain share 4 to a bin of 4 HU


def test_a_head_of_the_same_kind_is_uniform_too(levels):
    other = head(99)
    mapped = equalise(other[other > HU_RANGE[0]], levels)
    assert mapped.mean().item() == pytest.approx(0.5, abs=0.01)
    assert mapped.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_a_bleed_does_not_change_how_the_rest_of_its_volume_looks(levels):
    healthy, bleeding = head(7), head(7)
    bleeding[:8_000] = 70
    assert torch.equal(equalise(bleeding, levels)[8_000:], equalise(healthy, levels)[8_000:])
    assert (equalise(bleeding, levels)[:8_000] > equalise(torch.tensor([35.0]), levels)).all()


def test_hu_can_be_told_back_from_their_levels_wherever_there_was_tissue(levels):
    hu = torch.cat([torch.linspace(-140, -40, 99), torch.linspace(15, 55, 99)]).double()  # where the training heads have voxels, it rises
    back = np.interp(equalise(hu, levels.double()).numpy(), levels.double().numpy(), np.linspace(*HU_RANGE, len(levels)))
    np.testing.assert_allclose(back, hu.numpy(), rtol=0, atol=1e-3)


def test_background_does_not_count():
    alone = count_intensities([torch.tensor([10, 20, 30])], 64)
    assert torch.equal(count_intensities([torch.tensor([10, 20, 30] + [-1024] * 50 + [-2000])], 64), alone)
    assert alone.sum() == 3


def test_counts_of_many_volumes_add_up_whatever_their_shape_and_number_type():
    volumes = [head(0)[:64].view(1, 4, 4, 4), head(1)[:24].view(2, 3, 4).float(), head(2)[:5].double()]
    assert torch.equal(count_intensities(volumes, 32), sum(count_intensities([volume], 32) for volume in volumes))


def test_shapes_stay(levels):
    for shape in ((), (3,), (2, 1, 3, 4, 5)):
        assert equalise(torch.zeros(shape, dtype=torch.int16), levels).shape == shape


def test_training_volumes_without_foreground_are_an_error_that_says_what_to_check():
    with pytest.raises(UserError, match="found no foreground voxel in the training volumes; check that they are head CTs in HU"):
        fit_equalisation(count_intensities([torch.full((5,), -1024)], 16))


def test_a_contrast_limit_caps_the_share_of_a_bin_and_keeps_the_ends():
    # 4 bins of 1023.75 HU; shares 0.5, 0.3, 0.2, 0; limit 0.3 per bin: 0.3, 0.3, 0.2, 0 of 0.8
    counts = torch.tensor([5.0, 3.0, 2.0, 0.0], dtype=torch.float64)
    levels = fit_equalisation(counts, contrast_limit_per_hu=0.3 / 1023.75)
    torch.testing.assert_close(levels, torch.tensor([0, 0.375, 0.75, 1, 1]))


def test_a_limit_that_no_bin_reaches_changes_nothing():
    counts = count_intensities([head(0)], 1024)
    assert torch.equal(fit_equalisation(counts, 1.0), fit_equalisation(counts))


def test_a_contrast_limit_leaves_blood_more_of_the_range_in_proportion_to_the_brains_own_variation():
    counts = count_intensities([head(seed) for seed in range(4)], 1024)
    ratio = []
    for limit in (None, 0.01, 0.003):
        white, grey, blood = equalise(torch.tensor([30.0, 40.0, 65.0]), fit_equalisation(counts, limit))
        ratio.append(float((blood - grey) / (grey - white)))
    assert ratio[0] < ratio[1] < ratio[2]


@pytest.mark.parametrize("limit", [0.0, -0.1, float("nan")])
def test_a_limit_that_is_not_above_0_is_refused(limit):
    with pytest.raises(UserError, match=r"contrast_limit: got .*, expected a share per HU above 0"):
        fit_equalisation(torch.ones(8), limit)
