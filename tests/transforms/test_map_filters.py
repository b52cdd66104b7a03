import numpy as np
import pytest
import torch
from scipy import ndimage

from common.errors import UserError
from common.transforms.map_filters import filter_maps, grey_erosion, median_filter


def values(shape=(9, 12, 7), seed=0):
    """Numbers with ties, and a slab of zeros that is wider than any filter."""
    drawn = np.random.default_rng(seed).normal(size=shape).round(1).astype(np.float32)
    drawn[:, :6] = 0
    return drawn


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_median_is_that_of_scipy(size):
    assert np.array_equal(median_filter(values(), size), ndimage.median_filter(values(), size=size, mode="constant"))


def test_the_median_of_a_volume_with_empty_slices_is_that_of_scipy():
    volume = np.moveaxis(values((9, 14, 7)), 1, 0)
    assert np.array_equal(median_filter(volume, 3), ndimage.median_filter(volume, size=3, mode="constant"))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_erosion_is_that_of_scipy(size):
    assert np.array_equal(grey_erosion(values(), size), ndimage.grey_erosion(values(), size=(size,) * 3))


@pytest.mark.parametrize("filter", ["median", "erosion"])
def test_each_map_of_a_batch_is_filtered_alone(filter):
    maps = torch.stack([torch.from_numpy(values(seed=seed))[None] for seed in range(3)])
    result = filter_maps(maps, filter, 3)
    assert result.shape == maps.shape
    assert result.dtype == maps.dtype
    assert all(torch.equal(result[k : k + 1], filter_maps(maps[k : k + 1], filter, 3)) for k in range(3))


@pytest.mark.parametrize(("filter", "size"), [("none", 5), ("median", 1), ("erosion", 1)])
def test_no_filter_and_a_filter_of_one_voxel_are_the_identity(filter, size):
    maps = torch.rand(1, 1, 4, 5, 6)
    assert torch.equal(filter_maps(maps, filter, size), maps)


def test_an_unknown_filter_and_an_even_size_are_errors():
    with pytest.raises(UserError, match="filter: got 'mean', expected one of"):
        filter_maps(torch.zeros(1, 1, 3, 3, 3), "mean", 3)
    with pytest.raises(UserError, match="size: got 4, expected an odd number of voxels"):
        filter_maps(torch.zeros(1, 1, 3, 3, 3), "median", 4)
