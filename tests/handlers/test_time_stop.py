"""A clock that the test turns: each batch takes ten seconds, validation an hour."""

import pytest
from ignite.engine import Engine, Events

from common.errors import UserError
from common.handlers import time_stop
from common.handlers.time_stop import TimeStop

BATCHES = 3
EPOCH = BATCHES * 10.0


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time_stop.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Validator:
    """As much of MONAI's evaluator as is used."""

    def __init__(self, clock):
        self.state, self.clock, self.epochs = type("State", (), {"epoch": 0})(), clock, []

    def run(self, epoch):
        self.clock.now += 3600
        self.state.epoch = epoch
        self.epochs.append(epoch)


def trainer(clock, stop, validator=None, interval=1):
    def step(engine, batch):
        clock.now += 10

    engine = Engine(step)
    if validator is not None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=interval), lambda e: validator.run(e.state.epoch))
    stop.attach(engine)
    saved = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: saved.append((e.state.epoch, e.state.train_seconds)))
    return engine, saved


def run(engine, epochs=100):
    engine.run([0] * BATCHES, max_epochs=epochs)


def test_it_stops_after_the_epoch_in_which_the_time_is_used_up_and_that_epoch_is_saved(clock):
    engine, saved = trainer(clock, TimeStop(75 / 3600))
    run(engine)
    assert saved == [(1, EPOCH), (2, 2 * EPOCH), (3, 3 * EPOCH)]


def test_without_a_limit_all_epochs_run(clock):
    engine, saved = trainer(clock, TimeStop(None))
    run(engine, 4)
    assert len(saved) == 4


def test_validation_costs_no_training_time(clock):
    engine, saved = trainer(clock, TimeStop(75 / 3600), Validator(clock))
    run(engine)
    assert len(saved) == 3
    assert clock.now == pytest.approx(3 * (EPOCH + 3600))


def test_the_last_weights_are_validated_once(clock):
    for interval, epochs in ((1, [1, 2, 3]), (2, [2, 3]), (20, [3])):
        validator = Validator(clock)
        engine, _ = trainer(clock, TimeStop(75 / 3600, validator), validator, interval)
        run(engine)
        assert validator.epochs == epochs


def test_a_resumed_run_goes_on_counting(clock):
    engine, saved = trainer(clock, TimeStop(75 / 3600))
    engine.state.epoch, engine.state.iteration, engine.state.max_epochs = 2, 2 * BATCHES, 100
    engine.state.train_seconds = 2 * EPOCH  # what common.training restores
    engine.run([0] * BATCHES)
    assert saved == [(3, 3 * EPOCH)]


def test_resuming_when_the_time_is_used_up_trains_nothing(clock):
    engine, saved = trainer(clock, TimeStop(75 / 3600))
    engine.state.epoch, engine.state.iteration, engine.state.max_epochs = 3, 3 * BATCHES, 100
    engine.state.train_seconds = 3 * EPOCH
    engine.run([0] * BATCHES)
    assert saved == []
    assert clock.now == 0


def test_the_next_member_has_its_own_time(clock):
    engine, saved = trainer(clock, TimeStop(45 / 3600))
    run(engine)
    engine.state.epoch = engine.state.iteration = 0  # as Stage.begin does
    run(engine)
    assert saved == [(1, EPOCH), (2, 2 * EPOCH)] * 2


@pytest.mark.parametrize("hours", [0, -1, float("nan")])
def test_an_impossible_limit_is_told(hours):
    with pytest.raises(UserError, match="expected a number above 0, or null for no limit"):
        TimeStop(hours)
