"""Pre-training of the disruptive autoencoder at smoke size: what it writes, every overlay, resume, its place before a fine-tuning."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from common.data.modalities import modality_table
from common.errors import UserError
from common.finished_pretraining import load_run
from common.handlers.epoch_log import read_log
from common.inferers.disruptive_pretraining import PretrainingNetwork
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.networks.transfer_weights import load_pretrained
from common.pretraining_start import ensure_pretrained
from common.reconstruction_figure import restore
from tests.bundles.in_process import configs_of, differing, read_model, run, workflow_of

BUNDLE = "disruptive_autoencoder"
CONFIGS = configs_of(BUNDLE)
FILES = ("pretrain.json", "pretrain_smoke.json")
SIZES = ("pretrain_smoke.json", "pretrain_quick.json", "pretrain_multi_gpu.json")
OVERLAYS = [*sorted({path.name for path in CONFIGS.glob("pretrain_*.json")} - set(SIZES)), "variant_cmcl_paper.json"]
PARTS = {
    "pretrain_mae.json": {"reconstruction"},
    "pretrain_no_contrastive.json": {"reconstruction"},
    "pretrain_inpainting.json": {"reconstruction"},
    "pretrain_rotation.json": {"rotation"},
    "pretrain_simclr.json": {"views"},
    "pretrain_swin_ssl.json": {"reconstruction", "rotation", "views"},
}
"""Parts of the loss; of the others reconstruction and cross_modal."""
QUICK = ("pretrain_mae.json", "pretrain_rotation.json", "pretrain_swin_ssl.json", "variant_cmcl_paper.json")
"""Between them they switch on every part; the other overlays change a number or a word."""
NO_IMAGE = ("pretrain_rotation.json", "pretrain_simclr.json")
TECHNICAL = {"rank", "num_workers", "val_interval", "resume"}
make_workflow = partial(workflow_of, BUNDLE)


def weights_of(trained: Any) -> Path:
    return trained.ckpt_dir / "pretrain"


def results_of(trained: Any) -> Path:
    return trained.output_dir / "pretrain"


def paths_of(trained: Any, folder: Path) -> dict[str, Any]:
    """The subprocess's cohort, prepared volumes and seed; weights and results in a folder."""
    (cohort,) = (trained.root / "data" / "simulated").glob("contrasts_*/contrasts")
    ran = json.loads((results_of(trained) / "pretrain_config.json").read_text(encoding="utf-8"))
    places = {"ckpt_dir": folder / "models", "output_dir": folder / "eval", "bundle_root": trained.root, "dataset_dir": cohort}
    return {key: str(path) for key, path in places.items()} | {"seed": ran["seed"]}


def pretrain(trained: Any, folder: Path, *overlays: str, **overrides: Any) -> dict[str, torch.Tensor]:
    run(make_workflow(*FILES, *overlays, **paths_of(trained, folder) | overrides))
    return read_model(folder / "models")


# --- before anything is trained ---------------------------------------------------------------------------------


def rows_of_docs() -> list[list[str]]:
    """Cells of all rows about the pre-training."""
    lines = (CONFIGS.parent / "docs" / "equations.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if re.match(r"(pretrain\w*|variant_cmcl_paper)\.json ", row[3])]


def test_every_number_and_every_overlay_of_the_pre_training_has_its_row_with_the_value_that_runs() -> None:
    config = json.loads((CONFIGS / "pretrain.json").read_text(encoding="utf-8"))
    numbers = {key for key, value in config.items() if isinstance(value, int | float) and key not in TECHNICAL}
    rows = rows_of_docs()
    assert not {f"pretrain.json {key}" for key in numbers} - {row[3] for row in rows}
    assert not set(OVERLAYS) - {row[3].split(" ")[0] for row in rows}
    for row in rows:
        name, key = row[3].split(" ")
        found = json.loads((CONFIGS / name).read_text(encoding="utf-8"))[key]
        assert found == json.loads(row[4]) and type(found) is type(json.loads(row[4])), row[3]
        assert re.match(r"yes\b|(deviation|not stated|added): .{8,}", row[5]), row[5]


def test_overlays_are_small_and_all_settings_they_change_are_recorded_with_the_weights() -> None:
    config = json.loads((CONFIGS / "pretrain.json").read_text(encoding="utf-8"))
    recorded = json.dumps(config["settings"]) + json.dumps(config["disruptions"])
    for name in OVERLAYS:
        keys = [key for key in json.loads((CONFIGS / name).read_text(encoding="utf-8")) if key != "_desc_"]
        assert 1 <= len(keys) <= 10, name
        assert not [key for key in keys if "::" not in key and f'"@{key}"' not in recorded], name


def test_at_the_papers_size_the_network_is_swin_unetr_with_one_more_head() -> None:
    network = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "pretrain.json")])).get_parsed_content("network_def")
    plain = sum(value.numel() for name, value in network.named_parameters() if not name.startswith(("pretext.", "mask_token")))
    assert plain == 62_186_659, "methods/dae.md, section 3"
    assert list(network.pretext) == ["image"]


