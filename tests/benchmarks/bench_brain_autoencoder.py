"""Slices for the brain autoencoder: the whole volume read anew for one slice, against slices of volumes that were prepared once.

Run ``python tests/benchmarks/bench_brain_autoencoder.py [--quick]``. Volumes are random smooth heads of the size of IXI (256 x 256 x 150,
int16, ``.nii.gz``). The baseline reads a volume, scales it and cuts and halves one slice; ours draws it from ``BrainSliceDataset``. Both
ways take the same slices in the same shuffled order, in turn, in one process without workers; a batch is collated inside the clock. The
share of a training step is that of a batch of 32 slices beside forward and backward of a small residual autoencoder.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Resized
from scipy.ndimage import zoom

from common.data.brain_slice_dataset import BrainSliceDataset
from common.data.brain_slices import SliceSelector
from common.transforms.percentile_range import PercentileRanged
from common.transforms.select_brain_slices import SelectBrainSlicesd

TARGET = 100.0
SIDE, BATCH = 128, 32
AFFINE = np.array([[0.0, 0.0, 1.2, -90.0], [-0.9375, 0.0, 0.0, 120.0], [0.0, 0.9375, 0.0, -120.0], [0.0, 0.0, 0.0, 1.0]])  # P, S, R


def write_volume(path: Path, shape: tuple[int, int, int], seed: int) -> None:
    """A smooth random head with noise, also around it as in a scanner."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij", sparse=True)
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, (0.8, 0.9, 0.8), strict=True)) < 1
    tissue = zoom(rng.normal(600, 150, (8, 8, 8)), [side / 8 for side in shape], order=1)
    volume = np.where(inside, tissue, 0) + np.abs(rng.normal(0, 20, shape))
    nib.save(nib.Nifti1Image(np.clip(volume, 1, None).astype(np.int16), AFFINE), path)


def preparation(rule: str = "range") -> Compose:
    """Preparation of a volume as in the bundle, with the fixed range of slices: brains are looked for once, never per slice."""
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "PSR", labels=None),
            SelectBrainSlicesd("image", SliceSelector(rule)),
            PercentileRanged("image", 1.0, 99.8),
            Resized("image", (SIDE, SIDE, -1), mode="area"),
        ]
    )


def whole_read(case: dict[str, Any], number: int) -> torch.Tensor:
    """One slice from the file: read, scale the volume, cut the slice, halve it; ``(1, 128, 128)``."""
    loaded = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", "PSR", labels=None)])(case)
    scaled = PercentileRanged("image", 1.0, 99.8)(loaded)["image"][..., number]
    return torch.nn.functional.adaptive_avg_pool2d(torch.Tensor(scaled)[None], SIDE)[0]


def read_only(case: dict[str, Any], number: int) -> torch.Tensor:
    """The floor of the baseline: read the file and cut the slice, nothing else."""
    return torch.from_numpy(np.asarray(nib.load(case["image"]).dataobj)[..., number])  # type: ignore[attr-defined]


