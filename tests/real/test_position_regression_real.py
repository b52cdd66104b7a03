"""Position regression on one real head CT, DICOM and NIfTI: everything runs, on its own grid. Smoke weights are no evidence of accuracy."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from common.data.head_ct import read_head_ct

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", ROOT.parent / "shared" / "data")) / "head_ct"
NIFTI = "ge_head_ct_tiltcorrected_1x1x2mm.nii.gz"
pytestmark = pytest.mark.skipif(not (REAL / "dicom").is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA")

SMALL = {"size": 32, "registration_spacing_mm": 8.0, "patch_size": 15, "width": 1, "calibration_side": 8}


@pytest.fixture(scope="module")
def predicted(trained_position: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output, path = tmp_path_factory.mktemp("real"), list(sys.path)
    places = trained_position.paths | {"dataset_dir": str(REAL.resolve()), "output_dir": str(output)}
    config = str(ROOT / "bundles" / "position_regression" / "configs" / "inference.json")
    workflow = ConfigWorkflow(config, workflow_type="infer", logging_file=False, device="cpu", **places, **SMALL)
    workflow.initialize()
    workflow.run()
    sys.path[:] = path
    return output


@pytest.mark.parametrize("source", ["dicom", NIFTI])
def test_maps_of_a_real_head_are_finite_and_lie_on_its_grid(source: str, predicted: Path) -> None:
    scan = read_head_ct(REAL / source)
    for kind in ("error", "z"):
        image = nibabel.load(predicted / f"{source.removesuffix('.nii.gz')}_{kind}.nii.gz")
        values = np.asarray(image.dataobj)
        assert values.shape == scan.hu.shape and np.isfinite(values).all()
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-3)
        tissue = (scan.hu > 0) & (scan.hu < 100)
        assert (values[tissue] != 0).mean() > 0.9, "the brain has values"
        assert (values != 0).mean() < 0.6, "the air around the head has none"


def test_the_scores_say_that_both_forms_were_registered(predicted: Path) -> None:
    with (predicted / "scores.csv").open(encoding="utf-8") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"dicom", NIFTI.removesuffix(".nii.gz")}
    for row in rows.values():
        assert row["registered"] == "True"
        assert all(0 < float(row[f"{structure}_max_mm"]) < 450 for structure in ("left", "right", "skull"))
