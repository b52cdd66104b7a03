"""MONAI Label 0.8.5 itself serves the bundles for segmentation: /info, upload, /infer, labels, /train, /infer again.

Slow: it makes a virtual environment of about 4 GB (kept where ``BRAIN_BUNDLES_LABEL_VENV`` names a folder) and starts one server each.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.integrations.label_parts import COHORTS, ROOT, app_bundle, label_values, one_file_cases
from tests.integrations.label_server import CACHED, label_environment, monaibundle_app, running_server
from tests.integrations.test_label_contract import FIXTURES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_environment(Path(os.environ[CACHED]) if CACHED in os.environ else tmp_path_factory.mktemp("label") / "venv")


def check_answer(answer: bytes, source: str, name: str, file: Path) -> np.ndarray:
    """A label on the grid of the source, with the numbers of ``channel_def``."""
    file.write_bytes(answer)
    label, image = nib.load(file), nib.load(source)
    values = np.asarray(label.dataobj)
    assert values.shape == image.shape[:3]
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
    assert set(np.unique(values).tolist()) <= label_values(name)
    return values


@pytest.mark.parametrize("name", list(COHORTS))
def test_the_server_lists_infers_and_trains(name: str, environment: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trained = request.getfixturevalue(FIXTURES[name])
    app, studies = monaibundle_app(environment, tmp_path), tmp_path / "studies"
    bundle = app_bundle(name, trained, app / "model")
    shutil.copytree(ROOT / "common", bundle / "common", ignore=shutil.ignore_patterns("__pycache__"))  # as an archive has it
    items = one_file_cases(name, trained, tmp_path / "cases")[:3]
    studies.mkdir()
    with running_server(environment, app, studies, name, tmp_path) as server:
        info = json.loads(server.ask("GET", "/info/"))
        model = info["models"][name]
        assert set(model["labels"].values()) == label_values(name) - {0} and model["version"] == info["trainers"][name]["version"]
        for number, item in enumerate(items):
            server.ask("PUT", f"/datastore/?image=scan{number}", file=("file", Path(item["image"])))
        where, params = f"/infer/{name}?image=scan0&output=image", {"params": json.dumps({"device": "cpu"})}
        before = check_answer(server.ask("POST", where, params), items[0]["image"], name, tmp_path / "before.nii.gz")
        for number, item in enumerate(items):
            server.ask("PUT", f"/datastore/label?image=scan{number}&tag=final", {"params": "{}"}, ("label", Path(item["label"])))
        weights = (bundle / "models" / "model.pt").read_bytes()
        report = server.train(name, device="cpu", max_epochs=1, val_split=0.34, multi_gpu=False, tracking="None")
        assert report["status"] == "DONE", "\n".join(report.get("details", []))[-3000:]
        assert (bundle / "models" / "model.pt").read_bytes() != weights
        record: dict[str, Any] = json.loads((bundle / "models" / "weights.json").read_text())
        assert record["simulated"] is False, "the server's cases are no cohort of the simulator"
        assert len(record["trained_on"]) in (2, 3)
        assert not (bundle / "data" / "simulated").exists()
        after = check_answer(server.ask("POST", where, params), items[0]["image"], name, tmp_path / "after.nii.gz")
        server.log.append(f"voxels that changed with the training: {int((before != after).sum())} of {after.size}")
    print("\n".join([name, *server.log]))
