import json

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.networks.zscore_rule import ZScoreRule
from common.weight_shards import shard_names, state_bytes
from common.weights import is_simulated, load_members, load_weights, member_files, print_origin, read_record, read_weights


def network(seed=0, outputs=3):
    torch.manual_seed(seed)
    return nn.Linear(2, outputs)


def equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in a) and set(a) == set(b)


@pytest.fixture
def folder(tmp_path):
    """Weights of three members; ``model.pt`` is the last."""
    for k in range(3):
        torch.save(network(k).state_dict(), tmp_path / f"member_{k}.pt")
    torch.save(network(2).state_dict(), tmp_path / "model.pt")
    record = {"members": [f"member_{k}.pt" for k in range(3)], "settings": {"width": 0.5}}
    (tmp_path / "weights.json").write_text(json.dumps(record))
    return tmp_path


def test_weights_come_back_as_they_were_saved(folder):
    fresh = network(9)
    load_weights(fresh, folder / "model.pt")
    assert equal(fresh.state_dict(), network(2).state_dict())


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(
        UserError, match=r"There are no weights at .*model\.pt: train first \(train\.json\), or give their folder \(--ckpt_dir\)"
    ):
        load_weights(network(), tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 a broken archive"])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt cannot be read as weights \(\w+\); expected a state_dict saved by torch"):
        load_weights(network(), tmp_path / "model.pt")


def test_a_truncated_file_is_named(folder):
    path = folder / "model.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"model\.pt cannot be read as weights"):
        read_weights(path)


def test_a_file_that_holds_something_else_is_named(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt cannot be read as weights \(it holds a Tensor\)"):
        read_weights(tmp_path / "model.pt")


def test_a_pickled_object_is_not_executed(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_weights(tmp_path / "model.pt")


def test_another_network_is_an_error_with_the_settings_it_was_trained_with(folder):
    with pytest.raises(
        UserError, match=r"was trained with another network \(.*size mismatch.*\)\. They were trained with \{'width': 0\.5\}"
    ):
        load_weights(network(outputs=4), folder / "model.pt")


def test_another_network_without_a_record_points_to_the_overlays(folder):
    (folder / "weights.json").unlink()
    with pytest.raises(UserError, match=r"was trained with another network .*Add the overlays they were trained with"):
        load_weights(nn.Conv2d(2, 3, 1), folder / "model.pt")


def test_no_record_is_an_empty_record(tmp_path):
    assert read_record(tmp_path) == {}


def test_weights_of_simulated_data_are_called_so_loudly(folder, tmp_path, capsys):
    simulated = tmp_path / "simulated"
    simulated.mkdir()
    (simulated / "weights.json").write_text(json.dumps({"simulated": True}))
    for place in (simulated, str(simulated), [str(folder), str(simulated)]):
        assert is_simulated(place)
        print_origin(place)
        assert capsys.readouterr().out == "*** trained on SIMULATED data: a demonstration, not a result ***\n"
    for place in (folder, [str(folder)], tmp_path / "nowhere", None):
        assert not is_simulated(place)
        print_origin(place)
        assert "nobody has verified these weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("members", "names"),
    [(None, ["member_0.pt", "member_1.pt", "member_2.pt"]), (2, ["member_0.pt", "member_1.pt"]), (1, ["model.pt"])],
)
def test_files_of_an_ensemble(members, names, folder):
    assert [path.name for path in member_files(folder, members)] == names


def test_a_folder_without_record_holds_one_member(tmp_path):
    assert [path.name for path in member_files(tmp_path)] == ["model.pt"]


@pytest.mark.parametrize("members", [0, 4, -1])
def test_a_number_of_members_that_is_not_there_is_an_error(members, folder):
    with pytest.raises(UserError, match=rf"vote_members: got {members}, but .* holds 3; train more \(--members\) or ask for fewer"):
        member_files(folder, members)


def test_members_are_read_in_order_and_the_network_keeps_the_first(folder):
    given = network(9)
    states = load_members(given, folder)
    assert len(states) == 3
    for k, state in enumerate(states):
        assert equal(state, network(k).state_dict())
    assert equal(given.state_dict(), network(0).state_dict())


def test_members_do_not_share_memory_with_the_network(folder):
    given = network(9)
    states = load_members(given, folder)
    given.weight.data.zero_()
    assert equal(states[0], network(0).state_dict())


def test_a_rule_without_parameters_needs_no_file(tmp_path):
    assert load_members(ZScoreRule(), tmp_path) == [{}]


def test_weights_kept_in_parts_load_as_the_whole_file_would(tmp_path):
    network, other = nn.Linear(40, 30), nn.Linear(40, 30)
    for name, part in shard_names("model.pt", state_bytes(network.state_dict()), part_bytes=2000).items():
        (tmp_path / name).write_bytes(part)
    assert not (tmp_path / "model.pt").exists() and len(list(tmp_path.iterdir())) > 2
    load_weights(other, tmp_path / "model.pt")
    assert torch.equal(other.weight, network.weight)
    (tmp_path / "model.pt.part2").unlink()
    with pytest.raises(UserError, match=r"kept in parts, found \[1, 3.*copy the missing ones"):
        load_weights(other, tmp_path / "model.pt")
