import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool3d

from common.errors import UserError
from common.networks.position_regressor import (
    MultiScalePositionRegressor,
    PaddedPositionRegressor,
    PositionRegressor,
    Residual,
    check_patch_size,
    from_fragments,
    pool_to_fragments,
    positions_per_axis,
)
from common.training import reset_weights

NETWORKS = {
    "valid": lambda: PositionRegressor(19, 2),
    "not cubic": lambda: PositionRegressor((15, 19, 23), 1),
    "without norm": lambda: PositionRegressor(15, 2, normalise=False),
    "padded": lambda: PaddedPositionRegressor(15, 2),
    "multi-scale": lambda: MultiScalePositionRegressor([PositionRegressor(15, 1), PositionRegressor(23, 1)]),
}
by_name = pytest.mark.parametrize("name", NETWORKS)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def patches_for(network):
    return torch.rand(2, 1, *network.patch_size, generator=torch.Generator().manual_seed(5))


def weights(network):
    return torch.cat([tensor.detach().flatten() for tensor in network.state_dict().values()])


# -------------------------------------------------------------------------------------------------------------------- fragments


def pooled_by_a_loop(features):
    """Means of all cubes of 2^3 voxels, one cube after the other."""
    sides = [side - 1 for side in features.shape[2:]]
    result = features.new_zeros(*features.shape[:2], *sides)
    for x in range(sides[0]):
        for y in range(sides[1]):
            for z in range(sides[2]):
                result[:, :, x, y, z] = features[:, :, x : x + 2, y : y + 2, z : z + 2].mean(dim=(2, 3, 4))
    return result


@pytest.mark.parametrize("sides", [(3, 3, 3), (4, 5, 6), (7, 4, 5), (2, 3, 4)])
def test_fragments_put_together_are_the_average_pooling_at_every_voxel(sides):
    features = torch.rand(2, 3, *sides, dtype=torch.float64)
    fragments = pool_to_fragments(features)
    assert fragments.shape == (16, 3, *[side // 2 for side in sides])
    inner = [slice(side - 1) for side in sides]  # what lies beyond came from the zeros that filled up an even side
    whole = from_fragments(fragments)[:, :, inner[0], inner[1], inner[2]]
    torch.testing.assert_close(whole, pooled_by_a_loop(features), rtol=0, atol=1e-15)
    torch.testing.assert_close(whole, avg_pool3d(features, 2, stride=1), rtol=0, atol=1e-15)


def test_fragment_ijk_holds_the_cubes_that_begin_at_even_places_plus_ijk():
    # features 0 ... 26 of a 3^3 volume: cube (0,0,0) holds 0 1 3 4 9 10 12 13, mean 6.5; a step in x adds 9, in y 3, in z 1
    features = torch.arange(27.0).view(1, 1, 3, 3, 3)
    assert pool_to_fragments(features).flatten().tolist() == [6.5, 7.5, 9.5, 10.5, 15.5, 16.5, 18.5, 19.5]


def test_fragments_of_a_batch_keep_its_volumes_apart():
    features = torch.rand(3, 2, 5, 5, 5)
    alone = torch.cat([from_fragments(pool_to_fragments(volume[None])) for volume in features])
    assert torch.equal(from_fragments(pool_to_fragments(features)), alone)


def test_fragments_twice_are_undone_in_the_opposite_order():
    features = torch.rand(2, 1, 9, 9, 9, dtype=torch.float64)
    twice = from_fragments(from_fragments(pool_to_fragments(pool_to_fragments(features))))[:, :, :6, :6, :6]
    first = avg_pool3d(features, 2, stride=1)
    dilated = sum(first[:, :, i : i + 6, j : j + 6, k : k + 6] for i in (0, 2) for j in (0, 2) for k in (0, 2)) / 8
    torch.testing.assert_close(twice, dilated, rtol=0, atol=1e-15)


# ------------------------------------------------------------------------------------------------------------------------ layers


def test_a_residual_block_without_change_is_a_crop_to_the_centre():
    block = Residual(2, (3, 1, 3), normalise=False)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    features = torch.rand(1, 2, 5, 6, 7)
    assert torch.equal(block(features), features[:, :, 1:-1, :, 1:-1])


def test_the_position_of_a_patch_is_the_last_bias_where_the_last_weights_are_0():
    network = PositionRegressor(15, 1).eval()
    nn.init.zeros_(network.affine2.weight)
    assert network(torch.rand(1, 1, 15, 19, 23)).unique().tolist() == [0.5]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_position_depends_on_every_voxel_of_its_patch_and_on_no_other(stride):
    torch.manual_seed(0)
    network = PositionRegressor((15, 19, 23), 1).double().eval()
    volume = torch.rand(1, 1, 15 + 8, 19 + 8, 23 + 8, dtype=torch.float64, requires_grad=True)
    place = (4 // stride,) * 3  # the patch that begins at voxel (4, 4, 4)
    network(volume, stride)[(0, slice(None), *place)].sum().backward()
    inside = torch.zeros(volume.shape, dtype=torch.bool)
    inside[:, :, 4 : 4 + 15, 4 : 4 + 19, 4 : 4 + 23] = True
    assert torch.equal(volume.grad != 0, inside)


@pytest.mark.parametrize("stride", [1, 2, 4])
@by_name
def test_gradients_agree_with_differences_and_reach_every_weight(name, stride):
    torch.manual_seed(1)
    network = NETWORKS[name]().double().eval()
    room, settings = (0, {}) if name == "padded" else (4, {"stride": stride})
    image = torch.rand(1, 1, *[side + room for side in network.patch_size], dtype=torch.float64)
    network(image, **settings).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in network.parameters())
    bias = network.regressors[0].stem.bias if name == "multi-scale" else network.stem.bias
    step, gradient = 1e-6, bias.grad[0].item()
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            bias[0] += sign * step
            values.append(network(image, **settings).square().sum().item())
            bias[0] -= sign * step
    assert gradient == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


# --------------------------------------------------------------------------------------------------------------- shapes and counts


@pytest.mark.parametrize(
    ("patch_size", "sides", "stride", "positions"),
    [
        (15, (15, 15, 15), 4, (1, 1, 1)),
        (15, (15, 15, 15), 1, (1, 1, 1)),
        (15, (16, 18, 19), 4, (1, 1, 2)),
        (15, (16, 18, 19), 2, (1, 2, 3)),
        (15, (16, 18, 19), 1, (2, 4, 5)),
        (23, (23, 30, 35), 4, (1, 2, 4)),
        (23, (23, 30, 35), 2, (1, 4, 7)),
        (23, (23, 30, 35), 1, (1, 8, 13)),
        ((15, 19, 23), (20, 19, 33), 4, (2, 1, 3)),
        ((15, 19, 23), (20, 19, 33), 1, (6, 1, 11)),
        ((31, 15, 19), (31, 17, 20), 2, (1, 2, 1)),
    ],
)
def test_there_is_one_position_per_patch(patch_size, sides, stride, positions):
    network = PositionRegressor(patch_size, 1).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 1, *sides), stride).shape == (2, 3, *positions)
    assert positions_per_axis(sides, network.patch_size, stride) == positions