# --- the run before train.json, in a subprocess -----------------------------------------------------------------


def test_the_pre_training_writes_what_is_promised_and_says_what_it_does(trained_dae: Any) -> None:
    for name in ("model.pt", "member_0.pt", "checkpoint_last.pt", "weights.json", "transfer.json"):
        assert (weights_of(trained_dae) / name).is_file(), name
    for name in ("training.csv", "split.json", "pretrain_config.json", "reconstruction.png"):
        assert (results_of(trained_dae) / name).is_file(), name
    for text in ("SIMULATED DATA: these are not patients", "pre-training comes first (pretrain.json", "pretrain epoch 1/2: loss", "val_l1"):
        assert text in trained_dae.output, text
    assert re.search(r"loss [\d.]+ \(reconstruction [\d.]+, cross_modal [\d.]+\), val_l1", trained_dae.output)


def test_the_log_has_the_parts_of_the_loss_by_name_and_they_sum_to_it(trained_dae: Any) -> None:
    rows = read_log(results_of(trained_dae) / "training.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_reconstruction"] + 0.05 * row["loss_cross_modal"], rel=1e-5)
        assert 0 < row["metric"] < 3


def test_the_weights_are_the_bare_networks_with_a_record_of_their_images(trained_dae: Any) -> None:
    record = json.loads((weights_of(trained_dae) / "transfer.json").read_text(encoding="utf-8"))
    assert record["normalisation"]["ct"] == {"kind": "range", "low": -1000.0, "high": 1000.0}
    assert record["normalisation"]["flair"] == {"kind": "zscore"} and set(record["normalisation"]) == {"ct", "t1", "t1ce", "t2", "flair"}
    assert record["patch_size"] == [32, 32, 64] and record["skip"] == "drop" and record["spacing_mm"] is None
    assert record["disruptions"]["mask_ratio"] == 0.6 and record["disruptions"]["noise_is"] == "variance"
    assert any("not patients" in note for note in record["notes"])
    network, _, _ = load_run(weights_of(trained_dae), modality_table())
    assert not differing(network.state_dict(), read_model(weights_of(trained_dae)))
    plain = DisruptiveSwinUNETR(1, 8, 12, depths=[1, 1, 1, 1], window_size=3, heads=())
    report = load_pretrained(plain, weights_of(trained_dae))
    assert {row.source.split(".")[0] for row in report.rows if row.outcome.startswith("skipped")} == {
        "encoder1",
        "mask_token",
        "out",
        "pretext",
    }


def test_what_the_pre_training_does_not_use_stays_as_drawn_and_the_rest_moves(trained_dae: Any) -> None:
    last: Any = read_model(weights_of(trained_dae), "checkpoint_last.pt")
    names = [name for name in last["network"] if not name.startswith(("out.", "encoder1.", "mask_token")) and "index" not in name]
    assert len(last["optimizer"]["state"]) == len(names), "the optimizer has moments of these alone"


