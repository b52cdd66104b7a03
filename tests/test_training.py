"""The training driver: exact resumption after a kill, members that do not depend on each other, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer

from common.errors import UserError
from common.handlers.epoch_log import read_log
from common.handlers.plateau_schedule import PlateauSchedule
from common.metrics.lower_is_better import lower_is_better
from common.training import Stage, train

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "ladp" / "configs"


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


@pytest.fixture(scope="module")
def run(trained_ladp: Any) -> Callable[..., None]:
    """Train LADP at smoke size, two epochs a stage and two members; ``kill_at`` = (member, stage, epoch, iteration)."""

    def train(folder: Path, kill_at: tuple[int, str, int, int] | None = None, **overrides: Any) -> None:
        places = {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval"), "dataset_dir": str(trained_ladp.dataset_dir)}
        sizes = {"members": 2, "max_epochs": 2, "pretrain_epochs": 2, "device": "cpu", "batch_size": 16}
        files = [str(CONFIGS / "train.json"), str(CONFIGS / "smoke.json")]
        workflow = ConfigWorkflow(files, logging_file=False, **{**places, **sizes, **overrides})
        workflow.initialize()
        if kill_at is not None:
            member, stage, epoch, iteration = kill_at

            def kill(engine: Any) -> None:
                if engine.state.progress["member"] == member and engine.state.epoch == epoch and engine.state.iteration >= iteration:
                    raise KilledError

            trainer = workflow.parser.get_parsed_content("pretrain::trainer" if stage == "pretrain" else "train::trainer")
            trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
        workflow.run()

    return train


def kill_and_resume(run: Callable[..., None], folder: Path, place: tuple[int, str, int, int]) -> None:
    with pytest.raises(Exception) as caught:
        run(folder, kill_at=place)
    assert "KilledError" in repr(caught.getrepr(chain=True)), "the run ended for another reason"
    assert (folder / "models" / "model.pt").exists() <= (folder / "models" / "weights.json").exists(), "no weights without their record"
    run(folder, resume=True)


def weights(folder: Path, name: str = "model.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / name, weights_only=True)


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def uninterrupted(run: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return folder


@pytest.mark.parametrize(
    "place",
    [(0, "pretrain", 2, 1), (0, "train", 1, 1), (0, "train", 2, 3), (1, "pretrain", 1, 1), (1, "train", 2, 1)],
    ids=lambda place: "-".join(map(str, place)),
)
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(
    run: Callable[..., None], uninterrupted: Path, tmp_path: Path, place: tuple[int, str, int, int]
) -> None:
    kill_and_resume(run, tmp_path, place)
    for name in ("model.pt", "member_0.pt", "member_1.pt"):
        assert_equal_weights(weights(tmp_path, name), weights(uninterrupted, name))
    logs = [
        [{k: row[k] for k in ("member", "stage", "epoch", "loss")} for row in read_log(f / "eval" / "training.csv")]
        for f in (tmp_path, uninterrupted)
    ]
    assert logs[0] == logs[1], "no epoch is missing or written twice"


def test_resuming_a_finished_run_changes_nothing(run: Callable[..., None], uninterrupted: Path) -> None:
    before = weights(uninterrupted)
    run(uninterrupted, resume="true")
    assert_equal_weights(weights(uninterrupted), before)


def test_members_differ_and_another_seed_gives_other_weights(run: Callable[..., None], uninterrupted: Path, tmp_path: Path) -> None:
    one, two = weights(uninterrupted, "member_0.pt"), weights(uninterrupted, "member_1.pt")
    key = "network.encoder.stages.0.0.weight"
    assert not torch.equal(one[key], two[key])
    run(tmp_path, members=1, seed=7)
    assert not torch.equal(weights(tmp_path, "member_0.pt")[key], one[key])


def test_model_is_the_best_member_and_a_bare_state_dict(uninterrupted: Path) -> None:
    record = json.loads((uninterrupted / "models" / "weights.json").read_text())
    best = max(record["best"], key=lambda member: record["best"][member])
    assert_equal_weights(weights(uninterrupted), weights(uninterrupted, f"member_{best}.pt"))
    assert all(isinstance(value, torch.Tensor) for value in weights(uninterrupted).values())


def test_an_earlier_training_is_moved_aside_and_never_mixed_in(run: Callable[..., None], uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path, members=2)
    first = weights(tmp_path, "member_1.pt")
    run(tmp_path, members=1)
    assert not (tmp_path / "models" / "member_1.pt").exists()
    assert_equal_weights(torch.load(tmp_path / "models" / "previous" / "member_1.pt", weights_only=True), first)
    assert {row["member"] for row in read_log(tmp_path / "eval" / "training.csv")} == {0}


def test_given_weights_skip_the_pretraining(run: Callable[..., None], uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path, members=1, weights=str(uninterrupted / "models" / "model.pt"), max_epochs=1)
    assert {row["stage"] for row in read_log(tmp_path / "eval" / "training.csv")} == {"train"}


def test_every_member_starts_from_the_given_weights(run: Callable[..., None], uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path, members=2, weights=str(uninterrupted / "models" / "model.pt"), max_epochs=1, learning_rate=0.0)
    for member in ("member_0.pt", "member_1.pt"):
        assert_equal_weights(weights(tmp_path, member), weights(uninterrupted))


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"seed": 5}, "use its config"),
        ({"width": 0.125}, "is from another network"),
        ({"resume": "maybe"}, "expected true or false"),
    ],
)
def test_resuming_with_another_config_is_one_clear_error(
    run: Callable[..., None], uninterrupted: Path, overrides: dict[str, Any], text: str
) -> None:
    from common import user_error_in

    with pytest.raises(Exception) as caught:
        run(uninterrupted, **{"resume": True, **overrides})
    assert text in str(user_error_in(caught.value))


def test_a_damaged_checkpoint_is_one_clear_error(run: Callable[..., None], tmp_path: Path) -> None:
    from common import user_error_in

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "checkpoint_last.pt").write_bytes(b"half a check")
    with pytest.raises(Exception) as caught:
        run(tmp_path, resume=True)
    assert isinstance(user_error_in(caught.value), UserError) and "cannot be read" in str(user_error_in(caught.value))


@pytest.mark.slow
def test_a_real_sigkill_is_survived(run: Callable[..., None], trained_ladp: Any, uninterrupted: Path, tmp_path: Path) -> None:
    files = "['bundles/ladp/configs/train.json','bundles/ladp/configs/smoke.json']"
    sizes = {"members": 2, "max_epochs": 2, "pretrain_epochs": 2, "device": "cpu", "batch_size": 16, "resume": "true"}
    places = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval", "dataset_dir": trained_ladp.dataset_dir}
    options = [text for key, value in {**sizes, **places}.items() for text in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *options]
    for wait in (0.05, 0.3, 0.6):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        deadline = time.time() + 60
        while not (tmp_path / "eval" / "training.csv").exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not [p for p in (tmp_path / "models").glob("*.pt") if p.stat().st_size == 0]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert weights(tmp_path).keys() == weights(uninterrupted).keys()


# --- a schedule that follows from the validation values, and an error as the metric ---


class Measured:
    """Stands for MONAI's evaluator: member k's error in epoch e is ``errors[k][e - 1]``, and it keeps the best as MONAI does."""

    def __init__(self, errors: list[list[float]], trainer: SupervisedTrainer) -> None:
        self.errors, self.trainer, self.metric_cmp_fn = errors, trainer, lower_is_better
        self.state = type("State", (), {"epoch": 0, "key_metric_name": "mse", "metrics": {}, "best_metric": -1, "best_metric_epoch": -1})()

    def run(self, epoch: int) -> None:
        value = self.errors[self.trainer.state.progress["member"]][epoch - 1]
        self.state.epoch, self.state.metrics = epoch, {"mse": value}
        if lower_is_better(value, self.state.best_metric):
            self.state.best_metric, self.state.best_metric_epoch = value, epoch


def scheduled(
    folder: Path, errors: list[list[float]], resume: bool = False, kill_at: tuple[int, int] | None = None, epochs: int = 12
) -> Any:
    """Train one weight with a plateau rule and an early stop; returns the (member, epoch, rate) of all epochs, and the trainer."""
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=0.1)
    batch = {"image": torch.ones(1, 1), "label": torch.ones(1, 1)}
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "loss_function": torch.nn.MSELoss()}
    trainer = SupervisedTrainer(torch.device("cpu"), epochs, [batch], **parts)
    validator, seen = Measured(errors, trainer), []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run(engine.state.epoch))
    PlateauSchedule(optimizer, validator, 0.0, 0.0, patience=2, stop_patience=5).attach(trainer)  # type: ignore[arg-type]

    def note(engine: Any) -> None:
        seen.append((engine.state.progress["member"], engine.state.epoch, optimizer.param_groups[0]["lr"]))
        if seen[-1][:2] == kill_at:
            raise KilledError

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    stage = Stage("train", trainer, validator)  # type: ignore[arg-type]
    train(network, [stage], str(folder), seed=1, members=len(errors), resume=resume)
    return seen, trainer


ERRORS = [[0.9, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.7], [0.3] * 12, [0.8, 0.7, 0.6, 0.55] + [0.6] * 12]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("stopped")
    return folder, *scheduled(folder, ERRORS)


def test_each_member_has_its_own_rates_and_its_own_early_stop(stopped: Any) -> None:
    _, seen, trainer = stopped
    # five epochs without a better error end a member: after 7, 6 and 9
    assert [max(epoch for k, epoch, _ in seen if k == member) for member in range(3)] == [7, 6, 9]
    rates = [rate for member, _, rate in seen if member == 0]
    assert rates == pytest.approx([0.1] * 4 + [0.02] * 2 + [0.004])
    assert trainer.state.max_epochs == 12


@pytest.mark.parametrize("place", [(0, 2), (0, 6), (1, 1), (2, 9)], ids=str)
def test_a_killed_run_with_an_early_stop_goes_on_to_the_same_weights(stopped: Any, tmp_path: Path, place: tuple[int, int]) -> None:
    with pytest.raises(KilledError):
        scheduled(tmp_path, ERRORS, kill_at=place)
    again, _ = scheduled(tmp_path, ERRORS, resume=True)
    folder, seen, _ = stopped
    assert again == seen[seen.index(again[0]) :] and again[0][:2] == place
    for name in ("model.pt", "member_0.pt", "member_1.pt", "member_2.pt"):
        expected = torch.load(folder / name, weights_only=True)
        assert_equal_weights(torch.load(tmp_path / name, weights_only=True), expected)


def test_resuming_a_run_that_had_stopped_early_trains_nothing(stopped: Any) -> None:
    folder, _, _ = stopped
    before = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    assert before["validation_history"] == ERRORS[2][:9]
    again, trainer = scheduled(folder, ERRORS, resume=True)
    assert again == []
    assert trainer.state.max_epochs == 12


def test_with_an_error_as_the_metric_the_model_is_the_member_of_the_lowest(stopped: Any) -> None:
    folder, _, _ = stopped
    record = json.loads((folder / "weights.json").read_text())
    assert record["best"] == {"0": 0.5, "1": 0.3, "2": 0.55}
    model = torch.load(folder / "model.pt", weights_only=True)
    assert_equal_weights(model, torch.load(folder / "member_1.pt", weights_only=True))


def test_a_training_shorter_than_the_interval_of_its_validation_still_ends_with_a_model(run: Callable[..., None], tmp_path: Path) -> None:
    # MONAI Label sets max_epochs and knows nothing of val_interval
    run(tmp_path, members=1, pretrain_epochs=0, val_interval=50)
    record = json.loads((tmp_path / "models" / "weights.json").read_text())
    assert (tmp_path / "models" / "model.pt").is_file() and record["members"] == ["member_0.pt"]
    run(tmp_path / "often", members=1, pretrain_epochs=0, val_interval=2)
    assert_equal_weights(weights(tmp_path), weights(tmp_path / "often"))
