"""Memory and time of the paper's diffusion U-Net on a full volume: a plain forward pass against ours with the same weights.

Run ``python tests/benchmarks/bench_patchddm.py [--quick] [--size 256] [--train]``. Times are interleaved in one process; on a CPU every
peak is that of a process of its own (``VmHWM`` less its value before the pass, the workspace of the convolutions included), on a GPU what
torch allocated. Weights are random ones of PyTorch's default, those that begin at 0 included.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.handlers.resource_log import resident_mib
from common.networks.diffusion_unet import DiffusionUNet
from common.networks.lean_forward import LeanForward

TARGET_MEMORY, TARGET_TIME, LIMIT_DIFFERENCE, TARGET_GIB = 0.65, 1.1, 1e-5, 5.0
LARGE = 192  # from this side on, a CPU does not run the plain forward pass
WAYS = ("plain", "plain, channels last", "plain, bf16", "plain, bf16, channels last", "ours", "ours, bf16", "ours, skips again")
Sides = Sequence[int]


def make_network(device: torch.device, **settings: object) -> DiffusionUNet:
    """The paper's network; no layer is 0."""
    torch.manual_seed(0)
    network = DiffusionUNet(**settings)  # type: ignore[arg-type]
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.reset_parameters()
    return network.eval().to(device)


def make_way(name: str, network: DiffusionUNet, sides: Sides) -> Callable[[], torch.Tensor]:
    """One forward pass of random input in the named way."""
    device = next(network.parameters()).device
    x = torch.randn(1, network.in_channels, *sides, generator=torch.Generator().manual_seed(1)).to(device)
    when = torch.tensor([500], device=device)
    if name.startswith("ours"):
        way: Callable[..., torch.Tensor] = LeanForward(network, recompute="again" in name)
    else:
        way = copy.deepcopy(network) if "channels last" in name else network
    if isinstance(way, nn.Module) and "channels last" in name:
        way.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last_3d)

    @torch.no_grad()
    def run() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in name):
            return way(x, when)

    return run


