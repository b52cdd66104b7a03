from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer

from common.errors import UserError
from common.networks.intensity_rule import IntensityRule, smooth_inside

AIR, BRAIN, BONE = -1000.0, 32.0, 900.0


def head(noise=0.0, seed=0):
    """A cube of brain in a shell of bone in scalp, 20^3 voxels, HU."""
    volume = torch.full((20, 20, 20), -1024.0)
    volume[2:18, 2:18, 2:18] = 0.0
    volume[3:17, 3:17, 3:17] = BONE
    volume[4:16, 4:16, 4:16] = BRAIN
    return volume + noise * torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed))


def rule(**settings):
    defaults = {"thresholds": [40, 50, 60], "min_ml": 0.008, "spacing_mm": 1.0, "smoothing_mm": 0.0, "rim_mm": 1.0}
    return IntensityRule(**{**defaults, **settings})


def test_a_healthy_head_gives_nothing():
    assert not rule()(head()[None, None]).any()


def test_blood_gives_the_highest_threshold_that_it_exceeds():
    volume = head()
    volume[8:10, 8:10, 8:10] = 57.0
    result = rule()(volume[None, None])
    assert result.shape == (1, 1, 20, 20, 20)
    assert result.dtype == torch.float32
    assert torch.all(result[0, 0, 8:10, 8:10, 8:10] == 50)
    assert result.sum() == 8 * 50


@pytest.mark.parametrize("spacing", [1.0, 2.0, 0.3])
def test_a_blob_of_k_voxels_survives_exactly_when_its_volume_is_large_enough(spacing):
    volume = head()
    volume[8:10, 8:11, 8:9] = 57.0  # 6 voxels
    for voxels, found in [(5, True), (6, True), (6.01, False), (7, False)]:
        module = rule(spacing_mm=spacing, rim_mm=0.0, min_ml=voxels * spacing**3 / 1000)
        assert bool(module(volume[None, None]).any()) is found, voxels


def test_lowering_the_smallest_volume_never_lowers_the_map():
    volume = head(noise=12.0)[None, None]
    maps = [rule(min_ml=ml)(volume) for ml in (0.05, 0.02, 0.005, 0.001)]
    assert maps[-1].any()
    assert all(bool((low >= high).all()) for high, low in pairwise(maps))


def test_bone_and_its_rim_are_no_blood():
    volume = head()
    volume[4, 4:16, 4:16] = 70.0  # partial volume beside the bone
    assert not rule()(volume[None, None]).any()
    assert rule(rim_mm=0.0)(volume[None, None]).any()


def test_smoothing_keeps_noise_from_being_blood_and_leaves_the_blood():
    volume = head(noise=8.0)
    volume[7:13, 7:13, 7:13] += 28.0
    plain, smooth = (rule(min_ml=0.004, smoothing_mm=sigma)(volume[None, None])[0, 0] for sigma in (0.0, 1.5))
    far = torch.ones(20, 20, 20, dtype=torch.bool)
    far[4:16, 4:16, 4:16] = False
    assert plain[5:7, 5:7, 5:15].any()
    assert not smooth[5, 5:15, 5:15].any()
    assert smooth[10, 10, 10] >= 50


def test_smoothing_inside_a_mask_keeps_a_constant():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:6, 3:8, 1:7] = True
    values = np.where(mask, 30, 1000).astype(np.float32)
    np.testing.assert_allclose(smooth_inside(values, mask, 2.0), np.where(mask, 30, 0), rtol=1e-5)


def test_a_relative_rule_does_not_see_an_offset_of_the_scanner():
    volume = head()
    volume[8:10, 8:10, 8:10] = 57.0
    maps = [rule(thresholds=[10, 20, 30], relative=True)((volume + offset)[None, None])[0, 0, 8, 8, 8] for offset in (0, 5)]
    assert maps == [20, 20]


def test_each_volume_of_a_batch_stands_alone_and_integers_are_taken():
    volume = head()
    volume[8:10, 8:10, 8:10] = 57.0
    batch = torch.stack([head(), volume])[:, None]
    result = SimpleInferer()(batch.to(torch.int16), rule())
    assert not result[0].any()
    assert torch.equal(result, rule()(batch))


def test_an_empty_volume_gives_nothing():
    assert not rule(relative=True)(torch.full((1, 1, 8, 8, 8), -1024.0)).any()


def test_thresholds_and_sizes_that_are_not_positive_are_errors():
    with pytest.raises(UserError, match=r"thresholds: got \[0, 40\], expected at least one, all above 0 HU"):
        rule(thresholds=[0, 40])
    with pytest.raises(UserError, match=r"got 0 and 1\.0, expected positive millilitres and millimetres"):
        rule(min_ml=0)
