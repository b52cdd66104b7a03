import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import group_norm, interpolate, silu
from torch.utils._python_dispatch import TorchDispatchMode

from common.errors import UserError
from common.networks.diffusion_unet import DiffusionUNet
from common.networks.lazy_planes import Planes, activated, convolved, merged, plane_statistics, remembered, stored, upsampled
from common.networks.lean_forward import LeanForward, lean_forward

SMALL = {"in_channels": 3, "out_channels": 2, "base_channels": 4, "multipliers": (1, 2, 2)}
DEEP = {"in_channels": 3, "base_channels": 6, "multipliers": (1, 3, 4, 4), "groups": 3}


def drawn(**settings):
    """A network in which every layer shows in the output."""
    torch.manual_seed(0)
    network = DiffusionUNet(**(SMALL | settings)).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.reset_parameters()
        elif isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
    return network


def volume(*sides, batch=1, **settings):
    return torch.randn(batch, 3, *sides, generator=torch.Generator().manual_seed(7), **settings)


def plain(network, x, times):
    with torch.no_grad():
        return network(x, times)


TIME = torch.tensor([321])

# -------------------------------------------------------------------------------------------------- agreement with the plain forward


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("slab", [1, 3, 8, 100])
@pytest.mark.parametrize("skip", ["average", "concatenate"])
def test_the_result_is_that_of_the_network(skip, slab, recompute):
    network, x = drawn(skip=skip, divisor=1.5).double(), volume(16, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(lean_forward(network, x, TIME, slab, recompute), plain(network, x, TIME), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [DEEP, {"blocks_per_level": 1}, {"multipliers": (2, 1)}, {"multipliers": (1,)}])
@pytest.mark.parametrize("recompute", [False, True])
def test_it_holds_for_other_networks_and_in_float32(settings, recompute):
    network, x = drawn(**settings), volume(24, 8, 16)
    torch.testing.assert_close(lean_forward(network, x, TIME, 5, recompute), plain(network, x, TIME), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels_last", [None, False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_it_holds_for_batches_and_every_layout(layout, channels_last):
    network, x, times = drawn(), volume(16, 8, 12, batch=2).to(memory_format=layout), torch.tensor([3, 900])
    result = LeanForward(network, 4, channels_last=channels_last)(x, times)
    assert result.is_contiguous()
    torch.testing.assert_close(result, plain(network, x, times), rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("by", ["decoder", "levels"])
def test_it_holds_for_a_split_network(by, recompute):
    network, x = drawn().split(["cpu", "cpu"], by=by), volume(8, 8, 8)
    torch.testing.assert_close(lean_forward(network, x, TIME, 4, recompute), plain(network, x, TIME), rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_under_autocast_it_is_as_near_to_float32_as_the_network_is(recompute):
    network, x = drawn(), volume(16, 16, 16)
    exact = plain(network, x, TIME)
    with torch.autocast("cpu", torch.bfloat16):
        error, ours = ((way - exact).abs().mean() for way in (plain(network, x, TIME), lean_forward(network, x, TIME, 4, recompute)))
    assert float(ours) < 1.5 * float(error) < 0.05 * float(exact.abs().mean())


def test_input_and_weights_stay_as_they_were_and_no_graph_is_made():
    network, x = drawn(), volume(16, 8, 8)
    before = [x.clone(), *(p.clone() for p in network.parameters())]
    result = lean_forward(network, x, TIME, 4)
    assert not result.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, [x, *network.parameters()], strict=True))


def test_dropout_is_off():
    network, x = drawn(dropout=0.5), volume(8, 8, 8)
    torch.testing.assert_close(lean_forward(network.train(), x, TIME), plain(network.eval(), x, TIME), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------- memory


class LiveBytes(TorchDispatchMode):
    """Peak of the memory that tensors made inside hold at the same time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live.append((StorageWeakRef(storage), storage.data_ptr(), storage.nbytes()))
        self.live = [entry for entry in self.live if not entry[0].expired()]
        self.peak = max(self.peak, sum({pointer: size for _, pointer, size in self.live}.values()))
        return result


def peak(way, x):
    with torch.no_grad(), LiveBytes() as bytes_:
        way(x, TIME)
    return bytes_.peak


def test_the_tensors_need_seven_tenths_of_the_networks_memory_and_two_fifths_when_skips_are_made_again():
    network, x = drawn(**DEEP), volume(32, 16, 16)
    whole, kept, again = (peak(way, x) - x.nbytes for way in (network, LeanForward(network, 4), LeanForward(network, 2, recompute=True)))
    unit = 6 * x[0, 0].nbytes  # a volume of the first level
    assert whole > 6.5 * unit
    assert kept < 4.75 * unit  # three skips, the features between two convolutions, slabs
    assert again < 2.85 * unit  # one volume, the features between two convolutions, slabs


# ----------------------------------------------------------------------------------------------------------------------- planes


RANGES = [(0, 8), (0, 3), (2, 5), (5, 8), (7, 8)]


@pytest.mark.parametrize("a, b", RANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planes_of_a_convolution_are_those_of_the_whole(dtype, a, b):
    layer, x, shift = (
        nn.Conv3d(2, 3, 3, padding=1).to(dtype),
        torch.randn(2, 2, 8, 5, 6, dtype=dtype),
        torch.randn(2, 3, 1, 1, 1, dtype=dtype),
    )
    with torch.no_grad():
        found = convolved(stored(x), layer, shift).make(a, b)
        torch.testing.assert_close(found, (layer(x) + shift)[:, :, a:b], rtol=0, atol=1e-5)


@pytest.mark.parametrize("a, b", RANGES)
def test_planes_of_a_strided_convolution_are_those_of_the_whole(a, b):
    layer, x = nn.Conv3d(2, 3, 3, stride=2, padding=1), torch.randn(1, 2, 16, 6, 4)
    with torch.no_grad():
        planes = convolved(stored(x), layer)
        torch.testing.assert_close(planes.make(a, b), layer(x)[:, :, a:b], rtol=0, atol=1e-5)
    assert planes.length == 8


@pytest.mark.parametrize("a, b", RANGES)
def test_planes_of_what_is_upsampled_are_those_of_the_whole(a, b):
    x = torch.randn(1, 2, 4, 3, 5)
    assert torch.equal(upsampled(stored(x)).make(a, b), interpolate(x, scale_factor=2)[:, :, a:b])


def test_remembered_planes_are_made_once():
    asked, x = [], torch.randn(1, 1, 8, 2, 2)
    planes = remembered(Planes(lambda a, b: asked.append((a, b)) or x[:, :, a:b], 8))
    for a, b in ((1, 6), (2, 5), (1, 6), (4, 8), (5, 6)):
        assert torch.equal(planes.make(a, b), x[:, :, a:b])
    assert asked == [(1, 6), (4, 8)]


def test_known_statistics_normalise_as_group_norm_does():
    norm, x = nn.GroupNorm(2, 4), torch.randn(2, 4, 6, 3, 5)
    nn.init.normal_(norm.weight)
    mean, variance = merged([plane_statistics(x[:, :, :2], 2), plane_statistics(x[:, :, 2:], 2)])
    rate = (variance + norm.eps).rsqrt().repeat_interleave(2, 1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(2, 1) * rate
    found = activated(stored(x), (rate[..., None, None, None], shift[..., None, None, None])).make(1, 4)
    expected = silu(group_norm(x, 2, norm.weight, norm.bias, norm.eps))[:, :, 1:4]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_mean_and_variance_of_planes_by_hand():
    # one group of two channels; plane 0 holds 1 and 3 (mean 2, variance 1), plane 1 holds 5 and 9 (mean 7, variance 4)
    x = torch.tensor([[1.0, 5.0], [3.0, 9.0]]).view(1, 2, 2, 1, 1).expand(1, 2, 2, 3, 2).contiguous()
    means, variances = plane_statistics(x, 1)
    assert means.flatten().tolist() == pytest.approx([2, 7])
    assert variances.flatten().tolist() == pytest.approx([1, 4], rel=1e-5)
    mean, variance = merged([(means, variances)])  # mean 4.5; (1 + 4) / 2 + 2.5 ** 2 = 8.75
    assert (mean.item(), variance.item()) == (pytest.approx(4.5), pytest.approx(8.75, rel=1e-5))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_statistics_agree_with_float64_where_the_mean_is_large(layout):
    x = (torch.randn(1, 4, 6, 16, 20, dtype=torch.float64) + 30).to(memory_format=layout)
    mean, variance = merged([plane_statistics(x.float(), 2)])
    grouped = x.reshape(1, 2, -1)
    torch.testing.assert_close(mean.double(), grouped.mean(-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), grouped.var(-1, correction=0), rtol=1e-3, atol=0)


def test_a_constant_volume_has_variance_0():
    mean, variance = merged([plane_statistics(torch.full((1, 2, 3, 4, 4), 0.5), 1)])
    assert (mean.item(), variance.item()) == (0.5, 0.0)


# ----------------------------------------------------------------------------------------------------------------------- errors


def test_a_slab_without_voxels_is_an_error():
    with pytest.raises(UserError, match=r"slab: got 0, expected 1 voxel or more \(8 by default\)"):
        LeanForward(drawn(), 0)


def test_what_the_network_refuses_is_refused_here():
    with pytest.raises(UserError, match=r"x: got sides \(8, 10, 8\), expected multiples of 4"):
        lean_forward(drawn(), volume(8, 10, 8), TIME)
    with pytest.raises(UserError, match="no attention"):
        LeanForward(drawn())(volume(8, 8, 8), TIME, context=torch.zeros(1))
