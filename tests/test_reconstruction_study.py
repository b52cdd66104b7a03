"""Evaluations of reconstruction side by side: the two tables, tests over subjects, and verdicts that follow the numbers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.atomic import write_csv, write_json
from common.errors import UserError
from common.metrics.statistics import holm
from common.reconstruction_claims import CLAIMS, FAILS, HOLDS, MISSING, OPEN, verdict_of
from common.reconstruction_measure import summarise_reconstruction
from common.reconstruction_paper import PAPER, Setting
from common.reconstruction_runs import read_runs, setting_of
from common.reconstruction_study import main, study

KINDS = ("none", "dropout", "noise", "square", "blur")


def write_evaluation(folder: Path, setting: Setting, factor: float, spread: float = 0.01, restored: float = 0.5, seed: int = 0) -> str:
    """Six subjects of two slices; the errors on clean input grow with ``factor``, on corrupted ones they are a share of the input's."""
    random, rows, slices = np.random.default_rng(seed + 1), list[dict[str, Any]](), list[dict[str, Any]]()
    for index in range(6):
        name, own = f"v{index}", 1e-4 * (1 + 0.1 * index) * factor * (1 + spread * random.standard_normal())
        row: dict[str, Any] = {"id": name, "subject": f"s{index}", "slices": 2}
        for kind in KINDS:
            given = 0.0 if kind == "none" else 1e-3 * (1 + 0.1 * index)
            made = own if kind == "none" else given * restored * (1 + spread * random.standard_normal())
            numbers = {"mse": made, "dssim": 10 * made, "psnr_db": -10 * math.log10(made), "input_mse": given, "input_dssim": 10 * given}
            numbers |= {"input_psnr_db": -10 * math.log10(given) if given else math.inf}
            if kind in ("dropout", "square"):
                numbers |= {"changed_mse": 3 * made, "input_changed_mse": 3 * given}
            row |= {f"{kind}_{key}": value for key, value in numbers.items()}
            slices += [{"id": name, "subject": f"s{index}", "slice": number, "corruption": kind, **numbers} for number in (3, 4)]
        rows.append(row)
    write_csv(folder / "metrics.csv", rows)
    write_csv(folder / "slices.csv", slices)
    summary = {"title": "x", "simulated": True, "cases": 6, "subjects": 6, "slices": 12, "facts": setting._asdict(), "corruption_seed": 0}
    summary |= {
        "validation_loss": 0.01 * factor,
        "corruptions": summarise_reconstruction(rows, slices, KINDS),
        "resources": {"parameters": 9},
    }
    write_json(folder / "summary.json", summary)
    return str(folder)


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def name_of(setting: Setting) -> str:
    return "_".join(str(part) for part in setting)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 18 models, with the MSE of the thesis' tables; shallow ones leave dropped pixels as they are."""
    root, folders = tmp_path_factory.mktemp("study"), []
    for setting, paper in PAPER.items():
        folder = write_evaluation(root / name_of(setting), setting, paper["mse"] / 1e-4)
        folders.append(f"{name_of(setting)}={folder}")
    study(",".join(folders), str(root / "out"))
    return root / "out"


def test_the_two_tables_have_twelve_and_six_rows_beside_the_papers_numbers(compared: Path) -> None:
    augmented, plain = read(compared / "table_augmented.csv"), read(compared / "table_plain.csv")
    assert (len(augmented), len(plain)) == (12, 6)
    assert augmented[0]["row"] == "residual U-Net, MSE, augmented" and plain[3]["row"] == "shallow residual, original block, MSE"
    assert float(augmented[0]["paper_mse"]) == 3.44e-5 and float(augmented[0]["validation_loss"]) == pytest.approx(0.01 * 0.344)
    # six subjects with 1, 1.1, ..., 1.5 times the error of the table
    assert float(augmented[0]["mse"]) == pytest.approx(1.25 * 3.44e-5, rel=0.02)
    assert {path.name for path in compared.glob("*.png")} == {"augmented.png", "plain.png"}
    assert len(read(compared / "corruptions.csv")) == 18 * 5


def test_claims_follow_the_numbers(compared: Path) -> None:
    found = {(row["claim"], row["metric"]): row for row in read(compared / "claims.csv")}
    verdicts = {key: row["verdict"] for key, row in found.items()}
    assert len(found) == sum(len(claim.metrics) for claim in CLAIMS)
    assert verdicts["Noise is restored by every network.", "mse"] == HOLDS
    assert verdicts["Dropped pixels are not restored by the shallow residual networks.", "mse"] == FAILS, "the stand-ins restore all"
    assert verdicts["The residual U-Net leads under MSE, with augmentation.", "mse"] == HOLDS
    assert verdicts["The skip CAE leads without augmentation (table).", "mse"] == HOLDS
    # skip + L2 has the lower MSE under MSE: the thesis' own exception
    l2 = found["L2 hurts networks trained by MSE.", "mse"]
    assert (l2["verdict"], l2["parts"], l2["supported"], l2["contradicted"], l2["paper_supports"]) == (FAILS, "4", "3", "1", "3 of 4")
    assert l2["of"] == "skip CAE, MSE, augmented" and float(l2["smallest_advantage"]) == pytest.approx(1.25 * (2.25e-4 - 2.99e-4), rel=0.05)
    assert found["L2 hurts networks trained by MSE.", "dssim"]["paper_supports"] == "4 of 4"
    assert verdicts["L2 helps networks trained by DSSIM.", "mse"] == HOLDS
    assert verdicts["On a blanked square the DSSIM-trained residual U-Net and shallow network beat all others.", "mse"] in (OPEN, FAILS)


