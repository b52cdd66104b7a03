"""Many classes on labelled cases: rows by hand, the files of an evaluation, its comparison with another, pictures and volumes."""

from __future__ import annotations

import csv
import json
import logging
import math
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from PIL import Image
from torch import nn

from common.errors import UserError
from common.inference import CaseRows
from common.inferers.probability_ensemble import ProbabilityEnsembleInferer
from common.label_charts import classes_figure
from common.label_evaluation import evaluate_labels
from common.label_measure import ClassMeasure, ClassVolumes, column_name
from common.label_pictures import LabelPictures, choose_slices, image_planes, label_colours, label_planes, planes_figure
from common.metrics.class_metrics import class_table
from common.study_runs import comparison_of
from common.transforms.probability_label import ProbabilityToLabeld

NAMES = ("cortex", "white matter", "ventricles")
AFFINE = torch.tensor([[-1.0, 0, 0, 9], [0, -1.5, 0, 9], [0, 0, 3.0, -4], [0, 0, 0, 1]], dtype=torch.float64)
SHAPE = (18, 14, 6)


def labels_of(seed: int) -> torch.Tensor:
    """Nested shells, of another size in each case."""
    grids = np.meshgrid(*[(np.arange(n) - n / 2 + 0.5) / n for n in SHAPE], indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grids))
    found = np.zeros(SHAPE, np.uint8)
    for number, limit in enumerate((0.46, 0.36, 0.2), 1):
        found[radius < limit - 0.01 * seed] = number
    return torch.from_numpy(found)[None]


def a_case(seed: int, name: str = "") -> dict[str, Any]:
    """The image holds the label of each voxel, with errors that grow with the seed."""
    label = labels_of(seed)
    noise = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.05 + 0.1 * seed, label.shape)).float()
    image = MetaTensor(label * (1 + noise), affine=AFFINE, meta={"filename_or_obj": f"{name or seed}.nii.gz"})
    return {"id": name or f"case{seed}", "image": image, "label": MetaTensor(label, affine=AFFINE)}


class Nearest(nn.Module):
    """Logits of four classes by the distance of a value to 0, 1, 2 and 3."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-8 * (x - self.shift - number).abs() for number in range(4)], dim=1)


class Cases(Dataset):
    """Cases in memory whose entries name files, as a reader's do."""

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]["case"]


def an_evaluator(folder: Path, count: int = 4, shift: float = 0.0) -> SupervisedEvaluator:
    data = [{"id": f"case{seed}", "image": [str(folder / f"{seed}.nii.gz")], "case": a_case(seed)} for seed in range(count)]
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Cases(data), batch_size=1),
        network=Nearest(shift),
        inferer=ProbabilityEnsembleInferer(SimpleInferer(), [0]),
        postprocessing=ProbabilityToLabeld(),
        decollate=True,
    )


def test_the_row_of_a_case_has_foreground_means_and_each_class() -> None:
    case = a_case(0)
    pred = case["label"].as_tensor().clone()
    pred[pred == 3] = 0  # the ventricles are missed
    entropy = torch.where(case["label"].as_tensor() > 0, 0.5, 0.0)
    measure = ClassMeasure(NAMES)
    row = measure(case, {"pred": pred, "entropy": entropy})
    assert row["dice"] == pytest.approx(2 / 3) and (row["missed_classes"], row["invented_classes"], row["empty_prediction"]) == (1, 0, 0)
    assert [row[f"{name}_dice"] for name in ("cortex", "white_matter", "ventricles")] == [1, 1, 0]
    assert row["white_matter_hd95_mm"] == 0 and math.isnan(row["ventricles_hd95_mm"])
    assert row["entropy"] == pytest.approx(0.5)
    assert [(found["id"], found["class"]) for found in measure.class_rows] == [("case0", name) for name in NAMES]
    # voxels of 1 x 1.5 x 3 mm
    assert measure.class_rows[2]["truth_ml"] == pytest.approx(int((case["label"] == 3).sum()) * 0.0045)


