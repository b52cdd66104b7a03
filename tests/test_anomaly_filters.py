"""The filter of a reconstruction's error map is chosen on labelled cases, by what it does for each task."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import Dataset, MetaTensor

from common.anomaly_filters import FilteredScores, choose_filter
from common.errors import UserError
from common.transforms.head_masks import BRAIN_LEFT, BRAIN_RIGHT, SKULL

SIDE = 16
STRUCTURES = torch.zeros(1, SIDE, SIDE, SIDE, dtype=torch.uint8)
STRUCTURES[:, :7], STRUCTURES[:, 7:14], STRUCTURES[:, 14:] = BRAIN_LEFT, BRAIN_RIGHT, SKULL


class Loader:
    def __init__(self, cases):
        self.dataset = Dataset(cases)


class Evaluator(Engine):
    """Gives each case the error map that it brings along, as an evaluator would."""

    def __init__(self, cases):
        super().__init__(lambda engine, batch: [{"error": torch.as_tensor(item["error"])} for item in batch])
        self.data_loader = Loader(cases)


def cases(count=8):
    """Bright single voxels everywhere, which tell nothing; a fainter cube of 5 voxels where it bleeds, a plate where bone is broken."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        error = torch.zeros(1, SIDE, SIDE, SIDE)
        for start, room in ((0, 7), (7, 7), (14, 2)):
            error[0, start + generator.integers(room), generator.integers(8), generator.integers(8)] = 1 + float(generator.random())
        findings = {"bleed_left": number % 2, "bleed_right": int(number % 3 == 0), "fracture": int(number % 4 == 0)}
        for key, part in (("bleed_left", slice(1, 6)), ("bleed_right", slice(8, 13)), ("fracture", slice(14, 16))):
            if findings[key]:
                error[0, part, 9:14, 9:14] = 0.5
        found.append({"id": f"case{number}", "findings": findings, "error": error, "structures": MetaTensor(STRUCTURES)})
    return found


@pytest.fixture
def run_by_hand(monkeypatch):
    """``run_cases`` without a loader: MONAI's own evaluator is tested with the bundle."""

    def run(evaluator):
        for case in evaluator.data_loader.dataset.data:
            evaluator.run([[case]])

    monkeypatch.setattr("common.anomaly_filters.run_cases", run)


def test_the_filter_that_removes_specks_is_chosen(tmp_path, run_by_hand):
    rows = choose_filter(Evaluator(cases()), str(tmp_path), sizes=(3, 5))
    bleeding = [row for row in rows if row["task"] == "ICH, both hemispheres"]
    assert {(row["filter"], row["size"]) for row in bleeding} == {("none", 1), ("median", 3), ("median", 5), ("erosion", 3), ("erosion", 5)}
    assert (bleeding[0]["filter"], bleeding[0]["auroc"]) == ("median", 1.0)
    assert next(row for row in bleeding if row["filter"] == "none")["auroc"] < 1
    assert [row["auroc"] for row in bleeding] == sorted((row["auroc"] for row in bleeding), reverse=True)
    lines = (tmp_path / "filters.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "task,filter,size,auroc,low,high,positives,negatives"
    assert len(lines) == 1 + 2 * 5


def test_cases_of_one_class_are_an_error_that_says_what_to_give(tmp_path, run_by_hand):
    healthy = [case for case in cases(16) if not any(case["findings"].values())]
    with pytest.raises(UserError, match=r"ICH, both hemispheres: none of .* is abnormal.*Give --validation_abnormal"):
        choose_filter(Evaluator(healthy), str(tmp_path), sizes=[3])
    assert not (tmp_path / "filters.csv").exists()


def test_no_filter_is_tried_once_whatever_the_sizes():
    measure = FilteredScores(cases(2), ["none", "median"], [3, 5])
    assert list(measure.tried) == ["none 1", "median 3", "median 5"]
