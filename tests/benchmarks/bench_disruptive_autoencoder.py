"""Crops for the pre-training: every volume read anew for one crop, against the deterministic part cached and several crops per load.

Run ``python tests/benchmarks/bench_disruptive_autoencoder.py [--quick]``. Volumes are random smooth brains of the size of BraTS, int16,
``.nii.gz``. The baseline follows what is known of the released code: nothing is cached, each crop costs the whole chain. All ways take the
volumes in turn, in one process, without workers; a batch is collated inside the clock. Behind it a table of the memory that one step of
Swin UNETR takes at batch 1, with and without checkpointing: peak resident memory of a fresh process each, minus that before the step.
Where a GPU is, the same table has its time and memory, at batches 2 and 4 too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset, list_data_collate
from monai.networks.nets import SwinUNETR
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandSpatialCropSamplesd,
    SpatialPadd,
)
from monai.utils import set_determinism
from scipy.ndimage import zoom

TARGET = 10.0
CROP = 96
MIB = 2**20


def write_volume(path: Path, shape: tuple[int, int, int], seed: int) -> None:
    """A smooth random brain with noise inside an ellipsoid, 0 outside."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij", sparse=True)
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, (0.6, 0.75, 0.8), strict=True)) < 1
    tissue = zoom(rng.normal(600, 150, (8, 8, 8)), [side / 8 for side in shape], order=1)
    volume = np.where(inside, np.clip(tissue + rng.normal(0, 20, shape), 1, None), 0)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), np.diag([-1, -1, 1, 1])), path)  # LPS, as BraTS has it


def deterministic() -> list[Any]:
    """The pre-training's preparation of MR up to the crop (methods/dae.md, section 2)."""
    return [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", "RAS", labels=None),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        SpatialPadd("image", CROP),
        EnsureTyped("image", track_meta=False),
    ]


def crops(samples: int) -> RandSpatialCropSamplesd:
    """Random crops of one volume."""
    return RandSpatialCropSamplesd("image", CROP, num_samples=samples, random_size=False)


def measure_data(folder: Path, volumes: int, samples: int, rounds: int) -> tuple[float, float]:
    """Print the table; return the ratio of the way through the disk's cache, and the largest difference of what both ways load."""
    cases = [{"image": str(folder / f"volume_{number}.nii.gz")} for number in range(volumes)]
    for number, case in enumerate(cases):
        write_volume(Path(case["image"]), (240, 240, 155), number)
    set_determinism(0)
    reload = Compose([*deterministic(), crops(1)])
    on_disk = PersistentDataset(cases, Compose([*deterministic(), crops(samples)]), cache_dir=folder / "cache")
    in_memory = CacheDataset(cases, Compose([*deterministic(), crops(samples)]), progress=False, copy_cache=False)
    single = CacheDataset(cases, Compose([*deterministic(), crops(1)]), progress=False, copy_cache=False)
    ways: dict[str, tuple[Callable[[int], Any], int]] = {
        "reload per crop": (lambda index: reload(cases[index]), 1),
        f"PersistentDataset, {samples} crops": (on_disk.__getitem__, samples),
        f"CacheDataset, {samples} crops": (in_memory.__getitem__, samples),
        "CacheDataset, 1 crop": (single.__getitem__, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + volumes):
        for name, (load, count) in ways.items():
            start = time.perf_counter()
            batch = list_data_collate([load(number % volumes)])["image"]
            assert batch.shape == (count, 1, CROP, CROP, CROP)
            if number >= volumes:  # the first visit of each volume fills the caches
                times[name].append(1000 * (time.perf_counter() - start) / count)
    return print_data(times, f"{volumes} volumes of 240x240x155, crops of {CROP}^3"), difference(cases, on_disk)


def difference(cases: list[dict[str, str]], on_disk: PersistentDataset) -> float:
    """Largest difference between a volume loaded anew and its cached form."""
    fresh = Compose(deterministic())(cases[0])
    cached = on_disk._cachecheck(cases[0])
    return float((torch.as_tensor(fresh["image"]) - torch.as_tensor(cached["image"])).abs().max())


def print_data(times: dict[str, list[float]], title: str) -> float:
    """Medians with their spread; returns the ratio of the second way to the first."""
    middle = {name: statistics.median(values) for name, values in times.items()}
    first, second, *_ = middle
    print(f"\nData path, {title}, {torch.get_num_threads()} threads; median (lowest-highest) in ms per crop, {len(times[first])} rounds")
    for name, values in times.items():
        spread = f"({min(values):.1f}-{max(values):.1f})"
        print(f"  {name:32s}{middle[name]:8.1f}  {spread:18s} ratio {middle[first] / middle[name]:6.1f}")
    print(f"  target of the ratio of {second}: >= {TARGET:g}", flush=True)
    return middle[first] / middle[second]


def step_once(side: int, feature_size: int, checkpoint: bool, batch: int, device: torch.device) -> tuple[float, float]:
    """Seconds and MiB of one step (forward, L1, backward) beyond the network and its input."""
    network = SwinUNETR(in_channels=1, out_channels=1, feature_size=feature_size, use_checkpoint=checkpoint).to(device)
    image = torch.randn(batch, 1, side, side, side, device=device)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())

    def step() -> None:
        torch.nn.functional.l1_loss(network(image), image).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type == "cuda":
        step()  # warms up
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - parameters  # of the warm-up's gradients, which the step counts on a CPU
    else:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, (peak - before) / MIB


