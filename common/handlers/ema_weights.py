"""Exponential moving average of the weights, saved and validated in place of the raw ones.

ignite's ``EMAHandler`` copies the network when it is built, before the run draws, loads or resumes weights; its copy would not be saved.
"""

from __future__ import annotations

import copy

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from common.errors import UserError


def trained_network(network: nn.Module, decay: float = 0.0) -> nn.Module:
    """The network that the optimizer works on: ``network`` itself, or with an average a copy of it.

    Args:
        network: the network that is saved, validated and used; with ``decay`` above 0 it holds the average.
        decay: see :class:`EmaWeights`.

    Raises:
        UserError: decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"ema_decay: got {decay}, expected 0 (off) or a number below 1, such as 0.9999.")
    return copy.deepcopy(network) if decay else network


class EmaWeights:
    r"""Handler of a trainer: keeps the average in the network that is saved.

    .. math:: \bar\theta \leftarrow d_n \bar\theta + (1 - d_n)\,\theta, \qquad d_n = \min\big(d, \tfrac{1 + n}{10 + n}\big)

    after the n-th step of the optimizer. The rise of :math:`d_n` lets the first weights be forgotten in a short training. At the start of
    a training (epoch 0) the raw weights are set to those of the average, which the run has drawn or loaded; a resumed run finds both in
    ``checkpoint_last.pt`` (``body`` the average, ``network`` the raw ones) because ``common.training.train`` is given the average.

    Args:
        average: the network that is saved and validated.
        network: the trained one, from :func:`trained_network`; may be wrapped for distributed training.
        decay: d, 0 switches off (the paper); 0.9999 is the rate that the released code parses and never uses.
        every: batches per step of the optimizer, ``accumulation_steps`` of the trainer.
    """

    def __init__(self, average: nn.Module, network: nn.Module, decay: float = 0.0, every: int = 1) -> None:
        self.average, self.decay, self.every = average, decay, every
        self.network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        if decay and self.average is self.network:
            raise UserError(
                "ema_decay: the average and the trained network are one; make the latter by trained_network(network, ema_decay)."
            )

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if self.decay:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)

    def _begin(self, engine: Engine) -> None:
        if engine.state.epoch == 0:
            self.network.load_state_dict(self.average.state_dict())

    @torch.no_grad()
    def _update(self, engine: Engine) -> None:
        batch = (engine.state.iteration - 1) % (engine.state.epoch_length or engine.state.iteration) + 1
        if batch % self.every and batch != engine.state.epoch_length:  # the trainer steps at the end of an epoch, too
            return
        n = engine.state.iteration // self.every
        average, raw = list(self.average.parameters()), list(self.network.parameters())
        get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))(average, raw, n)
        for mean, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(buffer)
