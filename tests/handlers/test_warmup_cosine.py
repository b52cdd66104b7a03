"""The learning rate by iteration or epoch: up in a line, down by a cosine."""

import pytest
import torch
from ignite.engine import Engine
from monai.optimizers import WarmupCosineSchedule

from common.errors import UserError
from common.handlers.warmup_cosine import WarmupCosine, warmup_cosine_rate


def rates(warmup, steps=None, unit="iteration", epochs=3, start=0):
    """The rate of every iteration, three in an epoch, full rate 0.2."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    engine, seen = Engine(lambda e, b: seen.append(optimizer.param_groups[0]["lr"])), []
    WarmupCosine(optimizer, warmup, steps, unit).attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": 3})
    engine.run([0, 0, 0], max_epochs=epochs)
    return seen


def test_the_rate_rises_in_a_line_to_its_full_height_and_falls_to_above_zero():
    values = [warmup_cosine_rate(step, 4, 20) for step in range(1, 21)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[3:] == sorted(values[3:], reverse=True) and len(set(values[3:])) == 17
    assert 0 < values[-1] < 0.02


def test_half_of_the_way_down_is_half_of_the_rate():
    # 4 steps of warm-up, 19 in all: step 12 is 8 of 16 steps behind the top
    assert warmup_cosine_rate(12, 4, 19) == pytest.approx(0.5)


def test_without_warm_up_the_first_step_is_nearly_whole():
    assert 0.98 < warmup_cosine_rate(1, 0, 20) < 1


def test_steps_behind_the_last_have_its_rate():
    assert warmup_cosine_rate(25, 4, 20) == warmup_cosine_rate(20, 4, 20)


def test_it_is_monais_schedule_one_step_on():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=11)
    theirs = []
    for _ in range(11):
        optimizer.step()
        theirs.append(schedule.get_last_lr()[0])
        schedule.step()
    assert [warmup_cosine_rate(step, 3, 10) for step in range(1, 11)] == pytest.approx(theirs[1:])


def test_every_iteration_has_a_rate_of_its_own():
    assert rates(2) == pytest.approx([0.2 * warmup_cosine_rate(step, 2, 9) for step in range(1, 10)])
    assert rates(2, steps=7) == pytest.approx([0.2 * warmup_cosine_rate(step, 2, 7) for step in range(1, 10)])


def test_by_epochs_all_iterations_of_an_epoch_have_one_rate():
    values = rates(1, unit="epoch")
    assert values == pytest.approx([0.2 * warmup_cosine_rate(epoch, 1, 3) for epoch in (1, 1, 1, 2, 2, 2, 3, 3, 3)])


@pytest.mark.parametrize("unit", ["iteration", "epoch"])
def test_a_resumed_run_goes_on_with_the_same_rates(unit):
    assert rates(2, unit=unit, start=1) == rates(2, unit=unit)[3:]


def test_mistakes_are_told():
    with pytest.raises(UserError, match=r"warmup: got 5 of 5 iterations.*lower it"):
        rates(5, steps=5)
    with pytest.raises(UserError, match="unit: got 'week', expected one of iteration, epoch"):
        rates(1, unit="week")
