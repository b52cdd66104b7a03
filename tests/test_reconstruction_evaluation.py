"""Restoring clean and corrupted slices of volumes: what the files say, against numbers by hand, with a network that is known."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from common.errors import UserError
from common.inferers.slice_restoration import SliceRestorationInferer
from common.reconstruction_evaluation import best_validation_loss, evaluate_reconstruction
from common.reconstruction_measure import KINDS as KINDS5
from common.reconstruction_measure import ReconstructionMeasure, chosen_slices, describe_slices, describe_subjects
from common.reconstruction_pictures import restoration_figure
from common.transforms.corruptions import corrupted_test

KINDS = ("none", "noise", "square")
SHAPE = (16, 16, 6)


class Damped(nn.Module):
    """Restores 90 % of what it sees."""

    def __init__(self, share: float = 0.9) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training, "the evaluation switches dropout and batch norm off"
        return self.share * x


class Cases(Dataset):
    """Cases in memory whose entries name files, as a reader's do."""

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]["case"]


def corrupt(image: torch.Tensor, kind: str, seeds: Sequence[int]) -> torch.Tensor:
    """Stand-in of the corruptions."""
    if kind == "square":
        blanked = image.clone()
        blanked[:, :, 2:6, 3:9] = 0
        return blanked
    noise = torch.stack([torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (image + 0.1 * noise).clamp(0, 1)


def a_volume(seed: int) -> torch.Tensor:
    return 0.2 + 0.5 * torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))


def an_evaluator(folder: Path, count: int = 3, network: nn.Module | None = None, **extra: Any) -> SupervisedEvaluator:
    data = []
    for seed in range(count):
        image = MetaTensor(a_volume(seed), meta={"filename_or_obj": f"{seed}.nii.gz"})
        facts = {"id": f"v{seed}", "subject": f"s{seed // 2}", "age": 20.0 + seed, "sex": "fm"[seed % 2], "site": "HH"}
        case = {"id": f"v{seed}", "image": image, "slices": torch.tensor([1, 3, 4])}
        data.append({**facts, "image": [str(folder / f"{seed}.nii.gz")], "case": case})
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Cases(data), batch_size=1),
        network=(network or Damped()).train(),
        inferer=SliceRestorationInferer(batch_size=2),
        decollate=True,
        **extra,
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restored")
    (folder / "weights.json").write_text(json.dumps({"settings": {"family": "skip", "loss": "mse", "other": 3}}))
    (folder / "training.csv").write_text("member,stage,epoch,loss,metric,seconds\n0,train,1,0.5,0.25,1\n0,train,2,0.4,0.125,1\n")
    evaluate_reconstruction(
        an_evaluator(folder), str(folder), "Stand-in", KINDS, 7, corrupt, {"l2": 1e-5}, ckpt_dir=str(folder),
        training_log=str(folder / "training.csv"), notes=["not verified"], resources={"parameters": 5},
    )  # fmt: skip
    return folder


def test_selected_slices_have_the_numbers_of_the_formulas(evaluated: Path) -> None:
    rows = read(evaluated / "slices.csv")
    assert len(rows) == 3 * 3 * 3 and [row["slice"] for row in rows[:3]] == ["1", "3", "4"]
    for row in rows:
        plane = a_volume(int(row["id"][1:]))[0, ..., int(row["slice"])].double()
        if row["corruption"] == "none":
            assert float(row["mse"]) == pytest.approx(float((0.1 * plane).square().mean()), rel=1e-4)
            assert float(row["psnr_db"]) == pytest.approx(-10 * math.log10(float(row["mse"])), rel=1e-5)
            assert (row["input_mse"], row["input_psnr_db"], row["changed_mse"]) == ("0", "inf", "")
        if row["corruption"] == "square":
            assert float(row["input_changed_mse"]) == pytest.approx(float(plane[2:6, 3:9].square().mean()), rel=1e-4)
            assert row["changed_mse"] == row["input_changed_mse"], "nothing comes of 0.9 times nothing"


def test_volumes_are_means_of_their_slices_with_their_facts(evaluated: Path) -> None:
    rows, slices = read(evaluated / "metrics.csv"), read(evaluated / "slices.csv")
    assert [(row["id"], row["subject"], row["age"], row["sex"], row["slices"]) for row in rows][1] == ("v1", "s0", "21", "m", "3")
    for row in rows:
        own = [float(found["dssim"]) for found in slices if (found["id"], found["corruption"]) == (row["id"], "noise")]
        assert float(row["noise_dssim"]) == pytest.approx(np.mean(own), rel=1e-4)
    assert rows[0]["none_input_psnr_db"] == "inf"


