"""The released names are made here from the sizes alone, as its modules give them, so that ours have something to agree with."""

import json
import logging

import pytest
import torch
from monai.networks.nets.swin_unetr import PatchMerging, SwinUNETR
from torch import nn

from common.errors import UserError
from common.networks.convert_disruptive_autoencoder import (
    MERGING,
    SCRAMBLE,
    convert_disruptive_autoencoder,
    convert_file,
    our_name,
    released_settings,
)
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.networks.transfer_record import bare_state
from common.networks.transfer_weights import load_pretrained
from common.weights import load_weights, read_record

SIZE, WINDOW, HEADS = 12, 2, (3, 6, 12, 24)
SKIPS = {"encoder1": (1, 1), "encoder2": (1, 1), "encoder3": (2, 2), "encoder4": (4, 4), "encoder10": (16, 16)}


class Checkpoint(dict):
    """Random tensors under the names of the released pre-training (``SimMIMSkip``)."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.put("encoder.mask_token", 1, 1, SIZE)
        for number, inputs in ((1, 1), (2, SIZE)):
            self.put(f"encoder.patch_embed.proj.conv{number}.conv.weight", SIZE, inputs, 3, 3, 3)
            self.pair(f"encoder.patch_embed.proj.norm{number}", SIZE)
        for stage, heads in enumerate(HEADS):
            self.stage(f"encoder.layers{stage + 1}.0.0", SIZE * 2**stage, heads)
        self.pair("encoder.norm", 16 * SIZE)
        for name, (inputs, outputs) in SKIPS.items():
            inputs = 1 if name == "encoder1" else inputs * SIZE
            self.put(f"{name}.layer.conv1.conv.weight", outputs * SIZE, inputs, 3, 3, 3)
            self.put(f"{name}.layer.conv2.conv.weight", outputs * SIZE, outputs * SIZE, 3, 3, 3)
            if name == "encoder1":
                self.put(f"{name}.layer.conv3.conv.weight", SIZE, 1, 1, 1, 1)
        for number, (inputs, outputs) in {5: (16, 8), 4: (8, 4), 3: (4, 2), 2: (2, 1), 1: (1, 1)}.items():
            wide, narrow = inputs * SIZE, outputs * SIZE
            self.put(f"decoder{number}.transp_conv.conv.weight", wide, narrow, 2, 2, 2)
            self.put(f"decoder{number}.conv_block.conv1.conv.weight", narrow, 2 * narrow, 3, 3, 3)
            self.put(f"decoder{number}.conv_block.conv2.conv.weight", narrow, narrow, 3, 3, 3)
            self.put(f"decoder{number}.conv_block.conv3.conv.weight", narrow, 2 * narrow, 1, 1, 1)
        self.put("out.conv.conv.weight", 1, SIZE, 1, 1, 1)
        self.put("out.conv.conv.bias", 1)

    def put(self, name, *shape):
        self[name] = torch.randn(shape, generator=self.generator) / 10

    def pair(self, name, size, *inputs):
        self.put(f"{name}.weight", size, *inputs)
        self.put(f"{name}.bias", size)

    def stage(self, name, width, heads):
        for block in (f"{name}.blocks.0", f"{name}.blocks.1"):
            for norm in ("norm1", "norm2"):
                self.pair(f"{block}.{norm}", width)
            self.put(f"{block}.attn.relative_position_bias_table", (2 * WINDOW - 1) ** 3, heads)
            self[f"{block}.attn.relative_position_index"] = positions()
            self.pair(f"{block}.attn.qkv", 3 * width, width)
            self.pair(f"{block}.attn.proj", width, width)
            self.pair(f"{block}.mlp.fc1", 4 * width, width)
            self.pair(f"{block}.mlp.fc2", width, 4 * width)
        self.put(f"{name}.downsample.reduction.weight", 2 * width, 8 * width)
        self.pair(f"{name}.downsample.norm", 8 * width)


def positions():
    """Row of the bias table for every pair of a window's tokens, by a loop."""
    cells = [(x, y, z) for x in range(WINDOW) for y in range(WINDOW) for z in range(WINDOW)]
    side = 2 * WINDOW - 1
    step = [[[a - b + WINDOW - 1 for a, b in zip(p, q, strict=True)] for q in cells] for p in cells]
    return torch.tensor([[(x * side + y) * side + z for x, y, z in row] for row in step])


