"""Real T2w brains at 22 to 32 weeks (an atlas, each week a scan of one subject): a week that was left out, against its neighbours' mean.

One subject says nothing about children; it says that the code learns growth from real images. ``-s`` prints the numbers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.inferers.brain_at_age import predict_at
from common.metrics.image_similarity import image_similarity

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "neonatal_inr" / "configs"
REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", ROOT.parent / "shared" / "data")) / "growth"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA"),
]
WEEKS = (22, 24, 26, 28, 30, 32)
LEFT_OUT = 28
SIZES: dict[int, dict[str, Any]] = {
    2: {"spacing_mm": 1.6, "grid": [68, 96, 78]},
    3: {"spacing_mm": 3.2, "grid": [34, 48, 40], "ratio": 0.03},
}
# the left-out week is in the table as another subject's: it is looked at once, after the last epoch, and chooses nothing
TRAINING = {"align": "none", "test_share": 0.0, "validate_share": 0.5, "max_epochs": 30, "val_interval": 30, "draws_per_scan": 60}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth")
    lines = ["subject,session,t2w,brain,age"]
    for week in WEEKS:
        subject = "left_out" if week == LEFT_OUT else "atlas"
        lines.append(f"{subject},{week},{REAL / f'atlas_GA{week}_T2w.nii.gz'},{REAL / f'atlas_GA{week}_mask.nii.gz'},{week}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("dims", [2, 3])
def test_a_left_out_week_of_a_real_atlas_is_predicted(dims: int, table: Path, tmp_path: Path) -> None:
    path = list(sys.path)
    files = [str(CONFIGS / name) for name in ("train.json", "quick.json")]
    places = {"bundle_root": str(tmp_path), "dataset_dir": str(table)}
    workflow = ConfigWorkflow(files, logging_file=False, device="cpu", dims=dims, **places, **TRAINING, **SIZES[dims])
    workflow.initialize()
    workflow.run()
    sys.path[:] = path
    network, prepare = (workflow.parser.get_parsed_content(key) for key in ("network_def", "prepare"))
    scans = {int(case["age"]): prepare(case) for case in workflow.parser.get_parsed_content("cases")}
    target = scans[LEFT_OUT]
    latent = network.latents.weight.detach()[network.latents.rows(["atlas"])[0]]
    images = {
        "inr": predict_at(network.inr, latent, [float(LEFT_OUT)], target["image"].shape[1:])[0],
        "neighbours": (scans[LEFT_OUT - 2]["image"][0].float() + scans[LEFT_OUT + 2]["image"][0].float()) / 2,
        "copy of the week before": scans[LEFT_OUT - 2]["image"][0].float(),
    }
    found = {name: image_similarity(torch.as_tensor(image), target["image"][0], target["brain"][0]) for name, image in images.items()}
    for name, metrics in found.items():
        print(print(f"{dims}D {name:24s}" + ", ".join(f" {key} {value:.3f}" for key, value in metrics.items())))
    assert found["inr"]["psnr_db"] > 16 and found["inr"]["ssim"] > 0.5
    assert found["inr"]["psnr_brain_db"] > found["copy of the week before"]["psnr_brain_db"] + 3, "it knows the growth of two weeks"