def test_an_empty_prediction_and_an_empty_case_are_counted() -> None:
    case, measure = a_case(0), ClassMeasure(NAMES)
    row = measure(case, {"pred": torch.zeros_like(case["label"])})
    assert row["dice"] == 0 and row["empty_prediction"] == 1 and row["missed_classes"] == 3 and math.isnan(row["hd_mm"])
    nothing = {**case, "label": torch.zeros_like(case["label"])}
    row = measure(nothing, {"pred": nothing["label"], "entropy": nothing["label"].float()})
    assert math.isnan(row["dice"]) and math.isnan(row["entropy"])


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two runs on four cases, and the table of the first."""
    root = tmp_path_factory.mktemp("labels")
    table = evaluate_labels(an_evaluator(root), str(root / "first"), "Shells", NAMES, facts={"members": 1}, notes=["not verified"])
    evaluate_labels(an_evaluator(root, shift=0.3), str(root / "second"), "Shells, shifted", dict(enumerate(NAMES, 1)), hd95="union")
    return root, table


def test_an_evaluation_has_a_row_per_case_and_one_per_case_and_class(evaluations: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, table = evaluations[0] / "first", evaluations[1]
    cases, classes = (list(csv.DictReader((folder / name).open())) for name in ("metrics.csv", "classes.csv"))
    assert [row["id"] for row in cases] == [f"case{seed}" for seed in range(4)] and len(classes) == 12
    assert list(cases[0])[:5] == ["id", "dice", "hd_mm", "hd95_mm", "masd_mm"]
    for row in cases:
        own = [float(found["dice"]) for found in classes if found["id"] == row["id"]]
        assert float(row["dice"]) == pytest.approx(np.mean(own), abs=1e-5)
    dice = [float(row["dice"]) for row in cases]
    assert dice[0] > dice[-1] and dice[-1] < 1, "the noise grows"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["dice"]["mean"] == table[0]["mean"] == pytest.approx(np.mean(dice), abs=1e-5)
    assert [found["class"] for found in summary["classes"]] == list(NAMES)
    for found in summary["classes"]:
        own = [float(row["dice"]) for row in classes if row["class"] == found["class"]]
        assert found["dice"]["mean"] == pytest.approx(np.mean(own)) and found["dice"]["sd"] == pytest.approx(np.std(own, ddof=1))
        assert found["dice"]["low"] <= found["dice"]["mean"] <= found["dice"]["high"]
    assert summary["facts"] == {"members": 1} and (summary["hd95"], summary["absent"]) == ("larger", "leave_out")
    page = (folder / "report.html").read_text()
    for words in ("By class", "white matter", "not verified", "best: case0", "the larger of the two directions", "is left out"):
        assert words in page
    assert page.count("data:image/png") == 4, "the chart, and best, median and worst case"


def test_two_evaluations_are_compared_case_by_case(
    evaluations: tuple[Path, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = evaluations
    comparison_of(root / "first")([f"{name}={root / name}" for name in ("first", "second")], str(tmp_path))
    (row,) = csv.DictReader((tmp_path / "comparisons.csv").open())
    means = [json.loads((root / name / "summary.json").read_text())["metrics"]["dice"]["mean"] for name in ("second", "first")]
    assert (row["run"], row["minus"], row["n"]) == ("second", "first", "4")
    assert float(row["mean_difference"]) == pytest.approx(means[0] - means[1], abs=1e-5)
    assert "second - first: Dice" in capsys.readouterr().out


def test_what_was_found_is_printed_by_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        evaluate_labels(an_evaluator(tmp_path, 1), str(tmp_path / "out"), "One case", NAMES, absent="count", ckpt_dir=[str(tmp_path)])
    assert "By class:" in caplog.text and "ventricles" in caplog.text and "One case, 1 cases" in caplog.text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "counts Dice 1 and 0 mm" in page and page.count("data:image/png") == 2


def test_a_case_that_cannot_be_measured_stops_no_other(tmp_path: Path) -> None:
    evaluator = an_evaluator(tmp_path, 3)
    data: Any = evaluator.data_loader.dataset.data  # type: ignore[union-attr]
    data[1]["case"]["label"] = data[1]["case"]["label"] + 5
    with pytest.raises(UserError, match=r"1 of 3 cases failed.*\n.*case1: truth: found the values 5, 6, 7, 8, expected 0"):
        evaluate_labels(evaluator, str(tmp_path / "out"), "x", NAMES)
    assert [row["id"] for row in csv.DictReader((tmp_path / "out" / "metrics.csv").open())] == ["case0", "case2"]


def test_inference_writes_the_volume_of_each_class(tmp_path: Path) -> None:
    case = a_case(0)
    rows = CaseRows(ClassVolumes(NAMES), str(tmp_path / "volumes.csv"))
    rows.add(SimpleNamespace(state=SimpleNamespace(batch=[case], output=[{"pred": case["label"]}])))  # type: ignore[arg-type]
    plain = ClassVolumes(NAMES)({"image": case["image"]}, {"pred": case["label"].as_tensor()})
    (row,) = csv.DictReader((tmp_path / "volumes.csv").open())
    counts = {name: int((case["label"] == number).sum()) for number, name in enumerate(NAMES, 1)}
    assert float(row["white_matter_ml"]) == pytest.approx(counts["white matter"] * 0.0045) == plain["white_matter_ml"]
    assert float(row["foreground_ml"]) == pytest.approx(sum(counts.values()) * 0.0045)
    assert list(row) == ["id", "foreground_ml", "cortex_ml", "white_matter_ml", "ventricles_ml"]


def test_names_of_classes_become_names_of_columns() -> None:
    assert column_name("portal & splenic vein ") == "portal_splenic_vein" and column_name("liver") == "liver"


def test_slices_show_all_classes_before_more_of_the_same() -> None:
    labels = np.zeros((10, 10, 12), np.uint8)
    labels[:8, :8, 2:6] = 1
    labels[:8, :8, 3] = 0
    labels[:9, :8, 3] = 1  # the largest area of class 1
    labels[0, 0, 9] = 2
    assert choose_slices([labels], 1) == [3] and choose_slices([labels], 2) == [3, 9]
    assert choose_slices([np.zeros_like(labels), labels], 2) == [3, 9]
    assert choose_slices([labels], 20) == [2, 3, 4, 5, 9], "only slices with labels"
    assert choose_slices([0 * labels], 3) == [2, 6, 10]


def test_slices_of_an_image_on_another_grid_are_those_of_the_whole_image_brought_to_it() -> None:
    fine = torch.zeros(2, 36, 42, 36)
    fine[1] = torch.arange(36.0)[:, None, None] + 2 * torch.arange(36.0)  # a ramp: linear interpolation is exact
    image = MetaTensor(fine, affine=torch.diag(torch.tensor([0.5, 0.5, 0.5, 1], dtype=torch.float64)))
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    found = image_planes(image, affine, (9, 21, 6), [1, 4], channel=1)
    x = np.arange(9)[:, None, None] * 4
    assert found.shape == (9, 21, 2) and np.allclose(found[1:-1, 1:-1], (x + 2 * np.array([6, 24]))[1:-1], atol=1e-3)
    assert np.array_equal(image_planes(image, image.affine, fine.shape[1:], [3], 1)[..., 0], fine[1, ..., 3])


def test_colours_are_different_and_do_not_depend_on_which_classes_there_are() -> None:
    colours = label_colours(range(1, 41))
    assert len(set(colours.values())) == 40 and label_colours([7, 20]) == {7: colours[7], 20: colours[20]}


def a_picture(item: dict[str, Any], result: dict[str, Any]) -> bytes:
    return planes_figure(label_planes(item, result, slices=1), class_table(NAMES), "a")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def reds(png: bytes) -> int:
    shown = pixels(png)
    return int(((shown[..., 0] > 170) & (shown[..., 1] < 110) & (shown[..., 2] < 110)).sum())


def test_errors_are_red_only_where_truth_and_prediction_differ() -> None:
    case = a_case(0)
    label, image = case["label"].as_tensor(), MetaTensor(torch.ones(1, *SHAPE), affine=AFFINE)
    wrong = label.clone()
    wrong[:, :9] = 0
    assert reds(a_picture({"image": image, "label": label}, {"pred": label})) == 0
    assert reds(a_picture({"image": image, "label": label}, {"pred": wrong})) > 200
    assert reds(a_picture({"image": image}, {"pred": wrong})) == 0, "no truth, no errors"


def test_a_picture_of_the_same_case_is_the_same_and_an_empty_one_is_drawn() -> None:
    case = a_case(1)
    result = {"pred": MetaTensor(case["label"].as_tensor(), affine=AFFINE), "entropy": torch.rand(1, *SHAPE)}
    first, second = (a_picture(case, result) for _ in range(2))
    assert first == second and first != a_picture(case, {"pred": result["pred"]})
    empty = {"pred": torch.zeros(1, *SHAPE, dtype=torch.uint8)}
    assert a_picture({"image": torch.zeros(1, *SHAPE)}, empty).startswith(b"\x89PNG")


def test_inference_draws_beside_the_labels_and_says_where_the_weights_are_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.json").write_text(json.dumps({"simulated": True}))
    case, titles = a_case(0, "a"), []
    output = {"pred": case["label"], "pred_path": "elsewhere/a_labels.nii.gz"}
    engine: Any = SimpleNamespace(state=SimpleNamespace(batch=[case], output=[output]))
    LabelPictures(NAMES, str(tmp_path / "out")).draw(engine)
    assert (tmp_path / "out" / "a_labels.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("common.label_pictures.planes_figure", lambda *arguments: titles.append(arguments[2]) or b"png")
    LabelPictures(NAMES, str(tmp_path / "out"), [str(tmp_path / "none"), str(tmp_path)]).draw(engine)
    assert titles == ["a: prediction by weights from SIMULATED data. Research only, not for diagnosis."]


def test_a_chart_needs_rows_and_leaves_classes_without_a_number_empty() -> None:
    rows = [{"class": name, "dice": value} for name in NAMES for value in (0.5, math.nan)] + [{"class": "absent", "dice": math.nan}]
    assert classes_figure(rows, {"dice": "Dice"}).startswith(b"\x89PNG")
    with pytest.raises(UserError, match="classes_figure: got no row"):
        classes_figure([], {"dice": "Dice"})
