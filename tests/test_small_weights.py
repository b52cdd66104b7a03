"""Weights on their way into an archive: small ones for the tree, a user's own; only what fits, only what may be passed on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.archive_files import DEMO, ROOT, archive_contents, bundle_names
from common.errors import UserError
from common.networks.latent_table import GLOBAL, LatentTable
from common.small_weights import PUBLIC, TOTAL_BYTES, half_state, keep_weights, own_contents, public_record, trained_network
from common.weight_shards import PART_BYTES, parse_state, read_shards, state_bytes

Make = Callable[..., Path]


def small_settings(name: str) -> dict[str, Any]:
    """Settings of smoke.json that weights record."""
    configs = ROOT / "bundles" / name / "configs"
    inference = json.loads((configs / "inference.json").read_text(encoding="utf-8"))
    smoke = json.loads((configs / "smoke.json").read_text(encoding="utf-8"))
    return {key: value for key, value in smoke.items() if str(inference.get(key)).startswith("$@common.trained(")}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Function that writes weights of random numbers as a training does, with the network and record of smoke size."""

    def make_weights(name: str = "ladp", members: int = 1, **record: Any) -> Path:
        folder = tmp_path / "trained"
        folder.mkdir()
        told = {"version": "0.1.0", "members": [f"member_{k}.pt" for k in range(members)], "best": {"0": 0.5}, "bundle": name}
        told |= {"simulated": True, "trained_on": ["0123456789abcdef"], "settings": small_settings(name)} | record
        network = trained_network(ROOT / "bundles" / name, told)
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape) / 3)
        for file in ("model.pt", "checkpoint_last.pt", *told["members"]):
            torch.save(network.state_dict(), folder / file)
        (folder / "weights.json").write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
        return folder

    return make_weights


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the bundles' configs and pages, without weights."""
    leave = shutil.ignore_patterns("data", "eval", "models", DEMO)
    return Path(shutil.copytree(ROOT / "bundles", tmp_path / "tree" / "bundles", ignore=leave)).parent


@pytest.mark.parametrize("name", bundle_names())
def test_kept_weights_load_strictly_from_an_archive_and_differ_by_half_precision_only(name: str, make: Make, tree: Path) -> None:
    folder = make(name)
    keep_weights(name, folder, tree)
    contents = archive_contents(name, tree)
    record = json.loads(contents["models/weights.json"])
    kept, given = parse_state(contents["models/model.pt"], "model.pt"), torch.load(folder / "model.pt", weights_only=True)
    network = trained_network(ROOT / "bundles" / name, record)
    network.load_state_dict(kept, strict=True)
    parameters = dict(network.named_parameters())
    assert record["simulated"] is True and set(kept) == set(given)
    for key, value in kept.items():
        if key in parameters and value.is_floating_point():
            assert value.dtype == torch.float16, key
            torch.testing.assert_close(value.float(), given[key], rtol=2**-11, atol=2**-24)
        elif not key.endswith(("age_slope", "identity_ages")):  # without subjects, the slope is that of nobody
            assert value.dtype == given[key].dtype and torch.equal(value, given[key]), key
    assert sorted(inside for inside in contents if inside.startswith("models/")) == [
        "models/.gitkeep",
        "models/model.pt",
        "models/weights.json",
    ]


@pytest.mark.parametrize("name", [name for name in bundle_names() if (ROOT / "bundles" / name / DEMO).is_dir()])
def test_the_small_weights_of_the_tree_load_strictly_and_are_small(name: str) -> None:
    folder = ROOT / "bundles" / name / DEMO
    contents = archive_contents(name)
    record = json.loads(contents["models/weights.json"])
    assert record["simulated"] is True and record["bundle"] == name
    for file in ("model.pt", *record["members"]):
        state = read_shards(folder / file)
        trained_network(ROOT / "bundles" / name, record).load_state_dict(state, strict=True)
        assert parse_state(contents[f"models/{file}"], file).keys() == state.keys()
    assert max(path.stat().st_size for path in folder.iterdir()) <= PART_BYTES
    assert sum(path.stat().st_size for path in folder.iterdir()) <= TOTAL_BYTES


