"""Several evaluations in one table: pairing by id, differences, figures that the runs allow, mistakes by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from common import anomaly_study
from common.atomic import write_csv
from common.errors import UserError


def evaluation(folder: Path, strength: float, parameters: int, patch_size: int = 31, cases: int = 12, flip: bool = False) -> Path:
    """What an evaluation writes; scores of abnormal structures are raised by a strength over the same noise."""
    noise, rows = np.random.default_rng(0).normal(size=(cases, 3)), []
    for k in range(cases):
        found = {"bleed_left": k % 2, "bleed_right": int(k % 3 == 0), "fracture": int(k % 4 == 0)}
        scores = noise[k] + strength * np.array(list(found.values()))
        rows.append({"id": f"c{k}", **found, **{f"error_max_{s}": v for s, v in zip(("left", "right", "skull"), scores, strict=True)}})
    write_csv(folder / "metrics.csv", rows[::-1] if flip else rows)
    resources = {"parameters": parameters, "peak_memory_mib": parameters / 100}
    (folder / "summary.json").write_text(json.dumps({"map": "error", "score": "max", "simulated": True, "resources": resources}))
    (folder / "evaluate_config.json").write_text(json.dumps({"patch_size": patch_size}))
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_one_command_makes_the_table_the_differences_and_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weak = evaluation(tmp_path / "weak", 0.0, 1000)
    strong = evaluation(tmp_path / "strong", 9.0, 4000, patch_size=19, flip=True)
    anomaly_study.main([f"--runs=ppr_m1={weak},ppr_m2={strong}", f"--output={tmp_path / 'out'}"])
    table = read_csv(tmp_path / "out" / "table.csv")
    assert [row["run"] for row in table] == ["ppr_m1"] * 4 + ["ppr_m2"] * 4 and {row["method"] for row in table} == {"ppr"}
    assert {row["auroc"] for row in table[4:]} == {"1.0"} and {row["patch_size"] for row in table[4:]} == {"19"}
    comparisons = read_csv(tmp_path / "out" / "comparisons.csv")
    assert [(row["run"], row["minus"], row["task"]) for row in comparisons] == [
        ("ppr_m2", "ppr_m1", "ICH, both hemispheres"),
        ("ppr_m2", "ppr_m1", "fracture, skull"),
    ]
    assert float(comparisons[0]["difference"]) == pytest.approx(1 - float(table[0]["auroc"])) and float(comparisons[0]["low"]) > 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"roc.png", "parameters.png", "memory.png", "patch_size.png"}
    assert "ppr_m2 - ppr_m1: ICH, both hemispheres +" in capsys.readouterr().out


def test_one_run_alone_has_only_its_curves(tmp_path: Path) -> None:
    anomaly_study.study(str(evaluation(tmp_path / "run", 1.0, 1000)), str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.csv", "roc.png"}


def test_a_task_without_positives_and_methods_of_one_patch_size_are_left_out_of_the_figures(tmp_path: Path) -> None:
    runs = [evaluation(tmp_path / name, 1.0, size, patch_size=size) for name, size in (("ppr", 31), ("multi", 19))]
    for run in runs:
        rows = read_csv(run / "metrics.csv")
        write_csv(run / "metrics.csv", [{**row, "fracture": 0} for row in rows])
    anomaly_study.study([str(run) for run in runs], str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"roc.png", "parameters.png", "memory.png"}


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = evaluation(tmp_path / "a", 1.0, 10), evaluation(tmp_path / "b", 1.0, 10, cases=11)
    with pytest.raises(UserError, match=r"a were not measured on the same cases: c11 only in one|b and a were not measured"):
        anomaly_study.read_runs([str(one), str(other)])
    with pytest.raises(UserError, match="expected folders with different names"):
        anomaly_study.read_runs([str(one), str(one)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        anomaly_study.main([f"--runs={tmp_path / 'empty'}", f"--output={tmp_path / 'out'}"])
    assert "has no metrics.csv and no summary.json, expected the output_dir of an evaluation" in capsys.readouterr().err
