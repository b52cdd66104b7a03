"""Say after the first batches how long a training will take."""

from __future__ import annotations

import logging
import time

from ignite.engine import Engine, Events


def readable_duration(seconds: float) -> str:
    """A duration in words of the largest sensible unit, e.g. ``3.5 h``."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


class TimeEstimate:
    """Handler of a trainer: logs the expected time of its stage, and what to do when that is long.

    Args:
        advice: a sentence added when the stage will take longer than ``long_hours``.
        batches: number of batches that are timed, after one that warms up.
        long_hours: when the advice is due, in hours.
        rank: only rank 0 speaks.
    """

    def __init__(self, advice: str = "", batches: int = 1, long_hours: float = 0.5, rank: int = 0) -> None:
        self.advice, self.batches, self.long_hours, self.rank = advice, batches, long_hours, rank
        self.seen, self.start, self.said = 0, 0.0, False

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)

    def _count(self, engine: Engine) -> None:
        if self.said or self.rank:
            return
        if self.seen == 0:
            self.start = time.perf_counter()
        self.seen += 1
        if self.seen <= self.batches:
            return
        step = (time.perf_counter() - self.start) / self.batches
        left = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1) - engine.state.iteration
        device = getattr(engine.state, "device", "cpu")
        text = f"{step:.2f} s per batch on {device}: this stage will take about {readable_duration(step * left)}"
        long = step * left > 3600 * self.long_hours
        advice = f" {self.advice}" if long else ""
        logging.getLogger("brain_bundles").log(logging.WARNING if long else logging.INFO, "%s without validation.%s", text, advice)
        self.said = True
