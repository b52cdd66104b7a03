import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.networks.wire_inr import WireINR, draw_frequencies, encode_position, wire

SMALL = {"latent_size": 5, "width": 6, "layers": 4}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(seed=0, **settings):
    torch.manual_seed(seed)
    return WireINR(**(SMALL | settings)).double()


def points_and_latents(dims=3, batch=2, count=7):
    return draw(batch, count, 1 + dims) / 4, draw(batch, 5, seed=1) / 4


@pytest.mark.parametrize(("dims", "expected"), [(3, 232_450), (2, 232_194)])
def test_the_papers_network_has_the_papers_number_of_parameters(dims, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in WireINR(dims).parameters()) == expected


def test_a_wavelet_by_hand():
    # cos(10 a) exp(-(10 b)^2): cos 0, then cos pi, then exp(-1), then both
    a, b = [0.0, math.pi / 10, 0.0, math.pi / 30], [0.0, 0.0, 0.1, 0.1]
    expected = torch.tensor([1.0, -1.0, math.exp(-1), 0.5 * math.exp(-1)])
    torch.testing.assert_close(wire(torch.tensor(a + b)), expected)
    torch.testing.assert_close(wire(torch.tensor([[a[3], b[3]]]), omega=20.0, sigma=5.0), torch.tensor([[-0.5 * math.exp(-0.25)]]))


def test_the_wavelets_own_gradient_is_the_true_one():
    z = (draw(4, 6) / 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: wire(z, 7.0, 3.0), z)


def test_the_wavelet_of_another_number_type_is_the_plain_formula():
    z = draw(3, 8, dtype=torch.float32) / 5
    found = wire(z.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wire(z), rtol=0, atol=0.2)


def two_maps_per_layer(network, points, latents):
    """The network as the paper has it: the latent at every voxel, two linear maps per layer."""
    h = torch.cat([points, latents[:, None].expand(-1, points.shape[1], -1)], dim=-1)
    for number, layer in enumerate([network.first, *network.hidden, network.head]):
        half = layer.out_features // 2
        a, b = (nn.functional.linear(h, layer.weight[s], layer.bias[s]) for s in (slice(0, half), slice(half, None)))
        y = torch.cos(10 * a) * torch.exp(-((10 * b) ** 2))
        h = (y + h) / 2 if 0 < number < 1 + len(network.hidden) else y
    return h


@pytest.mark.parametrize("dims", [2, 3])
def test_it_computes_what_two_maps_per_layer_and_a_latent_at_every_voxel_compute(dims):
    network = small(dims=dims)
    points, latents = points_and_latents(dims)
    torch.testing.assert_close(network(points, latents), two_maps_per_layer(network, points, latents))


def test_its_gradients_are_those_of_the_plain_network():
    network = small()
    points, latents = points_and_latents()
    leaves = [latents.requires_grad_(), *network.parameters()]
    ours = torch.autograd.grad(network(points, latents).square().sum(), leaves)
    plain = torch.autograd.grad(two_maps_per_layer(network, points, latents).square().sum(), leaves)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("encoding", [None, "fourier", "gaussian"])
@pytest.mark.parametrize("activation", ["wire", "siren", "relu"])
def test_the_first_preactivation_is_linear_in_latent_and_age(activation, encoding):
    network = small(activation=activation, encoding=encoding)
    points, latents = points_and_latents()
    change, years = draw(2, 5, seed=2), 0.3
    moved = points + torch.tensor([years, 0, 0, 0])
    difference = network.first_preactivation(moved, latents + change) - network.first_preactivation(points, latents)
    expected = change @ network.latent_weight.T + years * network.age_weight
    torch.testing.assert_close(difference, expected[:, None].expand_as(difference))


def test_what_follows_the_first_preactivation_gives_the_output():
    network = small(label_classes=2)
    points, latents = points_and_latents()
    torch.testing.assert_close(network.from_first(network.first_preactivation(points, latents)), network(points, latents))


def test_an_image_depends_on_its_own_latent_only_and_a_point_on_itself():
    network = small()
    points, latents = points_and_latents()
    both = network(points, latents)
    torch.testing.assert_close(network(points[1:, 3:4], latents[1:]), both[1:, 3:4])


def test_the_papers_output_lies_between_minus_one_and_one_and_a_linear_head_leaves_it():
    points, latents = points_and_latents(count=500)
    assert small()(100 * points, latents).abs().max() <= 1
    assert small(head="linear")(100 * points, latents).shape == (2, 500, 1)
    network = small(head="linear")
    nn.init.constant_(network.head.bias, 3.0)
    assert network(points, latents).min() > 1


