"""Evaluations of masks side by side, from files as the evaluation writes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from common.atomic import write_csv
from common.errors import UserError
from common.mask_study import study


def write_evaluation(folder: Path, dice: list[float], steps: int, ids: str = "abcdef") -> str:
    write_csv(folder / "metrics.csv", [{"id": name, "dice": value, "hd95_mm": 3.0} for name, value in zip(ids, dice, strict=True)])
    mean = sum(dice) / len(dice)
    metrics = {"dice": {"mean": mean, "sd": 0.1}, "hd95_mm": {"mean": 3.0, "sd": None}, "isolated_components": {"mean": 1.0, "sd": 0.0}}
    sizes = [{"samples": size, "dice": mean, "hd95_mm": 3.0} for size in (1, 3)]
    summary = {"cases": len(dice), "metrics": metrics, "empty_predictions": 0, "simulated": True, "ensemble": sizes}
    summary |= {"facts": {"steps": steps, "samples": 3}, "resources": {"parameters": 7}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


def test_runs_become_a_table_with_paired_tests_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_evaluation(tmp_path / "ddim_s5", [0.5, 0.6, 0.7, 0.5, 0.6, 0.7], 5)
    second = write_evaluation(tmp_path / "ddim_s20", [0.6, 0.71, 0.82, 0.63, 0.74, 0.85], 20)
    study(f"{first},{second}", str(tmp_path / "out"))
    with (tmp_path / "out" / "table.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["run"] for row in table] == ["ddim_s5", "ddim_s20"]
    assert [row["steps"] for row in table] == ["5", "20"] and table[0]["parameters"] == "7"
    assert float(table[0]["dice"]) == pytest.approx(0.6)
    with (tmp_path / "out" / "comparisons.csv").open() as stream:
        (test,) = csv.DictReader(stream)
    assert float(test["mean_difference"]) == pytest.approx(0.125)
    assert float(test["p"]) == pytest.approx(2 / 64), "six differences of one sign: 2 * 2^-6"
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"ensembles.png", "steps.png"}
    assert "ddim_s20 - ddim_s5: Dice +0.125" in capsys.readouterr().out


def test_runs_on_other_cases_are_refused(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "one", [0.5, 0.6], 5, "ab")
    second = write_evaluation(tmp_path / "two", [0.5, 0.6], 5, "ac")
    with pytest.raises(UserError, match="two and one were not measured on the same cases: b, c only in one"):
        study([first, second], str(tmp_path / "out"))


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no metrics\.csv and no summary\.json.*Run evaluate\.json first"):
        study(f"a={tmp_path}", str(tmp_path / "out"))
