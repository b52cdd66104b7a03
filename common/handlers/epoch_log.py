"""One line per epoch: to the log, to ``training.csv`` and to TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import logging
import math
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from common.atomic import write_csv


def shown(value: float) -> str:
    """A loss or metric for a line: four decimals, or three digits where that would hide a small one such as a squared error."""
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


class EpochLog:
    """Handler of a trainer; attach it behind the validation handler, so that the epoch's metric is there.

    Rows of an interrupted epoch are written anew after a resume, never twice.

    Args:
        output_dir: folder of ``training.csv`` and of TensorBoard's events.
        stage: name of the stage, e.g. ``pretrain``.
        validator: its key metric is logged when it ran in this epoch, its further metrics become columns; None logs the loss alone.
        rank: only rank 0 writes.
        loss: a loss of several parts, e.g. ``PretrainingLoss``: what its ``mean_parts()`` gives, name -> mean over the epoch, is logged
            and becomes columns ``loss_<name>``; None logs the sum alone.
    """

    def __init__(self, output_dir: str, stage: str, validator: Engine | None = None, rank: int = 0, loss: Any = None) -> None:
        self.output_dir, self.stage, self.validator, self.rank = Path(output_dir), stage, validator, rank
        self.loss = loss
        self.logger = logging.getLogger("brain_bundles")
        self.total, self.count, self.start = 0.0, 0, 0.0
        self.writers: dict[int, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self.total, self.count, self.start = 0.0, 0, time.perf_counter()

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self.total += float(output["loss"].detach())
        self.count += 1

    def _end(self, engine: Engine) -> None:
        if self.rank:
            return
        progress = getattr(engine.state, "progress", {})
        row: dict[str, Any] = {"member": progress.get("member", 0), "stage": self.stage, "epoch": engine.state.epoch}
        row["loss"], row["metric"] = self.total / max(self.count, 1), math.nan
        further: dict[str, float] = {}
        state: Any = self.validator.state if self.validator is not None else None
        if state is not None and state.epoch == engine.state.epoch and state.key_metric_name in state.metrics:
            row["metric"] = float(state.metrics[state.key_metric_name])
            further = {name: float(value) for name, value in state.metrics.items() if name != state.key_metric_name}
        row["seconds"] = round(time.perf_counter() - self.start, 2)
        parts = {} if self.loss is None else self.loss.mean_parts()
        named = f" ({', '.join(f'{name} {shown(value)}' for name, value in parts.items())})" if parts else ""
        metric = "" if math.isnan(row["metric"]) else f", {state.key_metric_name} {shown(row['metric'])}"
        line = (
            f"member {row['member']} {self.stage} epoch {row['epoch']}/{engine.state.max_epochs}: loss {shown(row['loss'])}{named}{metric}"
        )
        self.logger.info("%s (%.1f s)", line, row["seconds"])
        self._write_csv(row | {f"loss_{name}": value for name, value in parts.items()} | further, fresh=progress.pop("fresh", False))
        self._write_tensorboard(row)

    def _write_csv(self, row: dict[str, Any], fresh: bool) -> None:
        path = self.output_dir / "training.csv"
        rows = [] if fresh else read_log(path)
        place = [row[key] for key in ("member", "stage", "epoch")]
        rows = [r for r in rows if [r[key] for key in ("member", "stage", "epoch")] != place] + [row]
        write_csv(path, rows)

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        member = row["member"]
        if member not in self.writers:
            self.writers[member] = SummaryWriter(str(self.output_dir / "tensorboard" / f"member_{member}_{self.stage}"))
        writer = self.writers[member]
        writer.add_scalar(f"{self.stage}/loss", row["loss"], row["epoch"])
        if not math.isnan(row["metric"]):
            writer.add_scalar(f"{self.stage}/metric", row["metric"], row["epoch"])
        writer.flush()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Rows of ``training.csv``: member, stage, epoch, loss, metric, seconds and the validator's further metrics by their names.

    Numbers that were not measured are nan; without a file there are no rows.
    """
    if not Path(path).is_file():
        return []
    kinds: dict[str, Any] = {"member": int, "stage": str, "epoch": int}
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: kinds.get(key, float)(text or "nan") for key, text in row.items()} for row in csv.DictReader(file)]
