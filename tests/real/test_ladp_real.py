"""LADP on one real stroke patient in BONBID-HIE's layout: everything runs, on its own grid. One adult is no evidence of accuracy."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", "../shared/data")) / "bonbid_layout"
pytestmark = pytest.mark.skipif(not (REAL / "1ADC_ss").is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA")

TRAIN, SMOKE = "bundles/ladp/configs/train.json", "bundles/ladp/configs/smoke.json"


def test_one_epoch_evaluation_and_inference_on_a_real_patient(monai_bundle: Callable[..., Any], tmp_path: Path) -> None:
    import itk

    places = {"bundle_root": tmp_path, "dataset_dir": REAL.resolve(), "device": "cpu", "folds": 1, "image_size": 64}
    common = [text for key, value in places.items() for text in (f"--{key}", str(value))]
    done = monai_bundle("--config_file", f"['{TRAIN}','{SMOKE}']", *common)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "SIMULATED" not in done.stdout and "validated too" in done.stdout

    done = monai_bundle("--config_file", f"['{TRAIN}','{SMOKE}','bundles/ladp/configs/evaluate.json']", *common, "--evaluate_on", "all")
    assert done.returncode == 0, done.stdout[-3000:]
    (row,) = csv.DictReader((tmp_path / "eval" / "metrics.csv").open())
    assert 4 < float(row["truth_ml"]) < 4.5, "523 voxels of 8 mm3"
    report = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "SIMULATED" not in report and row["id"] in report

    inference = [text for text in common if text not in ("--folds", "1")] + ["--width", "0.0625"]
    done = monai_bundle("--config_file", "bundles/ladp/configs/inference.json", *inference)
    assert done.returncode == 0, done.stdout[-3000:]
    (mask,) = (tmp_path / "eval" / "predictions").glob("*_lesion.mha")
    result, source = itk.imread(str(mask)), itk.imread(str(next((REAL / "1ADC_ss").glob("*.mha"))))
    assert itk.array_view_from_image(result).dtype == np.uint8
    assert itk.array_view_from_image(result).shape == itk.array_view_from_image(source).shape
    assert list(result.GetSpacing()) == list(source.GetSpacing()) and list(result.GetOrigin()) == list(source.GetOrigin())
    assert np.array_equal(itk.array_from_matrix(result.GetDirection()), itk.array_from_matrix(source.GetDirection()))
