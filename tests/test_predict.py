"""One command for people without configs, in this process, on a network of a few hundred weights."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from common import cli, config_dir, predict, prediction_weights
from common.device import check_device
from common.errors import UserError

SHAPE = (20, 18, 3)
AFFINE = np.array([[-1.5, 0, 0, 12.25], [0, 1.5, 0, -7.5], [0, 0, 4, 3.125], [0, 0, 0, 1]])
SETTINGS = {"image_size": 32, "width": 0.0625, "encoder": "vgg11", "hidden": None, "background": -6.0}


def write_case(folder: Path, name: str, four_d: bool = True) -> list[Path]:
    """A case as one 4D file, or as an ADC map and a Z map: a box of brain."""
    folder.mkdir(parents=True, exist_ok=True)
    adc, zadc = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    adc[3:16, 3:15] = 1200 + np.random.default_rng(0).normal(size=(13, 12, 3)) * 100
    zadc[5:9, 5:9, 1] = -4
    volumes = {f"{name}.nii.gz": np.stack([adc, zadc], -1)} if four_d else {f"{name}_adc.nii.gz": adc, f"{name}_zadc.nii.gz": zadc}
    for file, array in volumes.items():
        nibabel.Nifti1Image(array, AFFINE).to_filename(folder / file)
    return [folder / file for file in volumes]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of a tiny network that nobody trained, recorded as trained on simulated data."""
    from monai.bundle import ConfigParser

    from common.training import reset_weights

    folder = tmp_path_factory.mktemp("weights")
    parser = ConfigParser()
    parser.read_config(str(Path(config_dir("ladp")) / "inference.json"))
    parser.update(SETTINGS)
    network: Any = parser.get_parsed_content("network_def")
    network.mean.copy_(torch.tensor([1200.0, 0]))
    network.std.copy_(torch.tensor([100.0, 1]))
    for member in ("member_0.pt", "member_1.pt", "model.pt"):
        torch.manual_seed(len(member) + ord(member[-4]))
        reset_weights(network)
        torch.save(network.state_dict(), folder / member)
    record = {"bundle": "ladp", "members": ["member_0.pt", "member_1.pt"], "simulated": True, "settings": SETTINGS}
    (folder / "weights.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def run(weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Function that runs the command with the tiny weights; returns exit code, standard output and errors."""

    def call(*words: str | Path, given: Path | None = weights) -> tuple[int, str, str]:
        extra = ["--weights", str(given), "--device", "cpu", "--demo"] if given is not None else []
        code = predict.main([*map(str, words), *extra])
        return code, *capfd.readouterr()

    return call


def rows_of(output: Path) -> list[dict[str, str]]:
    with open(output / "lesions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_gives_masks_maps_pictures_and_a_table_and_a_broken_file_stops_nobody(tmp_path: Path, run: Callable) -> None:
    (good,) = write_case(tmp_path / "scans", "good")
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(good.read_bytes()[:300])
    output = tmp_path / "new" / "out"
    code, out, err = run("ladp", tmp_path / "scans", output, "--vote_share", "true")
    assert code == 1
    assert "error: 1 of 2 cases failed" in err and f"broken: {tmp_path / 'scans' / 'broken.nii.gz'}: cannot be read" in err
    assert "Traceback" not in out + err and "applying transform" not in out + err
    mask: Any = nibabel.load(output / "good_lesion.nii.gz")
    assert mask.shape == SHAPE and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, AFFINE)
    share = np.asarray(nibabel.load(output / "good_vote_share.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert set(np.unique(share)) <= {0, 0.5, 1}  # two members
    assert (output / "good_lesion.png").read_bytes().startswith(b"\x89PNG")
    assert [row["id"] for row in rows_of(output)] == ["good"]
    assert "id    lesion_ml" in out and str(output) in out
    assert out.count("trained on SIMULATED data: a demonstration, not a result") == 2


def test_named_inputs_equal_one_file_and_old_results_are_replaced(tmp_path: Path, run: Callable, weights: Path) -> None:
    adc, zadc = write_case(tmp_path / "maps", "p", four_d=False)
    (whole,) = write_case(tmp_path / "whole", "p_adc")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p_adc_lesion.nii.gz").write_bytes(b"old")
    code, out, _ = run("ladp", "--adc", adc, "--zadc", zadc, tmp_path / "out", given=weights / "member_1.pt")
    assert code == 0 and "p_adc" in out
    assert run("ladp", whole, tmp_path / "again", given=weights / "member_1.pt")[0] == 0
    first, second = ((tmp_path / folder / "p_adc_lesion.nii.gz").read_bytes() for folder in ("out", "again"))
    assert first == second
    config = json.loads((tmp_path / "out" / "inference_config.json").read_text())
    assert (config["image_size"], config["width"], config["ckpt_dir"]) == (32, 0.0625, str(weights / "member_1.pt"))


def test_inputs_of_a_case_must_be_given_together(tmp_path: Path, run: Callable) -> None:
    adc, zadc = write_case(tmp_path, "p", four_d=False)
    assert "got --adc, expected --adc --zadc: all inputs of a case must be given together" in run("ladp", "--adc", adc, "out")[2]
    code, _, err = run("ladp", tmp_path, tmp_path / "out", "--adc", adc, "--zadc", zadc)
    assert code == 1 and "got 2 paths" in err and "expected OUTPUT alone beside named inputs" in err
    assert "zgone.nii' does not exist" in run("ladp", "--adc", adc, "--zadc", "zgone.nii", "out")[2]


def test_a_wrong_bundle_or_path_is_named(tmp_path: Path, run: Callable) -> None:
    write_case(tmp_path / "scans", "p")
    assert "There is no bundle 'lapd' here" in run("lapd", tmp_path, "out")[2]
    assert "got 1 paths" in run("ladp", tmp_path)[2]
    assert "INPUT: 'gone' does not exist" in run("ladp", "gone", tmp_path / "out")[2]
    assert "is INPUT; give another folder" in run("ladp", tmp_path / "scans", tmp_path / "scans")[2]
    code, _, err = run("ladp", tmp_path / "scans", tmp_path / "scans" / "p.nii.gz" / "out")
    assert code == 1 and "cannot be made" in err


def test_without_weights_the_message_says_how_to_get_some(tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "scans", "p")
    code, _, err = run("ladp", tmp_path / "scans", tmp_path / "out", given=tmp_path / "none")
    assert code == 1 and f"There are no weights at {tmp_path / 'none'}" in err
    assert "train.json" in err and "python -m monai.bundle run" in err and "--weights" in err
    configs = config_dir("ladp")
    for module in (predict, prediction_weights):
        monkeypatch.setattr(module, "config_dir", lambda _: configs)
    root = tmp_path / "brain_bundles" / "ladp"
    monkeypatch.setattr(prediction_weights, "bundle_root", lambda _: str(root))  # as from an installed wheel
    assert f"no weights at {root / 'models'}" in run("ladp", tmp_path / "scans", "out", given=None)[2]


@pytest.fixture
def checkout(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle as a checkout has it, with small weights in ``demo_weights/``."""
    root = tmp_path / "bundles" / "ladp"
    shutil.copytree(config_dir("ladp"), root / "configs")
    shutil.copytree(weights, root / "demo_weights")
    for module in (predict, prediction_weights):
        monkeypatch.setattr(module, "config_dir", lambda _: str(root / "configs"))
    monkeypatch.setattr(prediction_weights, "bundle_root", lambda _: str(root))
    return root


def test_small_weights_of_simulated_data_are_used_only_when_asked_for(checkout: Path, tmp_path: Path, run: Callable) -> None:
    write_case(tmp_path / "scans", "p")
    code, _, err = run("ladp", tmp_path / "scans", tmp_path / "out", given=None)
    assert code == 1 and f"There are no weights at {checkout / 'models'}" in err and "--demo takes small ones of simulated data" in err
    assert not (tmp_path / "out").exists(), "nothing half-written"
    code, out, err = run("ladp", tmp_path / "scans", tmp_path / "out", "--demo", given=None)
    assert code == 0, err
    assert out.count("trained on SIMULATED data: a demonstration, not a result") == 2
    assert json.loads((tmp_path / "out" / "inference_config.json").read_text())["ckpt_dir"] == str(checkout / "demo_weights")


def test_own_weights_go_before_small_ones(checkout: Path, tmp_path: Path) -> None:
    own = checkout / "models"
    assert prediction_weights.find_weights("ladp", demo=True) == checkout / "demo_weights"
    own.mkdir()
    (own / "checkpoint_last.pt").touch()
    assert prediction_weights.find_weights("ladp", demo=True) == checkout / "demo_weights", "a training that is not done yet"
    (own / "model.pt").touch()
    assert prediction_weights.find_weights("ladp", demo=True) == prediction_weights.find_weights("ladp") == own
    assert prediction_weights.find_weights("ladp", str(tmp_path), demo=True) == tmp_path


def test_weights_of_simulated_data_are_refused_without_demo(weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path / "scans", "p")
    for place in (weights, weights / "model.pt"):
        assert predict.main(["ladp", str(tmp_path / "scans"), str(tmp_path / "out"), "--weights", str(place)]) == 1
        err = capfd.readouterr().err
        assert err.startswith(f"error: The weights at {place} were trained on SIMULATED data")
        assert "train.json --dataset_dir YOUR_DATA" in err and "add --demo" in err
    with pytest.raises(UserError, match="demo=True"):
        predict.predict("ladp", str(tmp_path / "out"), str(tmp_path / "scans"), weights=str(weights))
    assert not (tmp_path / "out").exists()


def test_weights_without_the_tag_need_no_demo_and_are_not_called_simulated(weights: Path, tmp_path: Path) -> None:
    record = json.loads((weights / "weights.json").read_text())
    (tmp_path / "model.pt").touch()
    for tagged in ({"simulated": False}, {}):
        (tmp_path / "weights.json").write_text(json.dumps({key: record[key] for key in ("bundle", "settings")} | tagged))
        for demo in (False, True):
            found = prediction_weights.weight_overrides("ladp", predict.read_config("ladp"), tmp_path, demo)
            assert found == {"ckpt_dir": str(tmp_path), **SETTINGS}


def test_inputs_are_those_of_the_weights_where_the_config_leaves_them_to_them(tmp_path: Path) -> None:
    names, config = prediction_weights.input_names, predict.read_config("disruptive_autoencoder")
    assert names({"inputs": ["t1"]}, tmp_path) == ["t1"] and names({}, tmp_path) == []
    assert names(config, tmp_path) == ["t2w"], "the paper's"
    (tmp_path / "weights.json").write_text(json.dumps({"settings": {"inputs": ["ct"]}}))
    assert names(config, tmp_path) == ["ct"]
    (tmp_path / "weights.json").write_text("{")
    with pytest.raises(UserError, match=r"weights\.json cannot be read"):
        names(config, tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"bundle": "patchddm"}, "trained for the bundle 'patchddm', not for 'ladp'"),
        ({"settings": {"widht": 2}, "version": "9.9"}, "settings that inference.json of ladp does not know: widht.* version 9.9"),
    ],
)
def test_weights_of_another_bundle_or_version_are_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    (tmp_path / "model.pt").touch()
    (tmp_path / "weights.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        prediction_weights.weight_overrides("ladp", predict.read_config("ladp"), tmp_path)


def test_more_members_than_there_are_is_a_clear_error(tmp_path: Path, run: Callable) -> None:
    write_case(tmp_path / "scans", "p")
    code, _, err = run("ladp", tmp_path / "scans", tmp_path / "out", "--members", "3")
    assert code == 1 and "vote_members: got 3" in err and "holds 2" in err


def test_fast_takes_the_overlay_says_what_it_costs_and_options_go_before_it(tmp_path: Path, run: Callable, weights: Path) -> None:
    write_case(tmp_path / "scans", "p")
    own = weights / "member_1.pt"
    code, out, err = run("ladp", tmp_path / "scans", tmp_path / "out", "--fast", given=own)
    assert code == 0, err
    assert out.count("Fast: One member of the ensemble in place of all, without the mean over flips.\n") == 1
    config = json.loads((tmp_path / "out" / "inference_config.json").read_text())
    assert (config["vote_members"], config["tta_axes"], config["image_size"]) == (1, [], 32)
    assert (tmp_path / "out" / "p_lesion.png").is_file()
    code, out, _ = run("ladp", tmp_path / "scans", tmp_path / "both", "--fast", "--members", "2")
    config = json.loads((tmp_path / "both" / "inference_config.json").read_text())
    assert code == 0 and (config["vote_members"], config["tta_axes"]) == (2, [])
    assert "Fast:" not in run("ladp", tmp_path / "none", tmp_path / "out")[1]


def test_fast_goes_before_what_the_weights_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.bundle import ConfigParser

    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.pt").touch()
    record = {"bundle": "patchddm", "settings": {"tight": False, "padded_size": 64}}
    (tmp_path / "weights" / "weights.json").write_text(json.dumps(record))
    seen: list[Any] = []
    monkeypatch.setattr(predict, "run_config", lambda files, overrides: seen.append((files, overrides)) or [])
    for fast in (False, True):
        predict.predict("patchddm", str(tmp_path / "out"), str(tmp_path), weights=str(tmp_path / "weights"), fast=fast)
    (plain, _), (files, overrides) = seen
    assert [Path(file).name for file in files] == ["inference.json", "inference_fast.json"] and files[:1] == plain
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(overrides)
    assert (parser["tight"], parser["padded_size"], parser["steps"], parser["sampler"]) == (True, 64, 4, "dpm_solver")
    assert parser["evaluator"]["inferer"]["inferer"] == "@inferer", "the overlay wraps the inferer of the config"


@pytest.mark.parametrize("bundle", sorted(path.name for path in Path(config_dir("ladp")).parents[1].iterdir() if path.is_dir()))
def test_every_bundle_has_a_fast_way(bundle: str) -> None:
    config, overlay = predict.read_config(bundle), predict.read_fast(bundle)
    assert overlay["_desc_"].endswith(".") and len(overlay["_desc_"]) <= predict.WIDTH
    assert {key.split("::")[0] for key in overlay} <= set(config)


def test_a_bundle_without_a_fast_way_says_so(checkout: Path, tmp_path: Path, run: Callable) -> None:
    (checkout / "configs" / "inference_fast.json").unlink()
    write_case(tmp_path / "scans", "p")
    code, _, err = run("ladp", tmp_path / "scans", tmp_path / "out", "--fast")
    assert code == 1 and "inference_fast.json: no such file; the bundle 'ladp' has no faster way, leave --fast away" in err
    assert not (tmp_path / "out").exists()


def test_prepare_is_a_word_of_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for main, prog in ((predict.main, "python -m common.predict"), (cli.main, "brain-bundles")):
        assert main(["prepare", "--help"]) == 0
        assert f"usage: {prog} prepare BUNDLE --<input> FILE" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_device("cpu") == "cpu"
    with pytest.raises(UserError, match=r"got 'cuda', but torch sees 0 GPUs .*Use --device cpu"):
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check_device("cuda:0") == "cuda:0"
    with pytest.raises(UserError, match="got 'cuda:1', but torch sees 1 GPUs"):
        check_device("cuda:1")
    for wrong in ("gpu", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(UserError, match="expected cpu, cuda or cuda:<number>"):
            check_device(wrong)


def test_an_option_that_the_bundle_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "read_config", lambda _: {"dataset_dir": None, "inputs": ["t1"]})
    with pytest.raises(UserError, match="the bundle 'ladp' has no setting 'vote_members'"):
        predict.predict("ladp", str(tmp_path / "out"), str(tmp_path), members=2)


def test_a_path_is_never_taken_for_an_expression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("$x").mkdir()
    assert predict.data_overrides({}, "$x", {}) == {"dataset_dir": str(tmp_path / "$x")}


def test_the_table_is_aligned() -> None:
    assert predict.as_table([{"id": "a", "ml": 1.23456}, {"id": "bbb", "ml": 10.0}]) == "id      ml\na    1.235\nbbb     10"
    assert predict.as_table([]) == ""


def test_a_wide_table_comes_in_blocks_that_begin_with_the_name() -> None:
    rows = [{"id": f"case{n}", **{f"column_{k}": float(k) for k in range(30)}} for n in range(2)]
    blocks = predict.as_table(rows).split("\n\n")
    assert len(blocks) > 1 and all(block.splitlines()[0].startswith("id") and "case1" in block for block in blocks)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= predict.WIDTH
    assert [word for block in blocks for word in block.splitlines()[0].split()[1:]] == list(rows[0])[1:]
