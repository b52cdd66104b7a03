"""A pre-training that is run when it is needed: on a config that only writes its files; on the real one in tests/bundles/."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.utils import get_seed, set_determinism

from common.data.modalities import modality_table
from common.errors import UserError
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.pretraining_start import ensure_pretrained, finish_pretraining, split_pretraining


def write(name: str, text: str) -> dict[str, Any]:
    return {"_target_": "common.atomic.write_text", "path": f"$@ckpt_dir + '/{name}'", "text": text}


CONFIG = {
    "ckpt_dir": None,
    "output_dir": None,
    "seed": 7,
    "resume": False,
    "mask_ratio": 0.6,
    "settings": {"mask_ratio": "@mask_ratio", "depths": [1, 2]},
    "initialize": [{"_target_": "monai.utils.set_determinism", "seed": "@seed"}],
    "run": [
        write("checkpoint_last.pt", "last"),
        {
            "_target_": "common.atomic.write_json",
            "path": "$@ckpt_dir + '/weights.json'",
            "content": {"settings": "@settings", "resume": "@resume"},
        },
        write("model.pt", "weights"),
        write("transfer.json", "{}"),
    ],
    "finalize": [],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "configs" / "pretrain.json"
    file.parent.mkdir()
    file.write_text(json.dumps(CONFIG))
    return file


@pytest.fixture(autouse=True)
def _own_seed():
    set_determinism(3)
    yield
    set_determinism(None)


def start(config: Path, *overlays: str, resume: Any = False, **overrides: Any) -> Path:
    """Ensure weights in ``models`` beside the configs' folder."""
    files = [str(config), *(str(config.with_name(name)) for name in overlays)]
    return ensure_pretrained(files, str(config.parents[1] / "models"), str(config.parents[1] / "eval"), overrides, resume)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "weights.json").read_text())


def test_an_empty_folder_is_filled_and_the_log_says_why(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        folder = start(config)
    assert (folder / "model.pt").is_file() and (folder / "transfer.json").is_file()
    assert "There are no pre-trained weights in" in caplog.text and "pre-training comes first (pretrain.json)" in caplog.text
    assert "Pre-training is done" in caplog.text


def test_a_second_start_trains_nothing(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = start(config)
    (folder / "checkpoint_last.pt").unlink()
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        start(config)
    assert not (folder / "checkpoint_last.pt").exists() and "no pre-training" in caplog.text


def test_overlays_and_overrides_reach_the_pre_training(config: Path) -> None:
    config.with_name("pretrain_less.json").write_text(json.dumps({"mask_ratio": 0.2}))
    assert record(start(config, "pretrain_less.json", **{"settings::depths": [4]}))["settings"] == {"mask_ratio": 0.2, "depths": [4]}


@pytest.mark.parametrize(("resume", "words"), [("true", "going on with it"), (False, "it begins anew")])
def test_an_interrupted_pre_training_is_taken_up_only_when_asked(
    resume: Any, words: str, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = start(config)
    (folder / "transfer.json").unlink()
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        start(config, resume=resume)
    assert words in caplog.text and record(folder)["resume"] is (resume == "true")


def test_other_settings_are_refused_entry_by_entry(config: Path) -> None:
    folder = start(config)
    with pytest.raises(UserError) as caught:
        start(config, mask_ratio=0.4)
    text = str(caught.value)
    assert "mask_ratio is 0.6, asked for is 0.4" in text and "depths" not in text
    assert f"--pretrained {folder}" in text and "--ckpt_dir" in text
    (folder / "transfer.json").unlink()
    with pytest.raises(UserError, match="another pre-training"):
        start(config, mask_ratio=0.4, resume=True)
    assert record(start(config, mask_ratio=0.4))["settings"]["mask_ratio"] == 0.4, "an unfinished one may begin anew otherwise"


def test_a_missing_overlay_is_named(config: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain_overlays: there is no .*pretrain_x\.json; give names of files beside pretrain\.json"):
        start(config, "pretrain_x.json")


def test_the_callers_seed_comes_back(config: Path) -> None:
    start(config)
    assert get_seed() == 3
    first = (np.random.rand(), float(torch.rand(1)))
    set_determinism(3)
    assert first == (np.random.rand(), float(torch.rand(1)))


# --- the split --------------------------------------------------------------------------------------------------


def case(number: int, modality: str) -> dict[str, Any]:
    return {"id": f"{modality}{number}", "subject": f"s{number}", "image": [f"{modality}{number}.nii.gz"], "modality": modality}


def parts(validate: int) -> dict[str, list[dict[str, Any]]]:
    cases = [case(number, modality) for number in range(10) for modality in ("ct", "t1")]
    return {"train": cases[2 * validate :], "validate": cases[: 2 * validate], "all": cases}


def test_lists_that_say_who_validates_are_followed(tmp_path: Path) -> None:
    given = parts(2)
    assert split_pretraining(given, 0.5, 0, str(tmp_path / "split.json")) == given
    assert json.loads((tmp_path / "split.json").read_text())["validate"] == ["ct0", "t10", "ct1", "t11"]
    split_pretraining(given, 0.5, 0, str(tmp_path / "other.json"), rank=1)
    assert not (tmp_path / "other.json").exists(), "one process writes"


def test_lists_that_do_not_give_a_share_of_the_subjects_with_all_their_images() -> None:
    split = split_pretraining(parts(0), 0.2, 0)
    train, validate = ({entry["subject"] for entry in split[name]} for name in ("train", "validate"))
    assert len(validate) == 2 and not train & validate and len(split["validate"]) == 4
    assert len(split["train"]) + len(split["validate"]) == 20


def test_a_share_of_none_is_refused() -> None:
    with pytest.raises(UserError, match="validation_share: got 0"):
        split_pretraining(parts(0), 0, 0)


# --- the record -------------------------------------------------------------------------------------------------


def test_the_record_tells_modalities_and_voxels_and_the_network_gets_its_best_weights(tmp_path: Path) -> None:
    network = DisruptiveSwinUNETR(1, 1, 12, depths=[1, 1, 1, 1], window_size=3)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    (tmp_path / "weights.json").write_text(json.dumps({"simulated": True}))
    with torch.no_grad():
        network.out.conv.conv.bias.add_(1)
    cases = [case(0, "ct"), case(1, "flair")]
    arguments = (network, cases, modality_table(), [32, 32, 64], {"noise_strength": 0.1}, ["embedding", "image"], [2, 2, 2])
    finish_pretraining(str(tmp_path), *arguments, rank=1)
    assert not (tmp_path / "transfer.json").exists()
    finish_pretraining(str(tmp_path), *arguments)
    found = json.loads((tmp_path / "transfer.json").read_text())
    assert found["normalisation"] == {"ct": {"kind": "range", "low": -1000.0, "high": 1000.0}, "flair": {"kind": "zscore"}}
    assert found["spacing_mm"] == [2, 2, 2] and found["tasks"] == ["embedding", "image"] and found["untrained"] == ["out.", "encoder1."]
    assert found["notes"] == ["pre-trained on simulated images: these are not patients"]
    assert torch.equal(network.out.conv.conv.bias, torch.load(tmp_path / "model.pt", weights_only=True)["out.conv.conv.bias"])
