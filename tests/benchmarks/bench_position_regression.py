"""Error map of position regression: one patch per voxel against the exact dense passes, in one interleaved run.

Run ``python tests/benchmarks/bench_position_regression.py [--quick]``. The baseline cuts 31^3 patches out and passes them through the
same network in batches. The whole 256^3 map runs in a process of its own, whose peak memory is measured.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.handlers.resource_log import resident_mib
from common.inferers.dense_position_inferer import DensePositionInferer, patch_positions
from common.losses.position_distance import PositionDistanceLoss
from common.networks.head_ct_model import HeadCTModel
from common.networks.position_regressor import PositionRegressor

PATCH, WIDTH, PATCHES, TILE = 31, 8, 64, 64
TARGETS = {1: 1000.0, 4: 50.0}
TARGET_POSITIONS, TARGET_SECONDS, TARGET_MIB = 50.0, 60.0, 2048.0
LIMIT_DIFFERENCE = 1e-5


def make_model(device: torch.device) -> HeadCTModel:
    """The network at width 8, with an equalisation that is a straight line."""
    torch.manual_seed(0)
    model = HeadCTModel(PositionRegressor(PATCH, WIDTH), registration_spacing_mm=8.0)
    model.levels.copy_(torch.linspace(0, 1, len(model.levels)))
    return model.eval().to(device)


def make_head(side: int, share: float = 1.0) -> torch.Tensor:
    """A volume of random HU ``(1, side, side, side)``; all of it, or a ball of this share of it, is foreground."""
    hu = torch.randint(-200, 1200, (1, side, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.int16)
    if share < 1:
        axis = torch.linspace(-1, 1, side)
        radius = (6 * share / torch.pi) ** (1 / 3)
        square = axis.square()
        inside = square[:, None, None] + square[None, :, None] + square[None, None, :] <= radius**2
        hu[0, ~inside] = -1024
    return hu


def timed(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every way, one after the other in every round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:
                times[name].append(time.perf_counter() - start)
    return times


def line(label: str, values: list[float], per: int, unit: float = 1e6) -> str:
    """Median with its spread, per position."""
    each = [unit * value / per for value in values]
    return f"  {label:44s} {statistics.median(each):12.3f}  ({min(each):.3f}-{max(each):.3f})"


def difference(model: HeadCTModel, stride: int) -> float:
    """Largest difference of dense and patchwise positions over a small volume, in units of the volume's side."""
    side = PATCH + 9
    volume = make_head(side).to(next(model.parameters()).device)
    with torch.no_grad():
        dense = model(volume[None], stride=stride)[0]
        starts = [stride * torch.arange(n) for n in dense.shape[1:]]
        centres = torch.stack(torch.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3) + PATCH // 2
        patches = patch_positions(volume, centres, model, model.network.patch_size).T.reshape(dense.shape)
    return float((dense - patches).abs().max())