def test_the_summary_has_means_over_slices_and_over_subjects(evaluated: Path) -> None:
    summary, slices = json.loads((evaluated / "summary.json").read_text()), read(evaluated / "slices.csv")
    assert (summary["cases"], summary["subjects"], summary["slices"], summary["corruption_seed"]) == (3, 2, 9, 7)
    assert summary["facts"] == {"family": "skip", "loss": "mse", "l2": 1e-5} and summary["validation_loss"] == 0.125
    found = summary["corruptions"]["noise"]["restored"]["mse"]
    own = [float(row["mse"]) for row in slices if row["corruption"] == "noise"]
    assert found["slices"]["mean"] == pytest.approx(np.mean(own), rel=1e-4)
    assert found["slices"]["sd"] == pytest.approx(np.std(own, ddof=1), rel=1e-3)
    # subject s0 has two volumes, s1 one
    assert found["subjects"]["n"] == 2 and found["subjects"]["mean"] == pytest.approx((np.mean(own[:6]) + np.mean(own[6:])) / 2, rel=1e-4)
    assert summary["corruptions"]["none"]["input"]["mse"]["slices"]["mean"] == 0
    assert summary["corruptions"]["none"]["input"]["psnr_db"]["slices"] == {"n": 0, "infinite": 9, "mean": None, "sd": None}


def test_the_report_shows_pictures_doing_nothing_and_what_was_not_verified(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    for words in ("corrupted input", "not verified", "best: v", "median: v", "worst: v", "MSE", "DSSIM", "over subjects [95 %]", "inf"):
        assert words in page, words
    assert page.count("data:image/png") == 5, "training curves, three volumes and the chart"


def test_a_corruption_depends_on_its_case_alone(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def keep(image: torch.Tensor, kind: str, seeds: Sequence[int]) -> torch.Tensor:
        seen.append(corrupt(image, kind, seeds))
        return seen[-1]

    for kinds, names in ((["noise"], "ab"), (["noise", "square"], "b")):
        measure = ReconstructionMeasure(an_evaluator(tmp_path, 1), [], kinds, 1, keep)
        for name in names:
            measure({"id": name, "image": a_volume(0)}, {})
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]), "the same noise for b, whatever else is measured"
    assert not torch.equal(seen[1][0] - a_volume(0)[..., 1], seen[1][1] - a_volume(0)[..., 3]), "another noise for every slice"


def test_the_papers_corruptions_are_the_default(tmp_path: Path) -> None:
    measure = ReconstructionMeasure(an_evaluator(tmp_path, 1, nn.Identity()), [], KINDS5, 0, corrupted_test)
    row = measure({"id": "v0", "image": a_volume(0)}, {})
    assert row["none_mse"] == 0 and all(row[f"{kind}_mse"] == row[f"{kind}_input_mse"] > 0 for kind in KINDS5[1:])


def test_a_network_of_volumes_sees_the_slices_around(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    evaluator = an_evaluator(tmp_path, 1, Seen())
    evaluator.inferer = SliceRestorationInferer(spatial_dims=3)
    measure = ReconstructionMeasure(evaluator, [], ["square"], 0, corrupt)
    measure({"id": "v0", "image": a_volume(0), "slices": [1, 3, 4]}, {})
    assert seen[0].shape == (1, 1, 16, 16, 8), "padded to a multiple of 8"
    assert torch.equal(seen[0][0, ..., [0, 2, 5]], a_volume(0)[..., [0, 2, 5]])
    assert not seen[0][0, 0, 2:6, 3:9, [1, 3, 4]].any() and measure.slice_rows[0]["changed_mse"] > 0


def test_an_image_may_hold_the_selected_slices_alone() -> None:
    image = torch.zeros(1, 16, 16, 3)
    assert chosen_slices({"image": image}) == ([0, 1, 2], [0, 1, 2])
    assert chosen_slices({"image": image, "slices": [40, 41, 42]}) == ([0, 1, 2], [40, 41, 42])
    with pytest.raises(UserError, match=r"slices: got \[2, 3\], expected numbers from 0 to 2"):
        chosen_slices({"image": image, "slices": [2, 3]})


def test_infinite_slices_are_counted_and_left_out() -> None:
    assert describe_slices("psnr_db", [30.0, math.inf, 40.0]) == {"n": 2, "infinite": 1, "mean": 35.0, "sd": pytest.approx(50**0.5)}
    rows = [{"subject": "a", "x_psnr_db": 30.0}, {"subject": "a", "x_psnr_db": 40.0}, {"subject": "b", "x_psnr_db": math.inf}]
    found = describe_subjects(rows, "x_psnr_db")
    assert (found["n"], found["left_out"], found["mean"]) == (1, 1, 35)


def test_the_validation_loss_is_the_lowest_of_the_log() -> None:
    rows = [{"val_loss": 0.3, "metric": 5.0}, {"val_loss": 0.2, "metric": 6.0}, {"val_loss": math.nan}]
    assert best_validation_loss(rows) == 0.2
    assert best_validation_loss([{"metric": 0.8}, {"metric": 0.1}, {"metric": math.nan}]) == 0.1, "as the bundle's training logs it"
    assert best_validation_loss([]) is None


def test_mixed_precision_and_no_corruption_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got no corruption, expected at least one of none, dropout"):
        evaluate_reconstruction(an_evaluator(tmp_path), str(tmp_path), "x", [])
    with pytest.raises(UserError, match=r"got mixed precision, .*--amp false"):
        evaluate_reconstruction(an_evaluator(tmp_path, amp=True), str(tmp_path), "x")
    with pytest.raises(UserError, match="expected original, corrupted, restored of one shape"):
        restoration_figure({"none": [np.zeros((3, 3)), np.zeros((3, 4))]}, "x")
