"""The disruptive autoencoder on real CT and MR: pre-training, transfer to another task, segmentation. Smoke weights prove no accuracy."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from common.reconstruction_figure import draw_runs

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "disruptive_autoencoder" / "configs"
REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", ROOT.parent / "shared" / "data"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REAL / "organs").is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA"),
]

ORGANS = {1: 1, 5: 2, 2: 3, 3: 3}
"""TotalSegmentator's spleen, liver and kidneys -> our three classes; all its other numbers are background."""


def run(names: list[str], kind: str = "train", **overrides: Any) -> None:
    path = list(sys.path)
    workflow = ConfigWorkflow([str(CONFIGS / name) for name in names], workflow_type=kind, logging_file=False, device="cpu", **overrides)
    workflow.initialize()
    workflow.run()
    sys.path[:] = path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained on CT of two body parts and on two MR, one list each, at 4 mm."""
    root = tmp_path_factory.mktemp("pretraining")
    scans = {"ct": ["thorax_ct", "abdomen_ct"], "t1": ["abdomen_mr_small"]}
    (root / "lists").mkdir()
    for modality, names in scans.items():
        files = [REAL / "organs" / f"{name}.nii.gz" for name in names]
        files += [REAL / "t1" / "sub-datalad_T1w.nii.gz"] if modality == "t1" else []
        entries = [{"image": str(file), "modality": modality, "subject": file.name} for file in files]
        (root / "lists" / f"{modality}.json").write_text(json.dumps({"training": entries}))
    places = {"bundle_root": root, "dataset_dir": root / "lists", "ckpt_dir": root / "models", "output_dir": root / "eval"}
    run(["pretrain.json", "pretrain_smoke.json"], spacing_mm=[4.0, 4.0, 4.0], **{key: str(place) for key, place in places.items()})
    return root


def test_real_ct_and_mr_are_pretrained_on_and_what_is_restored_can_be_drawn(pretrained: Path, tmp_path: Path) -> None:
    told = json.loads((pretrained / "models" / "transfer.json").read_text(encoding="utf-8"))
    assert told["spacing_mm"] == [4.0, 4.0, 4.0] and told["normalisation"]["ct"]["low"] == -1000
    assert (pretrained / "eval" / "reconstruction.png").is_file()
    errors = draw_runs({"DAE": str(pretrained / "models")}, str(REAL / "organs" / "abdomen_ct.nii.gz"), "ct", str(tmp_path / "fig.png"))
    assert 0 < errors["DAE"] < 2 and (tmp_path / "fig.png").read_bytes().startswith(b"\x89PNG")


def test_three_organs_are_learned_from_it_with_two_inputs_and_the_report_says_what_was_carried(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = nibabel.load(REAL / "organs" / "abdomen_ct_small.nii.gz")
    numbers = np.asarray(nibabel.load(REAL / "organs" / "abdomen_ct_small_labels.nii.gz").dataobj)
    label = sum((np.isin(numbers, [n for n, ours in ORGANS.items() if ours == k]) * k for k in (1, 2, 3)), np.zeros(numbers.shape))
    nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), source.affine), tmp_path / "label.nii.gz")
    rows = [f"case{k},{source.get_filename()},{source.get_filename()},label.nii.gz" for k in range(5)]
    (tmp_path / "cases.csv").write_text("\n".join(["subject,ct,delayed,label", *rows]) + "\n")
    names = ["spleen", "liver", "kidneys"]
    own = {"dataset_dir": tmp_path / "cases.csv", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval", "bundle_root": tmp_path}
    settings: dict[str, Any] = {
        **{key: str(place) for key, place in own.items()},
        **{"inputs": ["ct", "delayed"], "modality": "ct", "class_names": names, "patch_size": [64, 32, 32]},
        "normalisation": {"ct": {"kind": "range", "low": -175.0, "high": 250.0}},
    }
    run(["train.json", "smoke.json"], pretrained=str(pretrained / "models"), **settings)
    told = json.loads((tmp_path / "eval" / "transfer.json").read_text(encoding="utf-8"))
    assert told["parameters_transferred"] > 0.9 * told["parameters"]
    assert told["adapted"] >= 1 and "adapted: " in capsys.readouterr().out, "one input became two"
    run(["train.json", "smoke.json", "evaluate.json"], **settings)
    with (tmp_path / "eval" / "classes.csv").open(encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    assert {row["class"] for row in found} == set(names)
    liver = next(row for row in found if row["class"] == "liver")
    assert float(liver["truth_ml"]) == pytest.approx(np.count_nonzero(label == 2) * 0.027, rel=0.01)
