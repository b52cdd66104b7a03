import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from common.errors import UserError
from common.networks.diffusion_blocks import GroupNorm, ResidualBlock
from common.networks.diffusion_unet import DiffusionUNet
from common.training import reset_weights

SMALL = {"in_channels": 3, "out_channels": 2, "base_channels": 4, "multipliers": (1, 2, 2)}


def drawn(seed=0, **settings):
    """A small network in which every layer shows in the output."""
    torch.manual_seed(seed)
    network = DiffusionUNet(**(SMALL | settings))
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.reset_parameters()
        elif isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
    return network


def volume(*sides, batch=1):
    return torch.randn(batch, 3, *sides, generator=torch.Generator().manual_seed(7))


def at(*times):
    return torch.tensor(times)


# ------------------------------------------------------------------------------------------------------------------------- laws


def test_a_fresh_network_predicts_0_and_its_residual_blocks_are_their_shortcuts():
    network = DiffusionUNet(**SMALL)
    assert not network(volume(8, 8, 8), at(5)).any()
    features = torch.randn(1, 4, 3, 4, 5)
    assert torch.equal(network.encoder[0].blocks[0](features, torch.randn(1, 16)), features)


def test_volumes_of_a_batch_do_not_see_each_other():
    network, x = drawn().eval(), volume(8, 12, 16, batch=2)
    together = network(x, at(3, 700))
    alone = torch.cat([network(x[:1], at(3)), network(x[1:], at(700))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_one_time_serves_a_whole_batch():
    network, x = drawn().eval(), volume(8, 8, 8, batch=2)
    torch.testing.assert_close(network(x, at(9)), network(x, at(9, 9)), rtol=0, atol=1e-6)


def test_the_time_matters_and_fractions_of_it_too():
    network, x = drawn().eval(), volume(8, 8, 8)
    results = [network(x, at(t)).detach() for t in (0, 1, 1.5, 999)]
    assert all(float((a - b).abs().max()) > 1e-4 for n, a in enumerate(results) for b in results[:n])


@pytest.mark.parametrize("skip", ["average", "concatenate"])
def test_gradients_reach_every_weight(skip):
    network = drawn(skip=skip)
    network(volume(8, 8, 8), at(5)).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in network.parameters())


def test_twice_the_divisor_halves_what_is_joined_and_1_is_the_sum():
    features, skip = torch.randn(1, 4, 2, 2, 2), torch.randn(1, 4, 2, 2, 2)
    one, two, root = (DiffusionUNet(**SMALL, divisor=f).join(features, skip) for f in (1, 2.0, 2**0.5))
    assert torch.equal(one, features + skip)
    assert torch.equal(two, (features + skip) / 2)
    variance = DiffusionUNet(**SMALL, divisor=2**0.5).join(*torch.randn(2, 1, 4, 32, 32, 32)).var()
    assert float(variance) == pytest.approx(1, abs=0.03)
    assert torch.allclose(root, two * 2**0.5)


def test_concatenation_puts_the_decoder_first():
    features, skip = torch.zeros(1, 4, 2, 2, 2), torch.ones(1, 4, 2, 2, 2)
    joined = DiffusionUNet(**SMALL, skip="concatenate").join(features, skip)
    assert joined.flatten(2).mean(-1).tolist() == [[0.0] * 4 + [1.0] * 4]


# --------------------------------------------------------------------------------------------------------------- values by hand


@pytest.mark.parametrize(
    "settings, count",
    [
        ({}, 24_260_299),
        ({"in_channels": 5}, 24_257_950),
        ({"skip": "concatenate", "base_channels": 18}, 12_465_685),
        ({"skip": "concatenate"}, 32_331_927),
    ],
)
def test_the_parameters_are_as_many_as_those_of_the_released_network(settings, count):
    with torch.device("meta"):
        network = DiffusionUNet(**settings)
    assert sum(p.numel() for p in network.parameters()) == count


def test_the_wave_of_an_odd_width_is_cosines_then_sines_then_a_zero():
    with torch.device("meta"):
        network = DiffusionUNet()
    network.time = nn.Sequential(nn.Linear(29, 29, bias=False))
    nn.init.eye_(network.time[0].weight)
    assert network.embed_time(at(0)).tolist() == [[1.0] * 14 + [0.0] * 15]
    wave = network.embed_time(at(2))[0]
    # slowest of 14 frequencies: 10000 ** (-13 / 14) = 1.9307e-4, so t = 2 turns it by 3.861e-4
    assert wave[[0, 14, 27, 28]].tolist() == pytest.approx([-0.4161468, 0.9092974, 3.861e-4, 0], abs=1e-6)


def test_each_decoder_block_has_the_channels_of_the_next_skip():
    with torch.device("meta"):
        network = DiffusionUNet()
    outputs = [block.conv2.out_channels for level in reversed(network.decoder) for block in level.blocks]
    assert outputs == [116] * 13 + [87, 87, 87, 29, 29, 29, 29, 29]


# -------------------------------------------------------------------------------------------------------------------- precision


def test_statistics_are_those_of_float32_whatever_the_type():
    norm = GroupNorm(2, 4)
    nn.init.normal_(norm.weight)
    features = (torch.randn(1, 4, 8, 8, 8) + 30).bfloat16()
    expected = nn.functional.group_norm(features.float(), 2, norm.weight, norm.bias, norm.eps).bfloat16()
    assert torch.equal(norm(features), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(features), expected)


def test_gradients_agree_with_differences():
    network = drawn(base_channels=2, multipliers=(1, 2), checkpointing=True).double()
    torch.autograd.gradcheck(lambda x: network(x, at(5)), volume(2, 2, 4).double().requires_grad_())


def test_bf16_is_near_float32():
    network, x = drawn().eval(), volume(16, 16, 16)
    with torch.no_grad():
        exact = network(x, at(5))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x, at(5))
    assert rounded.dtype == torch.bfloat16
    assert float((rounded - exact).abs().mean() / exact.abs().mean()) < 0.05


