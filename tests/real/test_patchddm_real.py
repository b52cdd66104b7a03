"""PatchDDM on one real glioma in BraTS2020's layout: everything runs, on its own grid. Smoke weights are no evidence of accuracy."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from common.data.brats import SEQUENCES

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "patchddm" / "configs"
REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", ROOT.parent / "shared" / "data")) / "brats2020_layout"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA"),
]

# a narrow network with two levels on the whole grid of 240 x 240 x 155: no accuracy, real sizes
SMALL = {"base_channels": 2, "multipliers": [1, 1], "blocks_per_level": 1, "tight": True, "steps": 2, "samples": 2}
TRAINING = {"max_epochs": 1, "patches_per_case": 2, "patch_size": 32, "num_workers": 0, "val_interval": 1, "val_cases": 1, "val_steps": 1}


def run(names: list[str], kind: str = "train", **overrides: Any) -> None:
    path = list(sys.path)
    files = [str(CONFIGS / name) for name in names]
    workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, device="cpu", **overrides)
    workflow.initialize()
    workflow.run()
    sys.path[:] = path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The one case three times under other names, since there must be a case for training, validation and test."""
    root = tmp_path_factory.mktemp("real")
    (source,) = [path for path in REAL.rglob("BraTS20_Training_001") if path.is_dir()]
    for number in (1, 2, 3):
        name = f"BraTS20_Training_{number:03d}"
        (root / "data" / name).mkdir(parents=True)
        for file in source.glob("*.nii*"):
            shutil.copy(file, root / "data" / name / file.name.replace(source.name, name))
    found = {"bundle_root": root, "dataset_dir": root / "data", "ckpt_dir": root / "models", "output_dir": root / "eval"}
    paths = {key: str(path) for key, path in found.items()}
    run(["train.json"], **paths, **SMALL, **TRAINING)
    return paths


def test_a_real_case_is_trained_on_and_evaluated_on_its_own_grid(places: dict[str, str]) -> None:
    run(["train.json", "evaluate.json"], **places, **SMALL, **TRAINING)
    with (Path(places["output_dir"]) / "metrics.csv").open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    label = nibabel.load(next((Path(places["dataset_dir"]) / row["id"]).glob("*seg.nii*")))
    assert float(row["truth_ml"]) == pytest.approx(np.count_nonzero(np.asarray(label.dataobj)) / 1000, rel=1e-4)
    assert 0 <= float(row["dice"]) <= 1 and np.isfinite(float(row["hd95_mm"]))


def test_the_mask_of_a_real_case_lies_on_its_source_grid(places: dict[str, str], tmp_path: Path) -> None:
    case = Path(places["dataset_dir"]) / "BraTS20_Training_001"
    paths = places | {"dataset_dir": str(case), "output_dir": str(tmp_path)}
    run(["inference.json"], kind="infer", **paths, **SMALL)
    source = nibabel.load(next(case.glob(f"*_{SEQUENCES[0]}.nii*")))
    for kind, dtype in (("tumour", np.uint8), ("mean", np.float32), ("variance", np.float32)):
        image = nibabel.load(next(tmp_path.glob(f"*_{kind}.nii*")))
        assert image.shape == source.shape == (240, 240, 155) and image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
