import json
import logging
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR

from common.errors import UserError
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.networks.transfer_record import TRANSFER, bare_state, differences, read_transfer, swin_facts, write_transfer
from common.networks.transfer_weights import INPUT_LAYERS, load_pretrained, spread_channels, transfer

SMALL = {"feature_size": 12, "depths": (1, 2, 1, 1), "window_size": 2}
SIDES = (32, 64, 32)
CT = {"normalisation": {"ct": {"kind": "range", "low": -1000, "high": 1000}}, "patch_size": (96, 96, 96)}


def ours(inputs=1, outputs=3, seed=1, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DisruptiveSwinUNETR(inputs, outputs, **{**SMALL, **settings})


def monais(inputs=1, outputs=3, seed=2, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SwinUNETR(inputs, outputs, **{**SMALL, **settings})


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def image(channels=1):
    return torch.rand(1, channels, *SIDES, generator=torch.Generator().manual_seed(0))


def saved(network, folder, **facts):
    """model.pt and transfer.json as a pre-training leaves them."""
    torch.save(network.state_dict(), Path(folder) / "model.pt")
    write_transfer(folder, network, **{**CT, **facts})
    return Path(folder) / "model.pt"


# ------------------------------------------------------------------------------------------------------------------ what is carried


def test_a_plain_network_with_all_weights_carried_over_equals_the_source():
    source, network = ours(skip="open"), monais()
    report = transfer(source.state_dict(), network)
    with torch.no_grad():
        assert torch.equal(network(image()), source(image()))
        assert all(torch.equal(a, b) for a, b in zip(network.swinViT(image(), True), source.stages(image()), strict=True))
    assert report.fresh == []
    told = report.summary()
    assert told["parameters_transferred"] == told["parameters"] == sum(p.numel() for p in network.parameters())
    assert told["skipped_because"] == {
        "a head of the pre-training": ["mask_token", "pretext.image.conv.conv.weight", "pretext.image.conv.conv.bias"]
    }


def test_a_plain_networks_weights_go_into_ours_and_back():
    source, network = monais(), ours()
    heads = {name for name in network.state_dict() if name.startswith(("pretext.", "mask_token"))}
    assert set(transfer(source.state_dict(), network).fresh) == heads
    back = monais(seed=3)
    transfer(network.state_dict(), back)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in back.state_dict().items())


def test_a_pre_training_is_taken_up_with_its_heads():
    source, network = ours(seed=1), ours(seed=2)
    assert transfer(source.state_dict(), network).fresh == []
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_only_the_part_asked_for_changes(part):
    source, network = ours(), monais()
    before, report = copied(network), transfer(source.state_dict(), network, part)
    for name, value in network.state_dict().items():
        wanted = name.startswith("swinViT.") == (part == "encoder")
        assert torch.equal(value, source.state_dict()[name] if wanted else before[name])
    assert any(row.outcome == "skipped: not asked for" for row in report.rows)
    assert ("out.conv.conv.weight" in report.fresh) == (part == "encoder")


def test_for_other_classes_the_output_layer_keeps_its_fresh_weights_and_all_else_is_carried():
    source, network = ours(outputs=14), monais(outputs=8)
    before, report = copied(network), transfer(source.state_dict(), network)
    assert report.fresh == ["out.conv.conv.weight", "out.conv.conv.bias"]
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in report.fresh)
    assert report.summary()["skipped_because"]["14 outputs there, 8 here"] == ["out.conv.conv.weight", "out.conv.conv.bias"]
    with torch.no_grad():
        assert torch.equal(network.swinViT(image())[4], source.swinViT(image())[4])


def test_tensors_that_the_pre_training_never_used_stay_fresh():
    source, network = ours(), monais()
    before, report = copied(network), transfer(source.state_dict(), network, untrained=source.untrained())
    assert {name.split(".")[0] for name in report.fresh} == {"out", "encoder1"}
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in report.fresh)
    assert len(report.summary()["skipped_because"]["not trained in the pre-training"]) == len(report.fresh) == 5


# ------------------------------------------------------------------------------------------------------------------ other channels