@pytest.fixture(scope="module")
def released():
    return Checkpoint()


@pytest.fixture
def network(released):
    return DisruptiveSwinUNETR(**released_settings(released))


def finetuned(outputs=8):
    """A checkpoint of the released fine-tuning: MONAI's names."""
    return DisruptiveSwinUNETR(1, outputs, feature_size=SIZE, depths=(1, 1, 1, 1), window_size=WINDOW, stem="block", heads=()).state_dict()


def test_settings_are_told_from_the_checkpoint(released):
    assert released_settings(released) == {
        "in_channels": 1,
        "feature_size": SIZE,
        "depths": [2, 2, 2, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": WINDOW,
        "stem": "block",
        "out_channels": 1,
        "skip": "open",
        "heads": ["image"],
    }


def test_every_tensor_of_the_reconstruction_has_its_place(released, network):
    rows = convert_disruptive_autoencoder(released, network)
    assert [row.source for row in rows if row.outcome != "transferred"] == ["encoder.norm.weight", "encoder.norm.bias"]
    assert len(rows) == len(released)
    state = network.state_dict()
    assert set(state) - {row.target for row in rows} == {"out.conv.conv.weight", "out.conv.conv.bias"}
    for row in rows:
        if row.target:
            assert torch.equal(state[row.target].flatten(), released[row.source].flatten())
    assert torch.equal(state["swinViT.layers3.0.blocks.1.mlp.linear2.weight"], released["encoder.layers3.0.0.blocks.1.mlp.fc2.weight"])
    assert torch.equal(state["pretext.image.conv.conv.bias"], released["out.conv.conv.bias"])


def test_our_own_index_of_positions_is_the_released_one(network):
    assert torch.equal(network.swinViT.layers1[0].blocks[0].attn.relative_position_index, positions())


def test_monai_merges_each_of_the_eight_neighbours_once_as_the_warning_says():
    merging = PatchMerging(dim=1)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    places = torch.arange(8.0).view(1, 2, 2, 2, 1)  # 4 x + 2 y + z
    assert merging(places).flatten().tolist() == [0, 4, 2, 1, 6, 5, 3, 7]  # released: 0 4 2 1 5 2 1 7


@pytest.mark.parametrize("wrap", [lambda s: {"model": s}, lambda s: {f"module.{key}": value for key, value in s.items()}])
def test_a_wrapped_state_gives_the_same(released, network, wrap):
    convert_disruptive_autoencoder(bare_state(wrap(released)), network)
    assert torch.equal(network.mask_token.detach(), released["encoder.mask_token"].flatten())


def test_a_fine_tuning_keeps_its_output_layer():
    state = finetuned()
    settings = released_settings(state)
    assert settings["out_channels"] == 8 and settings["heads"] == []
    network = DisruptiveSwinUNETR(**settings)
    rows = convert_disruptive_autoencoder(state, network)
    assert {row.outcome for row in rows} == {"transferred"}
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_monais_names_stay_as_they_are():
    for name in finetuned():
        assert our_name(name, pretrained=False) == name


def test_unknown_and_missing_tensors_are_an_error_and_the_network_stays_as_it_was(released, network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {name: value for name, value in released.items() if not name.startswith("decoder1.transp")} | {"decoder0.w": torch.zeros(2)}
    with pytest.raises(
        UserError, match=r"1 unknown \(decoder0\.w\); 1 missing \(decoder1\.transp_conv\.conv\.weight\)\. Expected the released"
    ):
        convert_disruptive_autoencoder(state, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_stem_is_an_error(released):
    settings = released_settings(released) | {"stem": "conv"}
    with pytest.raises(UserError, match=r"6 unknown \(encoder\.patch_embed\.proj\.conv1\.conv\.weight, .*2 missing \(swinViT\.patch_embed"):
        convert_disruptive_autoencoder(released, DisruptiveSwinUNETR(**settings))


def test_another_shape_is_an_error_that_tells_both(released):
    settings = released_settings(released) | {"in_channels": 2}
    with pytest.raises(UserError, match=r"\(encoder\.patch_embed\.proj\.conv1\.conv\.weight \(12, 1, 3, 3, 3\) for \(12, 2, 3, 3, 3\), "):
        convert_disruptive_autoencoder(released, DisruptiveSwinUNETR(**settings))


def test_a_pre_training_without_skips_is_refused(released):
    state = {name: value for name, value in released.items() if name.startswith("encoder.")} | {"transp_conv1.weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"1 unknown \(transp_conv1\.weight\); \d+ missing .* pre-training with skips \(swin_skip\)"):
        convert_disruptive_autoencoder(state, DisruptiveSwinUNETR(**released_settings(state)))


def test_another_networks_checkpoint_is_refused():
    with pytest.raises(UserError, match=r"checkpoint: weights: expected those of a 3D Swin UNETR .* Expected the released DAE code's"):
        released_settings(torch.nn.Conv3d(1, 2, 3).state_dict())


def test_the_command_writes_weights_and_records_and_warns_of_the_scramble(released, tmp_path, capsys, caplog):
    torch.save({"model": dict(released), "epoch": 300, "max_accuracy": 0.0, "optimizer": {}}, tmp_path / "ckpt_best.pth")
    with caplog.at_level(logging.WARNING):
        convert_file(str(tmp_path / "ckpt_best.pth"), str(tmp_path / "models"))
    assert "transferred" in capsys.readouterr().out
    assert f"{SCRAMBLE}." in caplog.text and f"{MERGING}." in caplog.text
    record, transfer = read_record(tmp_path / "models"), json.loads((tmp_path / "models" / "transfer.json").read_text())
    network = DisruptiveSwinUNETR(**record["settings"])
    load_weights(network, tmp_path / "models" / "model.pt")
    assert (
        record["source"] == "ckpt_best.pth" and transfer["skip"] == "open" and transfer["notes"] == record["notes"] == [SCRAMBLE, MERGING]
    )
    with pytest.raises(UserError, match="exists already; name another folder"):
        convert_file(str(tmp_path / "ckpt_best.pth"), str(tmp_path / "models"))


def test_what_was_converted_is_carried_into_a_fine_tuning_with_the_warning(released, tmp_path):
    torch.save(dict(released), tmp_path / "released.pth")
    convert_file(str(tmp_path / "released.pth"), str(tmp_path))
    network = DisruptiveSwinUNETR(1, 8, feature_size=SIZE, window_size=WINDOW, stem="block", heads=())
    report = load_pretrained(network, tmp_path)
    assert report.fresh == ["out.conv.conv.weight", "out.conv.conv.bias"] and SCRAMBLE in report.notes
    plain = SwinUNETR(1, 8, feature_size=SIZE, window_size=WINDOW)
    assert (
        load_pretrained(plain, tmp_path).summary()["skipped_because"]["the network has another stem"][0].startswith("swinViT.patch_embed")
    )


def test_a_fine_tunings_checkpoint_is_not_said_to_be_scrambled(tmp_path, caplog):
    torch.save({"state_dict": finetuned()}, tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING):
        convert_file(str(tmp_path / "model.pt"), str(tmp_path / "models"))
    assert MERGING in caplog.text and SCRAMBLE not in caplog.text
    assert not (tmp_path / "models" / "transfer.json").exists()


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint: no file .*none\.pth; expected a checkpoint of the released DAE code"):
        convert_file(str(tmp_path / "none.pth"), str(tmp_path))
