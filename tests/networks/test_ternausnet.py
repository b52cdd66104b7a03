import hashlib
import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.networks.ternausnet import TernausNet, adapt_first_convolution, load_imagenet_weights

# positions of the convolutions in torchvision's `features`, and their channels; classifier and max-pools hold none
TORCHVISION = {
    "vgg11": [(0, 64), (3, 128), (6, 256), (8, 256), (11, 512), (13, 512), (16, 512), (18, 512)],
    "vgg16": list(zip([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, strict=True)),
}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def fake_vgg_file(folder, kind="vgg11", name=None):
    """A torchvision VGG ``state_dict`` of random numbers, with the file name that its hash asks for."""
    state, inputs = {}, 3
    generator = torch.Generator().manual_seed(0)
    for position, outputs in TORCHVISION[kind]:
        state[f"features.{position}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{position}.bias"] = torch.randn(outputs, generator=generator)
        inputs = outputs
    state["classifier.0.weight"] = torch.zeros(2, 2)
    plain = folder / "plain.pth"
    torch.save(state, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    return plain.rename(folder / (name or f"{kind}-{digest[:8]}.pth")), state


@pytest.fixture(scope="module")
def vgg11_file(tmp_path_factory):
    return fake_vgg_file(tmp_path_factory.mktemp("vgg"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"encoder": "vgg11"}, 22_927_393),
        ({"encoder": "vgg16"}, 29_306_465),
        ({"encoder": "vgg16", "hidden": 64}, 29_312_769),
    ],
)
def test_parameter_counts_are_those_of_the_published_networks(settings, expected):
    with torch.device("meta"):
        network = TernausNet(in_channels=3, **settings)
        # a first 3x3 convolution of 64 filters has 9 * 64 weights for each input
        assert parameters(TernausNet(in_channels=2, **settings)) == expected - 9 * 64
    assert parameters(network) == expected


def test_the_convolutions_of_vgg16_hold_14714688_parameters():
    with torch.device("meta"):
        assert parameters(TernausNet(in_channels=3, encoder="vgg16").encoder) == 14_714_688


@pytest.mark.parametrize("encoder", ["vgg11", "vgg16"])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "size", "hidden"), [(2, 1, (32, 64), None), (3, 4, (96, 32), 64), (1, 2, (32, 32), 8)]
)
def test_output_has_the_grid_of_the_input(encoder, in_channels, out_channels, size, hidden):
    network = TernausNet(in_channels, out_channels, encoder, width=0.05, hidden=hidden)
    assert network(torch.randn(2, in_channels, *size)).shape == (2, out_channels, *size)


def test_encoder_halves_the_grid_four_times():
    network = TernausNet(width=1 / 16)
    features = network.encoder(torch.randn(1, 2, 64, 96))
    assert [tuple(f.shape) for f in features] == [(1, 4, 64, 96), (1, 8, 32, 48), (1, 16, 16, 24), (1, 32, 8, 12), (1, 32, 4, 6)]


def test_samples_of_a_batch_do_not_see_each_other():
    network, images = TernausNet(width=1 / 16).double().eval(), torch.randn(3, 2, 32, 32, dtype=torch.float64)
    together = network(images)
    for index in range(3):
        torch.testing.assert_close(network(images[index : index + 1])[0], together[index])


@pytest.mark.parametrize("encoder", ["vgg11", "vgg16"])
def test_gradient_reaches_every_parameter(encoder):
    torch.manual_seed(0)
    network = TernausNet(encoder=encoder, width=1 / 8, hidden=8)
    network(torch.randn(2, 2, 64, 64)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_all_parameters_belong_to_encoder_decoder_or_head():
    network = TernausNet(width=1 / 16, hidden=8)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"encoder", "decoder", "head"}


