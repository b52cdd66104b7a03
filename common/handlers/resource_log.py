"""What a training cost: parameters, peak memory and time, in ``resources.json``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn

from common.atomic import write_text

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mib(key: str) -> float | None:
    """Resident memory of this process in MiB: ``VmRSS`` now, ``VmHWM`` at its peak; None where the system does not tell (not Linux)."""
    if not _STATUS.is_file():
        return None
    lines = [line.split() for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{key}:")]
    return int(lines[0][1]) / 1024 if lines else None


class ResourceLog:
    """Handler of a trainer: writes ``<output_dir>/resources.json`` after each epoch.

    ``peak_memory_mib`` is what torch allocated at most on a GPU; on a CPU the growth of the process since the training began, which
    includes what the allocator keeps; None where that cannot be told.

    Args:
        network: its trained parameters are counted.
        output_dir: folder of results.
        rank: only rank 0 writes.
    """

    def __init__(self, network: nn.Module, output_dir: str, rank: int = 0) -> None:
        self.network, self.output_dir, self.rank = network, Path(output_dir), rank
        self.start = 0.0
        self.before: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    @property
    def device(self) -> torch.device:
        """Where the network is: a machine with a GPU may train on its CPU."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def _begin(self, engine: Engine) -> None:
        self.start = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _RESET.exists():
            try:
                _RESET.write_text("5")  # VmHWM begins anew
                self.before = resident_mib("VmRSS")
            except OSError:
                self.before = None

    def _write(self, engine: Engine) -> None:
        if self.rank:
            return
        device = self.device
        row = {
            "parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
            "peak_memory_mib": self.peak_mib(),
            "seconds": time.perf_counter() - self.start,
            "epochs": engine.state.epoch,
            "iterations": engine.state.iteration,
        }
        write_text(self.output_dir / "resources.json", json.dumps(row, indent=2) + "\n")

    def peak_mib(self) -> float | None:
        """Peak since the start, MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        peak = resident_mib("VmHWM")
        return None if peak is None or self.before is None else max(0.0, peak - self.before)
