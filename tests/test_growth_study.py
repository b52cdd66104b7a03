"""Evaluations of growth side by side, from files as the evaluation writes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from common.atomic import write_csv, write_json
from common.errors import UserError
from common.growth_study import main, study
from common.growth_summary import summarise_growth


def write_evaluation(folder: Path, shift: float, ssl: bool = True, prob: float = 0.1, subjects: str = "abcdef", dims: int = 3) -> str:
    rows: list[dict[str, Any]] = []
    for index, subject in enumerate(subjects):
        for first, second in ((30.0, 38.0 + index), (38.0 + index, 30.0)):
            row = {"id": f"{subject}{first:g}->{subject}{second:g}", "subject": subject, "input": f"{subject}{first:g}"}
            row |= {"target": f"{subject}{second:g}", "input_age_weeks": first, "target_age_weeks": second}
            name = "circumference" if dims == 3 else "slice_perimeter"
            for method, gain in (("inr", shift + 0.01 * index), ("copy", -0.1)):
                metrics = {"psnr_db": 20 + 10 * gain, "ssim": 0.6 + gain, "mae": 0.05 - gain / 10}
                outline = {f"{name}_cm": 0.7 * second + gain, f"{name}_scan_cm": 0.8 * second}
                outline |= {"circumference_table_cm": 0.8 * second + 2 if index else float("nan")} if dims == 3 else {}
                rows.append({**row, "method": method, **metrics, **outline})
    write_csv(folder / "metrics.csv", rows)
    summary = {"title": "Growth", "simulated": True, **summarise_growth(rows), "facts": {"ssl": ssl, "sgla_prob": prob}}
    write_json(folder / "summary.json", summary)
    return str(folder)


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_seeds_become_a_mean_and_an_sd_and_settings_are_compared_by_child(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [("none_seed0", 0.0), ("none_seed1", 0.02), ("ssl_seed0", 0.1), ("ssl_seed1", 0.14)]
    folders = [f"{name}={write_evaluation(tmp_path / name, shift)}" for name, shift in runs]
    study(",".join(folders), str(tmp_path / "out"))
    assert [row["setting"] for row in read(tmp_path / "out" / "table.csv")] == ["none", "none", "ssl", "ssl"]
    none, ssl = read(tmp_path / "out" / "settings.csv")
    assert (none["setting"], none["runs"], ssl["runs"]) == ("none", "2", "2")
    # the six children gain 0.025 on average; seeds differ by 0.02 and 0.04
    assert float(none["ssim"]) == pytest.approx(0.635) and float(none["ssim_seed_sd"]) == pytest.approx(0.02 / 2**0.5)
    assert float(ssl["ssim"]) - float(none["ssim"]) == pytest.approx(0.11)
    assert float(ssl["outline_true_slope_cm_per_week"]) == pytest.approx(0.8), "against the table, where it has a value"
    tests = read(tmp_path / "out" / "comparisons.csv")
    assert [row["metric"] for row in tests] == ["psnr_db", "ssim", "mae"] and {row["n"] for row in tests} == {"6"}
    assert float(tests[1]["mean_difference"]) == pytest.approx(0.11) and float(tests[1]["p"]) == pytest.approx(2 / 64)
    printed = capsys.readouterr().out
    assert "ssl - none, ssim: +0.1100" in printed and "0.6350 ± 0.0141" in printed
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"circumference.png"}


def test_a_sweep_of_the_probability_is_drawn(tmp_path: Path) -> None:
    folders = [f"p{prob}={write_evaluation(tmp_path / str(prob), prob, True, prob)}" for prob in (0.0, 0.1, 0.3)]
    study(folders, str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"circumference.png", "sgla_prob.png"}


def test_slices_are_compared_by_their_proxy(tmp_path: Path) -> None:
    study(write_evaluation(tmp_path / "one", 0.1, dims=2), str(tmp_path / "out"))
    (row,) = read(tmp_path / "out" / "settings.csv")
    assert float(row["outline_true_slope_cm_per_week"]) == pytest.approx(0.8) and row["ssim_seed_sd"] == ""
    assert not (tmp_path / "out" / "comparisons.csv").exists()


def test_other_evaluations_and_other_children_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "mask" / "metrics.csv", [{"id": "a", "dice": 1}])
    (tmp_path / "mask" / "summary.json").write_text(json.dumps({"cases": 1, "metrics": {}}))
    with pytest.raises(UserError, match="is no evaluation of growth"):
        study(str(tmp_path / "mask"), str(tmp_path / "out"))
    one, two = write_evaluation(tmp_path / "one", 0.1), write_evaluation(tmp_path / "two", 0.1, subjects="abcdeg")
    with pytest.raises(SystemExit):
        main(["--runs", f"{one},{two}", "--output", str(tmp_path / "out")])
    assert "were not measured on the same cases" in capsys.readouterr().err