def test_keeping_twice_gives_the_same_bytes_and_replaces_what_was_there(make: Make, tree: Path) -> None:
    folder = make()
    first = {path.name: path.read_bytes() for path in keep_weights("ladp", folder, tree)}
    (tree / "bundles" / "ladp" / DEMO / "member_7.pt").write_bytes(b"old")
    second = {path.name: path.read_bytes() for path in keep_weights("ladp", folder, tree)}
    assert first == second and set(first) == {path.name for path in (tree / "bundles" / "ladp" / DEMO).iterdir()}
    assert not (tree / "bundles" / "ladp" / "models").exists()
    assert [path.name for path in (tree / "bundles" / "ladp").iterdir() if path.name.startswith(".")] == []


def test_all_members_of_an_ensemble_are_kept_and_packed(make: Make, tree: Path) -> None:
    keep_weights("ladp", make(members=2), tree)
    packed = [inside for inside in archive_contents("ladp", tree) if inside.startswith("models/")]
    assert packed == ["models/.gitkeep", "models/member_0.pt", "models/member_1.pt", "models/model.pt", "models/weights.json"]


def test_a_large_file_is_kept_in_parts_and_packed_whole(make: Make, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    whole = archive_contents("ladp", tree, own_contents("ladp", folder))["models/model.pt"]
    monkeypatch.setattr("common.small_weights.PART_BYTES", 50_000)
    monkeypatch.setattr("common.small_weights.shard_names", lambda name, data: _cut(name, data))
    files = keep_weights("ladp", folder, tree)
    assert [path.name for path in files if "part" in path.name] == [f"model.pt.part{n}" for n in range(1, len(files))]
    packed = parse_state(archive_contents("ladp", tree)["models/model.pt"], "model.pt")
    for key, value in parse_state(whole, "model.pt").items():
        torch.testing.assert_close(packed[key].float(), value.float(), rtol=2**-11, atol=2**-24)


def _cut(name: str, data: bytes) -> dict[str, bytes]:
    from common.weight_shards import shard_names

    return shard_names(name, data, 50_000)


def test_weights_that_are_not_small_are_refused(make: Make, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.small_weights.TOTAL_BYTES", 100_000)
    with pytest.raises(UserError, match=r"0\.2 MB in all, the largest file is model\.pt with 0\.2 MB; expected at most 0 MB"):
        keep_weights("ladp", make(), tree)
    assert not (tree / "bundles" / "ladp" / DEMO).exists()


@pytest.mark.parametrize("simulated", [False, None, "true"])
def test_only_weights_of_simulated_cohorts_are_kept(simulated: Any, make: Make, tree: Path) -> None:
    with pytest.raises(UserError, match=rf"'simulated' is {simulated}, expected true: only weights of simulated cohorts"):
        keep_weights("ladp", make(simulated=simulated), tree)


def test_a_value_beyond_float16_is_refused() -> None:
    network = torch.nn.Linear(2, 1)
    half_state({"weight": torch.tensor([[65504.0, 0.0]]), "bias": torch.zeros(1)}, network, Path("model.pt"))
    with pytest.raises(UserError, match=r"'weight' reaches 7e\+04, float16 ends at 65504"):
        half_state({"weight": torch.tensor([[7e4, 0.0]]), "bias": torch.zeros(1)}, network, Path("model.pt"))


# --- a user's own ----------------------------------------------------------------------------------------------


def test_own_weights_are_packed_as_trained_without_resume_files_and_lists_of_scans(make: Make) -> None:
    folder = make(simulated=False, dataset_dir="/data/patients")
    contents = own_contents("ladp", folder)
    assert sorted(contents) == ["models/model.pt", "models/weights.json"]
    assert contents["models/model.pt"] == (folder / "model.pt").read_bytes()
    record = json.loads(contents["models/weights.json"])
    assert "trained_on" not in record and "dataset_dir" not in record
    assert record["simulated"] is False and record["settings"] == small_settings("ladp")


def test_one_file_of_weights_is_packed_as_the_model(make: Make) -> None:
    folder = make(members=2)
    torch.save({key: value + 1 for key, value in torch.load(folder / "member_1.pt").items()}, folder / "member_1.pt")
    contents = own_contents("ladp", folder / "member_1.pt")
    assert sorted(contents) == ["models/model.pt", "models/weights.json"]
    assert contents["models/model.pt"] == (folder / "member_1.pt").read_bytes()
    assert json.loads(contents["models/weights.json"])["members"] == ["model.pt"]


def test_latents_of_children_are_taken_out(make: Make) -> None:
    folder = make("neonatal_inr")
    state = torch.load(folder / "model.pt", weights_only=True)
    (prefix,) = [key.removesuffix("identity_names") for key in state if key.endswith("identity_names")]
    table = LatentTable(["child one", "child two"], size=state[f"{prefix}weight"].shape[1], ages=[30.0, 40.0])
    with torch.no_grad():
        table.weight.normal_()
    state |= {prefix + key: value for key, value in table.state_dict().items()}
    torch.save(state, folder / "model.pt")
    packed = parse_state(own_contents("neonatal_inr", folder)["models/model.pt"], "model.pt")
    assert bytes(packed[f"{prefix}identity_names"].tolist()).decode() == GLOBAL
    torch.testing.assert_close(packed[f"{prefix}mean_latent"], table.weight.detach()[1:].mean(dim=0))


def test_what_may_be_passed_on_of_a_record() -> None:
    record = {"version": "1", "members": ["member_0.pt"], "bundle": "ladp", "settings": {}, "trained_on": ["a"], "host": "clinic"}
    assert public_record(record | {"simulated": True})["trained_on"] == ["a"]
    assert public_record(record | {"simulated": False}) == {
        "version": "1",
        "members": ["model.pt"],
        "bundle": "ladp",
        "simulated": False,
        "settings": {},
    }


@pytest.mark.parametrize("name", bundle_names())
def test_nothing_that_a_training_records_is_lost_but_the_scans(name: str) -> None:
    run = json.loads((ROOT / "bundles" / name / "configs" / "train.json").read_text(encoding="utf-8"))["run"]
    (train,) = [step for step in run if isinstance(step, dict) and step["_target_"] == "common.training.train"]
    assert set(train["settings"]) - set(PUBLIC) == {"trained_on"}


# --- mistakes --------------------------------------------------------------------------------------------------


def test_missing_weights_and_a_missing_record_are_errors(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There are no weights at .*nowhere/model\.pt: expected model\.pt"):
        own_contents("ladp", tmp_path / "nowhere")
    folder = make(members=2)
    (folder / "member_1.pt").unlink()
    with pytest.raises(UserError, match=r"weights\.json names the weights 'member_1\.pt', found no such file"):
        own_contents("ladp", folder)
    (folder / "weights.json").unlink()
    with pytest.raises(UserError, match=r"weights\.json: no such file; expected the record that the training wrote"):
        own_contents("ladp", folder)


def test_a_member_outside_the_folder_is_an_error(make: Make) -> None:
    with pytest.raises(UserError, match=r"names the weights '\.\./trained/model\.pt'"):
        folder = make()
        record = json.loads((folder / "weights.json").read_text())
        (folder / "weights.json").write_text(json.dumps(record | {"members": ["../trained/model.pt", "model.pt"]}))
        own_contents("ladp", folder)


def test_weights_of_another_bundle_or_without_a_name_are_errors(make: Make) -> None:
    folder = make(bundle="patchddm")
    with pytest.raises(UserError, match="trained for the bundle 'patchddm', not for 'ladp'"):
        own_contents("ladp", folder)


def test_settings_that_the_bundle_does_not_know_are_an_error(make: Make) -> None:
    folder = make()
    record = json.loads((folder / "weights.json").read_text())
    (folder / "weights.json").write_text(json.dumps(record | {"settings": {"colour": "red"}}))
    with pytest.raises(UserError, match=r"holds settings that inference\.json of ladp does not know: colour\..*version 0\.1\.0"):
        own_contents("ladp", folder)
    (folder / "weights.json").write_text(json.dumps(record | {"settings": record["settings"] | {"encoder": "vgg99"}}))
    with pytest.raises(UserError, match=r"do not give a network of ladp: .*vgg99"):
        own_contents("ladp", folder)


def test_weights_that_do_not_fit_their_record_are_an_error(make: Make) -> None:
    folder = make()
    record = json.loads((folder / "weights.json").read_text())
    (folder / "weights.json").write_text(json.dumps(record | {"settings": record["settings"] | {"width": 0.125}}))
    with pytest.raises(UserError, match=r"model\.pt does not fit the network that .*weights\.json tells \(size mismatch"):
        own_contents("ladp", folder)


def test_weights_with_nan_are_an_error(make: Make) -> None:
    folder = make()
    state = torch.load(folder / "model.pt", weights_only=True)
    key = next(key for key, value in state.items() if key.endswith("weight"))
    state[key].view(-1)[0] = float("nan")
    (folder / "model.pt").write_bytes(state_bytes(state))
    with pytest.raises(UserError, match=rf"'{key}' holds NaN or infinity: the training failed"):
        own_contents("ladp", folder)
