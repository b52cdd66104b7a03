"""Train the members of an ensemble, each through the same stages, and go on after a kill from the last finished epoch."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data.utils import set_rnd
from monai.engines import SupervisedTrainer, Workflow
from monai.handlers import CheckpointLoader
from torch import nn

from common import __version__, flag
from common.atomic import save_tensors, write_text
from common.errors import UserError
from common.networks.transfer_record import TRANSFER
from common.weights import RECORD, load_weights

LAST = "checkpoint_last.pt"
logger = logging.getLogger("brain_bundles")


def reset_weights(network: nn.Module) -> None:
    """Draw all weights of a network anew from torch's generator; buffers such as normalisation constants stay."""
    reset: Any = getattr(network, "reset_parameters", None)
    if reset is not None:
        reset()
        return
    for child in network.children():
        reset_weights(child)


def seed_epoch(trainer: SupervisedTrainer, *place: int) -> None:
    """Seed torch, numpy, Python, the data set's transforms and the step from numbers that name an epoch.

    Args:
        trainer: its ``data_loader.dataset`` and ``prepare_batch`` are seeded too.
        place: e.g. (seed, rank, member, stage, epoch). The same place gives the same epoch, whether the run was
            interrupted or not, so that no random state has to be saved.
    """
    seed = int(np.random.SeedSequence(place).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    set_rnd(getattr(trainer.data_loader, "dataset", None), seed)
    set_rnd(trainer.prepare_batch, seed)


class Stage:
    """One training stage and what its checkpoint holds.

    Args:
        name: e.g. ``pretrain``; stands in the log and in the checkpoint.
        trainer: MONAI trainer; ``max_epochs`` 0 skips the stage.
        validator: evaluator whose best metric decides about ``model.pt``; None for a stage that makes no model.
        then: called after the stage, e.g. to draw the decoder anew.
    """

    def __init__(self, name: str, trainer: SupervisedTrainer, validator: Workflow | None = None, then: Any = None) -> None:
        self.name, self.trainer, self.validator, self.then = name, trainer, validator, then
        self.first_optimizer = copy.deepcopy(trainer.optimizer.state_dict())
        # a caller such as MONAI Label changes max_epochs after construction; ignite overwrites it only in run()
        self.skipped = trainer.state.max_epochs == 0

    @property
    def network(self) -> nn.Module:
        """The trained network without the wrapper of distributed training."""
        network = self.trainer.network
        return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network

    def begin(self) -> None:
        """Forget the previous member: epochs, best metric and optimizer."""
        self.trainer.optimizer.load_state_dict(copy.deepcopy(self.first_optimizer))
        self.trainer.state.epoch = self.trainer.state.iteration = 0
        if self.validator is not None:
            self.validator.state.best_metric, self.validator.state.best_metric_epoch = -1, -1

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, as tensors and plain numbers."""
        trainer, validator = self.trainer, self.validator
        scaler = trainer.scaler.state_dict() if trainer.scaler is not None else {}
        best = (float(validator.state.best_metric), int(validator.state.best_metric_epoch)) if validator is not None else (-1.0, -1)
        progress = {"epoch": trainer.state.epoch, "iteration": trainer.state.iteration, "best_metric": best[0], "best_epoch": best[1]}
        progress["train_seconds"] = float(getattr(trainer.state, "train_seconds", 0.0))  # where a TimeStop counts them
        progress["validation_history"] = list(getattr(trainer.state, "validation_history", []))  # where a PlateauSchedule notes them
        return {**progress, "network": self.network.state_dict(), "optimizer": trainer.optimizer.state_dict(), "scaler": scaler}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` gave."""
        self.network.load_state_dict(state["network"])
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        if self.trainer.scaler is not None and state["scaler"]:
            self.trainer.scaler.load_state_dict(state["scaler"])
        self.trainer.state.epoch, self.trainer.state.iteration = state["epoch"], state["iteration"]
        self.trainer.state.train_seconds = state.get("train_seconds", 0.0)
        self.trainer.state.validation_history = list(state.get("validation_history", []))
        if self.validator is not None:
            self.validator.state.best_metric, self.validator.state.best_metric_epoch = state["best_metric"], state["best_epoch"]


class Training:
    """All members through all stages; see :func:`train` for the arguments."""

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[Stage],
        ckpt_dir: str,
        seed: int,
        members: int,
        rank: int,
        first_weights: Mapping[str, torch.Tensor] | None,
        record: Mapping[str, Any],
        start: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self.network, self.stages, self.ckpt_dir = network, [s for s in stages if not s.skipped], Path(ckpt_dir)
        self.seed, self.members, self.rank = seed, members, rank
        self.first_weights, self.record, self.start = first_weights, record, start
        self.member, self.fresh = 0, True
        self.progress: dict[str, Any] = {}  # for the log: the member, and whether rows of an earlier training must go
        self.best: dict[str, float] = {}  # best validation metric per member; text keys, as JSON has them
        for index, stage in enumerate(self.stages):
            stage.trainer.add_event_handler(Events.EPOCH_STARTED, self._seed, index)
            stage.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validate_once, index)
            stage.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save, index)

    def _seed(self, engine: Any, index: int) -> None:
        self.progress["member"] = self.member
        engine.state.progress = self.progress
        seed_epoch(engine, self.seed, self.rank, self.member, index, engine.state.epoch)

    def _validate_once(self, engine: Any, index: int) -> None:
        """After the last epoch of a training that is shorter than the interval of its validation, which would leave no model."""
        validator: Any = self.stages[index].validator
        epoch = engine.state.epoch
        if validator is None or epoch != engine.state.max_epochs or validator.state.best_metric_epoch > 0:
            return
        if validator.state.epoch != epoch:
            validator.run(epoch)

    def _save(self, engine: Any, index: int) -> None:
        stage = self.stages[index]
        if self.rank:
            return
        if self.fresh:
            _set_aside(self.ckpt_dir)
            self.fresh = False
        validator = stage.validator
        if validator is not None and validator.state.best_metric_epoch == engine.state.epoch:
            self._save_best(float(validator.state.best_metric), validator.metric_cmp_fn)
        place = {"version": __version__, "seed": self.seed, "member": self.member, "stage": stage.name, "best": dict(self.best)}
        save_tensors(self.ckpt_dir / LAST, {**place, "body": self.network.state_dict(), **stage.state()})

    def _save_best(self, metric: float, better: Callable[[float, float], bool]) -> None:
        """Save the member's weights, and ``model.pt`` when no member is better; the record first, so that none lacks it."""
        weights = self.network.state_dict()
        self.best[str(self.member)] = metric
        members = [f"member_{k}.pt" for k in self.best]
        record = {"version": __version__, "members": members, "best": self.best, **self.record}
        save_tensors(self.ckpt_dir / f"member_{self.member}.pt", weights)
        write_text(self.ckpt_dir / RECORD, json.dumps(record, indent=2) + "\n")
        if not any(better(other, metric) for other in self.best.values()):
            save_tensors(self.ckpt_dir / "model.pt", weights)

    def _resume(self) -> int | None:
        """Load the last checkpoint; returns the index of the stage to go on with, None when there is no checkpoint."""
        path = self.ckpt_dir / LAST
        if not path.is_file():
            logger.warning("resume: there is no %s yet; starting anew.", path)
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"resume: {path} cannot be read ({error}); move it away or run with --resume false.") from error
        names = [stage.name for stage in self.stages]
        if state["stage"] not in names or state["seed"] != self.seed:
            found = f"stage '{state['stage']}' and seed {state['seed']}"
            raise UserError(f"resume: {path} is from {found}, this run has stages {names} and seed {self.seed}; use its config.")
        self.member, self.best, index = state["member"], dict(state["best"]), names.index(state["stage"])
        try:
            self.network.load_state_dict(state["body"])
            self.stages[index].load_state(state)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"resume: {path} is from another network; use the config it was trained with. {error}") from error
        logger.info("Resuming member %d, %s, after epoch %d.", self.member, state["stage"], state["epoch"])
        return index

    def _begin_member(self) -> None:
        """Draw the member's first weights and forget the member before."""
        seed_epoch(self.stages[0].trainer, self.seed, 0, self.member)
        if self.first_weights is None:
            reset_weights(self.network)
            if self.start is not None:
                self.start(self.network)
        else:
            self.network.load_state_dict(self.first_weights)
        for stage in self.stages:
            stage.begin()
            if stage.network is not self.network:
                reset_weights(stage.network)

    def run(self, resume: bool) -> None:
        """Train all members, or those that a resumed checkpoint leaves to do."""
        start = self._resume() if resume else None
        self.fresh = start is None
        self.progress["fresh"] = self.fresh
        for member in range(self.member, self.members):
            self.member = member
            if start is None:
                self._begin_member()
            for index, stage in enumerate(self.stages[start or 0 :], start or 0):
                if stage.trainer.state.epoch < stage.trainer.state.max_epochs:
                    stage.trainer.run()
                if stage.then is not None:
                    seed_epoch(stage.trainer, self.seed, 0, self.member, index, stage.trainer.state.max_epochs + 1)
                    stage.then()
            start = None


