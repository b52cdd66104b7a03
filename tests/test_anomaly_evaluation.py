"""Evaluation of anomaly maps from the evaluator to the report page, on tiny heads whose map is made to order."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator

from common.anomaly_evaluation import evaluate_anomaly, read_resources
from common.errors import UserError
from common.metrics.roc import auroc

N, STEP = 20, 8.0
AFFINE = torch.diag(torch.tensor([STEP, STEP, STEP, 1.0], dtype=torch.float64))
CENTRES = {"bleed_left": (6, 10, 10), "bleed_right": (13, 10, 10), "fracture": (10, 10, 17)}


def head() -> np.ndarray:
    """A ball of brain (left and right) in a shell of skull in a shell of scalp."""
    x, y, z = np.meshgrid(*[np.arange(N) - (N - 1) / 2] * 3, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.where(radius < 9.5, 1, 0)
    labels[radius < 8.5] = 2
    labels[radius < 6.5] = 3
    labels[(radius < 6.5) & (x > 0)] = 4
    return labels.astype(np.uint8)


class Scene:
    """Transform that stands for the reader and the preprocessing: a prepared case by its id and findings."""

    def __init__(self, truth: bool = True) -> None:
        self.truth = truth

    def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
        labels, number = head(), int(case["id"].split("-")[-1])
        noise = np.random.default_rng(number).normal(size=labels.shape)
        image = np.where(labels > 0, 30 + 5 * noise, -1024)
        truth = np.zeros_like(labels)
        for finding, (x, y, z) in CENTRES.items():
            if case.get("hidden", case.get("findings", {})).get(finding):
                box = (slice(x - 1, x + 2), slice(y - 1, y + 2), slice(z - 1, z + 2))
                image[box] += 40 + 10 * (number % 3)
                truth[box] = 2 if finding == "fracture" else 1
        parts = {"image": image, "structures": labels, **({"truth": truth} if self.truth else {})}
        return {"id": case["id"]} | {key: MetaTensor(torch.as_tensor(part[None]), affine=AFFINE) for key, part in parts.items()}


def distance_from_brain(inputs: torch.Tensor, network: Any, *_: Any, **__: Any) -> torch.Tensor:
    """Inferer of a map: how far a voxel is from 30 HU, 0 in the background."""
    return (inputs - 30).abs() / 100 * (inputs > -1000)


class ToMaps:
    """Postprocessing: ``pred`` is the error, and with ``z`` standardised as well."""

    def __init__(self, z: bool) -> None:
        self.z = z

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return data | {"error": data["pred"].float()} | ({"zmap": data["pred"].float() * 20 - 1} if self.z else {})


def make_evaluator(cases: list[dict[str, Any]], z: bool = True, truth: bool = True) -> SupervisedEvaluator:
    loader = DataLoader(Dataset(cases, Scene(truth)), batch_size=1)
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=torch.nn.Identity(),
        inferer=distance_from_brain,  # type: ignore[arg-type]
        postprocessing=ToMaps(z),  # type: ignore[arg-type]
    )


def make_cases(root: Path, count: int = 12, **extra: Any) -> list[dict[str, Any]]:
    """Cases whose findings run through the combinations; every fourth is healthy, the readers of it differ."""
    patterns = [(0, 0, 0), (1, 0, 0), (0, 1, 1), (0, 0, 1)]
    cases = []
    for number in range(count):
        findings = dict(zip(CENTRES, patterns[number % 4], strict=True))
        reads = {name: [value, value, 1 - value if number == 0 else value] for name, value in findings.items()}
        case = {"id": f"CQ500-CT-{number}", "subject": f"CQ500-CT-{number}", "image": [str(root / f"CT{number}" / "Study" / "Plain")]}
        cases.append(case | {"findings": findings, "reads": reads, "healthy": not any(findings.values())} | extra)
    return cases[::-1]  # so that healthy cases do not stand first


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    root = tmp_path / "cohort"
    root.mkdir()
    (root / "SIMULATED.txt").write_text("no patients", encoding="utf-8")
    return root


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else; one test draws."""
    monkeypatch.setattr("common.anomaly_evaluation.case_figures", lambda *_: [])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_everything_is_written_and_printed(simulated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = make_cases(simulated)
    caplog.set_level(logging.INFO, "brain_bundles")
    out = tmp_path / "eval"
    rows = evaluate_anomaly(make_evaluator(cases), str(out), "PPR", resources={"parameters": 7503}, notes=["Nothing."])
    assert sorted(path.name for path in out.iterdir()) == ["lesions.csv", "metrics.csv", "report.html", "roc.csv", "summary.json"]
    assert "SIMULATED DATA, not patients. PPR, 12 cases" in caplog.text and "ICH, both hemispheres   error   max" in caplog.text
    assert rows[0]["task"] == "ICH, both hemispheres" and {(r["map"], r["score"]) for r in rows} == {("error", "max")}
    metrics = read_csv(out / "metrics.csv")
    assert [row["id"] for row in metrics] == [case["id"] for case in cases]
    by_hand = auroc(
        [float(row[f"error_max_{side}"]) for row in metrics for side in ("left", "right")],
        [int(row[f"bleed_{side}"]) for row in metrics for side in ("left", "right")],
    )
    assert rows[0]["auroc"] == pytest.approx(by_hand) and rows[0]["positives"] == 6 and rows[0]["negatives"] == 18
    page = (out / "report.html").read_text(encoding="utf-8")
    headings = (
        "Other scores and maps",
        "table 2 of the paper",
        "table 3 of the paper",
        "Detection by lesion volume",
        "Cost of the training",
    )
    assert all(text in page for text in (*headings, "SIMULATED DATA", "0.810", "7503", "Nothing."))
    assert page.count("data:image/png") == 7  # ROC, three for bleeding, three for fracture


@pytest.mark.usefixtures("without_pictures")
def test_summary_holds_the_tables_and_is_strict_json(simulated: Path, tmp_path: Path) -> None:
    cases = make_cases(simulated)
    evaluate_anomaly(make_evaluator(cases), str(tmp_path / "eval"), "PPR")
    text = (tmp_path / "eval" / "summary.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(found["auroc"]) == 2 * 3 * 4  # maps, aggregates, tasks
    assert found["composition"][0] == {
        "skull": "fracture",
        "left_and_right": 0,
        "left_only": 0,
        "right_only": 3,
        "no_bleeding": 3,
        "all": 6,
    }
    assert [row["cases"] for row in found["agreement"]] == [12, 12, 12] and found["agreement"][0]["R3"] < 1
    every = [row for row in found["detection"] if row["volume"] == "all"]
    assert {(row["lesion"], row["map"]): row["lesions"] for row in every} == {
        (kind, name): count for kind, count in (("haemorrhage", 6), ("fracture", 6)) for name in ("error", "zmap")
    }
    assert all(row["sensitivity"] == 1 for row in every)  # 40 HU stand out of noise of 5
    assert {row["healthy_volumes"] for row in found["thresholds"]} == {3}


@pytest.mark.usefixtures("without_pictures")
def test_lesion_thresholds_come_from_all_healthy_cases_wherever_they_stand(simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "eval"
    evaluate_anomaly(make_evaluator(make_cases(simulated), z=False), str(out), "PPR")
    metrics, lesions = read_csv(out / "metrics.csv"), read_csv(out / "lesions.csv")
    healthy = [row for row in metrics if row["bleed_left"] == row["bleed_right"] == row["fracture"] == "0"]
    largest = max(max(float(row["error_max_left"]), float(row["error_max_right"])) for row in healthy)
    assert [float(row["threshold"]) for row in lesions if row["kind"] == "haemorrhage"] == pytest.approx([largest] * 6, rel=1e-5)
    assert {row["volume_bin"] for row in lesions} == {"5-20 ml"}  # 27 voxels of 0.512 ml


@pytest.mark.usefixtures("without_pictures")
def test_a_fracture_alone_is_a_negative_of_both_hemispheres(simulated: Path, tmp_path: Path) -> None:
    cases = [case for case in make_cases(simulated) if case["findings"]["bleed_left"] == case["findings"]["bleed_right"] == 0]
    rows = evaluate_anomaly(make_evaluator(cases), str(tmp_path / "eval"), "PPR")
    by_task = {row["task"]: row for row in rows}
    assert (by_task["fracture, skull"]["positives"], by_task["fracture, skull"]["negatives"]) == (3, 3)
    assert by_task["ICH, both hemispheres"]["negatives"] == 12 and math.isnan(by_task["ICH, both hemispheres"]["auroc"])
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "No AUROC for ICH, both hemispheres: none of 12 is abnormal." in page


@pytest.mark.usefixtures("without_pictures")
def test_cases_without_findings_truth_or_readers_are_scored_and_no_more(tmp_path: Path) -> None:
    cases = [{"id": f"own-{k}", "subject": f"own-{k}", "image": str(tmp_path / f"{k}.nii.gz")} for k in range(2)]
    out = tmp_path / "eval"
    rows = evaluate_anomaly(make_evaluator(cases, z=False, truth=False), str(out), "PPR")
    assert {row["reason"] for row in rows} == {"nothing was scored"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "table 2" not in page and "Detection" not in page and "SIMULATED" not in page
    assert float(read_csv(out / "metrics.csv")[0]["error_max_left"]) > 0 and not (out / "lesions.csv").exists()


@pytest.mark.usefixtures("without_pictures")
def test_the_same_evaluation_twice_gives_the_same_bytes(simulated: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluate_anomaly(make_evaluator(make_cases(simulated, 2)), str(tmp_path / name), "PPR", aggregate="p99.5")
    for file in ("metrics.csv", "roc.csv", "lesions.csv", "summary.json", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_map_that_nobody_makes_is_named(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no map 'errors' in the output, which holds error"):
        evaluate_anomaly(make_evaluator(make_cases(simulated, 4), z=False), str(tmp_path / "eval"), "PPR", maps=("errors",))
    with pytest.raises(UserError, match="maps: got none"):
        evaluate_anomaly(make_evaluator(make_cases(simulated, 4)), str(tmp_path / "eval"), "PPR", maps=())


def test_resources_are_read_from_their_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "resources.json"
    assert read_resources(None) == {} and read_resources(str(file)) == {}
    assert "no such file, so the report has no cost" in caplog.text
    file.write_text('{"parameters": 3}', encoding="utf-8")
    assert read_resources(str(file)) == {"parameters": 3}
    for text, message in (("{", "is no JSON"), ("[1]", "holds a list, expected one object")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_resources(str(file))
