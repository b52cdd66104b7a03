"""Random patches against windows of neighbouring patches at equal time: validation error of position regression at quick size.

Run ``python tests/benchmarks/compare_position_windows.py [--seconds 120] [--seeds 1] [--bundle_root DIR]``. Every row trains the network of
``quick.json`` from the same first weights on the same heads for the same processor time, with a rate that falls to 0 with the time; the
number of windows is chosen so that a step costs about the same. Simulated heads, made and prepared once below ``bundle_root``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.training import seed_epoch

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "position_regression" / "configs"
ROWS = {1: 12, 2: 6, 4: 2, 8: 1}  # positions per side: windows of each of four volumes in a step


def workflow(bundle_root: str | None, seed: int, per_side: int) -> Any:
    """The quick config, with windows of this size; reference and intensity map fitted."""
    settings: dict[str, Any] = {"positions_per_side": per_side, "windows": ROWS[per_side], "seed": seed, "device": "cpu"}
    settings |= {"bundle_root": bundle_root} if bundle_root else {}
    files = [str(CONFIGS / name) for name in ("train.json", "quick.json")]
    run = ConfigWorkflow(files, workflow_type="train", logging_file=False, **settings)
    run.initialize()
    parser = run.parser
    parser["run"] = parser["run"][3:4]  # reference, preparation, intensity map
    run.run()
    return parser


def train(parser: Any, seconds: float, seed: int) -> tuple[int, int]:
    """Train for this processor time; returns steps and supervised positions."""
    trainer = parser.get_parsed_content("train::trainer")
    network, optimizer, loss = trainer.network, trainer.optimizer, trainer.loss_function
    torch.manual_seed(seed)
    network.network.reset_parameters()
    network.train()
    rate, steps, positions, epoch = optimizer.param_groups[0]["lr"], 0, 0, 0
    start = time.process_time()
    while True:
        epoch += 1
        seed_epoch(trainer, seed, epoch)
        for batch in trainer.data_loader:
            spent = (time.process_time() - start) / seconds
            if spent >= 1:
                return steps, positions
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
            image, target = trainer.prepare_batch(batch, torch.device("cpu"))
            optimizer.zero_grad()
            loss(network(image), target).backward()
            optimizer.step()
            steps, positions = steps + 1, positions + int(target[1].sum())


def validation_mm(parser: Any) -> float:
    """Mean position error over the healthy validation heads, mm."""
    evaluator = parser.get_parsed_content("validate::evaluator")
    evaluator.run()
    return 256 * (1 - evaluator.state.metrics["val_agreement"])


def main(arguments: list[str] | None = None) -> None:
    """Print one table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=120.0, help="processor time of each training")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--bundle_root")
    given = options.parse_args(arguments)
    print(f"Position regression, quick size, {given.seconds:g} s of processor time each, {torch.get_num_threads()} threads")
    print(f"{'positions per side':>18}{'windows':>9}{'steps':>8}{'positions':>12}{'validation error, mm':>24}")
    for per_side, windows in ROWS.items():
        errors, steps, positions = [], 0, 0
        for seed in range(given.seeds):
            parser = workflow(given.bundle_root, seed, per_side)
            steps, positions = train(parser, given.seconds, seed)
            errors.append(validation_mm(parser))
        spread = f" ({min(errors):.1f}-{max(errors):.1f})" if len(errors) > 1 else ""
        print(f"{per_side:>18}{4 * windows:>9}{steps:>8}{positions:>12}{statistics.median(errors):>16.1f}{spread}", flush=True)


if __name__ == "__main__":
    main()