def _set_aside(ckpt_dir: Path) -> None:
    """Move the weights of an earlier training to ``previous/``; a new one must not mix with them or destroy them."""
    names = ["model.pt", LAST, RECORD, TRANSFER, *(path.name for path in sorted(ckpt_dir.glob("member_*.pt")))]
    found = [name for name in names if (ckpt_dir / name).is_file()]
    for name in found:
        (ckpt_dir / "previous").mkdir(exist_ok=True)
        os.replace(ckpt_dir / name, ckpt_dir / "previous" / name)
    if found:
        logger.warning("%s are from an earlier training; moved to %s.", ", ".join(found), ckpt_dir / "previous")


def train(
    network: nn.Module,
    stages: Sequence[Stage],
    ckpt_dir: str,
    seed: int,
    members: int = 1,
    resume: bool = False,
    weights: str | None = None,
    handlers: Sequence[Any] = (),
    settings: Mapping[str, Any] | None = None,
    rank: int = 0,
    start: Callable[[nn.Module], object] | None = None,
) -> None:
    """Train every member through every stage; writes ``member_<k>.pt``, ``model.pt``, ``checkpoint_last.pt``, ``weights.json``.

    ``model.pt`` is the best member's best epoch by the validation metric, a bare ``state_dict``.

    Args:
        network: the network that is saved; the stages train it or parts of it.
        stages: in order. All but the last are pre-training and are skipped when weights are given.
        ckpt_dir: folder of weights.
        seed: with member, stage and epoch it fixes every draw.
        members: size of the ensemble.
        resume: go on from ``checkpoint_last.pt``.
        weights: a ``state_dict`` file to fine-tune from.
        handlers: handlers of the last trainer; a ``CheckpointLoader`` among them (MONAI Label adds one) counts as weights.
        settings: what a reader of the weights must know to build the network; goes into ``weights.json``.
        rank: process number of a distributed run; rank 0 writes.
        start: called with the network when a member's first weights were drawn, e.g. to carry over those of a pre-training; not where
            weights are given.
    """
    resume = flag(resume, "resume")
    loaded = [h.load_path for h in handlers if isinstance(h, CheckpointLoader)]
    for path in [weights, *loaded]:
        if path is not None:
            load_weights(network, path)  # MONAI Label's loader would stop only after the data were read, and without a cure
    if loaded or weights is not None:
        logger.info("Weights given (%s): pre-training is skipped.", weights or loaded[0])
        stages = stages[-1:]
    first = {key: value.clone() for key, value in network.state_dict().items()} if weights is not None else None
    training = Training(network, stages, ckpt_dir, seed, members, rank, first, settings or {}, None if loaded else start)
    if not training.stages:
        raise UserError("max_epochs: every stage has 0 epochs; nothing to train.")
    training.run(resume)
