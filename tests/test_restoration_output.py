"""Scores and pictures of restored volumes; tests/bundles/test_brain_autoencoder_evaluation.py runs them over files."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.inferers.residual_map import ResidualMap
from common.restoration_output import RestorationPictures, RestorationScores, shown_slices

PLAIN = ResidualMap(filter="none", rim=0)


def volume_with_a_spot(**extra: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume of 0.5 on 2 mm, restored exactly but for one voxel of slice 2, which is off by 0.4."""
    image = MetaTensor(torch.full((1, 16, 12, 5), 0.5), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    pred = image.as_tensor().clone()
    pred[0, 8, 6, 2] = 0.9
    return {"id": "a", "image": image, **extra}, {"pred": pred, "residual": (pred - image.as_tensor()).abs()}


def test_scores_are_those_of_the_selected_slices(tmp_path: Path) -> None:
    item, result = volume_with_a_spot(slices=torch.tensor([1, 2]))
    row = RestorationScores(PLAIN, str(tmp_path / "slices.csv"))(item, result)
    assert row["slices"] == 2 and row["highest_slice"] == 2
    assert row["brain_ml"] == pytest.approx(16 * 12 * 5 * 8 / 1000)
    assert row["anomaly_mean"] == pytest.approx(0.4 / (2 * 16 * 12)) and row["anomaly_max"] == pytest.approx(0.4)
    assert row["mse"] == pytest.approx(0.4**2 / (2 * 16 * 12))
    with (tmp_path / "slices.csv").open(newline="") as stream:
        slices = list(csv.DictReader(stream))
    assert [line["slice"] for line in slices] == ["1", "2"]
    assert float(slices[0]["anomaly_max"]) == 0 and float(slices[1]["mse"]) == pytest.approx(0.16 / 192, rel=1e-4)


def test_slices_of_later_volumes_are_added_to_the_file(tmp_path: Path) -> None:
    scores = RestorationScores(PLAIN, str(tmp_path / "slices.csv"), aggregates=("p95",))
    for name in ("a", "b"):
        item, result = volume_with_a_spot()
        row = scores({**item, "id": name}, result)
        assert "anomaly_p95" in row and "anomaly_mean" not in row
    with (tmp_path / "slices.csv").open(newline="") as stream:
        assert [line["id"] for line in csv.DictReader(stream)] == ["a"] * 5 + ["b"] * 5


def test_a_picture_shows_the_highest_slice_among_steps_through_the_others() -> None:
    values = np.zeros((4, 4, 9))
    values[1, 1, 5] = 1
    assert shown_slices(values) == [2, 5, 6]
    assert shown_slices(values[..., 5:6]) == [0]
    assert shown_slices(values, count=1) == [5]


def test_a_picture_is_written_for_every_volume(tmp_path: Path) -> None:
    item, result = volume_with_a_spot(slices=torch.tensor([1, 2, 3]))
    RestorationPictures(str(tmp_path)).draw(SimpleNamespace(state=SimpleNamespace(batch=[item], output=[result])))  # type: ignore[arg-type]
    assert (tmp_path / "a_anomaly.png").read_bytes().startswith(b"\x89PNG")
