"""Growth measured on balls that grow by a known rule: rows by hand, what pairs say together, and the files of an evaluation."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.growth_evaluation import evaluate_growth
from common.growth_measure import GrowthMeasure, Outline, fit_age_rivals, pair_id, spacing_of
from common.growth_summary import age_summary, compare_methods, image_summary, outline_summary, subject_interval, summarise_growth
from common.inferers.age_neighbours import AgeNeighbours, copy_input

SPACING = 4.0


def scan(subject: str, age: float, dims: int = 3, extra: float = 0.0) -> dict[str, Any]:
    """A grey ball whose radius in voxels is (age - 12) / 4 and grows by 1 mm a week; a child's own brightness is ``extra``."""
    sides = (24, 22, 23)[:dims]
    grids = np.meshgrid(*[np.arange(n) - n / 2 + 0.5 for n in sides], indexing="ij")
    ball = sum(g**2 for g in grids) <= ((age - 12) / 4) ** 2
    image = torch.from_numpy((0.6 + extra) * ball)[None].to(torch.float16)
    found = {"id": f"{subject}_{age:g}", "subject": subject, "age": age, "image": image, "brain": (image > 0).to(torch.uint8)}
    # 2 pi of the radius in cm, and 3 cm of skin and skull
    return found | {"spacing_mm": [SPACING] * dims, "head_circumference_cm": 2 * math.pi * (age - 12) / 10 + 3}


def a_pair(subject: str, ages: tuple[float, float], dims: int = 3, error: float = 0.1, **result: Any) -> Any:
    item = {side: scan(subject, age, dims) for side, age in zip(("input", "target"), ages, strict=True)}
    predicted = item["target"]["image"].float() + error * item["target"]["brain"]
    return item, {"prediction": predicted, "reconstruction": item["input"]["image"].float(), **result}


def a_measure(dims: int = 3) -> GrowthMeasure:
    train = [scan(f"T{age}", float(age), dims, 0.01) for age in range(28, 46, 2)]
    baselines = {"copy": copy_input, "neighbours": AgeNeighbours(train, train)}
    return GrowthMeasure(baselines=baselines, age_rivals=fit_age_rivals(train))


def pairs_of(count: int, dims: int = 3) -> list[Any]:
    found = []
    for index in range(count):
        first, second = 30.0 + index, 38.0 + index
        for ages in ((first, second), (second, first)):
            found.append(a_pair(f"S{index}", ages, dims, 0.05 + 0.02 * index, age_estimate_weeks=ages[0] + 0.5))
    return found


def test_a_pair_in_3d_by_hand() -> None:
    item, result = a_pair("A", (32.0, 40.0), age_estimate_weeks=33.0, fit_seconds=1.5)
    model, copy, neighbours = a_measure()(item, result)
    assert [row["method"] for row in (model, copy, neighbours)] == ["inr", "copy", "neighbours"]
    assert model["id"] == "A_32->A_40" and (model["input_age_weeks"], model["target_age_weeks"]) == (32, 40)
    # every brain voxel is off by 0.1
    assert model["psnr_brain_db"] == pytest.approx(20, abs=1e-3) and model["mae_brain"] == pytest.approx(0.1, abs=1e-4)
    assert model["reconstruction_mae"] == 0 and model["reconstruction_ssim"] == pytest.approx(1)
    # radius 28 mm, the table has the head, 3 cm more; voxels of 4 mm and the moving mean over 5 of them take 3 % each
    assert model["circumference_table_cm"] == pytest.approx(17.59 + 3, abs=0.01)
    assert model["circumference_scan_cm"] == pytest.approx(17.59, rel=0.07) and model["circumference_cm"] == model["circumference_scan_cm"]
    assert copy["circumference_cm"] < model["circumference_cm"] - 3, "8 weeks younger: 5 cm less"
    assert neighbours["psnr_brain_db"] == pytest.approx(40, abs=0.3), "a training scan of that very age, brighter by 0.01"
    assert model["fit_seconds"] == 1.5 and model["age_estimate_weeks"] == 33 and "age_estimate_weeks" not in copy
    assert model["age_from_brain_size_weeks"] == pytest.approx(32, abs=1) == model["age_from_outline_weeks"]


def test_a_slice_has_a_perimeter_and_no_head_circumference() -> None:
    (model, *_) = a_measure(2)(*a_pair("A", (32.0, 40.0), 2))
    assert not [key for key in model if "circumference" in key]
    assert model["slice_perimeter_cm"] == pytest.approx(17.59, rel=0.04) and model["slice_perimeter_scan_cm"] == model["slice_perimeter_cm"]


def test_a_prediction_is_clipped_before_it_is_measured() -> None:
    item, result = a_pair("A", (32.0, 40.0))
    item["target"]["image"] = item["target"]["brain"].float()
    result["prediction"] = 7 * item["target"]["image"] - 1  # clipped it is equal
    (row,) = GrowthMeasure()(item, result)
    assert row["mae"] == 0 and row["circumference_cm"] == row["circumference_scan_cm"]


