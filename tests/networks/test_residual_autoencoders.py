import pytest
import torch
from torch.nn import functional

from common.errors import UserError
from common.networks.residual_autoencoders import FAMILIES, OUTPUT_IN_L2, ResidualAutoencoder, l2_parameter_groups
from common.training import reset_weights

NARROW = (4, 6, 8)
# family, block, trainable parameters, with the statistics of batch norm: the table of methods/brain_autoencoder.md, section 5
TABLE = [
    ("shallow", "preactivation", 459_553, 460_609),
    ("shallow", "original", 459_745, 460_993),
    ("residual_unet", "preactivation", 482_593, 483_649),
    ("residual_unet", "original", 482_785, 484_033),
    ("skip", "preactivation", 190_369, 191_041),
    ("myronenko", "preactivation", 989_345, 991_041),
]
ALL = [row[:2] for row in TABLE]


def narrow(family, block="preactivation", **settings):
    torch.manual_seed(0)
    return ResidualAutoencoder(family, block, widths=NARROW, **settings).eval()


@pytest.mark.parametrize(("family", "block", "trainable", "total"), TABLE)
def test_the_parameters_are_those_of_the_table(family, block, trainable, total):
    network = ResidualAutoencoder(family, block)
    assert sum(p.numel() for p in network.parameters()) == trainable
    statistics = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert trainable + statistics == total


@pytest.mark.parametrize(("family", "block"), ALL)
@pytest.mark.parametrize("sides", [(16, 40), (8, 16, 24)])
def test_the_reconstruction_has_the_images_shape_and_lies_between_0_and_1(family, block, sides):
    network = narrow(family, block, spatial_dims=len(sides))
    image = torch.rand(2, 1, *sides)
    with torch.no_grad():
        result = network(image)
    assert result.shape == image.shape
    assert 0 < result.min() < result.max() < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_has_an_eighth_of_the_sides_and_128_channels(family):
    network, seen = ResidualAutoencoder(family, widths=(2, 2, 128)).eval(), []
    network.stage3.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        network(torch.rand(1, 1, 128, 64))
    assert seen == [(1, 128, 16, 8)]


@pytest.mark.parametrize(("family", "passes"), [("shallow", False), ("myronenko", False), ("residual_unet", True), ("skip", True)])
def test_only_skip_connections_pass_the_image_round_the_code(family, passes):
    network = narrow(family)
    network.stage3.register_forward_hook(lambda layer, inputs, output: output * 0)
    with torch.no_grad():
        first, second = (network(torch.rand(1, 1, 16, 16)) for _ in range(2))
    assert torch.equal(first, second) != passes


def test_the_skip_family_adds_what_batch_norm_gives_before_the_relu():
    """The whole network once more, written flat from the thesis' list."""
    network, x = narrow("skip"), torch.rand(2, 1, 16, 24)
    for _, buffer in network.named_buffers():
        if buffer.ndim:
            buffer.data.uniform_(0.5, 1.5)

    def layers(stage):
        return [layer for layer in stage.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.BatchNorm2d)]

    def run(stage, value):
        conv, norm = layers(stage)
        return norm(conv(value))

    with torch.no_grad():
        half = run(network.stage1, x)
        quarter = run(network.stage2, half.relu())
        y = (run(network.up3, run(network.stage3, quarter.relu()).relu()) + quarter).relu()
        y = (run(network.up2, y) + half).relu()
        expected = torch.sigmoid(network.output(run(network.up1, y).relu()))
        torch.testing.assert_close(network(x), expected)


def test_a_concatenation_holds_the_decoder_first_and_the_encoders_stage_behind():
    network, seen = narrow("residual_unet"), {}
    for name in ("stage1", "stage2", "up2", "up1"):
        getattr(network, name).register_forward_hook(lambda layer, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    with torch.no_grad():
        network(torch.rand(1, 1, 16, 16))
    assert torch.equal(seen["up2"][0][:, NARROW[1] :], seen["stage2"][1])
    assert torch.equal(seen["up1"][0][:, NARROW[0] :], seen["stage1"][1])


def test_dropout_acts_on_whole_channels_of_myronenko_in_training_alone():
    network = ResidualAutoencoder("myronenko", widths=(64, 4, 4), dropout=0.5)
    dropped = network.stage1[1](torch.ones(1, 64, 4, 4)).flatten(2).sum(2)[0]
    assert set(dropped.tolist()) == {0.0, 32.0}  # 16 pixels of 1 / (1 - 0.5)
    assert not [m for m in ResidualAutoencoder("shallow").modules() if isinstance(m, torch.nn.Dropout2d)]


def test_weights_are_drawn_as_keras_draws_them_and_anew_by_the_seed_alone():
    network, draws = ResidualAutoencoder("residual_unet"), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        reset_weights(network)
        draws.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    # Glorot: limit sqrt(6 / (fan in + fan out)), e.g. 3x3 kernels between 128 and 64 channels
    limit = (6 / (9 * (128 + 64))) ** 0.5
    weight = network.up3[0].weight
    assert 0.99 * limit < weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert all(not layer.bias.any() for layer in network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d))