@pytest.mark.parametrize("settings", [{"activation": "siren", "head": "siren"}, {"activation": "relu", "head": "linear"}, {"outputs": 2}])
@pytest.mark.parametrize("encoding", [None, "fourier", "gaussian"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_option_gives_its_outputs_and_gradients_to_every_weight(settings, encoding, dims):
    network = small(dims=dims, encoding=encoding, label_classes=3, **settings)
    points, latents = points_and_latents(dims, count=40)
    y = network(points, latents)
    assert y.shape == (2, 40, settings.get("outputs", 1) + 3)
    y.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_siren_is_a_sine_with_factor_thirty():
    network = small(activation="siren", head="linear", layers=2)
    points, latents = points_and_latents()
    z = network.first_preactivation(points, latents)
    torch.testing.assert_close(network(points, latents), network.head(torch.sin(30 * z)))


def test_sirens_weights_start_within_its_bound_and_torchs_beyond_it():
    bound = math.sqrt(6 / 6) / 30
    assert bound / 2 < small(activation="siren", head="siren").hidden[0].weight.abs().max() <= bound
    assert small().hidden[0].weight.abs().max() > bound


@pytest.mark.parametrize(("residual", "averaged"), [("full", (1, 2, 3)), ("skip2", (2,)), ("none", ())])
def test_residuals_average_a_hidden_layer_with_its_input(residual, averaged):
    network = small(residual=residual, activation="relu", head="linear", layers=5)
    points, latents = points_and_latents()
    h = network.first_preactivation(points, latents).relu()
    for number, layer in enumerate(network.hidden, start=1):
        h = (layer(h).relu() + h) / 2 if number in averaged else layer(h).relu()
    torch.testing.assert_close(network(points, latents), network.head(h))


def test_label_logits_stand_behind_the_intensity_which_they_leave_as_it_is():
    network = small(label_classes=2)
    plain = small()
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if not key.startswith("labels")})
    points, latents = points_and_latents()
    torch.testing.assert_close(network(points, latents)[..., :1], plain(points, latents))


def test_fourier_features_by_hand():
    frequencies = draw_frequencies("fourier", 2, 3, 1.0)
    assert torch.allclose(frequencies, math.pi * torch.tensor([[1.0, 2, 4, 0, 0, 0], [0, 0, 0, 1, 2, 4]]))
    # x = 1/2: sin(pi/2), sin(pi), sin(2 pi), cos(pi/2), cos(pi), cos(2 pi); y = 0: sines 0, cosines 1
    found = encode_position(torch.tensor([0.5, 0.0]), frequencies)
    torch.testing.assert_close(found, torch.tensor([0.5, 0, 1, 0, 0, 0, 0, 0, 0, -1, 1, 1, 1, 1]), atol=1e-6, rtol=0)


def test_gaussian_frequencies_have_their_spread_and_travel_with_the_weights():
    frequencies = draw_frequencies("gaussian", 3, 4000, 5.0)
    assert abs(float(frequencies.std()) / (2 * math.pi * 5) - 1) < 0.03
    assert torch.equal(small(encoding="gaussian").state_dict()["frequencies"], small(1, encoding="gaussian").frequencies)


def test_weights_drawn_anew_follow_the_seed():
    network, first = small(3), small(3).state_dict()
    network.reset_parameters()
    assert not torch.equal(network.first.weight, first["first.weight"])
    torch.manual_seed(3)
    single = WireINR(**SMALL)
    torch.testing.assert_close(single.double().state_dict(), first)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"activation": "gelu"}, r"activation: got 'gelu'; expected one of 'wire', 'siren', 'relu'\."),
        ({"residual": "half"}, r"residual: got 'half'; expected one of 'full', 'skip2', 'none'\."),
        ({"head": "tanh"}, r"head: got 'tanh'; expected one of 'wire', 'siren', 'relu', 'linear'\."),
        ({"encoding": "nerf"}, r"encoding: got 'nerf'; expected one of None, 'fourier', 'gaussian'\."),
        ({"layers": 1}, r"layers: got 1; expected at least 2"),
    ],
)
def test_a_choice_that_does_not_exist_is_an_error_that_lists_those_that_do(settings, text):
    with pytest.raises(UserError, match=text):
        WireINR(**settings)
