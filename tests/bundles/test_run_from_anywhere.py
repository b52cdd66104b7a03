"""The same command from the bundle's folder, from an unrelated folder, and beside a foreign package called ``common``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "ladp"
POSITION = ROOT / "bundles" / "position_regression"


def folders(trained: Any, tmp_path: Path) -> list[str]:
    paths = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval", "dataset_dir": trained.dataset_dir, "device": "cpu"}
    return [text for key, value in paths.items() for text in (f"--{key}", str(value))]


def results_in(bundle: Path) -> set[Path]:
    return {path for folder in ("models", "eval", "data") for path in (bundle / folder).rglob("*")}


def test_training_runs_from_the_bundles_own_folder(trained_ladp: Any, monai_bundle: Callable[..., Any], tmp_path: Path) -> None:
    before = results_in(BUNDLE)
    configs = "['configs/train.json','configs/smoke.json']"
    done = monai_bundle("--config_file", configs, *folders(trained_ladp, tmp_path), cwd=BUNDLE, pythonpath=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "models" / "model.pt").is_file() and str(tmp_path / "models" / "model.pt") in done.stdout
    assert results_in(BUNDLE) == before, "nothing was written beside the folders that were asked for"


@pytest.mark.parametrize("own_folder", [True, False])
def test_position_regression_trains_from_its_own_folder_and_from_an_unrelated_one(
    own_folder: bool, trained_position: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = results_in(POSITION)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a run puts the bundle's folder there
    monkeypatch.chdir(POSITION if own_folder else tmp_path)
    configs = Path("configs") if own_folder else POSITION / "configs"
    cache = trained_position.root / "data" / "prepared"
    places = {
        "dataset_dir": trained_position.dataset_dir,
        "cache_dir": cache,
        "ckpt_dir": tmp_path / "models",
        "output_dir": tmp_path / "eval",
    }
    files = [str(configs / name) for name in ("train.json", "smoke.json")]
    workflow = ConfigWorkflow(files, logging_file=False, device="cpu", **{key: str(path) for key, path in places.items()})
    workflow.initialize()
    workflow.run()
    assert (tmp_path / "models" / "model.pt").is_file() and (tmp_path / "eval" / "training.csv").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval", "models"]
    assert results_in(POSITION) == before, "nothing was written beside the folders that were asked for"


@pytest.mark.slow
def test_position_regression_infers_from_its_own_folder_by_the_users_command(
    trained_position: Any, monai_bundle: Callable[..., Any], tmp_path: Path
) -> None:
    before = results_in(POSITION)
    places = [*folders(trained_position, tmp_path), "--ckpt_dir", str(trained_position.ckpt_dir)]
    done = monai_bundle("--config_file", "configs/inference.json", *places, cwd=POSITION, pythonpath=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert list((tmp_path / "eval").glob("*_error.nii.gz")) and str(tmp_path / "eval" / "scores.csv") in done.stdout
    assert results_in(POSITION) == before


@pytest.mark.slow  # tests/test_contributing.py trains from an unrelated folder already
def test_inference_runs_from_an_unrelated_folder_by_an_absolute_path(
    trained_ladp: Any, monai_bundle: Callable[..., Any], tmp_path: Path
) -> None:
    config = ["--config_file", str(BUNDLE / "configs" / "inference.json")]
    places = [*folders(trained_ladp, tmp_path), "--ckpt_dir", str(trained_ladp.ckpt_dir)]
    done = monai_bundle(*config, *places, cwd=tmp_path, pythonpath=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert list((tmp_path / "eval").glob("*lesion.mha")) and str(tmp_path / "eval" / "lesions.csv") in done.stdout


def test_a_users_mistake_ends_in_one_message_and_not_in_a_traceback(monai_bundle: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    places = ["--dataset_dir", "scans", "--ckpt_dir", "models", "--output_dir", "results", "--device", "cpu"]
    done = monai_bundle("--config_file", str(BUNDLE / "configs" / "train.json"), *places, cwd=tmp_path, pythonpath=ROOT)
    assert done.returncode == 1
    message = done.stdout[done.stdout.index("error: ") :]
    assert "scans" in message and "is empty" in message, "what was found"
    assert "1ADC_ss/" in message and "3LABEL/" in message, "what was expected"
    assert "Traceback" not in done.stdout


def test_a_foreign_package_called_common_gives_one_clear_line(monai_bundle: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    done = monai_bundle("--config_file", str(BUNDLE / "configs" / "train.json"), cwd=tmp_path, pythonpath=ROOT)
    assert done.returncode != 0
    assert "Not the package common of Brain Bundles" in done.stdout and str(tmp_path / "common") in done.stdout
    assert "Traceback" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["common"], "nothing was written"
