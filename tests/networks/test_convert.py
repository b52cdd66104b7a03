"""The released wrapper is rebuilt here from its layer names and tables alone, so that our network has something to agree with."""

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.networks.convert import RELEASED_MEAN, RELEASED_STD, convert_file, convert_ladp_checkpoint
from common.networks.standardized import Standardized
from common.networks.ternausnet import TernausNet
from common.weights import load_weights, member_files, read_record

WIDTH = 1 / 8
VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")
DECODER = {"center": (512, 512, 256), "dec5": (768, 512, 256), "dec4": (768, 512, 256), "dec3": (512, 256, 64), "dec2": (192, 128, 32)}


def channels(count):
    return round(count * WIDTH)


class Twice(nn.Module):
    """Bilinear up-sampling without parameters."""

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ConvolutionThenReLU(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


class Step(nn.Module):
    def __init__(self, inputs, inner, outputs):
        super().__init__()
        self.block = nn.Sequential(Twice(), ConvolutionThenReLU(inputs, inner), ConvolutionThenReLU(inner, outputs))

    def forward(self, x):
        return self.block(x)


class MirroredUNet16(nn.Module):
    """VGG16's layers sit in ``encoder`` and once more, the very same ones, in ``conv1`` to ``conv5``."""

    def __init__(self, inputs, outputs):
        super().__init__()
        layers, stages, position = [], [[]], 0
        for entry in VGG16:
            if entry == "pool":
                layers.append(nn.MaxPool2d(2))
                stages.append([])
                continue
            layers += [nn.Conv2d(inputs, channels(entry), 3, padding=1), nn.ReLU()]
            stages[-1] += layers[-2:]
            inputs, position = channels(entry), position + 1
        self.encoder = nn.Sequential(*layers)
        for number, stage in enumerate(stages[:5], start=1):
            self.add_module(f"conv{number}", nn.Sequential(*stage))
        for name, counts in DECODER.items():
            self.add_module(name, Step(*map(channels, counts)))
        self.dec1 = ConvolutionThenReLU(channels(96), channels(32))
        self.final = nn.Conv2d(channels(32), outputs, 1)

    def forward(self, x):
        skips = []
        for number in range(1, 6):
            x = getattr(self, f"conv{number}")(x if number == 1 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        x = nn.functional.max_pool2d(x, 2)
        for name in DECODER:
            x = torch.cat([getattr(self, name)(x), skips.pop()], dim=1)
        return self.final(self.dec1(x))


class MirroredWrapper(nn.Module):
    def __init__(self, inputs=3, hidden=64, outputs=1):
        super().__init__()
        self.encoder = MirroredUNet16(inputs, hidden)
        self.hidden_layer = nn.Conv2d(hidden, hidden, 1)
        self.output_layer = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x):
        return self.output_layer(self.hidden_layer(self.encoder(x).relu()).relu())


@pytest.fixture(scope="module")
def released():
    torch.manual_seed(0)
    wrapper = MirroredWrapper()
    for layer in wrapper.modules():
        if isinstance(layer, nn.Conv2d):  # strong enough that every layer shows in the output
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, std=0.1)
    return wrapper.eval()


def ours(in_channels=3, **settings):
    settings = {"encoder": "vgg16", "width": WIDTH, "hidden": 64} | settings
    return Standardized(TernausNet(in_channels=in_channels, **settings), in_channels).eval()


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
def test_three_inputs_compute_what_the_released_network_computes(released, size):
    network = ours(3)
    convert_ladp_checkpoint(released.state_dict(), network)
    image = torch.randn(2, 3, *size)
    expected = released(image)
    assert expected.std() > 0.01  # no dead network
    torch.testing.assert_close(network.network(image), expected, rtol=1e-4, atol=1e-5)


def test_two_inputs_compute_the_same_where_the_third_repeats_the_second(released):
    network = ours(2)
    convert_ladp_checkpoint(released.state_dict(), network)
    image = torch.randn(2, 2, 32, 64)
    repeated = torch.cat([image, image[:, 1:]], dim=1)
    torch.testing.assert_close(network.network(image), released(repeated), rtol=1e-4, atol=1e-5)


def test_raw_images_are_normalised_by_the_released_constants(released):
    network = ours(2)
    convert_ladp_checkpoint(released.state_dict(), network)
    raw = torch.rand(1, 2, 32, 32) * 1000 + 500
    mean, std = (torch.tensor(values).view(1, 2, 1, 1) for values in (RELEASED_MEAN, RELEASED_STD))
    normalised = (raw - mean) / std
    expected = released(torch.cat([normalised, normalised[:, 1:]], dim=1))
    torch.testing.assert_close(network(raw), expected, rtol=1e-3, atol=1e-3)