def measure_inference(device: torch.device, rounds: int) -> tuple[dict[int, float], float]:
    """Print dense against naive at strides 1 and 4; returns the ratios per voxel and the largest difference."""
    model = make_model(device)
    patches = make_head(PATCH)[None].expand(PATCHES, -1, -1, -1, -1).contiguous().to(device)
    block = make_head(TILE + PATCH - 1)[None].to(device)
    counts = {1: TILE**3, 4: (TILE // 4) ** 3}
    ways: dict[str, Callable[[], object]] = {
        "patch": lambda: model(patches),
        "1": lambda: model(block, stride=1),
        "4": lambda: model(block[..., : TILE + PATCH - 4, : TILE + PATCH - 4, : TILE + PATCH - 4], stride=4),
    }
    with torch.no_grad():
        times = timed(ways, rounds, device)
    print(f"\nOne position, patch {PATCH}^3, width {WIDTH}, on {device_name(device)}; median (lowest-highest) of {rounds} rounds in us")
    print(line("one patch each, batches of 64", times["patch"], PATCHES))
    ratios = {}
    for stride, count in counts.items():
        print(line(f"dense, stride {stride}, tile {TILE} with its halo", times[str(stride)], count))
        ratios[stride] = statistics.median(times["patch"]) / PATCHES / (statistics.median(times[str(stride)]) / count)
    largest = max(difference(model, stride) for stride in (1, 2, 4))
    for stride, ratio in ratios.items():
        print(f"  {f'ratio at stride {stride}':44s} {ratio:12.1f}  (target >= {TARGETS[stride]:g})")
    print(f"  {'largest difference of positions':44s} {largest:12.1e}  (limit {LIMIT_DIFFERENCE:g})")
    return ratios, largest


def measure_training(device: torch.device, rounds: int) -> float:
    """Print training steps on 256 random patches and on one dense window; returns the ratio of supervised positions per second."""
    model, loss, side = make_model(device).train(), PositionDistanceLoss(), 16
    patches = make_head(PATCH)[None].expand(256, -1, -1, -1, -1).contiguous().to(device)
    window = make_head(4 * (side - 1) + PATCH)[None].to(device)

    def step(image: torch.Tensor) -> None:
        model.zero_grad()
        predicted = model(image)
        shape = (len(predicted), 1, *predicted.shape[2:])
        loss(predicted, (torch.rand_like(predicted), torch.ones(shape, dtype=torch.bool, device=device))).backward()

    times = timed({"patches": lambda: step(patches), "window": lambda: step(window)}, rounds, device)
    ratio = statistics.median(times["patches"]) / 256 / (statistics.median(times["window"]) / side**3)
    print(f"\nTraining step (forward and backward), per supervised position in us, {rounds} rounds")
    print(line("256 random patches", times["patches"], 256))
    print(line(f"one window of {side}^3 positions at stride 4", times["window"], side**3))
    print(f"  {'ratio of positions per second':44s} {ratio:12.1f}  (target >= {TARGET_POSITIONS:g})")
    return ratio


def whole_map(side: int, stride: int, share: float) -> None:
    """Child process: one map; prints seconds and the peak memory of the process in MiB."""
    model, hu = make_model(torch.device("cpu")), make_head(side, share)
    start = time.perf_counter()
    DensePositionInferer(stride=stride)(hu[None], model)
    seconds = time.perf_counter() - start
    print(f"{seconds} {resident_mib('VmHWM')}")  # ru_maxrss would begin with the peak of the parent process


def measure_whole(side: int) -> None:
    """Print time and peak memory of whole maps, each in a process of its own."""
    print(f"\nWhole map of {side}^3, width {WIDTH}, CPU: seconds and peak memory of the process (all of Python and torch)")
    for stride, share in ((1, 1.0), (1, 0.25), (4, 1.0), (4, 0.25)):
        command = [sys.executable, __file__, "--child", str(side), str(stride), str(share)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, mib = (float(word) for word in done.stdout.split())
        target = f"(targets <= {TARGET_SECONDS:g} s, <= {TARGET_MIB:g} MiB)" if stride == 1 else "(target <= 10 s)"
        print(f"  stride {stride}, foreground {share:4.0%} of the cube {seconds:12.1f} s {mib:8.0f} MiB  {target if side == 256 else ''}")


def device_name(device: torch.device) -> str:
    """Name of the device, with the number of threads on a CPU."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> None:
    """Measure on the CPU, and on a GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a map of 128^3")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        whole_map(int(given.child[0]), int(given.child[1]), float(given.child[2]))
        return
    rounds = 5 if given.quick else 15
    ratios, largest = measure_inference(torch.device("cpu"), rounds)
    positions = measure_training(torch.device("cpu"), max(3, rounds // 3))
    if torch.cuda.is_available():
        gpu, gpu_largest = measure_inference(torch.device("cuda"), rounds)
        print(f"RESULT name=position_regression_gpu ratio={gpu[1]:.1f} ratio_stride4={gpu[4]:.1f} max_diff={gpu_largest:.3g}")
    measure_whole(128 if given.quick else 256)
    print(
        f"RESULT name=position_regression ratio={ratios[1]:.1f} ratio_stride4={ratios[4]:.1f} train={positions:.1f} max_diff={largest:.3g}"
    )


if __name__ == "__main__":
    main()
