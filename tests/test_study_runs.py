"""Rows of a study: what is started, what is skipped, what goes on after a failure. A fake runner writes what the bundles would."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import anomaly_study, study, study_runs
from common.atomic import write_csv
from common.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"name": "ppr_m2", "overrides": {"width": 2}},
    {"name": "ae", "overlays": ["variant_autoencoder.json"]},
    {
        "name": "rule",
        "evaluate_only": True,
        "weights_of": "ppr_m2",
        "overlays": ["variant_threshold.json"],
        "overrides": {"maps": ["error"]},
    },
]


class Runner:
    """Stands for ``start_process``; notes (row, kind, config files, overrides) and fails where told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.files: dict[tuple[str, str], list[str]] = {}
        self.fails: set[tuple[str, str]] = set()
        self.lazy = False

    def __call__(self, command: Sequence[str], log: Path) -> int:
        options = dict(zip(command[4::2], command[5::2], strict=True))
        assert command[1:4] == ["-m", "monai.bundle", "run"]
        files, results, models = ast.literal_eval(options["--config_file"]), Path(options["--output_dir"]), Path(options["--ckpt_dir"])
        place = (results.parent.name, log.stem)
        self.started.append(place)
        self.files[place] = [Path(file).name for file in files]
        assert all(Path(file).is_file() for file in files)
        if place in self.fails:
            log.write_text("first\n\nerror: the disk is full\n")
            return 3
        if self.lazy:
            return 0
        if place[1] == "train":
            models.mkdir(parents=True, exist_ok=True)
            (models / "model.pt").touch()
        else:
            assert (models / "model.pt").is_file()
            write_evaluation(results)
        return 0


