"""The learning rate by epoch."""

import pytest
import torch
from ignite.engine import Engine

from common.handlers.cosine_decay import CosineDecay, cosine_rate


def rates(active, epochs=4):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    engine, seen = Engine(lambda e, b: seen.append(optimizer.param_groups[0]["lr"])), []
    CosineDecay(optimizer, active).attach(engine)
    engine.run([0, 0], max_epochs=epochs)
    return seen[::2], seen[1::2]


def test_the_rate_begins_whole_is_half_in_the_middle_and_stays_above_zero():
    assert cosine_rate(1, 10) == 1
    assert cosine_rate(6, 10) == pytest.approx(0.5)
    assert 0 < cosine_rate(10, 10) < 0.05


def test_every_step_of_an_epoch_has_the_rate_of_the_epoch():
    first, second = rates(True)
    assert first == second == pytest.approx([0.2 * cosine_rate(e, 4) for e in (1, 2, 3, 4)])
    assert first == sorted(first, reverse=True)


def test_switched_off_it_changes_nothing():
    assert rates("false")[0] == [0.2] * 4
