"""Two processes on CPU (gloo), run by torchrun as the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from common.handlers.epoch_log import read_log

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_two_processes_train_one_model(trained_ladp: Any, tmp_path: Path) -> None:
    files = "['bundles/ladp/configs/train.json','bundles/ladp/configs/smoke.json','bundles/ladp/configs/multi_gpu_train.json']"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29511", "-m", "monai.bundle", "run"]
    places = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval", "dataset_dir": trained_ladp.dataset_dir}
    options = [text for key, value in places.items() for text in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--config_file", files, *options, "--max_epochs", "2"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = read_log(tmp_path / "eval" / "training.csv")
    assert [(row["stage"], row["epoch"]) for row in rows] == [("pretrain", 1), ("train", 1), ("train", 2)], "only one process writes"
    assert all(key.startswith(("network.", "mean", "std")) for key in torch.load(tmp_path / "models" / "model.pt", weights_only=True))
