"""The average by hand, and through a whole training that is killed and resumed."""

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch import nn

from common.errors import UserError
from common.handlers.ema_weights import EmaWeights, trained_network
from common.training import Stage, train


class Numbers(nn.Module):
    """One weight and one buffer."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("seen", torch.zeros(1))


def run(decay, values, every=1, epoch_length=None, average=None):
    """An engine whose k-th batch sets the weight to ``values[k]``."""
    average = average or Numbers(5.0)
    network = trained_network(average, decay)

    def step(engine, batch):
        if engine.state.iteration == 1:
            first.append(network.weight.item())
        network.weight.data.fill_(values[engine.state.iteration - 1])
        network.seen.add_(1)

    engine, first = Engine(step), []
    EmaWeights(average, network, decay, every).attach(engine)
    length = epoch_length or len(values)
    engine.run([0] * length, max_epochs=len(values) // length)
    return average, network, first


def test_the_average_by_hand():
    average, network, first = run(0.5, [1.0, 2.0, 3.0])
    # d_n = min(0.5, (1 + n) / (10 + n)): 2/11, 3/12, 4/13
    first_step = 2 / 11 * 5 + 9 / 11 * 1
    second = 0.25 * first_step + 0.75 * 2
    assert average.weight.item() == pytest.approx(4 / 13 * second + 9 / 13 * 3)
    assert network.weight.item() == 3
    assert first == [5.0], "training begins at the weights that the run drew or loaded"
    assert average.seen.item() == 3, "buffers are copied"


def test_the_decay_rises_to_its_limit():
    average, _, _ = run(0.2, [0.0] * 30 + [1.0])
    assert average.weight.item() == pytest.approx(0.8, abs=1e-3)


def test_with_accumulation_it_averages_once_per_step_of_the_optimizer():
    # epochs of 3 batches, steps after batches 2 and 3 (the trainer flushes at the end of an epoch): n = 1, 1, 2, 3
    average, _, _ = run(0.9, [9.0, 1.0, 2.0, 9.0, 3.0, 4.0], every=2, epoch_length=3)
    expected = 5.0
    for value, n in ((1, 1), (2, 1), (3, 2), (4, 3)):
        d = (1 + n) / (10 + n)
        expected = d * expected + (1 - d) * value
    assert average.weight.item() == pytest.approx(expected)


def test_switched_off_there_is_one_network_and_no_handler():
    average, network, _ = run(0.0, [1.0, 2.0])
    assert average is network


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_an_impossible_decay_is_told(decay):
    with pytest.raises(UserError, match="or a number below 1, such as"):
        trained_network(Numbers(), decay)


def test_averaging_a_network_with_itself_is_told():
    network = Numbers()
    with pytest.raises(UserError, match="make the latter by trained_network"):
        EmaWeights(network, network, 0.9)


def train_linear(folder, max_epochs, resume=False, kill_at=None, weights=None):
    """Train y = 2 x with an average; returns what was saved at the end."""
    torch.manual_seed(0)
    average = nn.Sequential(nn.Linear(1, 1))
    network = trained_network(average, 0.9)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=DataLoader([{"image": torch.tensor([x]), "label": torch.tensor([2 * x])} for x in (0.1, 0.5, 1.0)], batch_size=1),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
        train_handlers=[EmaWeights(average, network, 0.9)],
        decollate=False,
    )

    def kill(engine):
        if engine.state.epoch == kill_at:
            raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
    train(average, [Stage("train", trainer)], str(folder), seed=1, resume=resume, weights=weights)
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


def test_a_resumed_training_has_the_same_average_and_the_same_raw_weights(tmp_path):
    whole = train_linear(tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        train_linear(tmp_path / "killed", 4, kill_at=3)
    resumed = train_linear(tmp_path / "killed", 4, resume=True)
    for part in ("body", "network"):
        assert all(torch.equal(whole[part][key], resumed[part][key]) for key in whole[part]), part
    assert not torch.equal(whole["body"]["0.weight"], whole["network"]["0.weight"])


def test_a_fine_tuning_begins_at_the_given_weights(tmp_path):
    torch.save({"0.weight": torch.tensor([[2.0]]), "0.bias": torch.tensor([0.0])}, tmp_path / "given.pt")
    saved = train_linear(tmp_path / "tuned", 1, weights=str(tmp_path / "given.pt"))
    for part in ("body", "network"):  # already perfect: no gradient, so both stay
        assert saved[part]["0.weight"].item() == pytest.approx(2.0, abs=1e-6)