def test_with_three_inputs_the_second_constant_serves_the_third(released):
    network = ours(3)
    convert_ladp_checkpoint(released.state_dict(), network)
    assert network.mean.tolist() == pytest.approx([1350.2495, 0.34669298, 0.34669298])
    assert network.std.tolist() == pytest.approx([428.13467, 2.487756, 2.487756])


@pytest.mark.parametrize("in_channels", [2, 3])
def test_every_tensor_of_the_checkpoint_has_its_row(released, in_channels):
    network = ours(in_channels)
    rows = convert_ladp_checkpoint(released.state_dict(), network)
    assert [row.source for row in rows] == list(released.state_dict())
    moved = [row for row in rows if row.outcome.startswith("transferred")]
    assert sorted(row.target for row in moved) == sorted(network.network.state_dict())
    # the 13 convolutions of VGG16 stand in the file twice
    second = [row for row in rows if row.outcome == "skipped: the same tensor under a second name"]
    assert len(second) == 26
    assert all(row.source.startswith("encoder.conv") and row.target == "" for row in second)
    assert len(moved) + len(second) == len(rows)


def test_only_the_first_layer_says_that_it_was_changed(released):
    changed = [row for row in convert_ladp_checkpoint(released.state_dict(), ours(2)) if row.outcome not in ("transferred",)]
    changed = [row for row in changed if row.outcome.startswith("transferred")]
    assert [(row.source, row.target, row.outcome) for row in changed] == [
        ("encoder.encoder.0.weight", "encoder.stages.0.0.weight", "transferred: the two Z_ADC inputs added up")
    ]


def test_a_file_is_read_as_its_state_dict_is(released, tmp_path):
    path = tmp_path / "ladp.pth"
    torch.save(released.state_dict(), path)
    from_file, from_memory = ours(), ours()
    rows = convert_ladp_checkpoint(path, from_file)
    assert rows == convert_ladp_checkpoint(released.state_dict(), from_memory)
    assert all(torch.equal(a, b) for a, b in zip(from_file.parameters(), from_memory.parameters(), strict=True))


def test_the_checkpoint_itself_stays_as_it_was(released):
    before = {key: value.clone() for key, value in released.state_dict().items()}
    network = ours(2)
    convert_ladp_checkpoint(released.state_dict(), network)
    for p in network.parameters():
        p.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in released.state_dict().items())


def test_foreign_tensors_are_skipped_with_a_reason(released):
    rows = convert_ladp_checkpoint({**released.state_dict(), "classifier.weight": torch.zeros(1)}, ours())
    assert rows[-1] == ("classifier.weight", "", "skipped: not a layer of LADP")


@pytest.mark.parametrize("network", [Standardized(nn.Identity(), 2), ours(hidden=None), ours(encoder="vgg11")])
def test_a_network_of_another_form_is_an_error(released, network):
    with pytest.raises(UserError, match="a released LADP checkpoint needs TernausNet with encoder 'vgg16' and hidden 64"):
        convert_ladp_checkpoint(released.state_dict(), network)


def test_tensors_of_ours_without_a_source_are_an_error(released):
    state = {key: value for key, value in released.state_dict().items() if not key.startswith("hidden_layer")}
    with pytest.raises(UserError, match=r"2 tensors have no source, first \['head\.2\.bias', 'head\.2\.weight'\]; is it a released LADP"):
        convert_ladp_checkpoint(state, ours())


def test_another_width_is_an_error(released):
    with pytest.raises(UserError, match="tensors have no source"):
        convert_ladp_checkpoint(released.state_dict(), ours(width=1 / 16))


def test_a_failed_conversion_leaves_the_network_as_it_was(released):
    network = ours()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError):
        convert_ladp_checkpoint({key: value for key, value in released.state_dict().items() if "dec1" not in key}, network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint: no file .*none\.pth; expected a checkpoint of the released LADP code"):
        convert_ladp_checkpoint(tmp_path / "none.pth", ours())


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pth cannot be read as weights"):
        convert_ladp_checkpoint(tmp_path / "text.pth", ours())


def test_the_command_writes_weights_that_the_inference_config_describes(released, tmp_path, capsys):
    torch.save(released.state_dict(), tmp_path / "released.pt")
    convert_file(str(tmp_path / "released.pt"), str(tmp_path / "models"), WIDTH)
    assert "transferred: the two Z_ADC inputs added up" in capsys.readouterr().out
    settings = read_record(tmp_path / "models")["settings"]
    body = TernausNet(2, encoder=settings["encoder"], width=settings["width"], hidden=settings["hidden"])
    network = Standardized(body, channels=2, background=settings["background"])
    load_weights(network, member_files(tmp_path / "models")[0])
    with pytest.raises(UserError, match="exists already; name another folder"):
        convert_file(str(tmp_path / "released.pt"), str(tmp_path / "models"))