# ---------------------------------------------------------------------------------------------------------------- checkpointing


def trained_step(checkpointing):
    """Output, gradients and bytes kept for the backward pass."""
    network, kept = drawn(dropout=0.2, checkpointing=checkpointing).train(), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(volume(16, 16, 16), at(5))
    output.square().mean().backward()
    return output, [p.grad for p in network.parameters()], sum(kept.values())


def test_checkpointing_changes_neither_output_nor_gradients_and_keeps_less():
    output, gradients, kept = trained_step(False)
    again, the_same, less = trained_step(True)
    assert torch.equal(output, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, the_same, strict=True))
    assert less < 0.5 * kept


def test_checkpointing_does_nothing_without_gradients():
    network = drawn(checkpointing=True).eval()
    with torch.no_grad():
        assert torch.equal(network(volume(8, 8, 8), at(5)), drawn().eval()(volume(8, 8, 8), at(5)))


# ------------------------------------------------------------------------------------------------------------------ two devices


def places(network):
    """Names of the parts on the second device (meta)."""
    return {name.split(".weight")[0] for name, p in network.named_parameters() if p.device.type == "meta" and name.endswith("weight")}


@pytest.mark.parametrize("by", ["decoder", "levels"])
@pytest.mark.parametrize("outer", [1, 2])
def test_a_split_network_has_whole_levels_on_the_second_device(by, outer):
    second = places(DiffusionUNet(**SMALL).split(["cpu", "meta"], outer, by))
    names = {name for name, layer in DiffusionUNet(**SMALL).named_modules() if hasattr(layer, "weight")}
    if by == "decoder":
        parts = [*[f"decoder.{n}." for n in range(outer)], "norm", "head"]
    else:
        parts = ["middle", *[f"{side}.{n}." for side in ("encoder", "decoder") for n in range(outer, 3)]]
    assert second == {name for name in names if name.startswith(tuple(parts))}
    assert second and second != names


@pytest.mark.parametrize("by", ["decoder", "levels"])
def test_a_split_network_computes_the_same(by):
    x = volume(8, 8, 8)
    assert torch.equal(drawn().split(["cpu", "cpu"], by=by)(x, at(5)), drawn()(x, at(5)))


