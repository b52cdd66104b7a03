"""The first weights of a segmentation network, without running a pre-training (that is tested with the bundle)."""

import json

import pytest
import torch

from common.errors import UserError
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.networks.transfer_record import write_transfer
from common.segmentation_training import start_from_pretrained

SMALL = {"feature_size": 12, "depths": (1, 1, 1, 1), "window_size": 2}
RANGE = {"kind": "range", "low": 0.0, "high": 1.0}


def network(outputs=3, seed=1, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DisruptiveSwinUNETR(1, outputs, **{**SMALL, **settings})


@pytest.fixture
def pretrained(tmp_path):
    folder, source = tmp_path / "pretrained", network(seed=2)
    folder.mkdir()
    torch.save(source.state_dict(), folder / "model.pt")
    write_transfer(folder, source, patch_size=(96, 96, 96), normalisation={"t2": {"kind": "zscore"}})
    return folder


def start(net, pretrained, tmp_path, **settings):
    return start_from_pretrained(net, pretrained, str(tmp_path), str(tmp_path / "models"), str(tmp_path / "eval"), **settings)


@pytest.mark.parametrize("word", ["none", "None", " none "])
def test_none_leaves_the_network_as_it_was_drawn(word, tmp_path):
    net = network(heads=())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert start(net, word, tmp_path) is None
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not list(tmp_path.iterdir())


def test_given_weights_are_carried_over_and_the_report_is_written_by_the_first_process_alone(pretrained, tmp_path):
    net = network(heads=())
    assert start(net, str(pretrained), tmp_path, rank=1) is not None
    assert not (tmp_path / "eval").exists()
    assert torch.equal(net.state_dict()["swinViT.layers1.0.blocks.0.mlp.linear1.weight"],
                       network(seed=2).state_dict()["swinViT.layers1.0.blocks.0.mlp.linear1.weight"])  # fmt: skip
    start(net, str(pretrained), tmp_path)
    told = json.loads((tmp_path / "eval" / "transfer.json").read_text(encoding="utf-8"))
    assert told["source"] == str(pretrained) and told["parameters_transferred"] < told["parameters"]


def test_images_prepared_in_another_way_are_a_note_or_an_error(pretrained, tmp_path):
    other = {"expected": {"normalisation": {"t2": RANGE}}}
    report = start(network(heads=()), str(pretrained), tmp_path, **other)
    (note,) = [note for note in report.notes if note.startswith("normalisation.t2: ")]
    assert "kind zscore" in note.split(" in the pre-training, ")[0] and "kind range" in note.split(" in the pre-training, ")[1]
    with pytest.raises(UserError, match=r"kind zscore .*in the pre-training, kind range .*here"):
        start(network(heads=()), str(pretrained), tmp_path, mismatch="error", **other)


def test_a_missing_overlay_or_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*pretrain\.json.*pretrain_gone\.json"):
        start(network(heads=()), None, tmp_path, overlays=["pretrain_gone.json"])
    with pytest.raises(UserError, match=r"There are no pre-trained weights at .*gone"):
        start(network(heads=()), str(tmp_path / "gone"), tmp_path)
