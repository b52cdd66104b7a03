"""Follows CONTRIBUTING.md from outside the repository: own network, loss, transform and data, by the files printed there."""

from __future__ import annotations

import ast
import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def printed_files() -> dict[str, str]:
    """Every file of the guide: a line that begins with its name, then a block with its text."""
    blocks = re.findall(r"^`([\w./]+)`[^\n]*\n\n```(?:python|json|csv)\n(.*?)```", GUIDE, flags=re.M | re.S)
    return dict(blocks)


def printed_command() -> list[str]:
    """Arguments of the guide's command behind ``python -m monai.bundle run``."""
    (text,) = re.findall(r"^```sh\n(.*?)```", GUIDE, flags=re.M | re.S)
    words = shlex.split(text.replace("$BRAIN_BUNDLES", str(ROOT)))
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    return words[4:]


def write_volumes(table: Path) -> None:
    """A volume for each file that the table names, of unequal axes."""
    shape, draw = (40, 36, 5), np.random.default_rng(0)
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    brain, lesion = (axes**2).sum(0) < 0.9, ((axes - 0.2) ** 2).sum(0) < 0.15
    kinds = {"adc": (1300 - 500 * lesion + 50 * draw.normal(size=shape)) * brain, "zadc": (draw.normal(size=shape) - 3 * lesion) * brain}
    for row in csv.DictReader(table.open(encoding="utf-8")):
        for kind, voxels in {**kinds, "label": lesion & brain}.items():
            dtype = np.uint8 if kind == "label" else np.float32
            nibabel.save(nibabel.Nifti1Image(voxels.astype(dtype), np.diag([1.5, 1.5, 4.0, 1.0])), table.parent / row[kind])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("outside")
    files = printed_files()
    assert set(files) == {"mymethod/__init__.py", "mymethod/parts.py", "overlay.json", "data/cases.csv"}
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    write_volumes(place / "data" / "cases.csv")
    return place


def test_a_stranger_trains_an_own_method_by_the_guide(folder: Path, monai_bundle: Callable[..., Any]) -> None:
    done = monai_bundle(*printed_command(), cwd=folder, pythonpath=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert state["network.layers.0.weight"].shape == (8, 2, 3, 3), "the own network was trained"
    config = json.loads((folder / "results" / "train_config.json").read_text(encoding="utf-8"))
    transforms = [transform["_target_"] for transform in config["train"]["random_transforms"]]
    assert transforms == ["RandFlipd", "RandFlipd", "mymethod.parts.RandGaind"], "the own transform was added"
    assert config["loss"]["_target_"] == "mymethod.parts.OverlapLoss"
    split = json.loads((folder / "results" / "split.json").read_text(encoding="utf-8"))
    assert (split["validate"], split["train"]) == (["one"], ["three", "two"]), "the own folds were used"
    assert "SIMULATED" not in done.stdout
    with (folder / "results" / "training.csv").open(encoding="utf-8") as stream:
        assert [row["stage"] for row in csv.DictReader(stream)] == ["train"]


def test_the_same_overlays_with_evaluate_measure_the_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (folder / "models" / "model.pt").is_file():
        pytest.skip("the training above failed")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    options = printed_command()
    train, smoke, own = ast.literal_eval(options[options.index("--config_file") + 1])
    overrides = {options[i].removeprefix("--"): options[i + 1] for i in range(2, len(options), 2)}
    evaluate = str(Path(train).with_name("evaluate.json"))
    workflow = ConfigWorkflow([train, smoke, evaluate, own], workflow_type="train", logging_file=False, device="cpu", **overrides)
    workflow.initialize()
    workflow.run()
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    assert "My method" in page and "SIMULATED" not in page[: page.index("</title>")]
    with (folder / "results" / "metrics.csv").open(encoding="utf-8") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["one"]


def test_the_guide_names_only_files_that_exist() -> None:
    named = {name for name in re.findall(r"`((?:tests|common|bundles)/[\w./]+)`", GUIDE) if "<" not in name}
    assert named and all((ROOT / name).exists() for name in named)
