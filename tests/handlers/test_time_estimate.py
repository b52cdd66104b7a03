import logging
from types import SimpleNamespace

import pytest
from ignite.engine import Engine

from common.handlers import time_estimate
from common.handlers.time_estimate import TimeEstimate, readable_duration

ADVICE = "Add configs/quick.json."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h"), (12600, "3.5 h"), (172800, "2.0 days")],
)
def test_durations_are_in_the_largest_sensible_unit(seconds, words):
    assert readable_duration(seconds) == words


@pytest.fixture
def train(monkeypatch, caplog):
    """Train on a clock of its own, 10 batches an epoch; returns what was logged."""
    clock = {"now": 0.0}
    monkeypatch.setattr(time_estimate, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))

    def run(epochs, seconds_per_batch=2.0, first=None, **settings):
        def step(engine, batch):
            clock["now"] += first if first is not None and engine.state.iteration == 1 else seconds_per_batch

        engine = Engine(step)
        TimeEstimate(ADVICE, **{"batches": 3, **settings}).attach(engine)
        with caplog.at_level(logging.INFO, logger="brain_bundles"):
            engine.run(range(10), max_epochs=epochs)
        return caplog.records

    return run


def test_it_says_once_what_is_left(train):
    # 5 epochs of 10 batches, 4 of them gone when it speaks: 46 times 2 s
    (record,) = train(5)
    assert record.getMessage() == "2.00 s per batch on cpu: this stage will take about 92 s without validation."
    assert record.levelno == logging.INFO


def test_a_long_training_is_a_warning_with_advice(train):
    # 996 times 2 s = 33.2 min
    (record,) = train(100)
    assert record.getMessage() == f"2.00 s per batch on cpu: this stage will take about 33.2 min without validation. {ADVICE}"
    assert record.levelno == logging.WARNING


def test_what_is_long_is_a_setting(train):
    (record,) = train(100, long_hours=1.0)
    assert ADVICE not in record.getMessage()


def test_the_first_batch_warms_up_and_is_not_timed(train):
    (record,) = train(5, first=500.0)
    assert record.getMessage().startswith("2.00 s per batch")


def test_only_rank_zero_speaks(train):
    assert train(5, rank=1) == []


def test_a_training_shorter_than_the_timing_says_nothing(train):
    assert train(1, batches=10) == []
