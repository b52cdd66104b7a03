"""Label-aware noise for a batch: the distance transform at every draw against distances cached once and noise drawn for the batch.

Run ``python tests/benchmarks/bench_roi_noise.py [--quick]``. The baseline follows the released procedure as ``LADP`` describes it:
for each sample of the batch the signed distance by scipy, the threshold, the noise by torch on the CPU, then a batch on the device.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.transforms.roi_noise import RandRoiNoise
from common.transforms.signed_distance import signed_distance

GAMMA, SIGMA_ROI, SIGMA_REST = 0.95, 1.5, 0.8
TARGET = 4.0

Draw = Callable[[int], tuple[torch.Tensor, float, float]]


def lesions(batch: int, size: int, free: float, seed: int = 0) -> np.ndarray:
    """Blobs of 0.2 to 5 % of the slice, ``(batch, size, size)`` bool; the last slices, a share of ``free``, have none."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((batch, size, size), dtype=bool)
    for index in range(round(batch * (1 - free))):
        smooth = gaussian_filter(rng.standard_normal((size, size)), size / 25)
        masks[index] = smooth > np.quantile(smooth, 1 - rng.uniform(0.002, 0.05))
    return masks


def noise_one_sample(image: torch.Tensor, mask: np.ndarray, unit: torch.Tensor, side: float, position: float) -> torch.Tensor:
    """The baseline for one sample ``(C, H, W)``: distance, threshold, noise, in this order, at every draw."""
    if mask.any():
        distance = distance_transform_edt(~mask) - distance_transform_edt(mask)
        size = -distance.min()
        threshold = -0.5 * size * position if side < 0.5 else size * position
        sigma = np.where(distance <= threshold, SIGMA_ROI, SIGMA_REST).astype(np.float32)
    else:
        sigma = np.full(mask.shape, SIGMA_REST, dtype=np.float32)
    return GAMMA**0.5 * image + (1 - GAMMA) ** 0.5 * (unit * torch.from_numpy(sigma))


def baseline(images: torch.Tensor, masks: np.ndarray, device: torch.device, draw: Draw) -> torch.Tensor:
    """Noise a batch sample by sample on the CPU, then move it to the device."""
    noised = [noise_one_sample(image, mask, *draw(index)) for index, (image, mask) in enumerate(zip(images, masks, strict=True))]
    return torch.stack(noised).to(device)


def largest_difference(images: torch.Tensor, masks: np.ndarray, distances: torch.Tensor, device: torch.device) -> float:
    """Both ways with the very same noise and thresholds, in standard deviations of the normalised image."""
    noise = RandRoiNoise(GAMMA, SIGMA_ROI, SIGMA_REST)
    noise.set_random_state(5)
    moved = images.to(device)
    state = noise.R.get_state()
    side, position, unit = (tensor.cpu() for tensor in noise.randomize(moved))
    noise.R.set_state(state)
    ours = noise(moved, distances.to(device)).image.cpu()
    theirs = baseline(images, masks, torch.device("cpu"), lambda index: (unit[index], float(side[index]), float(position[index])))
    return float((ours - theirs).abs().max())


def measure(device: torch.device, rounds: int, free: float = 0.0, batch: int = 16, size: int = 256) -> tuple[float, float]:
    """Print the table of one device; return ratio and largest difference."""
    masks, images = lesions(batch, size, free), torch.randn(batch, 2, size, size)
    distances = torch.stack([torch.from_numpy(signed_distance(mask))[None] for mask in masks])
    generator, noise = torch.Generator().manual_seed(1), RandRoiNoise(GAMMA, SIGMA_ROI, SIGMA_REST)
    noise.set_random_state(1)

    def draw(index: int) -> tuple[torch.Tensor, float, float]:
        side, position = torch.rand(2, generator=generator).tolist()
        return torch.randn(images[index].shape, generator=generator), side, position

    def ours() -> object:
        return noise(images.to(device), distances.to(device))

    times: dict[str, list[float]] = {"baseline": [], "ours": [], "floor": []}
    ways: dict[str, Callable[[], object]] = {
        "baseline": lambda: baseline(images, masks, device, draw),
        "ours": ours,
        "floor": lambda: noise.randomize(images.to(device)),
    }
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - start))
    difference = largest_difference(images, masks, distances, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    title = f"{batch} slices, {free:.0%} of them without lesion, on {name}"
    limit = f">= {TARGET:g}" if free == 0 else "no limit: the baseline skips slices without lesion"
    return print_table(title, limit, times, difference), difference


def print_table(title: str, limit: str, times: dict[str, list[float]], difference: float) -> float:
    """Medians with their spread; returns the ratio."""
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["baseline"] / median["ours"]
    print(f"\nLabel-aware noise, {title}; median (lowest-highest) of {len(times['ours'])} rounds in ms")
    labels = {"baseline": "distance at every draw", "ours": "cached distance, whole batch", "floor": "drawing the noise alone"}
    for key, label in labels.items():
        print(f"  {label:30s} {median[key]:8.1f}  ({min(times[key]):.1f}-{max(times[key]):.1f})")
    print(f"  {'ratio (limit)':30s} {ratio:8.2f}  ({limit}; drawing alone {median['baseline'] / median['floor']:.1f})")
    print(f"  {'largest difference':30s} {difference:8.1e}  (same noise and thresholds)")
    return ratio


def main(arguments: list[str] | None = None) -> None:
    """Measure on the CPU, and on a GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, at most 40 s")
    rounds = 40 if parser.parse_args(arguments).quick else 60
    torch.set_num_threads(1)  # scipy has one thread, and the floor as well: a busy machine must not favour either
    ratio, difference = measure(torch.device("cpu"), rounds)
    measure(torch.device("cpu"), rounds, free=0.5)
    if torch.cuda.is_available():
        gpu_ratio, gpu_difference = measure(torch.device("cuda"), rounds)
        print(f"RESULT name=roi_noise_gpu ratio={gpu_ratio:.3f} max_diff={gpu_difference:.3g}")
    print(f"RESULT name=roi_noise ratio={ratio:.3f} max_diff={difference:.3g}")


if __name__ == "__main__":
    main()
