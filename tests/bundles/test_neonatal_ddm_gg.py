"""The diffusion baseline of the neonatal INR (ddm_gg.json): trained in two stages, resumed, evaluated in the same chain, at smoke size."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from tests.bundles.in_process import configs_of, differing, messages, read_csv, read_model, run, workflow_of

OVERLAY = configs_of("neonatal_inr") / "ddm_gg.json"
FILES = ("train.json", "smoke.json", "ddm_gg.json")
SMALL: dict[str, Any] = {
    "max_epochs": 2,
    "draws_per_scan": 1,
    "val_interval": 1,
    "batch_size": 4,
    "regressor_epochs": 2,
    "channels": [4, 8],
    "groups": 2,
    "denoiser_blocks": 1,
    "denoiser_attention": [False, True],
    "denoiser_head": 8,
    "regressor_blocks": 1,
    "regressor_attention": [False, True],
    "regressor_head": 4,
    "guidance_scale": 10.0,
    "stride": 100,
    "val_levels": 4,
}
make_workflow = partial(workflow_of, "neonatal_inr")


def paths_of(trained: Any, folder: Path) -> dict[str, str]:
    """The cohort and the prepared scans of the INR at smoke size; weights and results in a folder."""
    return trained.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}


def train(trained: Any, folder: Path, **overrides: Any) -> dict[str, torch.Tensor]:
    run(make_workflow(*FILES, **paths_of(trained, folder) | SMALL | overrides))
    return read_model(folder / "models")


@pytest.fixture(scope="module")
def trained_ddm(trained_inr: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both networks, trained at smoke size."""
    folder = tmp_path_factory.mktemp("ddm_gg")
    train(trained_inr, folder)
    return folder


def test_at_the_papers_size_the_denoiser_has_all_its_parameters_but_those_of_a_learned_variance_and_the_regressor_nearly_as_many() -> None:
    config = ConfigParser.load_config_files([str(OVERLAY.with_name("train.json")), str(OVERLAY)])
    with torch.device("meta"):
        network = ConfigParser(config).get_parsed_content("network_def")
    counts = [sum(value.numel() for value in part.parameters()) for part in (network.denoiser, network.regressor)]
    assert counts == [113_668_609, 86_777_601]
    assert 113_669_762 - counts[0] == 9 * 128 + 1, "one more channel of the last convolution, which DDIM does not use"
    assert abs(counts[1] / 86_786_817 - 1) < 2e-4


def test_two_stages_train_and_are_logged_and_the_weights_hold_both_networks(trained_ddm: Path) -> None:
    rows = read_csv(trained_ddm / "eval" / "training.csv")
    assert [(row["stage"], row["epoch"]) for row in rows] == [("regressor", "1"), ("regressor", "2"), ("train", "1"), ("train", "2")]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert [np.isfinite(float(row["metric"])) for row in rows] == [False, False, True, True], "the second stage is validated"
    record = json.loads((trained_ddm / "models" / "weights.json").read_text(encoding="utf-8"))
    assert record["best"]["0"] == pytest.approx(min(float(row["metric"]) for row in rows[2:]), abs=1e-4), "the least error is kept"
    state = read_model(trained_ddm / "models")
    assert {key.split(".")[0] for key in state} == {"denoiser", "regressor"}
    for name in ("denoiser.unet.out.2.conv.weight", "regressor.encoder.down_blocks.0.resnets.0.conv2.conv.weight"):
        assert bool(state[name].any()), "zero at first, so it was trained"
    assert record["settings"]["diffusion_steps"] == 1000 and record["settings"]["channels"] == [4, 8]
    assert "latent_size" not in record["settings"]


def test_evaluation_gives_it_a_row_beside_the_baselines_on_the_pairs_of_the_inr(
    trained_ddm: Path, trained_inr: Any, tmp_path: Path
) -> None:
    paths = paths_of(trained_inr, trained_ddm) | {"output_dir": str(tmp_path)}
    run(make_workflow(*FILES, "evaluate.json", **paths | SMALL))
    rows = read_csv(tmp_path / "metrics.csv")
    assert {row["method"] for row in rows} == {"ddm_gg", "copy", "neighbours"}
    tested = json.loads((trained_inr.output_dir / "split.json").read_text(encoding="utf-8"))["test"]
    own = [row for row in rows if row["method"] == "ddm_gg"]
    assert sorted(row["input"] for row in own) == sorted(tested)
    assert all(np.isfinite(float(row["psnr_db"])) and np.isfinite(float(row["reconstruction_psnr_db"])) for row in own)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["method"] == summary["facts"]["fit"] == "ddm_gg"
    assert summary["facts"]["ssl"] is False and summary["facts"]["sgla_prob"] == 0


def test_networks_of_other_settings_are_refused(trained_ddm: Path, trained_inr: Any, tmp_path: Path) -> None:
    paths = paths_of(trained_inr, trained_ddm) | {"output_dir": str(tmp_path)}
    with pytest.raises(RuntimeError) as caught:
        run(make_workflow(*FILES, "evaluate.json", **paths | SMALL | {"beta_end": 0.03}))
    assert "trained with other settings than beta_end 0.03. Give: --beta_end 0.02" in messages(caught.value)


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


@pytest.mark.parametrize("stage", ["regressor_trainer", "train::trainer"])
def test_a_killed_training_goes_on_to_the_same_weights_in_either_stage(
    stage: str, trained_ddm: Path, trained_inr: Any, tmp_path: Path
) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    workflow = make_workflow(*FILES, **paths_of(trained_inr, tmp_path) | SMALL)
    workflow.initialize()
    workflow.parser.get_parsed_content(stage).add_event_handler(Events.EPOCH_STARTED(once=2), kill)
    with pytest.raises(Exception):  # noqa: B017 - MONAI wraps it
        workflow.run()
    torch.rand(3)  # a generator in another state must not matter
    resumed = train(trained_inr, tmp_path, resume=True)
    assert differing(read_model(trained_ddm / "models"), resumed) == []


def test_another_seed_gives_other_weights_and_an_average_of_them_can_be_kept(trained_ddm: Path, trained_inr: Any, tmp_path: Path) -> None:
    short = {"seed": 7, "max_epochs": 1, "regressor_epochs": 1, "ema_decay": 0.9}
    state = train(trained_inr, tmp_path, **short)
    assert differing(read_model(trained_ddm / "models"), state)
    raw = torch.load(tmp_path / "models" / "checkpoint_last.pt", weights_only=True)["network"]
    assert any(not torch.equal(state[f"denoiser.{key}"], value) for key, value in raw.items())
