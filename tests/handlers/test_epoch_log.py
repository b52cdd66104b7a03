import logging
import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from common.handlers import epoch_log
from common.handlers.epoch_log import EpochLog, read_log, shown


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    """TensorBoard takes seconds to import; one test below has it."""
    monkeypatch.setattr(epoch_log.importlib.util, "find_spec", lambda name: None)


def run(folder, losses, epochs=1, stage="train", progress=None, **settings):
    """Train with these losses in every epoch and return the rows of the log."""
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(batch, requires_grad=True)})
    if progress is not None:
        engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "progress", progress))
    EpochLog(str(folder), stage, **settings).attach(engine)
    engine.run(losses, max_epochs=epochs)
    return read_log(folder / "training.csv")


def places(rows):
    return [(row["member"], row["stage"], row["epoch"]) for row in rows]


def test_loss_of_an_epoch_is_the_mean_over_its_batches(tmp_path):
    rows = run(tmp_path, [1.0, 2.0, 6.0], epochs=2)
    assert [row["loss"] for row in rows] == [3.0, 3.0]
    assert places(rows) == [(0, "train", 1), (0, "train", 2)]
    assert all(math.isnan(row["metric"]) for row in rows)
    assert all(row["seconds"] >= 0 for row in rows)


def test_metric_of_the_validator_is_logged_in_the_epoch_it_ran(tmp_path):
    validator = SimpleNamespace(state=SimpleNamespace(epoch=2, key_metric_name="val_mean_dice", metrics={"val_mean_dice": 0.75}))
    rows = run(tmp_path, [1.0], epochs=3, validator=validator)
    assert [row["metric"] for row in rows] == [pytest.approx(math.nan, nan_ok=True), 0.75, pytest.approx(math.nan, nan_ok=True)]


def test_further_metrics_of_the_validator_are_columns_of_their_own(tmp_path):
    metrics = {"val_mean_dice": 0.75, "val_hd95_mm": 12.5}
    validator = SimpleNamespace(state=SimpleNamespace(epoch=2, key_metric_name="val_mean_dice", metrics=metrics))
    rows = run(tmp_path, [1.0], epochs=2, validator=validator)
    assert math.isnan(rows[0]["val_hd95_mm"]) and (rows[1]["metric"], rows[1]["val_hd95_mm"]) == (0.75, 12.5)


def test_every_epoch_has_its_line_in_the_log(tmp_path, caplog):
    validator = SimpleNamespace(state=SimpleNamespace(epoch=1, key_metric_name="val_mean_dice", metrics={"val_mean_dice": 0.75}))
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        run(tmp_path, [0.5], epochs=2, validator=validator, progress={"member": 3})
    assert "member 3 train epoch 1/2: loss 0.5000, val_mean_dice 0.7500 (" in caplog.text
    assert "member 3 train epoch 2/2: loss 0.5000 (" in caplog.text


def test_stages_and_members_share_one_file(tmp_path):
    run(tmp_path, [1.0], stage="pretrain")
    run(tmp_path, [2.0], stage="train")
    rows = run(tmp_path, [3.0], stage="train", progress={"member": 1})
    assert places(rows) == [(0, "pretrain", 1), (0, "train", 1), (1, "train", 1)]
    assert [row["loss"] for row in rows] == [1.0, 2.0, 3.0]


def test_an_epoch_that_runs_again_replaces_its_row(tmp_path):
    run(tmp_path, [1.0], epochs=2)
    rows = run(tmp_path, [5.0])
    assert sorted(places(rows)) == [(0, "train", 1), (0, "train", 2)]
    assert {row["epoch"]: row["loss"] for row in rows} == {1: 5.0, 2: 1.0}


def test_a_fresh_training_drops_the_rows_of_an_earlier_one(tmp_path):
    run(tmp_path, [1.0], epochs=3)
    progress = {"member": 0, "fresh": True}
    rows = run(tmp_path, [5.0], epochs=2, progress=progress)
    assert [row["loss"] for row in rows] == [5.0, 5.0]
    assert "fresh" not in progress  # only the first row of a training clears the file


def test_only_rank_zero_writes(tmp_path):
    assert run(tmp_path, [1.0], rank=1) == []
    assert list(tmp_path.iterdir()) == []


def test_no_temporary_file_is_left(tmp_path):
    run(tmp_path, [1.0], epochs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["training.csv"]


def test_no_file_gives_no_rows(tmp_path):
    assert read_log(tmp_path / "training.csv") == []


def test_rows_come_back_as_numbers(tmp_path):
    (row,) = run(tmp_path, [1.25])
    assert {key: type(value) for key, value in row.items()} == {
        "member": int,
        "stage": str,
        "epoch": int,
        "loss": float,
        "metric": float,
        "seconds": float,
    }


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.undo()
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, [1.0, 3.0], epochs=2, progress={"member": 1})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "member_1_train")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 2.0)]


def test_parts_of_a_loss_stand_in_the_log_by_their_names(tmp_path, caplog):
    loss = SimpleNamespace(mean_parts=lambda: {"reconstruction": 0.25, "cross_modal": 1.5})
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        (row,) = run(tmp_path, [0.5], loss=loss)
    assert "loss 0.5000 (reconstruction 0.2500, cross_modal 1.5000) (" in caplog.text
    assert (row["loss_reconstruction"], row["loss_cross_modal"]) == (0.25, 1.5)


def test_a_small_loss_is_not_shown_as_nothing() -> None:
    assert [shown(value) for value in (0.0, 0.5, -0.25, 12.5, 0.0100, 1.07e-5)] == [
        "0.0000",
        "0.5000",
        "-0.2500",
        "12.5000",
        "0.0100",
        "1.07e-05",
    ]
    assert shown(float("nan")) == "nan"