def test_no_property_that_other_tools_look_for_is_missing(trained_dae: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*FILES, **paths_of(trained_dae, tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


class KilledError(Exception):
    """Stands for a kill."""


# --- in this process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [pytest.param(o, marks=() if o in QUICK else pytest.mark.slow) for o in OVERLAYS])
def test_every_overlay_trains_with_its_own_parts_of_the_loss(overlay: str, trained_dae: Any, tmp_path: Path) -> None:
    state = pretrain(trained_dae, tmp_path, overlay, iterations=1, epoch_length=1, warmup=0)
    (row,) = read_log(tmp_path / "eval" / "training.csv")
    parts = {key.removeprefix("loss_") for key in row if key.startswith("loss_")}
    assert parts == PARTS.get(overlay, {"reconstruction", "cross_modal"})
    assert np.isfinite(row["loss"]) and np.isfinite(row["metric"])
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert (tmp_path / "eval" / "reconstruction.png").is_file() == (overlay not in NO_IMAGE)
    untrained = json.loads((tmp_path / "models" / "transfer.json").read_text(encoding="utf-8"))["untrained"]
    assert ("decoder1." in untrained) == (overlay in NO_IMAGE), "a task of the encoder alone leaves the decoder as it was drawn"


def test_a_killed_pre_training_goes_on_and_ends_with_the_same_weights_bit_for_bit(trained_dae: Any, tmp_path: Path) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    workflow = make_workflow(*FILES, **paths_of(trained_dae, tmp_path))
    workflow.initialize()
    workflow.parser.get_parsed_content("train::trainer").add_event_handler(Events.EPOCH_STARTED(once=2), kill)
    with pytest.raises(Exception) as caught:
        workflow.run()
    assert KilledError in (type(caught.value), type(caught.value.__cause__), type(caught.value.__context__))
    assert (tmp_path / "models" / "checkpoint_last.pt").is_file() and not (tmp_path / "models" / "transfer.json").exists(), "not finished"
    pretrain(trained_dae, tmp_path, resume=True)
    ends = [read_model(folder, "checkpoint_last.pt")["network"] for folder in (tmp_path / "models", weights_of(trained_dae))]
    assert not differing(*ends)
    assert not differing(read_model(tmp_path / "models"), read_model(weights_of(trained_dae)))
    assert [row["epoch"] for row in read_log(tmp_path / "eval" / "training.csv")] == [1, 2]


def test_validation_sees_the_same_disruptions_every_time_and_draws_nothing_from_the_training(trained_dae: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*FILES, **paths_of(trained_dae, tmp_path))
    workflow.initialize()
    during, after = (workflow.parser.get_parsed_content(f"{part}::prepare_batch") for part in ("train", "validate"))
    batch = {"image": torch.rand(2, 1, 32, 32, 64), "modality_index": torch.tensor([0, 3])}
    during.set_random_state(5)
    first, fixed = during(batch), after(batch)
    during.set_random_state(5)
    again, once_more = during(batch), after(batch)
    assert torch.equal(first[0], again[0]) and torch.equal(fixed[0], once_more[0])
    assert torch.equal(fixed[3]["channel_mask"], once_more[3]["channel_mask"])
    assert not torch.equal(during(batch)[0], again[0]), "the training draws anew"
    assert fixed[3]["channel_mask"].flatten(1).sum(1).tolist() == [7, 7], "round(0.6 * 12)"


def test_the_figures_step_is_the_one_that_validates(trained_dae: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*FILES, **paths_of(trained_dae, tmp_path))
    workflow.initialize()
    step = workflow.parser.get_parsed_content("validate::prepare_batch")
    seed = workflow.parser.get_parsed_content("seed")
    network, own, _ = load_run(weights_of(trained_dae), modality_table(), seed)
    crop = torch.rand(1, 32, 32, 64)
    one, other = restore(network, step, crop, 1), restore(network, own, crop, 1)
    assert np.array_equal(one.disrupted, other.disrupted) and np.array_equal(one.restored, other.restored)


# --- before train.json ------------------------------------------------------------------------------------------


def ensure(trained: Any, ckpt_dir: Path, output_dir: Path, *overlays: str, resume: bool = False, **overrides: Any) -> Path:
    files = [str(CONFIGS / name) for name in (*FILES, *overlays)]
    given = {key: value for key, value in paths_of(trained, output_dir).items() if key in ("bundle_root", "dataset_dir", "seed")}
    if ckpt_dir == weights_of(trained):
        given.pop("dataset_dir")  # the subprocess had none given
    return ensure_pretrained(files, str(ckpt_dir), str(output_dir), given | {"device": "cpu"} | overrides, resume)


def test_finished_weights_are_taken_as_they_are(trained_dae: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        assert ensure(trained_dae, weights_of(trained_dae), tmp_path) == weights_of(trained_dae)
    assert "no pre-training" in caplog.text
    assert not list(tmp_path.iterdir()), "nothing ran"


def test_weights_of_another_pre_training_do_not_pass_for_those_asked_for(trained_dae: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"disruptions\.mask_ratio is 0\.6, asked for is 0\.4.*--pretrained") as caught:
        ensure(trained_dae, weights_of(trained_dae), tmp_path, mask_ratio=0.4)
    assert "iterations" not in str(caught.value), "only what differs is told"
    with pytest.raises(UserError, match=r"token_ratio is 0\.0, asked for is 0\.6"):
        ensure(trained_dae, weights_of(trained_dae), tmp_path, "pretrain_mae.json")


def test_where_there_are_none_they_are_trained_and_an_interrupted_training_goes_on(
    trained_dae: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quick = {"iterations": 1, "epoch_length": 1, "warmup": 0}
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        ensure(trained_dae, tmp_path / "models", tmp_path / "eval", **quick)
        assert "There are no pre-trained weights" in caplog.text
        (tmp_path / "models" / "transfer.json").unlink()  # as after a kill
        before = read_model(tmp_path / "models")
        ensure(trained_dae, tmp_path / "models", tmp_path / "eval", resume=True, **quick)
    assert "was interrupted; resume is true: going on with it" in caplog.text
    assert not differing(before, read_model(tmp_path / "models")) and (tmp_path / "models" / "transfer.json").is_file()


def test_the_wrapper_saves_the_bare_network_and_leaves_its_weights_to_others() -> None:
    network = DisruptiveSwinUNETR(1, 1, 12, depths=[1, 1, 1, 1], window_size=3)
    wrapped = PretrainingNetwork(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wrapped.reset_parameters()
    assert not differing(before, dict(wrapped.state_dict()))


# --- slow -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_users_command_pre_trains_from_the_root_and_goes_on_when_nothing_is_left_to_do(
    trained_dae: Any, monai_bundle: Any, tmp_path: Path
) -> None:
    config = ["--config_file", str([f"bundles/{BUNDLE}/configs/{name}" for name in FILES]), "--device", "cpu"]
    places = [text for key, value in paths_of(trained_dae, tmp_path).items() for text in (f"--{key}", str(value))]
    done = monai_bundle(*config, *places)
    assert done.returncode == 0, done.stdout[-3000:]
    assert str(tmp_path / "models" / "transfer.json") in done.stdout and str(tmp_path / "eval" / "reconstruction.png") in done.stdout
    assert not differing(read_model(tmp_path / "models"), read_model(weights_of(trained_dae)))
    again = monai_bundle(*config, *places, "--resume", "true")
    assert again.returncode == 0 and "Resuming member 0, pretrain, after epoch 2" in again.stdout


@pytest.mark.slow
def test_two_processes_pre_train_one_network_and_contrast_the_crops_of_both(trained_dae: Any, tmp_path: Path) -> None:
    files = str([f"bundles/{BUNDLE}/configs/{name}" for name in (*FILES, "pretrain_multi_gpu.json")])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29521", "-m", "monai.bundle", "run"]
    tell = "$print('sum', float(@network_def.swinViT.patch_embed.proj.bias.double().sum()), @loss.cross_modal.without_positive)"
    (tmp_path / "tell.json").write_text(json.dumps({"finalize": [tell, "$torch.distributed.destroy_process_group()"]}))
    files = files.replace("]", f", '{tmp_path / 'tell.json'}']")
    places = [text for key, value in paths_of(trained_dae, tmp_path).items() for text in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--config_file", files, *places],
        cwd=CONFIGS.parents[2], env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert [row["epoch"] for row in read_log(tmp_path / "eval" / "training.csv")] == [1, 2], "only one process writes"
    assert (tmp_path / "models" / "transfer.json").is_file()
    last: Any = read_model(tmp_path / "models", "checkpoint_last.pt")
    sums = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("sum ")]
    best = float(read_model(tmp_path / "models")["swinViT.patch_embed.proj.bias"].double().sum())
    final = float(last["network"]["swinViT.patch_embed.proj.bias"].double().sum())
    assert len(sums) == 2 and {float(value) for value in sums} <= {best, final}, (
        "the first process has the best weights, the other the last"
    )
