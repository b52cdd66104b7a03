"""Two processes on CPU (gloo), run by torchrun as the README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from common.handlers.epoch_log import read_log

ROOT = Path(__file__).resolve().parents[1]


def torchrun(bundle: str, trained: Any, folder: Path, port: int, **settings: Any) -> None:
    """Train a bundle at smoke size by two processes, two epochs; results in ``folder``."""
    names = ("train.json", "smoke.json", "multi_gpu_train.json")
    files = str([f"bundles/{bundle}/configs/{name}" for name in names])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", "-m", "monai.bundle", "run"]
    places = {"ckpt_dir": folder / "models", "output_dir": folder / "eval", "dataset_dir": trained.dataset_dir}
    options = [text for key, value in {**places, "max_epochs": 2, **settings}.items() for text in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--config_file", files, *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def run_two(bundle: str, folder: Path, port: int, *words: str, overlays: tuple[str, ...] = ()) -> str:
    """Train a bundle at smoke size by two processes; what they printed."""
    names = [f"bundles/{bundle}/configs/{name}.json" for name in ("train", "smoke", "multi_gpu_train")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", "-m", "monai.bundle", "run"]
    options = ["--ckpt_dir", str(folder / "models"), "--output_dir", str(folder / "eval"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--config_file", repr([*names, *overlays]), *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_one_model(trained_ladp: Any, tmp_path: Path) -> None:
    run_two("ladp", tmp_path, 29511, "--dataset_dir", str(trained_ladp.dataset_dir), "--max_epochs", "2")
    rows = read_log(tmp_path / "eval" / "training.csv")
    assert [(row["stage"], row["epoch"]) for row in rows] == [("pretrain", 1), ("train", 1), ("train", 2)], "only one process writes"
    assert all(key.startswith(("network.", "mean", "std")) for key in torch.load(tmp_path / "models" / "model.pt", weights_only=True))


@pytest.mark.slow
def test_two_processes_regress_positions_with_the_same_weights_and_one_calibrates(trained_position: Any, tmp_path: Path) -> None:
    tell = "$print('sum', float(@network_def.network.affine1.weight.double().sum()))"
    (tmp_path / "tell.json").write_text(json.dumps({"finalize": [tell, "$torch.distributed.destroy_process_group()"]}))
    places = ["--dataset_dir", str(trained_position.dataset_dir), "--cache_dir", str(tmp_path / "prepared")]
    # a head to validate on for each process
    printed = run_two(
        "position_regression", tmp_path, 29512, *places, "--validation_share", "0.67", overlays=(str(tmp_path / "tell.json"),)
    )
    sums = [line.split()[-1] for line in printed.splitlines() if line.startswith("sum ")]
    assert len(sums) == 2 and sums[0] == sums[1]
    assert [row["epoch"] for row in read_log(tmp_path / "eval" / "training.csv")] == [1], "only one process writes"
    model = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert (model["calibration_sd"] > 0).all() and float(model["network.affine1.weight"].double().sum()) == float(sums[0])


@pytest.mark.slow
def test_two_processes_learn_one_table_of_latents(trained_inr: Any, tmp_path: Path) -> None:
    places = ["--dataset_dir", str(trained_inr.dataset_dir), "--cache_dir", str(tmp_path / "prepared")]
    run_two("neonatal_inr", tmp_path, 29518, *places, "--validate_share", "0.34", "--val_cases", "2")  # a child for each process
    assert [row["epoch"] for row in read_log(tmp_path / "eval" / "training.csv")] == [1, 2], "only one process writes"
    latents = torch.load(tmp_path / "models" / "model.pt", weights_only=True)["latents.weight"]
    assert len(latents) > 3 and bool(latents[1:].any()) and bool(latents.isfinite().all())


@pytest.mark.slow
def test_two_processes_pretrain_and_then_fine_tune_one_network(trained_dae: Any, tmp_path: Path) -> None:
    tell = "$print('sum', float(@network_def.out.conv.conv.weight.double().sum()))"
    (tmp_path / "tell.json").write_text(json.dumps({"finalize": [tell, "$torch.distributed.destroy_process_group()"]}))
    places = ("--bundle_root", str(trained_dae.root), "--dataset_dir", str(trained_dae.dataset_dir), "--folds", "2")
    printed = run_two("disruptive_autoencoder", tmp_path, 29520, *places, "--max_epochs", "2", overlays=(str(tmp_path / "tell.json"),))
    sums = [line.split()[1] for line in printed.splitlines() if line.startswith("sum ")]
    assert len(sums) == 2 and sums[0] == sums[1], "both processes hold the same weights"
    assert {(row["stage"], row["epoch"]) for row in read_log(tmp_path / "eval" / "training.csv")} == {("train", 1), ("train", 2)}
    assert (tmp_path / "models" / "pretrain" / "transfer.json").is_file() and (tmp_path / "eval" / "transfer.json").is_file()


@pytest.mark.slow
def test_two_processes_restore_slices_with_the_same_weights_and_one_rate(trained_bae: Any, tmp_path: Path) -> None:
    tell = "$print('sum', float(@network_def.output.weight.double().sum()), @optimizer.param_groups[0]['lr'])"
    (tmp_path / "tell.json").write_text(json.dumps({"finalize": [tell, "$torch.distributed.destroy_process_group()"]}))
    places = ("--bundle_root", str(trained_bae.root), "--dataset_dir", str(trained_bae.dataset_dir))
    rule = ("--plateau_patience", "1", "--plateau_delta", "1.0", "--max_epochs", "3")  # no epoch improves by 1
    printed = run_two("brain_autoencoder", tmp_path, 29523, *places, *rule, overlays=(str(tmp_path / "tell.json"),))
    told = [line.split()[1:] for line in printed.splitlines() if line.startswith("sum ")]
    assert len(told) == 2 and told[0] == told[1], "both processes hold the same weights and the same rate"
    assert float(told[0][1]) == pytest.approx(2e-4), "the validation loss of both lowers it"
    assert [row["epoch"] for row in read_log(tmp_path / "eval" / "training.csv")] == [1, 2, 3], "only one process writes"
