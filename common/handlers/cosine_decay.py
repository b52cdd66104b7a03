"""Learning rate as a function of the epoch alone; MONAI's ``LrScheduleHandler`` has a state that a resumed run would need."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from common import flag


def cosine_rate(epoch: int, epochs: int) -> float:
    r"""Share of the first learning rate in an epoch: :math:`(1 + \cos(\pi (e - 1) / E)) / 2`.

    Args:
        epoch: e, from 1.
        epochs: E.

    Returns:
        1 in the first epoch, falling, above 0 in the last.
    """
    return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / max(epochs, 1)))


class CosineDecay:
    """Handler of a trainer: sets the learning rate at the start of every epoch.

    Args:
        optimizer: its groups' rates at construction are the first ones.
        active: False leaves them as they are.
    """

    def __init__(self, optimizer: Optimizer, active: bool = True) -> None:
        self.optimizer, self.active = optimizer, flag(active, "active")
        self.first = [group["lr"] for group in optimizer.param_groups]

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._set)

    def _set(self, engine: Engine) -> None:
        if self.active:
            for group, rate in zip(self.optimizer.param_groups, self.first, strict=True):
                group["lr"] = rate * cosine_rate(engine.state.epoch, engine.state.max_epochs or 1)