def test_drawing_anew_forgets_the_statistics_of_batch_norm():
    network = narrow("skip").train()
    network(torch.rand(2, 1, 16, 16))
    assert network.stage1[1].running_mean.any()
    reset_weights(network)
    assert not network.stage1[1].running_mean.any()
    assert torch.equal(network.stage1[1].running_var, torch.ones(4))


def test_batch_norm_has_keras_numbers():
    norms = [m for m in ResidualAutoencoder("myronenko").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}


def regularised_names(network):
    places = {id(weight) for weight in l2_parameter_groups(network, 1e-5)[0]["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in places}


@pytest.mark.parametrize("family", FAMILIES)
def test_l2_acts_on_kernels_of_the_encoder_and_where_it_does_of_the_output(family):
    network = narrow(family)
    # a kernel of the encoder has four axes and its stage's name; norms and biases have one
    expected = {name for name, p in network.named_parameters() if name.startswith("stage") and p.ndim == 4}
    expected -= {"stage1.0.weight"} if family == "myronenko" else set()
    expected |= {"output.weight"} if family in OUTPUT_IN_L2 else set()
    assert regularised_names(network) == expected
    assert len(expected) == {"shallow": 10, "residual_unet": 10, "skip": 3, "myronenko": 18}[family]


@pytest.mark.parametrize("family", ["residual_unet", "myronenko"])
def test_the_groups_train_as_an_explicit_penalty_does(family):
    l2, images = 0.1, torch.rand(2, 1, 8, 8)
    networks = [narrow(family) for _ in range(2)]
    optimizers = [
        torch.optim.RMSprop(l2_parameter_groups(networks[0], l2), lr=1e-2, alpha=0.9, eps=1e-7),
        torch.optim.RMSprop(networks[1].parameters(), lr=1e-2, alpha=0.9, eps=1e-7),
    ]
    for _ in range(2):
        for index, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            optimizer.zero_grad()
            loss = functional.mse_loss(network(images), images)
            if index:  # Keras: lambda times the sum of squares
                loss = loss + l2 * sum(p.square().sum() for name, p in network.named_parameters() if name in regularised_names(network))
            loss.backward()
            if not index:
                held = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
                gradients = [p.grad + held[id(p)] * p.detach() for p in network.parameters()]
            else:
                torch.testing.assert_close(gradients, [p.grad for p in network.parameters()], rtol=1e-4, atol=1e-6)
            optimizer.step()
    assert held and max(held.values()) == 2 * l2


def test_every_parameter_is_in_one_group_and_without_l2_nothing_decays():
    network = narrow("residual_unet")
    groups = l2_parameter_groups(network)
    assert [group["weight_decay"] for group in groups] == [0, 0]
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize(("family", "block"), [("residual_unet", "original"), ("skip", "preactivation"), ("myronenko", "preactivation")])
def test_a_scripted_network_gives_the_same(family, block):
    network, image = narrow(family, block), torch.rand(1, 1, 8, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_a_traced_network_takes_other_sizes():
    network, image = narrow("residual_unet"), torch.rand(1, 1, 8, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(network, torch.rand(2, 1, 16, 24))(image), network(image))


def test_the_gradient_reaches_every_weight():
    for family in FAMILIES:
        network = narrow(family).train()
        network(torch.rand(2, 1, 16, 16)).square().mean().backward()
        assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize(("shape", "dims"), [((1, 1, 128, 100), 2), ((1, 1, 16, 16, 12), 3), ((1, 1, 16, 16, 16), 2)])
def test_sides_that_three_halvings_do_not_divide_are_one_clear_error(shape, dims):
    with pytest.raises(UserError, match=rf"expected {dims} sides that are multiples of 8 \(three halvings\); resize or pad them"):
        narrow("skip", spatial_dims=dims)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"family": "vae"}, "family: got 'vae', expected one of"),
        ({"block": "bottleneck"}, "block: got 'bottleneck', expected one of"),
        ({"spatial_dims": 1}, "spatial_dims: got 1, expected 2"),
        ({"widths": (32, 64)}, r"widths: got \[32, 64\], expected three"),
        ({"widths": (0, 1, 2)}, "expected three numbers of channels >= 1"),
        ({"dropout": 1.5}, "dropout: got 1.5, expected a share"),
    ],
)
def test_impossible_settings_are_errors(settings, text):
    with pytest.raises(UserError, match=text):
        ResidualAutoencoder(**settings)


def test_a_negative_l2_is_an_error():
    with pytest.raises(UserError, match="l2: got -1, expected a number >= 0"):
        l2_parameter_groups(narrow("skip"), -1)
