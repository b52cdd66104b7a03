"""What the tests of all bundles do: run a config in this process, read what it wrote."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests" / "schemas" / "bundle_metadata.json"
# for tests of a config's own values: a checkout may hold weights of any size
NO_WEIGHTS = str(ROOT / "tests" / "none")


def configs_of(bundle: str) -> Path:
    """The folder of a bundle's configs."""
    return ROOT / "bundles" / bundle / "configs"


def workflow_of(bundle: str, *names: str, kind: str = "train", **overrides: Any) -> ConfigWorkflow:
    """A workflow of a bundle's config files, later ones over earlier ones, on the CPU."""
    files = [str(configs_of(bundle) / name) for name in names]
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, device="cpu", **overrides)


def run(workflow: ConfigWorkflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def network_of_inference(bundle: str, **overrides: Any) -> nn.Module:
    """``network_def`` of inference.json as other tools build it: parsed, without running anything; by default without weights."""
    config = ConfigParser.load_config_files([str(configs_of(bundle) / "inference.json")]) | {"ckpt_dir": NO_WEIGHTS} | overrides
    return ConfigParser(config).get_parsed_content("network_def")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read_model(ckpt_dir: Path, name: str = "model.pt") -> dict[str, torch.Tensor]:
    return torch.load(ckpt_dir / name, map_location="cpu", weights_only=True)


def train_bundle(bundle: str, trained: Any, folder: Path, *overlays: str, **overrides: Any) -> dict[str, torch.Tensor]:
    """Train at smoke size in this process on the cohort and the prepared files of the subprocess; the weights."""
    paths = trained.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    run(workflow_of(bundle, "train.json", "smoke.json", *overlays, **paths | overrides))
    return read_model(folder / "models")


def evaluate_bundle(bundle: str, trained: Any, output: Path, *overlays: str, **overrides: Any) -> Path:
    """Evaluate the weights of the subprocess, or those that the overrides name; the folder of results."""
    paths = trained.paths | {"output_dir": str(output)}
    run(workflow_of(bundle, "train.json", "smoke.json", "evaluate.json", *overlays, **paths | overrides))
    return output


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit; a NaN is equal to the same NaN."""
    assert a.keys() == b.keys()
    return [key for key in a if a[key].shape != b[key].shape or a[key].numpy().tobytes() != b[key].numpy().tobytes()]


def messages(error: BaseException | None) -> str:
    """The text of the user's mistake in a chain of wrappers."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return str(error)