@pytest.mark.parametrize(("there", "here"), [(1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("stem", ["conv", "block"])
def test_adapted_to_other_channels_equal_inputs_give_equal_features(stem, there, here):
    source, network = ours(there, stem=stem), ours(here, stem=stem, seed=2)
    report = transfer(source.state_dict(), network)
    with torch.no_grad():
        first, second = (body.encode(image().expand(-1, body.in_channels, -1, -1, -1))[0] for body in (source, network))
        around = [body.encoder1(image().expand(-1, body.in_channels, -1, -1, -1)) for body in (source, network)]
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(*around, atol=1e-4, rtol=1e-4)
    adapted = [row for row in report.rows if row.outcome.startswith(f"adapted: {there} input channels there, {here} here; spread evenly")]
    assert [row.source for row in adapted] == [name for name in INPUT_LAYERS if name in network.state_dict()]
    assert report.summary()["adapted"] == 3


def test_channels_are_spread_by_hand():
    weight = torch.tensor([[1.0, 2], [3, 5]]).view(2, 2, 1, 1, 1)
    # sums 3 and 8, over three channels 1 and 8/3
    assert spread_channels(weight, 3).flatten().tolist() == pytest.approx([1, 1, 1, 8 / 3, 8 / 3, 8 / 3])


def test_a_first_layer_that_is_skipped_keeps_its_fresh_weights():
    network = monais(inputs=3)
    before, report = copied(network), transfer(ours().state_dict(), network, input_channels="skip")
    weights = [INPUT_LAYERS[0], *INPUT_LAYERS[2:]]
    assert sorted(report.fresh) == sorted(weights)
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in weights)
    assert sorted(report.summary()["skipped_because"]["1 input channels there, 3 here"]) == sorted(weights)


# ------------------------------------------------------------------------------------------------------------------ what does not fit


def test_another_stem_and_another_window_are_said():
    reasons = transfer(ours(stem="block").state_dict(), monais(window_size=4)).summary()["skipped_because"]
    assert len(reasons["the network has another stem"]) == 6
    assert len(reasons["another window"]) == 2 * 5  # table and index of five blocks


def test_more_blocks_there_are_said_and_fewer_stay_fresh():
    report = transfer(ours().state_dict(), monais(depths=(2, 1, 1, 1)))
    assert {name[:26] for name in report.summary()["skipped_because"]["the network has no such tensor"]} == {"swinViT.layers2.0.blocks.1"}
    assert {name[:26] for name in report.fresh} == {"swinViT.layers1.0.blocks.1"}


def test_another_feature_size_is_an_error_and_the_network_stays_as_it_was():
    network = monais()
    before = copied(network)
    with pytest.raises(UserError, match="feature_size: the weights have 24, the network 12; give --feature_size 24"):
        transfer(ours(feature_size=24).state_dict(), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_that_hold_nan_are_an_error_and_the_network_stays_as_it_was():
    network, state = monais(), ours().state_dict()
    before = copied(network)
    state["encoder2.layer.conv1.conv.weight"] = state["encoder2.layer.conv1.conv.weight"] * float("nan")
    with pytest.raises(
        UserError, match=r"weights: 1 tensors hold NaN or infinity, first encoder2\.layer\.conv1\.conv\.weight; their training div"
    ):
        transfer(state, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_nothing_that_fits_is_an_error():
    with pytest.raises(UserError, match=r"weights: nothing fits \(part: decoder\): skipped: not asked for\."):
        transfer({name: value for name, value in ours().state_dict().items() if name.startswith("swinViT.")}, monais(), "decoder")


@pytest.mark.parametrize(("name", "settings"), [("part", {"part": "all"}), ("input_channels", {"input_channels": "repeat"})])
def test_unknown_choices_are_an_error(name, settings):
    with pytest.raises(UserError, match=rf"{name}: got '\w+', expected one of "):
        transfer({}, monais(), **settings)


@pytest.mark.parametrize(
    "wrapped", [lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}]
)
def test_the_state_dict_is_found_inside_a_checkpoint(wrapped):
    state = ours().state_dict()
    assert list(bare_state(wrapped(state))) == list(state)


@pytest.mark.parametrize(("content", "found"), [({}, "nothing"), ({"epoch": 3, "network": {}}, "epoch, network")])
def test_something_that_is_no_state_dict_is_an_error(content, found):
    with pytest.raises(UserError, match=f"weights: found {found}; expected a state_dict, bare or under 'model' or 'state_dict'"):
        bare_state(content)


def test_another_networks_weights_are_an_error():
    with pytest.raises(
        UserError, match=r"weights: expected those of a 3D Swin UNETR \(swinViT\.patch_embed\.proj\.weight, \.\.\.\), found weight, bias"
    ):
        transfer(torch.nn.Linear(2, 3).state_dict(), monais())


# ------------------------------------------------------------------------------------------------------------------ the record


@pytest.mark.parametrize("network", [lambda: ours(2, 5, stem="block"), lambda: monais(2, 5)], ids=["ours", "monais"])
def test_the_weights_tell_of_their_network(network):
    network = network()
    facts = swin_facts(network.state_dict())
    assert facts.pop("stem") == getattr(network, "stem", "conv")
    assert facts == {
        "in_channels": 2,
        "out_channels": 5,
        "feature_size": 12,
        "window_size": 2,
        "depths": [1, 2, 1, 1],
        "num_heads": [3, 6, 12, 24],
    }


def test_a_window_that_is_no_cube_is_not_told():
    assert swin_facts(ours(window_size=(2, 2, 4)).state_dict())["window_size"] is None


def test_the_record_holds_what_a_fine_tuning_needs(tmp_path):
    path = saved(ours(), tmp_path, spacing_mm=(1.5, 1.5, 2), disruptions={"noise_variance": 0.1}, notes=["simulated images"])
    record = json.loads((tmp_path / TRANSFER).read_text())
    assert record == {
        "in_channels": 1,
        "feature_size": 12,
        "stem": "conv",
        "window_size": 2,
        "depths": [1, 2, 1, 1],
        "num_heads": [3, 6, 12, 24],
        "patch_size": [96, 96, 96],
        "spacing_mm": [1.5, 1.5, 2],
        "normalisation": {"ct": {"kind": "range", "low": -1000, "high": 1000}},
        "disruptions": {"noise_variance": 0.1},
        "tasks": ["image", "embedding"],
        "skip": "drop",
        "untrained": ["out.", "encoder1."],
        "notes": ["simulated images"],
    }
    assert read_transfer(path, torch.load(path)) == record


def test_a_plain_networks_record_knows_of_no_skip(tmp_path):
    write_transfer(tmp_path, monais(), **CT)
    record = json.loads((tmp_path / TRANSFER).read_text())
    assert record["skip"] is None and record["untrained"] == []


def test_a_file_is_carried_with_its_record_and_reported(tmp_path, capsys, caplog):
    path, network = saved(ours(outputs=1), tmp_path, notes=["simulated images"]), monais(outputs=8)
    with caplog.at_level(logging.WARNING):
        report = load_pretrained(network, path, expected={"normalisation": {"ct": CT["normalisation"]["ct"]}, "patch_size": [96, 96, 96]})
    assert {name.split(".")[0] for name in report.fresh} == {"encoder1", "out"}  # the skip was dropped
    assert report.notes == [
        "simulated images",
        "the skip at full resolution was dropped in the pre-training: the half of decoder1 that meets it is untrained",
    ]
    assert "model.pt: simulated images." in caplog.text
    printed = capsys.readouterr().out
    counts = report.summary()
    assert f"{counts['parameters_transferred']:,} of {counts['parameters']:,} parameters of the network." in printed
    assert "fresh weights: 5 tensors in encoder1, out" in printed and "simulated images" not in printed
    assert any(
        line.split() == ["encoder1", "3", "skipped:", "not", "trained", "in", "the", "pre-training"] for line in printed.splitlines()
    )
    assert json.loads(json.dumps(counts)) == counts


def test_a_folder_will_do_and_a_transferred_encoder_says_nothing_of_the_decoder(tmp_path):
    saved(ours(), tmp_path)
    assert load_pretrained(monais(), tmp_path, "encoder").notes == []


def test_what_differs_from_the_record_is_a_note_or_an_error(tmp_path):
    path = saved(ours(), tmp_path)
    expected = {
        "spacing_mm": [1.5, 1.5, 2.0],
        "normalisation": {"t2": {"kind": "zscore"}, "ct": {"kind": "range", "low": -175, "high": 250}},
    }
    words = [
        "spacing_mm: None in the pre-training, [1.5, 1.5, 2.0] here",
        "normalisation.t2: the pre-training had none",
        "normalisation.ct: low -1000 high 1000 in the pre-training, low -175 high 250 here",
    ]
    assert load_pretrained(monais(), path, "encoder", expected=expected).notes == words
    network = monais()
    before = copied(network)
    with pytest.raises(UserError, match=r"model\.pt: spacing_mm: None in the pre-training, .*Prepare the images as those were"):
        load_pretrained(network, path, expected=expected, mismatch="error")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_tuples_and_lists_are_alike_in_a_record():
    assert differences({"patch_size": [96, 96, 96]}, {"patch_size": (96, 96, 96)}) == []


def test_another_form_of_network_is_a_note(tmp_path):
    notes = load_pretrained(monais(inputs=2, window_size=4), saved(ours(), tmp_path), "encoder").notes
    assert notes == ["in_channels: 1 in the weights, 2 in the network", "window_size: 2 in the weights, 4 in the network"]


def test_without_a_record_the_weights_are_carried_with_a_note(tmp_path):
    torch.save(ours(skip="open").state_dict(), tmp_path / "model.pt")
    report = load_pretrained(monais(), tmp_path)
    assert report.notes == [f"no {TRANSFER} beside it, so its images are not known"] and report.fresh == []


def test_a_record_of_other_weights_is_an_error(tmp_path):
    saved(ours(), tmp_path)
    torch.save(ours(window_size=4).state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        UserError, match=r"transfer\.json is not of model\.pt: window_size is 2 in it and 4 in the weights\. Remove the one"
    ):
        load_pretrained(monais(window_size=4), tmp_path)


@pytest.mark.parametrize(("text", "words"), [("{", "cannot be read as JSON"), ("[1]", "holds a list; expected an object with in_channels")])
def test_a_record_that_cannot_be_read_is_an_error(tmp_path, text, words):
    path = saved(ours(), tmp_path)
    (tmp_path / TRANSFER).write_text(text)
    with pytest.raises(UserError, match=rf"transfer\.json {words}"):
        load_pretrained(monais(), path)


def test_missing_weights_are_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"There are no pre-trained weights at .*model\.pt: run the pre-training first \(pretrain\.json\)"):
        load_pretrained(monais(), tmp_path)


def test_another_word_for_a_mismatch_is_an_error(tmp_path):
    with pytest.raises(UserError, match="mismatch: got 'ignore', expected warn or error"):
        load_pretrained(monais(), tmp_path, mismatch="ignore")
