"""Clip the gradient before the optimizer's step; MONAI's trainer has no such argument, ignite no such handler."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from common.errors import UserError


class GradientClipping:
    r"""Handler of a ``SupervisedTrainer``: :math:`g \leftarrow g \min(1, c / |g|)`, once per step of the optimizer.

    Under gradient accumulation the sum over the batches is clipped; with a gradient scaler the gradient is unscaled first.

    Args:
        parameters: the trained ones.
        max_norm: c, unit of the gradient; 0 switches off (the paper).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], max_norm: float = 0.0) -> None:
        if max_norm < 0:
            raise UserError(f"max_norm: got {max_norm}, expected 0 (off) or a number above 0, such as 1.0.")
        self.parameters, self.max_norm = list(parameters), max_norm

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register with the trainer."""
        if self.max_norm:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: SupervisedTrainer) -> None:
        length = engine.state.epoch_length
        batch = (engine.state.iteration - 1) % (length or engine.state.iteration) + 1
        if batch % engine.accumulation_steps and batch != length:
            return
        if engine.amp and engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