def test_a_network_of_two_scales_gives_two_triples_around_the_same_centres():
    network = NETWORKS["multi-scale"]().eval()
    volume = torch.rand(1, 1, 26, 27, 31)
    with torch.no_grad():
        both = network(volume, stride=1)
        small = network.regressors[0](volume[:, :, 4:-4, 4:-4, 4:-4], stride=1)
        large = network.regressors[1](volume, stride=1)
    assert (network.patch_size, network.outputs) == ((23, 23, 23), 6)
    assert both.shape == (1, 6, 4, 5, 9)
    assert torch.equal(both, torch.cat([small, large], dim=1))


@pytest.mark.parametrize(("width", "count"), [(1, 7_503), (2, 29_799), (4, 118_779), (8, 474_291), (16, 1_895_523)])
def test_the_padded_network_has_the_parameters_of_the_method_notes(width, count):
    with torch.device("meta"):
        blocks = [nn.Conv3d(a, b, 3) for a, b in ((1, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width))]
    convolutions = sum(parameters(block) for block in blocks) + sum(2 * (27 * c * c + c) for c in (2 * width, 4 * width, 8 * width))
    affine = (27 * 8 * width * 8 * width + 8 * width) + (3 * 8 * width + 3)  # 3^3 places are left of 31
    assert parameters(PaddedPositionRegressor(31, width)) == convolutions + affine == count


@pytest.mark.parametrize(
    ("patch_size", "count"),
    [
        # stem 8 + 1; down1 2*27 + 2; residual1 (2*2*27 + 2) + (2*2 + 2); down2 2*4*27 + 4; two outputs-layers, the last 3*8 + 3.
        # 15: 1 place is left, affine1 4*8 + 8
        (15, 9 + 56 + 110 + 6 + 220 + 40 + 27),
        # 19: 2^3 places, too few for a block: affine1 8*4*8 + 8
        (19, 9 + 56 + 110 + 6 + 220 + 264 + 27),
        # 23: 3^3 places, one residual2 (4*4*27 + 4) + (4*4 + 4), then as 15
        (23, 9 + 56 + 110 + 6 + 220 + (436 + 20) + 40 + 27),
        # 31: 5^3 places, two of them
        (31, 9 + 56 + 110 + 6 + 220 + 2 * (436 + 20) + 40 + 27),
        # 15 x 19 x 23: 1 x 2 x 3 places; residual2 with kernel 1 x 1 x 3 leaves 1 x 2 x 1
        ((15, 19, 23), 9 + 56 + 110 + 6 + 220 + (4 * 4 * 3 + 4 + 20) + (2 * 4 * 8 + 8) + 27),
    ],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_the_parameters_of_the_valid_network_are_those_counted_by_hand(patch_size, count, normalise):
    assert parameters(PositionRegressor(patch_size, 1, normalise)) == count


# ---------------------------------------------------------------------------------------------------------------------- weights


@by_name
def test_weights_drawn_anew_depend_on_the_seed_alone(name):
    network, draws = NETWORKS[name](), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        reset_weights(network)
        draws.append(weights(network))
        network(patches_for(network))  # moves the running vectors of the spectral norm
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@by_name
def test_every_normalised_kernel_has_norm_1_right_after_a_reset(name):
    network = NETWORKS[name]()
    torch.manual_seed(3)
    reset_weights(network)
    network.eval()
    normalised = [layer for layer in network.modules() if hasattr(layer, "parametrizations")]
    assert bool(normalised) == (name != "without norm")
    for layer in normalised:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)


