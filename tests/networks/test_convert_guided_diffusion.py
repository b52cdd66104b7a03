"""The released network is rebuilt here as a function of its state_dict's names alone, so that ours has something to agree with."""

import pytest
import torch
from torch.nn.functional import conv3d, group_norm, interpolate, linear, silu

from common.errors import UserError
from common.networks.convert_guided_diffusion import convert_file, convert_guided_diffusion, released_names, released_settings
from common.networks.diffusion_unet import DiffusionUNet
from common.weights import load_weights, member_files, read_record

BASE, MULTIPLIERS, INPUTS, OUTPUTS, BLOCKS = 5, (1, 2, 3), 3, 2, 2
WIDTHS = [BASE * m for m in MULTIPLIERS]
SETTINGS = {"in_channels": INPUTS, "out_channels": OUTPUTS, "base_channels": BASE, "multipliers": MULTIPLIERS}


class Checkpoint(dict):
    """Random tensors under the released names; ``averaged`` as with its switch ``additive_skips``."""

    def __init__(self, averaged):
        super().__init__()
        self.generator, self.averaged = torch.Generator().manual_seed(0), averaged
        self.affine("time_embed.0", 4 * BASE, BASE)
        self.affine("time_embed.2", 4 * BASE, 4 * BASE)
        self.affine("input_blocks.0.0", BASE, INPUTS, 3, 3, 3)
        skips, number, channels = [BASE], 0, BASE
        for level, width in enumerate(WIDTHS):
            for _ in range(BLOCKS):
                number += 1
                self.block(f"input_blocks.{number}.0", channels, width)
                channels = width
                skips.append(channels)
            if level < len(WIDTHS) - 1:
                number += 1
                self.affine(f"input_blocks.{number}.0.op", channels, channels, 3, 3, 3)
                skips.append(channels)
        self.block("middle_block.0", channels, channels)
        self.block("middle_block.1", channels, channels)
        number = 0
        for level in (2, 1, 0):
            for n in range(BLOCKS + 1):
                joined = channels if averaged else channels + skips[-1]
                skips.pop()
                wide = (skips[-1] if skips else BASE) if averaged else WIDTHS[level]
                self.block(f"output_blocks.{number}.0", joined, wide)
                channels = wide
                if level and n == BLOCKS:
                    self.affine(f"output_blocks.{number}.1.conv", channels, channels, 3, 3, 3)
                number += 1
        self.norm("out.0", BASE)
        self.affine("out.2", OUTPUTS, BASE, 3, 3, 3)

    def draw(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def affine(self, name, *shape):
        self[f"{name}.weight"] = self.draw(*shape) / torch.tensor(shape[1:]).prod() ** 0.5
        self[f"{name}.bias"] = 0.1 * self.draw(shape[0])

    def norm(self, name, channels):
        self[f"{name}.weight"], self[f"{name}.bias"] = 1 + 0.2 * self.draw(channels), 0.2 * self.draw(channels)

    def block(self, name, inputs, outputs):
        self.norm(f"{name}.in_layers.0", inputs)
        self.affine(f"{name}.in_layers.2", outputs, inputs, 3, 3, 3)
        self.affine(f"{name}.emb_layers.1", outputs, 4 * BASE)
        self.norm(f"{name}.out_layers.0", outputs)
        self.affine(f"{name}.out_layers.3", outputs, outputs, 3, 3, 3)
        if inputs != outputs:
            self.affine(f"{name}.skip_connection", outputs, inputs, 1, 1, 1)


def by_name(state, name):
    return state[f"{name}.weight"].double(), state[f"{name}.bias"].double()


def run_block(state, name, h, emb):
    def activate(part, value):
        return silu(group_norm(value, BASE, *by_name(state, f"{name}.{part}")))

    change = conv3d(activate("in_layers.0", h), *by_name(state, f"{name}.in_layers.2"), padding=1)
    change = change + linear(silu(emb), *by_name(state, f"{name}.emb_layers.1"))[:, :, None, None, None]
    change = conv3d(activate("out_layers.0", change), *by_name(state, f"{name}.out_layers.3"), padding=1)
    if f"{name}.skip_connection.weight" in state:
        h = conv3d(h, *by_name(state, f"{name}.skip_connection"))
    return h + change


def run(state, x, times, averaged):
    """The forward pass of the released network, from the numbers of its blocks."""
    frequencies = torch.tensor([10000 ** (-i / 2) for i in range(2)], dtype=torch.float64)  # width 5: two cosines, two sines, a zero
    angles = times[:, None] * frequencies
    emb = torch.cat([angles.cos(), angles.sin(), torch.zeros(len(x), 1)], 1).double()
    emb = linear(silu(linear(emb, *by_name(state, "time_embed.0"))), *by_name(state, "time_embed.2"))
    h, hs = x, []
    for number in range(9):
        name = f"input_blocks.{number}.0"
        if number == 0:
            h = conv3d(h, *by_name(state, name), padding=1)
        elif number in (3, 6):
            h = conv3d(h, *by_name(state, f"{name}.op"), stride=2, padding=1)
        else:
            h = run_block(state, name, h, emb)
        hs.append(h)
    for number in range(2):
        h = run_block(state, f"middle_block.{number}", h, emb)
    for number in range(9):
        h = (h + hs.pop()) / 2 if averaged else torch.cat([h, hs.pop()], 1)
        h = run_block(state, f"output_blocks.{number}.0", h, emb)
        if number in (2, 5):
            h = conv3d(interpolate(h, scale_factor=2), *by_name(state, f"output_blocks.{number}.1.conv"), padding=1)
    return conv3d(silu(group_norm(h, BASE, *by_name(state, "out.0"))), *by_name(state, "out.2"), padding=1)


@pytest.fixture(scope="module", params=[True, False], ids=["average", "concatenate"])
def released(request):
    return Checkpoint(request.param)


def ours(state, **settings):
    return DiffusionUNet(**(SETTINGS | {"skip": "average" if state.averaged else "concatenate"} | settings)).eval()


def test_our_network_computes_what_the_released_one_computes(released):
    network = ours(released)
    convert_guided_diffusion(released, network)
    x = torch.randn(2, INPUTS, 8, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([4, 777])
    expected = run(released, x, times, released.averaged)
    assert expected.std() > 0.05  # no dead network
    with torch.no_grad():
        found = network.float()(x.float(), times)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_every_tensor_has_its_row_and_every_tensor_of_ours_its_source(released):
    network = ours(released)
    rows = convert_guided_diffusion(released, network)
    assert [row.source for row in rows] == list(released)
    assert sorted(row.target for row in rows) == sorted(network.state_dict())
    assert {row.outcome for row in rows} == {"transferred"}


def test_settings_are_told_from_the_checkpoint(released):
    settings = released_settings(released)
    assert settings == SETTINGS | {
        "multipliers": [1, 2, 3],
        "blocks_per_level": 2,
        "skip": "average" if released.averaged else "concatenate",
    }


def test_the_names_of_the_papers_network_are_those_of_the_released_one():
    with torch.device("meta"):
        network = DiffusionUNet()
    names = released_names(network)
    assert names["input_blocks.20.0.out_layers.3"] == "encoder.6.blocks.1.conv2"
    assert names["input_blocks.3.0.op"] == "encoder.1.change"
    assert names["output_blocks.17.1.conv"] == "decoder.1.change.1"
    assert names["output_blocks.20.0.in_layers.0"] == "decoder.0.blocks.2.norm1"
    assert "output_blocks.20.1.conv" not in names and "input_blocks.21.0.op" not in names


def test_the_prefix_of_parallel_training_is_dropped(released):
    network, other = ours(released), ours(released)
    convert_guided_diffusion(released, network)
    convert_guided_diffusion({f"module.{key}": value for key, value in released.items()}, other)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), other.parameters(), strict=True))