def measure_memory(side: int, feature_size: int, device: str, batches: tuple[int, ...]) -> dict[str, float]:
    """Print the table, one fresh process per row; return the MiB of batch 1."""
    found: dict[str, float] = {}
    print(
        f"\nOne step of Swin UNETR, feature size {feature_size}, {side}^3, fp32, {device}: memory beyond weights and input, with gradients"
    )
    for batch in batches:
        for checkpoint in (False, True):
            words = [str(side), str(feature_size), str(int(checkpoint)), str(batch), device]
            done = subprocess.run([sys.executable, __file__, "--step", *words], capture_output=True, text=True, check=False)
            label = f"batch {batch}, {'use_checkpoint' if checkpoint else 'plain'}"
            if done.returncode:
                print(f"  {label:28s}  failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
                continue
            seconds, mib = map(float, done.stdout.split()[-2:])
            print(f"  {label:28s}{mib:8.0f} MiB {seconds:8.2f} s", flush=True)
            if batch == 1:
                found["checkpoint_mib" if checkpoint else "plain_mib"] = mib
    if len(found) == 2:
        print(f"  {'checkpointing changes it by':28s}{100 * (found['checkpoint_mib'] / found['plain_mib'] - 1):8.0f} %")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure the data path, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, memory at 64^3 with feature size 24")
    parser.add_argument("--samples", type=int, default=4, help="crops per load")
    parser.add_argument("--step", nargs=5, help=argparse.SUPPRESS)  # a row of the memory table, in its own process
    given = parser.parse_args(arguments)
    if given.step:
        side, feature_size, checkpoint, batch = map(int, given.step[:4])
        print(*step_once(side, feature_size, bool(checkpoint), batch, torch.device(given.step[4])))
        return
    with tempfile.TemporaryDirectory() as folder:
        ratio, largest = measure_data(Path(folder), 2 if given.quick else 4, given.samples, 6 if given.quick else 12)
    print(f"  largest difference of what is loaded: {largest:g}", flush=True)
    side, feature_size = (64, 24) if given.quick else (96, 48)
    memory = measure_memory(side, feature_size, "cpu", (1,))
    if torch.cuda.is_available():
        gpu = measure_memory(96, 48, "cuda", (1, 2, 4))
        print("RESULT name=disruptive_autoencoder_gpu " + " ".join(f"{key}={value:.0f}" for key, value in gpu.items()))
    print(f"RESULT name=disruptive_autoencoder ratio={ratio:.3f} max_diff={largest:.3g}", *(f"{k}={v:.0f}" for k, v in memory.items()))


if __name__ == "__main__":
    main()