def write_evaluation(folder: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for k in range(8):
        found = {"bleed_left": k % 2, "bleed_right": int(k % 3 == 0), "fracture": int(k % 4 == 0)}
        rows.append({"id": f"c{k}", **found, **{f"error_max_{s}": rng.normal() for s in ("left", "right", "skull")}})
    write_csv(folder / "metrics.csv", rows)
    (folder / "summary.json").write_text(json.dumps({"map": "error", "score": "max", "simulated": True}))


def write_study(folder: Path, rows: Sequence[dict[str, Any]] = ROWS, **more: Any) -> str:
    path = folder / "study.json"
    path.write_text(json.dumps({"bundle": "position_regression", "overlays": ["quick.json"], "rows": rows, **more}))
    return str(path)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the rows of every comparison, which is not made."""
    calls: list[list[str]] = []
    monkeypatch.setattr(anomaly_study, "study", lambda runs, output: calls.append([run.split("=")[0] for run in runs]))
    return calls


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., list[str]]:
    def run(runner: Runner, rows: Sequence[dict[str, Any]] = ROWS, **options: Any) -> list[str]:
        return study_runs.run_study(write_study(tmp_path, rows), str(tmp_path / "out"), start=runner, **options)

    return run


def test_every_row_trains_and_evaluates_and_ends_in_one_table(tmp_path: Path, go: Callable) -> None:
    runner = Runner()
    assert go(runner) == ["ppr_m2", "ae", "rule"]
    assert runner.started == [("ppr_m2", "train"), ("ppr_m2", "evaluate"), ("ae", "train"), ("ae", "evaluate"), ("rule", "evaluate")]
    assert runner.files["ae", "train"] == ["train.json", "quick.json", "variant_autoencoder.json", "train_overrides.json"]
    expected = ["train.json", "quick.json", "evaluate.json", "variant_autoencoder.json", "evaluate_overrides.json"]
    assert runner.files["ae", "evaluate"] == expected
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8") as stream:
        assert list(dict.fromkeys(row["run"] for row in csv.DictReader(stream))) == ["ppr_m2", "ae", "rule"]
    assert (tmp_path / "out" / "roc.png").is_file()


def test_a_row_that_only_evaluates_begins_with_the_settings_of_its_weights(tmp_path: Path, go: Callable, compared: list) -> None:
    go(Runner(), dataset_dir=str(tmp_path))
    values = json.loads((tmp_path / "out" / "rule" / "evaluate_overrides.json").read_text())
    assert values == {"width": 2, "maps": ["error"], "dataset_dir": str(tmp_path)}
    assert not (tmp_path / "out" / "rule" / "models").exists()


def test_evaluations_may_have_a_cohort_of_their_own_but_not_beside_a_data_set(tmp_path: Path, compared: list) -> None:
    cohort = {"evaluate_on": "all", "simulated::seed": 1001}
    for folder, options in (("own", {}), ("given", {"dataset_dir": str(tmp_path)})):
        study_runs.run_study(write_study(tmp_path, ROWS[:1], test_cohort=cohort), str(tmp_path / folder), start=Runner(), **options)
    files = {kind: tmp_path / "own" / "ppr_m2" / f"{kind}_overrides.json" for kind in ("train", "evaluate")}
    values = {kind: json.loads(path.read_text()) for kind, path in files.items()}
    assert values["evaluate"] == {**cohort, **values["train"]} and not set(cohort) & set(values["train"])
    given = json.loads((tmp_path / "given" / "ppr_m2" / "evaluate_overrides.json").read_text())
    assert not set(cohort) & set(given)


def test_what_is_done_is_skipped_and_what_changed_is_done_again(tmp_path: Path, go: Callable, compared: list) -> None:
    go(Runner())
    again = Runner()
    assert go(again) == ["ppr_m2", "ae", "rule"] and not again.started and compared[-1] == ["ppr_m2", "ae", "rule"]
    wider = [{**ROWS[0], "overrides": {"width": 3}}, *ROWS[1:]]
    go(again, wider)
    assert again.started == [("ppr_m2", "train"), ("ppr_m2", "evaluate"), ("rule", "evaluate")]
    (tmp_path / "out" / "ae" / "eval" / "summary.json").unlink()
    (tmp_path / "out" / "rule" / "done.json").write_text("{cut off")
    again.started.clear()
    go(again, wider)
    assert again.started == [("ae", "evaluate"), ("rule", "evaluate")], "a training that is done is not done again"


def test_a_better_description_is_no_reason_to_train_again(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.json"
    digests = []
    for text, value in (("a", 2), ("b", 2), ("b", 3)):
        overlay.write_text(json.dumps({"_desc_": text, "max_epochs": value}))
        found = study_runs.read_study(write_study(tmp_path, [{"name": "a", "overlays": ["mine.json"]}]))
        digests.append(study_runs.plan_row(found, found.rows[0])[1].digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_row_that_fails_stops_no_other_and_is_named_at_the_end(go: Callable, compared: list) -> None:
    runner = Runner()
    runner.fails = {("ppr_m2", "train")}
    with pytest.raises(UserError) as caught:
        go(runner)
    text = str(caught.value)
    assert "2 of 3 rows failed, the others are done" in text and "ppr_m2: train ended with exit code 3; see" in text
    assert "error: the disk is full" in text and "rule: ppr_m2 failed, whose weights it needs" in text
    assert compared == [["ae"]] and ("ppr_m2", "evaluate") not in runner.started
    runner.fails = set()
    runner.started.clear()
    assert go(runner) == ["ppr_m2", "ae", "rule"] and ("ae", "train") not in runner.started


def test_an_old_result_is_not_taken_for_that_of_a_row_that_failed(go: Callable, compared: list) -> None:
    runner = Runner()
    go(runner, ROWS[:1])
    runner.fails = {("ppr_m2", "evaluate")}
    with pytest.raises(UserError, match="evaluate ended with exit code 3"):
        go(runner, [{**ROWS[0], "overrides": {"width": 3}}])
    assert len(compared) == 1
    runner.fails, runner.started = set(), []
    go(runner, ROWS[:1])
    assert runner.started == [("ppr_m2", "train"), ("ppr_m2", "evaluate")]


def test_success_without_results_is_a_failure(go: Callable, compared: list) -> None:
    runner = Runner()
    runner.lazy = True
    with pytest.raises(UserError, match=r"train ended with exit code 0 without .*model\.pt"):
        go(runner, ROWS[:1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a/b"}], r"a row has the name 'a/b'; expected letters"),
        ([{"name": "a"}, {"name": "a"}], "a row has the name 'a'.* another for each row"),
        ([{"name": "a", "overide": {}}], "row a: unknown overide; expected only .*overrides"),
        ([{"name": "a", "overlays": ["gone.json"]}], r"row a names gone\.json, but there is neither .*study|row a names gone"),
        ([{"name": "a", "evaluate_only": True}], "evaluate_only and weights_of belong together"),
        ([{"name": "a", "evaluate_only": True, "weights_of": "b"}], "weights_of names 'b', expected a trained row above it: there is none"),
        ([{"name": "a", "overrides": {"widht": 2}}], "row a: overrides name widht, which the configs do not have"),
        ([], "expected an object with 'bundle' .* and 'rows'"),
    ],
)
def test_mistakes_are_named_before_anything_starts(go: Callable, rows: list, message: str) -> None:
    runner = Runner()
    with pytest.raises(UserError, match=message):
        go(runner, rows)
    assert not runner.started


def test_mistakes_on_the_command_line_end_in_their_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            study.main(["run", *words])
        assert caught.value.code == 1
        return capsys.readouterr().err

    assert "STUDY: gone.json does not exist" in fails("gone.json", "--output", "out")
    assert "dataset_dir: " in fails(write_study(tmp_path), "--output", str(tmp_path / "out"), "--dataset_dir", "gone")
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json: is no JSON" in fails(str(tmp_path / "bad.json"), "--output", "out")
    assert "There is no bundle 'ppr'" in fails(write_study(tmp_path, bundle="ppr"), "--output", "out")
    assert "unknown seeds; expected only" in fails(write_study(tmp_path, seeds=3), "--output", "out")


def test_a_process_leaves_its_output_and_its_exit_code(tmp_path: Path) -> None:
    import sys

    log = tmp_path / "new" / "a.log"
    assert study_runs.start_process([sys.executable, "-c", "import sys; print('said'); sys.exit(4)"], log) == 4
    assert log.read_text() == "said\n"


@pytest.mark.parametrize(
    ("summary", "module"),
    [
        ({"metrics": {}}, "common.mask_study"),
        ({"pairs": 2, "images": {}}, "common.growth_study"),
        ({"corruptions": {"none": {}}}, "common.reconstruction_study"),
        ({}, "common.anomaly_study"),
    ],
)
def test_evaluations_are_compared_by_what_was_measured(summary: dict[str, Any], module: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert study_runs.comparison_of(tmp_path).__module__ == module