def test_the_affine_layers_are_not_normalised():
    for network in (PositionRegressor(15, 1), PaddedPositionRegressor(15, 1)):
        assert not hasattr(network.affine1, "parametrizations")
        assert not hasattr(network.affine2, "parametrizations")


@by_name
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fresh_network_places_everything_near_the_middle(name, seed):
    torch.manual_seed(seed)
    network = NETWORKS[name]().eval()
    sides = network.patch_size
    checkers = torch.meshgrid(*[torch.arange(side) % 2 for side in sides], indexing="ij")
    inputs = [torch.zeros(sides), torch.ones(sides), torch.rand(sides), (sum(checkers) % 2).float()]
    with torch.no_grad():
        positions = network(torch.stack(inputs)[:, None])
    assert (positions - 0.5).abs().max() < 0.5  # inside the cube, whatever the patch


@by_name
def test_weights_load_strictly_and_safely_and_give_the_same_positions_bit_for_bit(name):
    torch.manual_seed(0)
    trained = NETWORKS[name]()
    trained(patches_for(trained))  # in training mode: the running vectors belong to the weights
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = NETWORKS[name]()
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    patches = patches_for(trained)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(patches), trained.eval()(patches))


@by_name
def test_a_deep_copy_computes_the_same_and_shares_nothing(name):
    network = NETWORKS[name]().eval()
    other = copy.deepcopy(network)
    patches = patches_for(network)
    with torch.no_grad():
        before = network(patches)
        assert torch.equal(other(patches), before)
        for parameter in other.parameters():
            parameter.add_(1)
        assert torch.equal(network(patches), before)


# ----------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("patch_size", [11, 16, 17, 32, (15, 19, 20), (15, 15.5, 15), -1, 0])
def test_a_patch_that_cannot_be_halved_twice_is_an_error_that_lists_those_that_can(patch_size):
    with pytest.raises(UserError, match=r"patch_size: got .*, expected 15, 19, 23, 27, 31, 35, 39, \.\.\. \(4 n \+ 3\) voxels"):
        PositionRegressor(patch_size, 1)


@pytest.mark.parametrize(("given", "sides"), [(31, (31, 31, 31)), ([15, 19, 39], (15, 19, 39)), (23.0, (23, 23, 23))])
def test_patch_sizes_are_one_number_or_one_per_axis(given, sides):
    assert check_patch_size(given) == sides


@pytest.mark.parametrize("network", [PositionRegressor, PaddedPositionRegressor])
def test_a_width_of_0_is_an_error(network):
    with pytest.raises(UserError, match="width: got 0, expected 1 or more"):
        network(15, 0)


def test_a_stride_that_no_pooling_has_is_an_error():
    with pytest.raises(UserError, match=r"stride: got 3, expected one of \(1, 2, 4\)"):
        PositionRegressor(15, 1)(torch.rand(1, 1, 16, 16, 16), stride=3)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_volume_smaller_than_the_patch_is_an_error_that_names_both(stride):
    with pytest.raises(UserError, match=r"volume: got \(20, 14, 20\) voxels, expected at least the patch, \(15, 15, 15\)"):
        PositionRegressor(15, 1)(torch.rand(1, 1, 20, 14, 20), stride=stride)


def test_the_padded_network_takes_single_patches_only_and_says_what_to_do():
    network = PaddedPositionRegressor((15, 16, 17), 1)
    assert network(torch.rand(2, 1, 15, 16, 17)).shape == (2, 3, 1, 1, 1)
    for settings in ({}, {"stride": 1}):
        with pytest.raises(
            UserError, match=r"got \(15, 16, 18\), expected patches of \(15, 16, 17\).*\(positions_per_side 1, patchwise true\)"
        ):
            network(torch.rand(2, 1, 15, 16, 18), **settings)


def test_a_padded_patch_must_survive_three_poolings():
    with pytest.raises(UserError, match=r"patch_size: got \(8, 7, 8\), expected at least 8 voxels"):
        PaddedPositionRegressor((8, 7, 8), 1)
