"""Learning rate and early stop as functions of the validation values so far; MONAI's handlers keep a state that a resume would lose."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from common import flag
from common.errors import UserError

logger = logging.getLogger("brain_bundles")


def bad_runs(history: Sequence[float], min_delta: float) -> Iterator[bool]:
    """For each value, whether it fails to lie more than ``min_delta`` below the best before; NaN fails."""
    best = math.inf
    for value in history:
        improved = value < best - min_delta
        best = value if improved else best
        yield not improved


def plateau_rate(history: Sequence[float], first_rate: float, factor: float, patience: int, min_rate: float, min_delta: float) -> float:
    r"""Learning rate after some validations: multiplied by ``factor`` whenever ``patience`` of them in a row brought nothing new.

    Args:
        history: validation values in their order, lower is better.
        first_rate: the rate without history, > 0.
        factor: in (0, 1].
        patience: Keras' count, >= 1: the rate falls after the ``patience``-th failure in a row. torch's ``ReduceLROnPlateau`` waits for
            one more, so its patience is one less.
        min_rate: never below this, unless the first is.
        min_delta: absolute; a value counts when it lies more than this below the best.

    Returns:
        The rate of the next epoch.

    Source: methods/brain_autoencoder.md, section 6 (Keras' ``ReduceLROnPlateau``).
    """
    rate, bad = first_rate, 0
    for failed in bad_runs(history, min_delta):
        bad = bad + 1 if failed else 0
        if bad >= patience:
            rate, bad = min(rate, max(rate * factor, min_rate)), 0
    return rate


def should_stop(history: Sequence[float], patience: int, min_delta: float) -> bool:
    """Whether the last ``patience`` validations in a row, or any so many before, all failed to improve the best by ``min_delta``.

    Args:
        history: validation values in their order, lower is better.
        patience: >= 1.
        min_delta: absolute, >= 0.

    Source: methods/brain_autoencoder.md, section 6 (Keras' ``EarlyStopping``).
    """
    bad = 0
    for failed in bad_runs(history, min_delta):
        bad = bad + 1 if failed else 0
        if bad >= patience:
            return True
    return False


class PlateauSchedule:
    """Handler of a trainer: lowers the rate where validation stands still, and ends the training where it does so for long.

    Both follow from ``engine.state.validation_history``, the validator's key metric after each of its runs, lower is better.
    ``common.training`` saves that list with the epoch, so that a resumed run goes on as if nothing had happened, and one that had stopped
    stops at once. Patience counts validations. ``max_epochs`` stays what the user gave.

    Put it behind the ``ValidationHandler``.

    Args:
        optimizer: its groups' rates at construction are the first ones.
        validator: MONAI evaluator, e.g. with ``lower_is_better`` as ``metric_cmp_fn``.
        min_delta: for the rate; the thesis has 1e-7 for MSE, 2e-5 for DSSIM.
        stop_min_delta: for the stop; the thesis has 2e-7 for MSE, 5e-5 for DSSIM.
        factor: of the rate, in (0, 1].
        patience: of the rate, in validations.
        min_rate: lowest rate.
        stop_patience: of the stop, in validations; None never stops early.
        active: False leaves the rate as it is (the stop has its own switch).

    Raises:
        UserError: numbers outside their range.

    Source: methods/brain_autoencoder.md, section 6.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        validator: Engine,
        min_delta: float = 1e-7,
        stop_min_delta: float = 2e-7,
        factor: float = 0.2,
        patience: int = 4,
        min_rate: float = 1e-7,
        stop_patience: int | None = 20,
        active: bool = True,
    ) -> None:
        if not (0 < factor <= 1 and min_rate >= 0 and min_delta >= 0 and stop_min_delta >= 0):
            found = f"{factor=}, {min_rate=}, {min_delta=}, {stop_min_delta=}"
            raise UserError(f"PlateauSchedule: got {found}; expected factor in (0, 1] and the others >= 0.")
        if patience < 1 or (stop_patience is not None and stop_patience < 1):
            raise UserError(
                f"PlateauSchedule: got {patience=}, {stop_patience=}; expected at least 1 validation (stop_patience null: never)."
            )
        self.optimizer, self.validator, self.active = optimizer, validator, flag(active, "active")
        self.rule: dict[str, Any] = {"factor": factor, "patience": patience, "min_rate": min_rate, "min_delta": min_delta}
        self.stop_patience, self.stop_min_delta = stop_patience, stop_min_delta
        self.first = [group["lr"] for group in optimizer.param_groups]

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._set)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)

    def _start(self, engine: Engine) -> None:
        state: Any = engine.state
        if state.epoch == 0 or not hasattr(state, "validation_history"):
            state.validation_history = []
        if self._stopped(state.validation_history):
            logger.info("Validation had stopped improving before epoch %d; nothing left to train.", state.epoch + 1)
            engine.terminate()

    def _set(self, engine: Engine) -> None:
        state: Any = engine.state
        if not self.active:
            return
        for group, first in zip(self.optimizer.param_groups, self.first, strict=True):
            rate = plateau_rate(state.validation_history, first, **self.rule)
            if group is self.optimizer.param_groups[0] and rate not in (group["lr"], first):
                logger.info("Learning rate %.1e from epoch %d on.", rate, state.epoch)
            group["lr"] = rate

    def _note(self, engine: Engine) -> None:
        state: Any = engine.state
        seen: Any = self.validator.state
        if seen.epoch != state.epoch:
            return
        state.validation_history.append(float(seen.metrics[seen.key_metric_name]))
        if self._stopped(state.validation_history):
            text = "Validation has not improved by %g in %d runs; stopping after epoch %d of %s."
            logger.info(text, self.stop_min_delta, self.stop_patience, state.epoch, state.max_epochs)
            engine.terminate()

    def _stopped(self, history: Sequence[float]) -> bool:
        return self.stop_patience is not None and should_stop(history, self.stop_patience, self.stop_min_delta)
