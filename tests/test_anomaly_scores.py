"""Scores by structure, the cases that are drawn, and the row of a case whose truth nobody knows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.anomaly_pictures import Pick, pick_cases
from common.anomaly_scores import (
    auroc_rows,
    curve_rows,
    describe_anomaly,
    difference_rows,
    healthy_percentile,
    is_healthy,
    known_findings,
    score_case,
    task_scores,
)
from common.errors import UserError


def item_and_result(affine: np.ndarray | None = None, **extra: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cube of 5 voxels a side: left, right and skull of two voxels each."""
    labels, error = np.zeros((5, 5, 5), dtype=np.uint8), np.zeros((5, 5, 5), dtype=np.float32)
    labels[1, 1, 1:3], labels[3, 1, 1:3], labels[2, 4, 1:3] = 3, 4, 2
    error[1, 1, 1:3], error[3, 1, 1:3], error[2, 4, 1:3] = (0.1, 0.3), (0.2, 0.2), (0.5, 0.25)
    error[0, 0, 0] = 9.0  # outside of all structures
    matrix = torch.as_tensor(np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine)
    item = {"id": "a", "structures": MetaTensor(torch.as_tensor(labels[None]), affine=matrix), **extra}
    return item, {"error": torch.as_tensor(error[None])}


def test_scores_by_hand() -> None:
    row = score_case(*item_and_result(), ["error"])
    assert [row[f"error_max_{s}"] for s in ("left", "right", "skull")] == pytest.approx([0.3, 0.2, 0.5])
    assert row["error_mean_left"] == pytest.approx(0.2) and row["error_p99.5_skull"] == pytest.approx(0.5 - 0.005 * 0.25)
    with pytest.raises(UserError, match="there is no map 'zmap' in the output, which holds error"):
        score_case(*item_and_result(), ["zmap"])


def rows() -> list[dict[str, Any]]:
    """Healthy, left bleed, right bleed, fracture alone, unread; the scores tell nothing else apart."""
    findings = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (None, None, None)]
    scores = [(0.2, 0.3, 0.4), (0.9, 0.1, 0.2), (0.1, 0.25, 0.1), (0.1, 0.1, 0.8), (5.0, 5.0, 5.0)]
    table = []
    for index, (found, score) in enumerate(zip(findings, scores, strict=True)):
        row: dict[str, Any] = {"id": "abcde"[index], **dict(zip(("bleed_left", "bleed_right", "fracture"), found, strict=True))}
        table.append(row | {f"error_max_{s}": v for s, v in zip(("left", "right", "skull"), score, strict=True)})
    return table


def test_both_hemispheres_of_every_read_case_are_pooled() -> None:
    scores, truth, cases = task_scores(rows(), "ICH, both hemispheres", "error", "max")
    assert scores == [0.2, 0.3, 0.9, 0.1, 0.1, 0.25, 0.1, 0.1] and truth == [0, 0, 1, 0, 0, 1, 0, 0]
    assert cases == list("aabbccdd")


def test_areas_by_hand_and_the_papers_numbers_beside_them() -> None:
    found = {row["task"]: row for row in auroc_rows(rows(), ["error"], ["max"])}
    # 0.9 wins 6 of 6, 0.25 wins all but 0.3: 11/12. Left 0.9 wins 3 of 3; right 0.25 loses to 0.3; skull 0.8 wins 3.
    assert [round(row["auroc"], 4) for row in found.values()] == [0.9167, 1.0, 0.6667, 1.0]
    assert found["ICH, both hemispheres"]["paper_CQ500"] == 0.81 and found["fracture, skull"]["paper_CQ500"] == 0.79
    assert math.isnan(found["ICH, left hemisphere"]["paper_CQ500"])
    assert (found["ICH, both hemispheres"]["cases"], found["ICH, both hemispheres"]["positives"]) == (4, 2)


def test_differences_and_curves_follow_from_the_same_scores() -> None:
    both = [row | {key.replace("error", "zmap"): -value for key, value in row.items() if key.startswith("error")} for row in rows()]
    difference = difference_rows(both, ["error", "zmap"], ["max"])[0]
    assert difference["difference"] == pytest.approx(1 / 12 - 11 / 12) and difference["minus"] == "error max"
    curve = [row for row in curve_rows(rows(), ["error"], ["max"]) if row["task"] == "fracture, skull"]
    assert [row["true_positive_rate"] for row in curve] == [0, 1, 1, 1, 1] and curve[1]["false_positive_rate"] == 0


def test_what_is_known_of_a_case() -> None:
    assert known_findings({"id": "x"}) == {} and not is_healthy({})
    assert is_healthy(known_findings({"healthy": True})) and not is_healthy(known_findings({"healthy": False}))
    assert not is_healthy(known_findings({"findings": {"bleed_left": 0, "bleed_right": 0}}))  # the fracture is not known


def test_the_abnormal_ones_at_both_ends_and_the_highest_healthy_one_are_drawn() -> None:
    assert pick_cases(rows(), ("left", "right"), "error", "max") == [
        Pick("highest-scored abnormal", "b", "left", 0.9),
        Pick("lowest-scored abnormal (missed first)", "c", "right", 0.25),
        Pick("highest-scored healthy (false alarm first)", "a", "right", 0.3),
    ]
    assert [pick.case for pick in pick_cases(rows(), ("skull",), "error", "max")] == ["d", "a"]  # one fracture: no second one
    assert pick_cases(rows()[4:], ("skull",), "error", "max") == []


def test_a_row_of_an_inference_by_hand() -> None:
    turned = np.array([[0.0, -2, 0, 10], [2, 0, 0, -4], [0, 0, 2, 0], [0, 0, 0, 1]])
    quantiles = np.stack([np.linspace(0, 0.4, 101)] * 6).reshape(2, 3, 101) * np.array([1, 0])[:, None, None]
    row = describe_anomaly(*item_and_result(turned, registered=True), quantiles)
    assert row["registered"] is True
    assert row["left_max_mm"] == pytest.approx(0.3 * 4 * 2)  # four steps of 2 mm make the side
    assert row["left_at_ras_mm"] == "8.0 -2.0 4.0"  # voxel (1, 1, 2): 10 - 2*1, -4 + 2*1, 2*2
    assert row["left_healthy_percentile"] == pytest.approx(75) and row["skull_healthy_percentile"] == 100
    assert not any("_z_" in key for key in row)


def test_a_standardised_map_and_a_structure_without_voxels() -> None:
    item, result = item_and_result()
    item["structures"][item["structures"] == 2] = 0
    result["zmap"] = result["error"] * 10
    row = describe_anomaly(item, result, np.ones((2, 3, 101)), in_mm=False)
    assert row["registered"] is None and row["left_z_max"] == pytest.approx(3) and row["left_max"] == pytest.approx(0.3)
    assert math.isnan(row["skull_max"]) and row["skull_at_ras_mm"] == "" and math.isnan(row["skull_healthy_percentile"])
    assert row["left_healthy_percentile"] == 0 and row["left_z_healthy_percentile"] == 100


def test_percentiles_are_interpolated_and_end_at_the_ends() -> None:
    quantiles = np.linspace(1, 2, 101)
    assert healthy_percentile(1.255, quantiles) == pytest.approx(25.5)
    assert (healthy_percentile(0, quantiles), healthy_percentile(9, quantiles)) == (0, 100)
    assert math.isnan(healthy_percentile(math.nan, quantiles)) and math.isnan(healthy_percentile(1, np.full(101, np.nan)))
