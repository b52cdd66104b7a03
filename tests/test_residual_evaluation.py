"""Anomaly maps measured on healthy stand-ins and patients whose lesions the network does not know."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from common.errors import UserError
from common.inferers.residual_map import ResidualMap, ResidualMapd
from common.inferers.slice_restoration import SliceRestorationInferer
from common.metrics.roc import auroc
from common.residual_evaluation import evaluate_residuals
from common.residual_measure import ResidualMeasure

SHAPE = (24, 20, 8)
RESIDUAL = ResidualMap("absolute", "none", 1, 1)


class Flat(nn.Module):
    """Knows that a healthy brain is 0.5 everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, 0.5, 0.0)


class Cases(Dataset):
    """Cases in memory whose entries name files, as a reader's do."""

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]["case"]


def a_case(seed: int, patient: bool) -> dict[str, Any]:
    """Noise that grows with the seed; patients have a dark and a bright spot."""
    noise = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
    brain, label = torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)
    brain[:, 3:21, 3:17, 1:7] = 1
    image = 0.5 + (0.02 + 0.002 * seed) * noise
    if patient:
        label[:, 8:11, 8:11, 3:5] = 1
        image = image - 0.2 * label
    image = image.clamp(0.01, 1) * brain
    case = {"id": f"v{seed}", "image": MetaTensor(image, meta={"filename_or_obj": f"{seed}.nii.gz"}), "brain": brain}
    case["slices"] = torch.tensor([2, 3, 4, 5])
    return case | ({"label": label} if patient else {})


def an_evaluator(folder: Path, healthy: int, patients: int) -> SupervisedEvaluator:
    data = []
    for seed in range(healthy + patients):
        facts = {
            "id": f"v{seed}",
            "subject": f"s{seed}",
            "age": 20.0 + 3 * seed,
            "sex": "fm"[seed % 2],
            "site": ("Guys", "HH")[seed // 2 % 2],
        }
        data.append({**facts, "image": [str(folder / f"{seed}.nii.gz")], "case": a_case(seed, seed >= healthy)})
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Cases(data), batch_size=1),
        network=Flat(),
        inferer=SliceRestorationInferer(),
        postprocessing=ResidualMapd(residual=RESIDUAL),
        decollate=True,
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("residuals")
    evaluate_residuals(an_evaluator(folder, 8, 3), str(folder), "Stand-in", RESIDUAL, facts={"kind": "flat"}, notes=["not verified"])
    return folder


def test_voxels_of_lesions_are_found_beside_the_rule_of_intensity(evaluated: Path) -> None:
    summary = json.loads((evaluated / "summary.json").read_text())
    assert (summary["cases"], summary["healthy"], summary["patients"]) == (11, 8, 3)
    pixels = {(row["map"], row["voxels"]): row for row in summary["pixels"]}
    assert set(pixels) == {(name, kind) for name in ("residual", "intensity_both") for kind in ("pooled", "per patient")}
    pooled = pixels["residual", "pooled"]
    assert pooled["auroc"] > 0.95 and pooled["auprc"] > 10 * pooled["prevalence"] and pooled["patients"] == 3
    # 18 voxels in a brain of 18 x 14 x 6 without its rim, in 4 slices
    assert pooled["prevalence"] == pytest.approx(18 / (16 * 12 * 4))
    dices = {key: value for key, value in pooled.items() if key.startswith("dice_q")}
    assert len(dices) == 6 and max(dices.values()) <= pooled["oracle_dice"] + 1e-9
    assert pooled[f"dice_q{pooled['best_quantile']}"] == max(dices.values())
    assert summary["residual"] == {"kind": "absolute", "filter": "none", "size": 1, "rim": 1} and summary["facts"] == {"kind": "flat"}


def test_volumes_and_slices_have_scores_and_aurocs(evaluated: Path) -> None:
    rows, slices = read(evaluated / "metrics.csv"), read(evaluated / "slices.csv")
    assert [row["patient"] for row in rows] == ["0"] * 8 + ["1"] * 3 and len(slices) == 11 * 4
    assert [row["lesion_voxels"] for row in slices[-4:]] == ["0", "9", "9", "0"]
    summary = json.loads((evaluated / "summary.json").read_text())
    found = {(row["level"], row["map"], row["score"]): row for row in summary["auroc"]}
    expected = auroc([float(row["residual_p99"]) for row in slices], [int(int(row["lesion_voxels"]) > 0) for row in slices])
    assert found["slice", "residual", "p99"]["auroc"] == pytest.approx(expected) and found["volume", "residual", "max"]["auroc"] == 1
    assert found["slice", "residual", "p99"]["cases"] == 11, "patients are drawn whole"
    score = float(rows[0]["residual_mean"])
    assert score == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.1), "mean of |noise|"


def test_the_score_of_the_healthy_depends_on_age_here_and_it_is_said(evaluated: Path) -> None:
    bias = json.loads((evaluated / "summary.json").read_text())["bias"]
    age = next(row for row in bias if (row["score"], row["fact"]) == ("residual_mean", "age"))
    assert age["n"] == 8 and age["effect"] > 0.8 and age["low"] > 0
    assert {row["fact"] for row in bias} == {"age", "sex", "site"} and len(bias) == 6 * 3
    page = (evaluated / "report.html").read_text()
    for words in ("depend on age, sex or site", "Spearman", "not verified", "intensity_both", "AUPRC", "rule of intensity"):
        assert words in page, words
    assert page.count("data:image/png") == 3


def test_patients_have_rows_of_their_own(evaluated: Path) -> None:
    rows = read(evaluated / "patients.csv")
    assert [(row["id"], row["map"]) for row in rows] == [(f"v{k}", name) for name in ("residual", "intensity_both") for k in (8, 9, 10)]


def test_healthy_volumes_alone_have_scores_and_no_auroc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        assert evaluate_residuals(an_evaluator(tmp_path, 5, 0), str(tmp_path / "out"), "x", RESIDUAL, rule=None) == []
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert all(row["reason"] for row in summary["auroc"]) and "5 healthy volumes, 0 of patients" in caplog.text
    assert not (tmp_path / "out" / "patients.csv").exists()


def test_a_patient_without_a_mask_counts_for_volumes_alone() -> None:
    measure = ResidualMeasure([{"id": "v0", "healthy": False}], RESIDUAL)
    case = a_case(0, False)
    row = measure(case, {"pred": case["image"], "residual": case["image"] * 0})
    assert (row["patient"], row["lesion_voxels"]) == (1, 0) and not measure.slice_rows and not measure.patients["residual"]
    assert not measure.healthy["residual"].any()


def test_an_output_without_a_map_and_a_mask_on_another_grid_are_refused() -> None:
    measure, case = ResidualMeasure([], RESIDUAL), a_case(1, True)
    with pytest.raises(UserError, match="it holds pred, expected 'residual': put ResidualMapd into postprocessing"):
        measure(case, {"pred": case["image"]})
    with pytest.raises(UserError, match=r"label: shape \(24, 20, 4\), expected that of the image"):
        measure(case | {"label": case["label"][..., :4]}, {"pred": case["image"], "residual": case["image"] * 0})