def timed(ways: dict[str, Callable[[], torch.Tensor]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every way, one after the other in every round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def peak_here(run: Callable[[], object], device: torch.device) -> float:
    """Growth of memory while this runs, MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed earlier would be used again uncounted
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    start = resident_mib("VmHWM")
    run()
    peak = resident_mib("VmHWM")
    assert start is not None and peak is not None
    return peak - start


def child(kind: str, sides: Sides) -> None:
    """In a process of its own: one pass or training step; prints the peak in MiB and the seconds."""
    device = torch.device("cpu")
    small = make_network(device, base_channels=4, multipliers=(1, 2))
    make_run(kind, small, (8, 8, 8))()  # what the libraries set up once
    run = make_run(kind, make_network(device), sides)
    start = time.perf_counter()
    mib = peak_here(run, device)
    print(mib, time.perf_counter() - start)


def make_run(kind: str, network: DiffusionUNet, sides: Sides) -> Callable[[], object]:
    """A forward pass by the name of its way, or ``train`` and ``train, checkpointing``."""
    return make_step(network, sides, "checkpointing" in kind) if kind.startswith("train") else make_way(kind, network, sides)


def in_child(kind: str, sides: Sides) -> tuple[float, float]:
    """Peak in MiB and seconds of a new process."""
    command = [sys.executable, __file__, "--child", kind, *map(str, sides)]
    mib, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(mib), float(seconds)


def peak(kind: str, network: DiffusionUNet, sides: Sides) -> float:
    """Peak of a pass or a step in MiB: here on a GPU, in a process of its own on a CPU."""
    device = next(network.parameters()).device
    return peak_here(make_run(kind, network, sides), device) if device.type == "cuda" else in_child(kind, sides)[0]


def make_step(network: DiffusionUNet, sides: Sides, checkpointing: bool) -> Callable[[], None]:
    """A training step: forward, backward, AdamW; bf16 on a GPU."""
    device = next(network.parameters()).device
    network.train().checkpointing = checkpointing
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    x, noise = torch.randn(1, network.in_channels, *sides, device=device), torch.randn(1, 1, *sides, device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = (network(x, torch.tensor([500], device=device)) - noise).square().mean()
        loss.backward()
        optimizer.step()

    return step


def shown(sides: Sides) -> str:
    """E.g. ``64x128x128``."""
    return "x".join(map(str, sides))


def measure(sides: Sides, device: torch.device, rounds: int) -> dict[str, float]:
    """Print the table of one size; returns what the result line needs."""
    network = make_network(device)
    ways = {name: make_way(name, network, sides) for name in WAYS}
    exact = ways["plain"]()
    differences = {name: float((way().float() - exact).abs().max()) for name, way in ways.items()}
    times = timed(ways, rounds, device)
    middle = {name: statistics.median(values) for name, values in times.items()}
    peaks = {name: peak(name, network, sides) for name in WAYS}
    print(f"\n{shown(sides)} on {device_name(device)}; {rounds} rounds, SD of the output {float(exact.std()):.3f}")
    print(f"  {'way':28s}{'median s (lowest-highest)':>28s}{'ratio':>7s}{'peak MiB':>10s}{'ratio':>7s}{'max difference':>16s}")
    for name in WAYS:
        seconds = f"{middle[name]:.3f} ({min(times[name]):.3f}-{max(times[name]):.3f})"
        ratio, share = middle[name] / middle["plain"], peaks[name] / peaks["plain"]
        print(f"  {name:28s}{seconds:>28s}{ratio:7.2f}{peaks[name]:10.0f}{share:7.2f}{differences[name]:16.1e}")
    print(f"  {'targets of ours, float32':28s}{'':28s}{TARGET_TIME:7.2f}{'':10s}{TARGET_MEMORY:7.2f}{LIMIT_DIFFERENCE:16.1e}")
    return {
        "ratio": peaks["plain"] / peaks["ours"],
        "ratio_again": peaks["plain"] / peaks["ours, skips again"],
        "time": middle["ours"] / middle["plain"],
        "time_again": middle["ours, skips again"] / middle["plain"],
        "max_diff": max(differences["ours"], differences["ours, skips again"]),
    }


def measure_large(sides: Sides) -> None:
    """Print peak and time of one pass of ours, which a CPU with little memory can run."""
    print(f"\n{shown(sides)} on {device_name(torch.device('cpu'))}, one pass each (target <= {TARGET_GIB:g} GiB at 256^3)")
    for name in ("ours, skips again", "ours"):
        mib, seconds = in_child(name, sides)
        print(f"  {name:28s}{seconds:10.1f} s {mib / 1024:8.2f} GiB")


def measure_training(sides: Sides, device: torch.device, rounds: int) -> None:
    """Print memory and time of a training step with and without checkpointing."""
    kinds = ("train", "train, checkpointing")
    networks = {kind: make_network(device) for kind in kinds}
    peaks = {kind: peak(kind, networks[kind], sides) for kind in kinds}  # gradients and the optimizer's moments are made in it
    steps = {kind: make_step(networks[kind], sides, "checkpointing" in kind) for kind in kinds}
    times: dict[str, list[float]] = timed(steps, rounds, device)  # type: ignore[arg-type]
    print(f"\nTraining step on {shown(sides)}, batch 1, {device_name(device)}, {'bf16' if device.type == 'cuda' else 'float32'}")
    for kind in kinds:
        print(f"  {kind:28s}{statistics.median(times[kind]):10.3f} s {peaks[kind]:10.0f} MiB")


def device_name(device: torch.device) -> str:
    """Name of the device, with the number of threads on a CPU."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> None:
    """Measure on a GPU where there is one, else on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64^3 and fewer rounds")
    parser.add_argument("--size", type=int, nargs="+", help="sides of cubes, multiples of 64")
    parser.add_argument("--train", action="store_true", help="also a training step on 128^3 (64^3 with --quick)")
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        child(given.child[0], [int(side) for side in given.child[1:]])
        return
    device, rounds = torch.device("cuda" if torch.cuda.is_available() and not given.cpu else "cpu"), 3 if given.quick else 5
    sizes = [(side,) * 3 for side in given.size or ()] or ([(64,) * 3] if given.quick else [(64,) * 3, (64, 128, 128), (128,) * 3])
    result: dict[str, float] = {}
    for sides in sizes:
        if device.type == "cpu" and max(sides) >= LARGE:
            measure_large(sides)
        else:
            result = measure(sides, device, rounds)
    if given.train:
        measure_training((64,) * 3 if given.quick else (128,) * 3, device, rounds)
    if result:
        numbers = " ".join(f"{key}={value:.3g}" for key, value in result.items())
        print(f"RESULT name=patchddm{'_gpu' if device.type == 'cuda' else ''} {numbers}")


if __name__ == "__main__":
    main()
