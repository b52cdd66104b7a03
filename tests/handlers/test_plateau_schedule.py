import pytest
import torch
from ignite.engine import Engine, Events

from common.errors import UserError
from common.handlers.plateau_schedule import PlateauSchedule, bad_runs, plateau_rate, should_stop

RULE = {"first_rate": 1e-3, "factor": 0.2, "patience": 4, "min_rate": 1e-7, "min_delta": 1e-7}


def histories():
    generator = torch.Generator().manual_seed(0)
    yield [1.0 / (k + 1) for k in range(30)]
    yield [1.0] * 60
    for scale in (1e-7, 1e-6, 1e-3):
        for _ in range(3):
            yield (torch.rand(60, generator=generator) * scale + torch.linspace(3 * scale, 0, 60)).tolist()


@pytest.mark.parametrize("history", histories())
@pytest.mark.parametrize("patience", [1, 4])
def test_the_rate_is_that_of_torchs_rule_step_by_step(history, patience):
    # torch waits for more than its patience of failures, Keras for its patience: torch's number is one less
    rule = RULE | {"patience": patience}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.2, patience=patience - 1, threshold=1e-7, threshold_mode="abs", min_lr=1e-7, eps=0
    )
    for count, value in enumerate(history, start=1):
        theirs.step(value)
        assert plateau_rate(history[:count], **rule) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_the_rate_by_hand():
    history = [5.0, 4.0, 4.0, 4.1, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    rates = [plateau_rate(history[:k], **RULE) for k in range(len(history) + 1)]
    # four failures behind 4.0, and four behind 3.0
    assert rates[:6] == [1e-3] * 6
    assert rates[6:11] == pytest.approx([2e-4] * 5)
    assert rates[11] == pytest.approx(4e-5)


def test_the_rate_ends_at_its_least_and_never_rises_to_it():
    assert plateau_rate([1.0] * 1000, **RULE) == 1e-7
    assert plateau_rate([1.0] * 1000, **(RULE | {"first_rate": 1e-8})) == 1e-8


def test_stop_by_hand():
    assert not should_stop([], 3, 0.1)
    assert not should_stop([2.0, 1.0, 1.0, 1.0], 3, 0.1)
    assert should_stop([2.0, 1.0, 1.0, 0.95, 0.9], 3, 0.1)  # better, but not by more than 0.1
    assert not should_stop([2.0, 1.0, 1.0, 0.95, 0.89], 3, 0.1)
    assert should_stop([1.0, 1.0, 1.0, 1.0, 0.1], 3, 0.1), "what has stopped stays stopped"
    assert should_stop([float("nan")] * 3, 3, 0.1)


class Validator:
    """As much of MONAI's evaluator as is used: its metric comes from a list, by epoch."""

    def __init__(self, values):
        self.values = values
        self.state = type("State", (), {"epoch": 0, "metrics": {}, "key_metric_name": "mse"})()

    def run(self, epoch):
        self.state.epoch, self.state.metrics = epoch, {"mse": self.values[epoch - 1]}


class Run:
    """A trainer whose epochs end with a validation, and what was seen of it."""

    def __init__(self, values, every=1, first=(1e-3,), **settings):
        self.optimizer = torch.optim.RMSprop([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in first])
        self.validator, self.rates, self.saved = Validator(values), [], []
        self.engine = Engine(lambda engine, batch: self.rates.append(self.optimizer.param_groups[0]["lr"]))
        self.engine.add_event_handler(Events.EPOCH_COMPLETED(every=every), lambda e: self.validator.run(e.state.epoch))
        PlateauSchedule(self.optimizer, self.validator, **settings).attach(self.engine)
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine):
        self.saved.append((engine.state.epoch, list(engine.state.validation_history), self.optimizer.state_dict()))

    def start(self, epochs=40):
        self.engine.run([0], max_epochs=epochs)
        return self

    def resume(self, saved, epochs=40):
        state = self.engine.state
        state.epoch, state.iteration, state.max_epochs, state.epoch_length = saved[0], saved[0], epochs, 1
        state.validation_history = list(saved[1])
        self.optimizer.load_state_dict(saved[2])
        self.engine.run([0])
        return self


FLAT = [3.0, 2.0, 1.0] + [1.0] * 60


def test_the_rate_falls_in_the_epoch_after_the_patience_and_the_run_stops_after_the_other():
    run = Run(FLAT, stop_patience=6).start()
    assert run.rates == pytest.approx([1e-3] * 7 + [2e-4] * 2)
    assert [epoch for epoch, *_ in run.saved] == list(range(1, 10)), "the last epoch is saved too"
    assert run.engine.state.max_epochs == 40


@pytest.mark.parametrize("killed", [1, 4, 7, 8])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(killed):
    whole = Run(FLAT, stop_patience=6).start()
    again = Run(FLAT, stop_patience=6).resume(whole.saved[killed - 1])
    assert again.rates == whole.rates[killed:]
    assert again.saved[-1][:2] == whole.saved[-1][:2]


def test_a_run_that_had_stopped_trains_nothing_when_resumed():
    whole = Run(FLAT, stop_patience=6).start()
    again = Run(FLAT, stop_patience=6).resume(whole.saved[-1])
    assert again.rates == [] and again.saved == []
    assert again.engine.state.max_epochs == 40 and again.engine.state.epoch == 9


def test_the_next_member_has_a_history_of_its_own():
    run = Run(FLAT, stop_patience=6).start()
    first = list(run.rates)
    run.engine.state.epoch = run.engine.state.iteration = 0  # as Stage.begin does
    run.start()
    assert run.rates == first * 2


def test_patience_counts_validations_not_epochs():
    run = Run([1.0] * 60, every=2, stop_patience=3).start()
    assert [epoch for epoch, *_ in run.saved][-1] == 8
    assert run.saved[-1][1] == [1.0] * 4


def test_each_half_can_be_switched_off():
    run = Run(FLAT, stop_patience=None, active="false").start(30)
    assert run.rates == [1e-3] * 30
    assert Run(FLAT, stop_patience=6, active=False).start().rates == [1e-3] * 9
    assert len(Run(FLAT, stop_patience=None).start(30).rates) == 30


def test_groups_keep_the_ratio_of_their_first_rates():
    run = Run(FLAT, first=(1e-2, 1e-4), stop_patience=None).start(9)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([2e-3, 2e-5])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"factor": 0}, "factor=0"),
        ({"min_delta": -1}, "min_delta=-1"),
        ({"patience": 0}, "patience=0"),
        ({"stop_patience": 0}, "null: never"),
    ],
)
def test_impossible_numbers_are_errors(settings, text):
    with pytest.raises(UserError, match=text):
        PlateauSchedule(Run(FLAT).optimizer, Validator([]), **settings)


def test_every_failure_counts_from_the_best_value_not_from_the_last():
    # a slow fall of half the least improvement: every second value counts
    history = [1.0 - 0.6e-7 * k for k in range(40)]
    assert list(bad_runs(history, 1e-7))[:5] == [False, True, False, True, False]