def measure(folder: Path, shape: tuple[int, int, int], volumes: int, rounds: int) -> dict[str, float]:
    """Print the table; return medians, ratios and the largest difference."""
    cases = [{"id": f"volume {number}", "image": str(folder / f"volume_{number}.nii.gz")} for number in range(volumes)]
    for number, case in enumerate(cases):
        write_volume(Path(case["image"]), shape, number)
    start = time.perf_counter()
    ours = BrainSliceDataset(cases, preparation(), cache_dir=folder / "cache", progress=False)
    first = time.perf_counter() - start
    start = time.perf_counter()
    BrainSliceDataset(cases, preparation(), cache_dir=folder / "cache", progress=False)
    again = time.perf_counter() - start
    order = np.random.default_rng(0).permutation(len(ours))
    times: dict[str, list[float]] = {"whole volume per slice": [], "read and cut only": [], "BrainSliceDataset": []}
    largest = 0.0
    for number in range(rounds):
        volume, place = ours.index[order[number]]
        slice_number = int(ours.volumes[volume]["slices"][place])
        clock = time.perf_counter()
        expected = list_data_collate([{"image": whole_read(cases[volume], slice_number)}])["image"]
        times["whole volume per slice"].append(1000 * (time.perf_counter() - clock))
        clock = time.perf_counter()
        read_only(cases[volume], slice_number)
        times["read and cut only"].append(1000 * (time.perf_counter() - clock))
        batch = [int(order[(number * BATCH + k) % len(order)]) for k in range(BATCH)]
        clock = time.perf_counter()
        drawn = list_data_collate([ours[k] for k in batch])["image"]
        times["BrainSliceDataset"].append(1000 * (time.perf_counter() - clock) / BATCH)
        assert drawn.shape == (BATCH, 1, SIDE, SIDE)
        largest = max(largest, float((ours[int(order[number])]["image"] - expected[0]).abs().max()))
    return print_table(times, f"{volumes} volumes of {'x'.join(map(str, shape))}", first / volumes, again / volumes, largest)


def print_table(times: dict[str, list[float]], title: str, first_s: float, again_s: float, largest: float) -> dict[str, float]:
    """Medians with their spread."""
    middle = {name: statistics.median(values) for name, values in times.items()}
    whole, floor, ours = middle
    print(f"\nData path, {title}, {torch.get_num_threads()} threads; median (lowest-highest) in ms per slice, {len(times[whole])} rounds")
    for name, values in times.items():
        spread = f"({min(values):.3f}-{max(values):.3f})"
        print(f"  {name:26s}{middle[name]:10.3f}  {spread:22s} ratio {middle[whole] / middle[name]:8.1f}")
    print(f"  preparing a volume takes {first_s:.2f} s once, {again_s:.3f} s from the cache on disk")
    print(
        f"  target of the ratio: >= {TARGET:g}; largest difference of a pixel in [0, 1]: {largest:.2e} (a byte: 1/510 = 1.96e-03)",
        flush=True,
    )
    assert largest <= 0.5 / 255 + 1e-4, "both ways must give the same slices"
    return {
        "ratio": middle[whole] / middle[ours],
        "ratio_read_only": middle[floor] / middle[ours],
        "ms_per_slice": middle[ours],
        "max_diff": largest,
    }


def step_seconds(rounds: int) -> float:
    """Median time of forward and backward of a small strided autoencoder on a batch of 32 slices."""
    torch.manual_seed(0)
    widths = (1, 32, 64, 128)
    down = [layer for a, b in itertools.pairwise(widths) for layer in (torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.ReLU())]
    sides = (128, 64, 32, 16)
    up = [layer for a, b in itertools.pairwise(sides) for layer in (torch.nn.ConvTranspose2d(a, b, 3, 2, 1, 1), torch.nn.ReLU())]
    network = torch.nn.Sequential(*down, *up, torch.nn.Conv2d(16, 1, 3, padding=1), torch.nn.Sigmoid())
    image, times = torch.rand(BATCH, 1, SIDE, SIDE), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        torch.nn.functional.mse_loss(network(image), image).backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main(arguments: list[str] | None = None) -> None:
    """Measure the data path, and its share of a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer volumes and rounds")
    given = parser.parse_args(arguments)
    volumes, rounds = (2, 7) if given.quick else (4, 21)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), (256, 256, 150), volumes, rounds)
    step = step_seconds(3 if given.quick else 7)
    share = BATCH * found["ms_per_slice"] / 1000 / step
    print(f"  a batch of {BATCH} slices takes {100 * share:.2f} % of a training step of {step:.2f} s (target < 2 %)")
    print(f"RESULT name=brain_autoencoder ratio={found['ratio']:.1f} ratio_read_only={found['ratio_read_only']:.1f}", end=" ")
    print(f"max_diff={found['max_diff']:.3g} share_of_step={share:.4f}")


if __name__ == "__main__":
    main()