@pytest.mark.parametrize("arguments", [(["cpu"],), (["cpu", "cpu"], 3), (["cpu", "cpu"], 0), (["cpu", "cpu"], 1, "blocks")])
def test_a_split_that_cannot_be_is_an_error(arguments):
    with pytest.raises(
        UserError, match=r"split: got devices .*expected two devices, 1 to 2 of the 3 levels and one of \('decoder', 'levels'\)"
    ):
        DiffusionUNet(**SMALL).split(*arguments)


# ------------------------------------------------------------------------------------------------------------- shapes and errors


@pytest.mark.parametrize("settings", [{}, {"skip": "concatenate"}, {"blocks_per_level": 1}, {"multipliers": (2, 1)}, {"groups": 2}])
@pytest.mark.parametrize("sides", [(8, 12, 16), (4, 8, 4)])
def test_the_output_has_the_sides_of_the_input(settings, sides):
    assert drawn(**settings)(volume(*sides, batch=2), at(5, 6)).shape == (2, 2, *sides)


def test_monai_samples_with_this_network():
    scheduler = DDIMScheduler(num_train_timesteps=10)
    scheduler.set_timesteps(2)
    condition, noise = volume(8, 8, 8)[:, :2], torch.randn(1, 1, 8, 8, 8)
    sample = DiffusionInferer(scheduler).sample(
        noise, drawn(out_channels=1), scheduler, conditioning=condition, mode="concat", verbose=False
    )
    assert sample.shape == (1, 1, 8, 8, 8)


def test_all_weights_are_drawn_anew_and_the_output_begins_at_0():
    network, other = drawn(seed=1), drawn(seed=2)
    for one in (network, other):
        torch.manual_seed(3)
        reset_weights(one)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), other.parameters(), strict=True))
    assert not network(volume(8, 8, 8), at(5)).any()
    assert not torch.equal(network.time[0].weight, drawn(seed=1).time[0].weight)


def test_sides_that_cannot_be_halved_are_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match=r"x: got sides \(8, 10, 8\), expected multiples of 4; pad the volume"):
        DiffusionUNet(**SMALL)(volume(8, 10, 8), at(5))


def test_other_channels_are_an_error():
    with pytest.raises(UserError, match=r"x: got shape \(1, 2, 8, 8, 8\), expected \(B, 3, X, Y, Z\); in_channels counts the noisy mask"):
        DiffusionUNet(**SMALL)(volume(8, 8, 8)[:, :2], at(5))


def test_times_that_do_not_fit_the_batch_are_an_error():
    with pytest.raises(UserError, match=r"timesteps: got shape \(3,\), expected \(2,\) or \(1,\)"):
        DiffusionUNet(**SMALL)(volume(8, 8, 8, batch=2), at(1, 2, 3))


def test_a_context_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match="no attention; concatenate conditions to x"):
        DiffusionUNet(**SMALL)(volume(8, 8, 8), at(5), context=torch.zeros(1, 1, 4))


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"groups": 3}, r"groups: got 3, expected a divisor of every width, which are \[4, 8, 8\]"),
        ({"skip": "add"}, r"skip: got 'add', expected one of \('average', 'concatenate'\)"),
        ({"divisor": 0.0}, "divisor: got 0.0, expected more than 0"),
        ({"multipliers": ()}, "expected at least one level"),
        ({"blocks_per_level": 0}, "blocks_per_level 0: expected at least one level, channel and block"),
    ],
)
def test_a_setting_out_of_range_is_an_error(settings, text):
    with pytest.raises(UserError, match=text):
        DiffusionUNet(**(SMALL | settings))


def test_a_block_keeps_or_changes_its_channels():
    same, other = ResidualBlock(4, 4, 16, 2), ResidualBlock(4, 6, 16, 2)
    assert isinstance(same.shortcut, nn.Identity)
    assert other(torch.randn(1, 4, 3, 4, 5), torch.randn(1, 16)).shape == (1, 6, 3, 4, 5)
