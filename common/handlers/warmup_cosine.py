"""Linear warm-up, then cosine, as a function of the step alone; MONAI's ``WarmupCosineSchedule`` has a state that a resume would need."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from common.errors import UserError

UNITS = ("iteration", "epoch")


def warmup_cosine_rate(step: int, warmup: int, steps: int) -> float:
    r"""Share of the full learning rate in a step.

    .. math:: \frac{s}{W} \;\text{ for } s \le W, \qquad \frac{1}{2}\left(1 + \cos \pi \frac{s - W}{S - W + 1}\right) \;\text{ after it}

    Args:
        step: s, from 1.
        warmup: W, steps of warm-up; 0 has none.
        steps: S, all steps.

    Returns:
        In (0, 1], 1 at the end of the warm-up; above 0 in the last step, and in steps after it what the last one has.

    Source: DAE, appendix G (500 iterations of warm-up, then cosine). Deviation: no step has the rate 0, which would teach nothing.
    """
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (min(step, steps) - warmup) / max(steps - warmup + 1, 1)))


class WarmupCosine:
    """Handler of a trainer: sets the learning rate at the start of every iteration or epoch.

    Args:
        optimizer: its groups' rates at construction are the full ones.
        warmup: iterations or epochs of warm-up, >= 0.
        steps: all iterations or epochs; None takes the engine's own (``max_epochs``, times ``epoch_length`` for iterations).
        unit: "iteration" or "epoch"; in an epoch all iterations then have one rate.

    Raises:
        UserError: another unit, or a warm-up below 0 or as long as the training.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, steps: int | None = None, unit: str = "iteration") -> None:
        if unit not in UNITS:
            raise UserError(f"unit: got '{unit}', expected one of {', '.join(UNITS)}.")
        if warmup < 0 or (steps is not None and warmup >= steps):
            raise UserError(f"warmup: got {warmup} of {steps} {unit}s, expected 0 or more, and fewer than all; lower it (0 has none).")
        self.optimizer, self.warmup, self.steps, self.unit = optimizer, int(warmup), steps, unit
        self.first = [group["lr"] for group in optimizer.param_groups]

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED if self.unit == "iteration" else Events.EPOCH_STARTED, self._set)

    def _set(self, engine: Engine) -> None:
        state = engine.state
        step, steps = (state.epoch, state.max_epochs or 1) if self.unit == "epoch" else (state.iteration, self._iterations(engine))
        share = warmup_cosine_rate(step, self.warmup, steps if self.steps is None else self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.first, strict=True):
            group["lr"] = rate * share

    @staticmethod
    def _iterations(engine: Engine) -> int:
        return (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