def test_a_missing_head_circumference_is_left_out_of_the_agreement_only() -> None:
    measured = []
    for age, missing in ((36.0, None), (38.0, math.nan), (40.0, 1), (42.0, 1)):
        item, result = a_pair(f"S{age}", (30.0, age))
        if missing != 1:
            item["target"]["head_circumference_cm"] = missing
        measured += GrowthMeasure()(item, result)
    table, scans = outline_summary(measured)
    assert (table["reference"], table["n"], table["left_out"]) == ("table", 2, 2) and table["bias_cm"] < -2.5
    assert (scans["reference"], scans["n"]) == ("scan", 4) and scans["sigma_cm"] == 0
    assert scans["slope_cm_per_week"] == pytest.approx(0.63, abs=0.06), "2 pi mm a week"
    assert image_summary(measured)["inr"]["psnr_db"]["n"] == 4


def test_the_interval_is_over_children() -> None:
    values, subjects = [1.0, 1.0, 3.0, 3.0], ["a", "a", "b", "b"]
    assert subject_interval(values, subjects) == (1, 3), "either child may be drawn twice"
    assert all(math.isnan(end) for end in subject_interval([1.0, 2.0], ["a", "a"]))
    low, high = subject_interval([1.0, 2.0, math.nan], ["a", "b", "c"])
    assert (low, high) == (1, 2)


def test_each_input_scan_is_counted_once_among_the_ages() -> None:
    rows = [
        {"id": f"{a}->{b}", "method": "inr", "subject": "A", "input": str(a), "input_age_weeks": a, "age_estimate_weeks": a + 1.0}
        for a in (30.0, 34.0, 38.0)
        for b in (30.0, 34.0, 38.0)
        if a != b
    ]
    (found,) = age_summary(rows)
    assert (found["estimate"], found["n"], found["mae_weeks"]) == ("image", 3, 1)


def test_methods_are_compared_over_children() -> None:
    rows = [row for item, result in pairs_of(4) for row in a_measure()(item, result)]
    tests = compare_methods(rows)
    assert [(row["minus"], row["metric"]) for row in tests[:3]] == [("copy", "psnr_db"), ("copy", "ssim"), ("copy", "mae")]
    assert all(row["n"] == 4 and row["p_holm"] >= row["p"] for row in tests), "8 pairs of 4 children"
    assert tests[0]["mean_difference"] > 0 > tests[2]["mean_difference"]


def test_one_spacing_stands_for_all_axes_and_a_slice_ignores_the_third() -> None:
    volume, plane = scan("A", 30.0), scan("A", 30.0, 2)
    assert spacing_of(volume | {"spacing_mm": 2.0}) == (2, 2, 2)
    assert spacing_of(plane | {"spacing_mm": (1.0, 2.0, 3.0)}) == (1, 2)
    assert pair_id({"id": "x", "input": volume}) == "x"


def test_an_evaluation_leaves_rows_summary_and_report(tmp_path: Path) -> None:
    table = evaluate_growth(
        pairs_of(2), str(tmp_path), "Growth", a_measure(), facts={"ssl": True, "sgla_prob": 0.1}, notes=["not verified"]
    )
    assert {row["method"] for row in table} == {"inr", "copy", "neighbours"}
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3
    found = json.loads((tmp_path / "summary.json").read_text())
    assert (found["pairs"], found["subjects"], found["method"], found["simulated"]) == (4, 2, "inr", False)
    assert found["facts"]["sgla_prob"] == 0.1 and len(found["outlines"]) == 6
    by_image, *by_size = found["ages"]
    assert by_image["mae_weeks"] == pytest.approx(0.5) and [row["estimate"] for row in by_size] == ["brain size", "outline"]
    page = (tmp_path / "report.html").read_text()
    assert "4 pairs of 2 children" in page and "not verified" in page and page.count("data:image/png") == 6
    assert "the table&#39;s circumference that of the head" in page


def test_a_2d_evaluation_says_that_its_perimeter_is_a_proxy(tmp_path: Path) -> None:
    evaluate_growth(pairs_of(1, dims=2), str(tmp_path), "Growth", GrowthMeasure(outline=Outline(kind="ellipse")))
    page = (tmp_path / "report.html").read_text()
    assert "A slice has no head circumference: its perimeter is a proxy of ours." in page


def test_no_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got no pair; expected at least one child with two scans"):
        evaluate_growth([], str(tmp_path), "Growth", GrowthMeasure())


def test_the_first_rows_method_is_the_model() -> None:
    rows = GrowthMeasure("ours", {"copy": copy_input})(*a_pair("A", (32.0, 40.0)))
    assert summarise_growth(rows)["method"] == "ours"