def test_all_pairs_are_tested_over_subjects_and_corrected(compared: Path) -> None:
    rows = read(compared / "comparisons.csv")
    assert (
        len(rows) == (12 * 11 // 2 + 6 * 5 // 2) * 3 and {row["n"] for row in rows} == {"6"} and {row["slices"] for row in rows} == {"12"}
    )
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(holm([float(row["p"]) for row in rows]))
    # twelve slices that are six twins: the same means, a smaller p
    assert all(float(row["p_slices_anticonservative"]) <= float(row["p"]) for row in rows)


def test_what_was_not_measured_has_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting("skip", "-", "mse", False, "none")
    study(write_evaluation(tmp_path / "one", setting, 1), str(tmp_path / "out"))
    assert {row["verdict"] for row in read(tmp_path / "out" / "claims.csv")} == {MISSING}
    assert not (tmp_path / "out" / "comparisons.csv").exists()
    printed = capsys.readouterr().out
    assert "Without augmentation" in printed and "With augmentation" not in printed and "NOT MEASURED" in printed


def test_a_claim_holds_if_all_parts_do_and_is_open_where_the_interval_holds_zero() -> None:
    up, unclear = {"advantage": 1.0, "low": 0.5, "high": 1.5, "p": 0.001}, {"advantage": 0.1, "low": -0.5, "high": 0.7, "p": 0.7}
    down = {"advantage": -1.0, "low": -1.9, "high": -0.1, "p": 0.03}
    assert verdict_of([up, up]) == HOLDS and verdict_of([up, unclear]) == OPEN and verdict_of([down]) == FAILS
    assert verdict_of([down, up]) == OPEN, "one of two parts is turned round by p = 0.03 only"
    assert verdict_of([up, up, {**down, "p": 1e-4}]) == FAILS and verdict_of([]) == MISSING
    nothing = {"advantage": math.nan, "low": math.nan, "high": math.nan, "p": math.nan}
    assert verdict_of([nothing]) == OPEN, "one subject decides nothing"


def test_seeds_of_one_model_are_averaged(tmp_path: Path) -> None:
    skip, shallow = Setting("skip", "-", "mse", False, "all"), Setting("shallow", "preactivation", "mse", False, "all")
    folders = [write_evaluation(tmp_path / f"skip_{seed}", skip, 1 + seed, 0, seed=seed) for seed in (0, 2)]
    folders.append(write_evaluation(tmp_path / "shallow", shallow, 3, 0))
    study(folders, str(tmp_path / "out"))
    first = read(tmp_path / "out" / "comparisons.csv")[0]
    # (1 + 3) / 2 against 3 times 1.25e-4
    assert (first["first"], first["second"]) == (skip.name, shallow.name) and float(first["mean_difference"]) == pytest.approx(-1.25e-4)


def test_runs_tell_what_they_are_in_several_ways(tmp_path: Path) -> None:
    assert setting_of({"family": "Skip", "loss": "MSE", "block": "original"}, "") == Setting("skip", "-", "mse", False, "none")
    partly = setting_of({"family": "shallow", "loss": "dssim", "l2": 1e-5, "augmentation": ["noise", "blur"]}, "")
    assert partly == Setting("shallow", "preactivation", "dssim", True, "blur+noise") and "blur+noise" in partly.name
    assert setting_of({"family": "skip", "loss": "mse", "augmentation": True, "l2": "false"}, "")[3:] == (False, "all")
    folder = tmp_path / "run"
    write_evaluation(folder, PAPER and next(iter(PAPER)), 1)
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", summary | {"facts": {}})
    with pytest.raises(UserError, match=r"neither summary.json \(facts\) nor evaluate_config.json says its family and loss"):
        read_runs(str(folder))
    write_json(folder / "evaluate_config.json", {"family": "myronenko", "loss": "dssim", "l2": "$0"})
    assert read_runs(str(folder))[0].setting == Setting("myronenko", "preactivation", "dssim", False, "none")


def test_other_evaluations_and_other_corruptions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = next(iter(PAPER))
    one, two = (write_evaluation(tmp_path / name, setting, 1) for name in ("one", "two"))
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    write_json(tmp_path / "two" / "summary.json", summary | {"corruption_seed": 4})
    with pytest.raises(SystemExit):
        main(["--runs", f"{one},{two}", "--output", str(tmp_path / "out")])
    assert "expected the same test images" in capsys.readouterr().err
    write_json(tmp_path / "two" / "summary.json", {"metrics": {}})
    with pytest.raises(UserError, match="is no evaluation of reconstruction"):
        read_runs([two])