def test_unknown_tensors_are_an_error_that_names_them(released):
    state = {**released, "middle_block.2.norm.weight": torch.zeros(3), "label_emb.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"2 unknown \(middle_block\.2\.norm\.weight, label_emb\.weight\)\. Expected .* without attention"):
        convert_guided_diffusion(state, ours(released))


def test_missing_tensors_are_an_error_that_names_them_and_the_network_stays_as_it_was(released):
    network = ours(released)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value for key, value in released.items() if not key.startswith("input_blocks.3")}
    with pytest.raises(UserError, match=r"2 missing \(input_blocks\.3\.0\.op\.bias, input_blocks\.3\.0\.op\.weight\)"):
        convert_guided_diffusion(state, network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_another_width_is_an_error_that_tells_both_shapes(released):
    with pytest.raises(UserError, match=r"of another shape \(input_blocks\.0\.0\.weight \(5, 3, 3, 3, 3\) for \(5, 4, 3, 3, 3\)\)"):
        convert_guided_diffusion(released, ours(released, in_channels=4))


def test_a_long_list_is_cut_short(released):
    with pytest.raises(UserError, match=r"unknown \(([^,]+, ){4}\.\.\.\)"):
        convert_guided_diffusion(released, ours(released, multipliers=(1, 2)))


@pytest.mark.parametrize("state", [{}, {"input_blocks.0.0.weight": torch.zeros(4, 3, 3, 3), "out.2.weight": torch.zeros(1, 4, 3, 3)}])
def test_another_networks_checkpoint_has_no_settings(state):
    with pytest.raises(UserError, match="expected the 3D U-Net of the released PatchDDM code"):
        released_settings(state)


def test_levels_of_different_depth_are_an_error(released):
    state = {key: value for key, value in released.items() if not key.startswith("input_blocks.8")}
    with pytest.raises(UserError, match="its levels differ in their number of blocks"):
        released_settings(state)


def test_a_missing_file_is_an_error(tmp_path, released):
    with pytest.raises(UserError, match=r"checkpoint: no file .*none\.pt; expected a checkpoint of the released PatchDDM code"):
        convert_guided_diffusion(tmp_path / "none.pt", ours(released))


def test_the_command_writes_weights_and_the_settings_they_need(released, tmp_path, capsys):
    torch.save(dict(released), tmp_path / "released.pt")
    convert_file(str(tmp_path / "released.pt"), str(tmp_path / "models"))
    assert "transferred" in capsys.readouterr().out
    network, direct = DiffusionUNet(**read_record(tmp_path / "models")["settings"]), ours(released)
    load_weights(network, member_files(tmp_path / "models")[0])
    convert_guided_diffusion(released, direct)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), direct.parameters(), strict=True))
    with pytest.raises(UserError, match="exists already; name another folder"):
        convert_file(str(tmp_path / "released.pt"), str(tmp_path / "models"))
