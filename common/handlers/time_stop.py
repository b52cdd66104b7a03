"""Stop a training when its time is used up.

ignite's ``TimeLimit`` counts from its construction, so that preparation counts and a resumed run starts at 0 again, and it stops inside an
epoch, whose steps would be lost.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator

from common.errors import UserError


class TimeStop:
    """Handler of a trainer: ends it after the epoch in which the training time is used up.

    Counted are the batches, with their loading, from the start of an epoch to its last step; not counted are validation, checkpoints and
    preparation, so that methods are compared at equal time of learning. ``engine.state.train_seconds`` holds the sum; ``common.training``
    saves it with the epoch, so that a resumed run goes on counting. In a distributed run the slowest process counts.

    Put it behind the ``ValidationHandler`` and before ``EpochLog``.

    Args:
        max_train_hours: hours of training, above 0; None has no limit.
        validator: run once more after the last epoch if it did not run then, so that the last weights have their chance.

    Source: PatchDDM, Sec. 4: all variants train for the same time (420 h).
    """

    def __init__(self, max_train_hours: float | None = None, validator: Evaluator | None = None) -> None:
        if max_train_hours is not None and not max_train_hours > 0:
            raise UserError(f"max_train_hours: got {max_train_hours}, expected a number above 0, or null for no limit.")
        self.limit = math.inf if max_train_hours is None else 3600.0 * max_train_hours
        self.validator, self.begin, self.end = validator, 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._tick)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        state: Any = engine.state
        if state.epoch == 0 or not hasattr(state, "train_seconds"):
            state.train_seconds = 0.0
        if state.train_seconds >= self.limit:
            logging.getLogger("brain_bundles").info("The training time is used up; nothing left to train.")
            engine.terminate()

    def _begin(self, engine: Engine) -> None:
        self.begin = self.end = time.perf_counter()

    def _tick(self, engine: Engine) -> None:
        self.end = time.perf_counter()

    def _stop(self, engine: Engine) -> None:
        state: Any = engine.state
        state.train_seconds += float(idist.all_reduce(self.end - self.begin, "MAX"))
        if state.train_seconds < self.limit:
            return
        if self.validator is not None and self.validator.state.epoch != state.epoch:
            self.validator.run(state.epoch)
        text = "Training time used up (%.2f h of %.2f h) after epoch %d of %s; stopping."
        logging.getLogger("brain_bundles").info(text, state.train_seconds / 3600, self.limit / 3600, state.epoch, state.max_epochs)
        engine.terminate()