def test_without_normalisation_there_is_nothing_but_parameters_in_the_state():
    network = TernausNet(width=1 / 16)
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_weights_follow_torchs_seed_and_every_reset_draws_anew():
    torch.manual_seed(1)
    first = TernausNet(width=1 / 16)
    torch.manual_seed(1)
    second = TernausNet(width=1 / 16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    second.reset_parameters()
    changed = [not torch.equal(a, b) for (n, a), b in zip(first.named_parameters(), second.parameters(), strict=True) if "weight" in n]
    assert all(changed)


def test_weights_start_by_hes_rule_and_biases_at_zero():
    torch.manual_seed(0)
    layer = TernausNet().encoder.convolutions()[-1]
    # sqrt(2 / fan), 512 channels times 3 x 3 pixels on either side
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert not layer.bias.any()


def test_resetting_the_decoder_leaves_the_encoder():
    network = TernausNet(width=1 / 16)
    before = {name: p.clone() for name, p in network.named_parameters()}
    network.reset_decoder()
    weights = {name: torch.equal(p, before[name]) for name, p in network.named_parameters() if name.endswith("weight")}
    assert {name.split(".")[0] for name, kept in weights.items() if kept} == {"encoder"}
    assert {name.split(".")[0] for name, kept in weights.items() if not kept} == {"decoder", "head"}


@pytest.mark.parametrize("size", [(32, 48), (100, 64)])
def test_size_that_cannot_be_halved_five_times_is_an_error(size):
    with pytest.raises(UserError, match=rf"image_size: got slices of \({size[0]}, {size[1]}\), expected multiples of 32"):
        TernausNet(width=1 / 16)(torch.zeros(1, 2, *size))


def test_unknown_encoder_is_an_error():
    with pytest.raises(UserError, match=r"encoder: got 'vgg19', expected one of \['vgg11', 'vgg16'\]"):
        TernausNet(encoder="vgg19")


def test_imagenet_weights_land_in_torchvisions_order(vgg11_file):
    path, state = vgg11_file
    network = TernausNet(in_channels=3, encoder_weights=str(path))
    for layer, (position, _) in zip(network.encoder.convolutions(), TORCHVISION["vgg11"], strict=True):
        assert torch.equal(layer.weight, state[f"features.{position}.weight"])
        assert torch.equal(layer.bias, state[f"features.{position}.bias"])


def test_imagenet_encoder_computes_what_torchvisions_layers_compute(vgg11_file):
    _, state = vgg11_file
    scaled = {key: value / 30 for key, value in state.items()}
    network = TernausNet(in_channels=3)
    for layer, (position, _) in zip(network.encoder.convolutions(), TORCHVISION["vgg11"], strict=True):
        layer.weight.data, layer.bias.data = scaled[f"features.{position}.weight"], scaled[f"features.{position}.bias"]
    image = x = torch.randn(1, 3, 32, 64)
    positions = [position for position, _ in TORCHVISION["vgg11"]]
    for position in range(20):  # a position without weights is ReLU behind a convolution, else max-pooling
        if position in positions:
            x = nn.functional.conv2d(x, scaled[f"features.{position}.weight"], scaled[f"features.{position}.bias"], padding=1)
        else:
            x = x.relu() if position - 1 in positions else nn.functional.max_pool2d(x, 2)
    torch.testing.assert_close(network.encoder(image)[-1], x)


def test_imagenet_weights_come_back_after_a_reset(vgg11_file):
    path, state = vgg11_file
    network = TernausNet(in_channels=3, encoder_weights=str(path))
    network.encoder.stages[1][0].weight.data.zero_()
    network.reset_parameters()
    assert torch.equal(network.encoder.stages[1][0].weight, state["features.3.weight"])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_first_filters_answer_a_grey_image_alike_whatever_the_number_of_channels(channels, vgg11_file):
    path, state = vgg11_file
    network = TernausNet(in_channels=channels, encoder_weights=str(path))
    grey = torch.randn(1, 1, 32, 32)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), state["features.0.weight"], state["features.0.bias"], padding=1)
    torch.testing.assert_close(network.encoder.stages[0][0](grey.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-4)


def test_adapting_to_two_channels_by_hand_and_three_stay():
    # mean of 1, 2, 6 is 3; times 3 inputs over 2: 4.5 for each
    rgb = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert adapt_first_convolution(rgb, 2).flatten().tolist() == [4.5, 4.5]
    assert adapt_first_convolution(rgb, 3) is rgb


def test_a_damaged_imagenet_file_is_found_by_the_hash_in_its_name(tmp_path):
    path, _ = fake_vgg_file(tmp_path, name="vgg11-8a719046.pth")
    with pytest.raises(UserError, match=r"vgg11-8a719046\.pth has SHA-256 [0-9a-f]{8}\.\.\., its name says 8a719046; download it again"):
        TernausNet(in_channels=3, encoder_weights=str(path))


def test_a_file_without_a_hash_in_its_name_is_taken_as_it_is(tmp_path):
    path, state = fake_vgg_file(tmp_path, name="mine.pth")
    network = TernausNet(in_channels=3)
    load_imagenet_weights(network.encoder, path)
    assert torch.equal(network.encoder.convolutions()[0].weight, state["features.0.weight"])


def test_a_missing_imagenet_file_is_an_error_that_offers_null(tmp_path):
    with pytest.raises(UserError, match=r"encoder_weights: no file .*none\.pth; download .* or leave the key null"):
        TernausNet(width=1 / 16, encoder_weights=str(tmp_path / "none.pth"))


def test_weights_of_the_other_vgg_are_an_error(vgg11_file):
    with pytest.raises(UserError, match=r"has 8 convolutions, this encoder 13; is it for the other VGG\?"):
        TernausNet(encoder="vgg16", width=1 / 16, encoder_weights=str(vgg11_file[0]))


def test_imagenet_weights_need_full_width(vgg11_file):
    with pytest.raises(UserError, match=r"features\.0 has \(64, 2, 3, 3\), expected \(32, 2, 3, 3\); width must be 1"):
        TernausNet(width=0.5, encoder_weights=str(vgg11_file[0]))


@pytest.mark.parametrize("content", [b"not a file of torch", b""])
def test_an_imagenet_file_that_torch_cannot_read_is_an_error(content, tmp_path):
    path = tmp_path / "vgg.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"vgg\.pth cannot be read as weights .*expected a state_dict saved by torch"):
        TernausNet(width=1 / 16, encoder_weights=str(path))
