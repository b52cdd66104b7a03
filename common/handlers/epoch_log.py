"""One line per epoch: to the log, to ``training.csv`` and to TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from common.atomic import write_text

COLUMNS = ("member", "stage", "epoch", "loss", "metric", "seconds")


class EpochLog:
    """Handler of a trainer; attach it behind the validation handler, so that the epoch's metric is there.

    Rows of an interrupted epoch are written anew after a resume, never twice.

    Args:
        output_dir: folder of ``training.csv`` and of TensorBoard's events.
        stage: name of the stage, e.g. ``pretrain``.
        validator: its key metric is logged when it ran in this epoch; None logs the loss alone.
        rank: only rank 0 writes.
    """

    def __init__(self, output_dir: str, stage: str, validator: Engine | None = None, rank: int = 0) -> None:
        self.output_dir, self.stage, self.validator, self.rank = Path(output_dir), stage, validator, rank
        self.logger = logging.getLogger("brain_bundles")
        self.total, self.count, self.start = 0.0, 0, 0.0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self.total, self.count, self.start = 0.0, 0, time.perf_counter()

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self.total += float(output["loss"])
        self.count += 1

    def _end(self, engine: Engine) -> None:
        if self.rank:
            return
        row: dict[str, Any] = {"member": getattr(engine.state, "member", 0), "stage": self.stage, "epoch": engine.state.epoch}
        row["loss"], row["metric"] = self.total / max(self.count, 1), ""
        state: Any = self.validator.state if self.validator is not None else None
        if state is not None and state.epoch == engine.state.epoch and state.key_metric_name in state.metrics:
            row["metric"] = float(state.metrics[state.key_metric_name])
        row["seconds"] = round(time.perf_counter() - self.start, 2)
        metric = "" if row["metric"] == "" else f", {state.key_metric_name} {row['metric']:.4f}"
        line = f"member {row['member']} {self.stage} epoch {row['epoch']}/{engine.state.max_epochs}: loss {row['loss']:.4f}{metric}"
        self.logger.info("%s (%.1f s)", line, row["seconds"])
        self._write_csv(row)
        self._write_tensorboard(row)

    def _write_csv(self, row: dict[str, Any]) -> None:
        path = self.output_dir / "training.csv"
        rows = read_log(path)
        place = (str(row["member"]), row["stage"], str(row["epoch"]))
        rows = [r for r in rows if (r["member"], r["stage"], r["epoch"]) != place] + [{k: str(v) for k, v in row.items()}]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.output_dir / "tensorboard" / f"member_{row['member']}")) as writer:
            writer.add_scalar(f"{self.stage}/loss", row["loss"], row["epoch"])
            if row["metric"] != "":
                writer.add_scalar(f"{self.stage}/metric", row["metric"], row["epoch"])


def read_log(path: str | Path) -> list[dict[str, str]]:
    """Rows of ``training.csv``; empty when there is none yet."""
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
