"""One pass over a volume must give, at every voxel, what its patch alone gives; the patches are cut out here by numpy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates
from torch import nn

from common.errors import UserError
from common.inferers.dense_position_inferer import DensePositionInferer, patch_positions, tile_starts, upsample
from common.networks.head_ct_model import HeadCTModel
from common.networks.position_regressor import MultiScalePositionRegressor, PaddedPositionRegressor, PositionRegressor, positions_per_axis

BACKGROUND = -1024


def a_model(network, seed=0):
    """Some weights and a rising equalisation, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = HeadCTModel(network, registration_spacing_mm=64.0, bins=16, calibration_side=2, maps=network.outputs // 3)
    steps = torch.rand(16, generator=generator)
    model.levels[1:] = steps.cumsum(0) / steps.sum()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, and outputs that spread
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def a_head(sides, seed=0, box=None):
    """HU ``(1, *sides)``; foreground lies in a box given as shares of the sides, with holes."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 2000, size=sides).astype(np.int16)
    hu[rng.random(sides) < 0.1] = BACKGROUND
    inside = np.ones(sides, dtype=bool)
    for axis, (low, high) in enumerate(box or ()):
        place = (np.arange(sides[axis]) + 0.5) / sides[axis]
        inside &= np.expand_dims((place >= low) & (place <= high), [a for a in range(3) if a != axis])
    hu[~inside] = BACKGROUND
    return torch.from_numpy(hu)[None]


def naive_errors(model, volume, voxels):
    """E at voxels ``(N, 3)``, one patch after the other: ``(N, K)``."""
    patch, sides = np.array(model.network.patch_size), np.array(volume.shape[1:])
    padded = np.pad(volume[0].numpy(), [(side // 2, side // 2) for side in patch], constant_values=BACKGROUND)
    result = []
    for voxel in np.asarray(voxels):
        box = tuple(slice(a, a + side) for a, side in zip(voxel, patch, strict=True))
        with torch.no_grad():
            predicted = model(torch.from_numpy(padded[box].copy())[None, None]).numpy().reshape(-1, 3)
        result.append(np.sqrt(((predicted - voxel / (sides - 1)) ** 2).sum(axis=1)))
    return np.array(result)


def lattice_voxels(volume, stride):
    """Voxels 0, stride, 2 stride, ... that lie in the foreground."""
    voxels = (volume[0] > BACKGROUND).nonzero().numpy()
    return voxels[(voxels % stride == 0).all(axis=1)]


class Middle(nn.Module):
    """Says that every patch lies in the middle; counts what it was shown."""

    def __init__(self, patch_size=(15, 15, 15)):
        super().__init__()
        self.patch_size, self.outputs, self.seen = patch_size, 3, []

    def forward(self, volume, stride=4):
        self.seen.append(tuple(volume.shape[2:]))
        return volume.new_full((len(volume), 3, *positions_per_axis(volume.shape[2:], self.patch_size, stride)), 0.5)


# --------------------------------------------------------------------------------------------------------- dense equals patch by patch

patch_sizes = st.sampled_from([15, 19, 23, (15, 19, 23), (23, 15, 19), (19, 19, 15)])
shares = st.tuples(st.floats(0, 0.6), st.floats(0.4, 1)).filter(lambda pair: pair[1] - pair[0] > 0.3)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    patch_size=patch_sizes,
    second=st.sampled_from([None, None, 15, 19]),
    width=st.integers(1, 3),
    normalise=st.booleans(),
    sides=st.tuples(st.integers(2, 13), st.integers(2, 13), st.integers(2, 13)),
    tile=st.one_of(st.sampled_from(range(4, 33, 4)), st.tuples(*[st.sampled_from(range(4, 33, 4))] * 3)),
    stride=st.sampled_from([1, 2, 4]),
    box=st.tuples(shares, shares, shares),
    seed=st.integers(0, 2**31),
)
def test_the_dense_map_is_that_of_single_patches(patch_size, second, width, normalise, sides, tile, stride, box, seed):
    torch.manual_seed(seed)
    network = PositionRegressor(patch_size, width, normalise)
    if second is not None:
        network = MultiScalePositionRegressor([network, PositionRegressor(second, 1, normalise)])
    model, volume = a_model(network, seed), a_head(sides, seed, box)
    errors = DensePositionInferer(stride, tile)(volume[None], model)[0]
    assert errors.dtype == torch.float64
    assert errors.shape == (network.outputs // 3, *sides)
    assert not errors[:, volume[0] == BACKGROUND].any()
    voxels = lattice_voxels(volume, stride)
    chosen = np.random.default_rng(seed).permutation(len(voxels))[:12]
    some = voxels[sorted({0, len(voxels) - 1, *chosen})] if len(voxels) else voxels
    if len(some):
        dense = errors[:, some[:, 0], some[:, 1], some[:, 2]].T.numpy()
        np.testing.assert_allclose(dense, naive_errors(model, volume, some), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("network", [PositionRegressor(15, 2), MultiScalePositionRegressor([PositionRegressor(s, 1) for s in (19, 15)])])
def test_the_path_by_patches_gives_the_same_map_between_the_lattice_points_too(stride, network):
    model, volume = a_model(network), a_head((5, 9, 6), box=((0, 1), (0.3, 1), (0, 0.8)))
    dense = DensePositionInferer(stride, 4)(volume[None], model)
    patchwise = DensePositionInferer(stride, 8, patchwise=True)(volume[None], model)
    torch.testing.assert_close(dense, patchwise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_any_tile_gives_the_result_without_tiles(stride):
    model, volume = a_model(PositionRegressor((15, 19, 15), 1)), a_head((13, 10, 7), box=((0, 1), (0.2, 0.7), (0.1, 1)))
    whole = DensePositionInferer(stride, 16)(volume[None], model)
    for tile in (4, 8, 12, (4, 12, 8), 20):
        torch.testing.assert_close(DensePositionInferer(stride, tile)(volume[None], model), whole, rtol=0, atol=1e-12)


def test_single_precision_differs_by_less_than_1e_5():
    torch.manual_seed(0)
    model, volume = a_model(PositionRegressor(23, 4)), a_head((6, 7, 5))
    double = DensePositionInferer(1, 4)(volume[None], model)
    single = DensePositionInferer(1, 4)(volume[None], model.float())
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-5


def test_a_coarser_map_holds_the_values_of_the_finest_at_its_lattice_points():
    model, volume = a_model(PositionRegressor(15, 1)), a_head((9, 12, 7))
    finest = DensePositionInferer(1, 8)(volume[None], model)
    for stride in (2, 4):
        coarse = DensePositionInferer(stride, 8)(volume[None], model)
        points = (..., slice(None, None, stride), slice(None, None, stride), slice(None, None, stride))
        torch.testing.assert_close(coarse[points], finest[points], rtol=0, atol=1e-12)


def test_a_network_that_pads_inside_the_patch_goes_patch_by_patch():
    torch.manual_seed(0)
    model, volume = a_model(PaddedPositionRegressor((9, 8, 11), 1)), a_head((4, 5, 3))
    errors = DensePositionInferer(1, 4, patchwise=True)(volume[None], model)[0]
    voxels = lattice_voxels(volume, 1)
    np.testing.assert_allclose(errors[0][tuple(voxels.T)].numpy(), naive_errors(model, volume, voxels)[:, 0], rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------------------ laws


def test_a_lesion_changes_the_map_within_half_a_patch_around_it_only():
    model, volume = a_model(PositionRegressor((15, 19, 15), 1)), a_head((22, 24, 23))
    other = volume.clone()
    other[0, 11, 12, 11] = 1800 if int(volume[0, 11, 12, 11]) < 1000 else 0
    before, after = (DensePositionInferer(1, 24)(v[None], model)[0, 0] for v in (volume, other))
    changed = (before != after).nonzero()
    assert changed.min(dim=0).values.tolist() == [11 - 7, 12 - 9, 11 - 7]
    assert changed.max(dim=0).values.tolist() == [11 + 7, 12 + 9, 11 + 7]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_error_of_a_network_that_always_says_the_middle_is_the_distance_from_it(stride):
    volume = torch.zeros(1, 1, 9, 5, 13)
    errors = DensePositionInferer(stride, 4)(volume, HeadCTModel(Middle(), 64.0))[0, 0]
    # corner: sqrt(3 * 0.5^2); middle: 0; half-way along x alone: 2/8 from the middle
    assert errors[0, 0, 0].item() == errors[8, 4, 12].item() == pytest.approx(0.75**0.5)
    assert errors[4, 2, 6].item() == pytest.approx(0 if stride < 4 else errors[4, 0, 4].item() / 2 + errors[4, 0, 8].item() / 2)
    assert errors[0, 0, 4].item() == pytest.approx((0.25 + 0.25 + (4 / 12 - 0.5) ** 2) ** 0.5)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_every_foreground_voxel_gets_its_value_although_empty_tiles_are_skipped(stride):
    for voxel in ((0, 0, 0), (3, 4, 7), (5, 7, 8), (12, 12, 12), (11, 3, 4)):
        volume = torch.full((1, 1, 13, 13, 13), BACKGROUND)
        volume[(0, 0, *voxel)] = 40
        whole = DensePositionInferer(stride, 16)(volume, HeadCTModel(Middle(), 64.0))
        assert torch.equal(DensePositionInferer(stride, 4)(volume, HeadCTModel(Middle(), 64.0)), whole)
        assert whole.nonzero().tolist() == [[0, 0, *voxel]]


def test_tiles_far_from_the_head_are_never_passed_through_the_network():
    network, volume = Middle(), torch.full((1, 1, 16, 16, 16), BACKGROUND)
    assert not DensePositionInferer(4, 4)(volume, HeadCTModel(network, 64.0)).any()
    assert network.seen == []
    volume[0, 0, 1, 1, 1] = 40
    DensePositionInferer(1, 4)(volume, HeadCTModel(network, 64.0))
    assert network.seen == [(18, 18, 18)]


@pytest.mark.parametrize(("stride", "side"), [(1, 8 + 14), (2, 6 + 15), (4, 4 + 15)])
def test_the_network_never_sees_more_than_a_tile_and_its_halo(stride, side):
    network = Middle()
    DensePositionInferer(stride, 8)(torch.zeros(1, 1, 20, 17, 9), HeadCTModel(network, 64.0))
    assert max(max(sides) for sides in network.seen) == side


def test_volumes_of_a_batch_are_evaluated_apart_whatever_their_number_type():
    model, volumes = a_model(PositionRegressor(15, 1)), torch.stack([a_head((6, 5, 7), seed) for seed in range(3)])
    together = DensePositionInferer(2, 8)(volumes, model)
    assert together.shape == (3, 1, 6, 5, 7)
    for kind in (volumes.float(), volumes.double(), MetaTensor(volumes)):
        alone = torch.cat([DensePositionInferer(2, 8)(volume[None], model) for volume in kind])
        assert np.array_equal(alone.numpy(), together.numpy())


def test_no_gradient_is_kept_and_the_volume_is_left_as_it_was():
    model, volume = a_model(PositionRegressor(15, 1)), a_head((5, 5, 5))
    before = volume.clone()
    assert not DensePositionInferer(1, 4)(volume[None], model).requires_grad
    assert torch.equal(volume, before)


# ------------------------------------------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("shape", [(9, 5, 13), (8, 4, 10), (11, 1, 7), (3, 2, 4)])
def test_interpolation_between_the_lattice_points_agrees_with_scipy(stride, shape):
    counts = [(side - 1) // stride + 1 for side in shape]
    values = torch.rand(2, *counts, dtype=torch.float64)
    fine = upsample(values, stride, shape)
    where = np.stack(np.meshgrid(*[np.arange(side) / stride for side in shape], indexing="ij"))
    for channel, expected in zip(fine, values, strict=True):
        np.testing.assert_allclose(channel, map_coordinates(expected.numpy(), where, order=1, mode="nearest"), rtol=0, atol=1e-12)
    assert fine.shape == (2, *shape)


@pytest.mark.parametrize(("sides", "tile"), [((5, 9, 8), (4, 4, 4)), ((13, 4, 3), (8, 4, 12)), ((4, 4, 4), (4, 4, 4))])
def test_tiles_cover_every_voxel_once(sides, tile):
    covered = np.zeros(sides, dtype=int)
    for start in tile_starts(sides, tile):
        covered[tuple(slice(a, a + side) for a, side in zip(start, tile, strict=True))] += 1
    assert covered.min() == covered.max() == 1


def test_positions_of_single_patches_do_not_depend_on_the_batch():
    model, volume = a_model(PositionRegressor(15, 1)), a_head((6, 4, 5))
    centres = torch.tensor(list(itertools.product((0, 3, 5), (0, 3), (1, 4))))
    with torch.no_grad():
        one, many = (patch_positions(volume, centres, model, (15, 15, 15), size) for size in (1, 5))
    assert one.shape == (12, 3)
    torch.testing.assert_close(one, many, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------------- errors


def test_a_stride_that_no_pooling_has_is_an_error():
    with pytest.raises(UserError, match=r"stride: got 8, expected one of \(1, 2, 4\)"):
        DensePositionInferer(stride=8)


@pytest.mark.parametrize("tile", [0, 2, 6, 33, (8, 8, 10), 4.5, -4])
def test_a_tile_that_strides_do_not_divide_is_an_error(tile):
    with pytest.raises(UserError, match=r"tile: got .*, expected a multiple of 4 voxels"):
        DensePositionInferer(tile=tile)
