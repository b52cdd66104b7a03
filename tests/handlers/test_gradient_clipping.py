"""Clipping and MONAI's gradient accumulation, against gradients computed here."""

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch import nn

from common.errors import UserError
from common.handlers.gradient_clipping import GradientClipping

CASES = [{"image": torch.tensor([x]), "label": torch.tensor([y])} for x, y in ((1.0, 3.0), (2.0, -1.0), (0.5, 4.0), (1.5, 2.0), (3.0, 5.0))]


def train(batch_size=1, accumulation_steps=1, max_norm=0.0, cases=CASES):
    """One epoch of y = w x + b from 0 by gradient descent with rate 0.1."""
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(cases, batch_size=batch_size),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
        train_handlers=[GradientClipping(network.parameters(), max_norm)],
        accumulation_steps=accumulation_steps,
        decollate=False,
    ).run()
    return torch.tensor([network.weight.item(), network.bias.item()])


def test_accumulated_batches_make_one_step_of_their_mean_gradient():
    """The released code returns after the first of them."""
    assert torch.allclose(train(batch_size=1, accumulation_steps=4, cases=CASES[:4]), train(batch_size=4, cases=CASES[:4]))
    assert not torch.allclose(train(batch_size=1, accumulation_steps=4, cases=CASES[:4]), train(batch_size=1, cases=CASES[:1]))


def test_the_rest_of_an_epoch_is_not_lost():
    assert not torch.allclose(train(accumulation_steps=4), train(accumulation_steps=4, cases=CASES[:4]))


def test_one_clipped_step_by_hand():
    # at 0 the gradient of (w x + b - y)^2 at x = 1, y = 3 is (-6, -6), norm 6 sqrt 2; clipped to 1 it is -(1, 1) / sqrt 2
    assert torch.allclose(train(max_norm=1.0, cases=CASES[:1]), torch.full((2,), 0.1 / 2**0.5), atol=1e-5)
    assert torch.allclose(train(max_norm=100.0, cases=CASES[:1]), torch.full((2,), 0.6))


def test_switched_off_nothing_is_clipped():
    assert torch.equal(train(max_norm=0.0), train(max_norm=1e9))


def test_under_accumulation_the_sum_is_clipped_once():
    together = train(batch_size=4, max_norm=1.0, cases=CASES[:4])
    assert torch.allclose(train(batch_size=1, accumulation_steps=4, max_norm=1.0, cases=CASES[:4]), together)
    assert together.norm().item() == pytest.approx(0.1, rel=1e-4), "one step of length 1 at rate 0.1"


def test_the_last_short_step_of_an_epoch_is_clipped_too():
    moved = train(accumulation_steps=4, max_norm=0.01) - train(accumulation_steps=4, max_norm=0.01, cases=CASES[:4])
    assert 0 < moved.norm().item() <= 0.0011


def test_a_negative_norm_is_told():
    with pytest.raises(UserError, match="max_norm: got -1, expected 0"):
        GradientClipping([], -1)
