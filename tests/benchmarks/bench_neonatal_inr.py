"""Time of a latent fit by Levenberg-Marquardt and by the paper's AdamW to equal PSNR, and of a training step against a plain one.

Run ``python tests/benchmarks/bench_neonatal_inr.py [--quick] [--dims 2] [--weights FILE]``. Without weights a network is trained on the
simulated cohort first (its quality is no claim; both fits use it). Fits are of unseen subjects, one after the other in one process, the
order turning; PSNR is measured afterwards, outside the clock. The plain step is written from what is known of the released code: all
coordinates and two permutations anew in each step, float64 images, the latent beside every voxel, two linear maps, dense AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.data.simulate.dhcp import simulate_scan, visits
from common.inferers.latent_fit import Fit, fit_adamw, fit_lm
from common.inferers.voxel_error import VoxelError, psnr_of
from common.inferers.voxel_sampling import VoxelBank, VoxelSampling, foreground_gaps, identities, sample_voxels
from common.networks.brain_inr import BrainINR
from common.networks.lazy_rows import LazyRowAdamW

TARGET_FIT, TARGET_STEP = 20.0, 2.0
MARGIN_DB = 0.1
"""Both fits have to come this near to the lower of the two final PSNRs."""
JUDGED = 40000  # voxels of the image on which the PSNR is measured
IMAGES = 4  # per step of the training
TRAIN_MM = 2.0  # the network knows places, not voxels, so it is fitted to finer scans too
ADAMW_STEPS = {2: 2000, 3: 1000}  # the paper's
Scans = list[dict[str, Any]]


def make_scans(subjects: Sequence[int], spacing_mm: float, dims: int) -> Scans:
    """Prepared scans of the simulated cohort, without alignment; in 2D the axial slice at the brain's centre of mass."""
    scans: Scans = []
    for subject in subjects:
        for visit in visits(subject, 0, "main", 0.3):
            scan = simulate_scan(visit, 0, spacing_mm)
            brain = scan.brain > 0
            image = np.clip(scan.image / np.percentile(scan.image[brain], 99.9), 0, 1) * brain
            if dims == 2:
                middle = round(float(brain.nonzero()[2].mean()))
                image, brain = image[..., middle], brain[..., middle]
            child, session = visit.names
            arrays = {"image": torch.from_numpy(image.astype(np.float32))[None], "brain": torch.from_numpy(brain)[None]}
            scans.append({**arrays, "age": visit.age, "subject": child, "id": f"{child}_{session}"})
    return scans


def train(scans: Scans, dims: int, steps: int, voxels: int) -> BrainINR:
    """The paper's network. Deviation: several images per step, and larger step sizes that fall to 0, the latents' most, since each of them
    is seen a few dozen times here and 1000 times in the paper."""
    torch.manual_seed(0)
    bank, network = VoxelBank(scans), BrainINR(identities(scans), dims=dims)
    prepare = VoxelSampling(bank, network.latents, ratio=1.0, max_voxels=voxels // IMAGES)
    groups = network.parameter_groups()
    groups[1]["lr"] = 1e-2
    optimizer = LazyRowAdamW(groups, lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start, total = time.perf_counter(), 0.0
    for number in range(steps):
        points, values, rows, _ = prepare({"index": torch.randint(len(bank), (IMAGES,))})
        optimizer.zero_grad()
        loss = (network(points, *rows) - values).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if (number + 1) % (steps // 5) == 0:
            psnr = -10 * np.log10(total / (steps // 5))
            print(f"  step {number + 1}: {psnr:.2f} dB on the drawn voxels, {time.perf_counter() - start:.0f} s", flush=True)
            total = 0.0
    return network.eval()


def first_reaching(fit: Fit, judge: Callable[[torch.Tensor], float], target: float, every: int) -> tuple[float, int]:
    """Seconds and number of steps when a fit first has this PSNR; looked at after every few steps, so at most that many too late."""
    for number, step in enumerate(fit.history):
        if (number % every == 0 or number == len(fit.history) - 1) and judge(step.latent) >= target:
            return step.seconds, number
    raise AssertionError("the target is below what the fit ended with")


def compare_fits(network: BrainINR, scans: Scans, steps: int, lr: float) -> dict[str, float]:
    """Print one line per scan; medians over them."""
    rows = []
    print("  scan                   weeks   LM dB steps       s  AdamW dB       s   to dB    LM s  AdamW s   ratio")
    for turn, scan in enumerate(scans):
        image, brain, age = scan["image"][0], scan["brain"][0], scan["age"]
        fits: dict[str, Fit] = {}
        for name in ("lm", "adamw") if turn % 2 else ("adamw", "lm"):
            if name == "lm":
                fits[name] = fit_lm(network.inr, image, age, brain)
            else:
                fits[name] = fit_adamw(network.inr, image, age, brain, steps=steps, lr=lr)
        judge = make_judge(network, scan)
        final = {name: judge(fit.latent) for name, fit in fits.items()}
        target = min(final.values()) - MARGIN_DB
        seconds = {name: first_reaching(fit, judge, target, 1 if name == "lm" else 10)[0] for name, fit in fits.items()}
        rows.append([seconds["adamw"] / seconds["lm"], final["lm"], final["adamw"], fits["lm"].seconds, fits["adamw"].seconds])
        print(
            f"  {scan['id']:22s}{age:6.1f}{final['lm']:8.2f}{len(fits['lm'].history) - 1:6d}{fits['lm'].seconds:8.2f}{final['adamw']:10.2f}"
            f"{fits['adamw'].seconds:8.2f}{target:8.2f}{seconds['lm']:8.2f}{seconds['adamw']:9.2f}{rows[-1][0]:8.1f}",
            flush=True,
        )
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(f"  ratio of seconds: median {middle[0]:.1f}, lowest {min(r[0] for r in rows):.1f} (target of the median >= {TARGET_FIT:g})")
    return dict(zip(("ratio", "lm_db", "adamw_db", "lm_s", "adamw_s"), middle, strict=True)) | {"subjects": len(rows)}


def make_judge(network: BrainINR, scan: dict[str, Any]) -> Callable[[torch.Tensor], float]:
    """PSNR of a latent on voxels of the whole image, each drawn alike; all of them where the image is small."""
    image = scan["image"][0]
    flat = torch.arange(image.numel())
    if image.numel() > JUDGED:
        flat = sample_voxels(foreground_gaps(scan["brain"][0]), image.numel(), JUDGED, None, torch.Generator().manual_seed(99))
    judged = VoxelError(network.inr, image, flat, 100.0)

    def judge(latent: torch.Tensor) -> float:
        with torch.no_grad():
            return psnr_of(judged.values(latent, scan["age"]), judged.target)

    return judge


class PlainLayer(nn.Module):
    """Two linear maps a, b; cos(10 a) exp(-(10 b)^2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of ``x``."""
        return torch.cos(10 * self.a(x)) * torch.exp(-((10 * self.b(x)) ** 2))


class PlainINR(nn.Module):
    """The paper's network on rows (t, x, y, z, latent)."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.latents = nn.Embedding(1000, 128, padding_idx=0, max_norm=1.0, norm_type=float("inf"))
        nn.init.zeros_(self.latents.weight)
        self.first, self.last = PlainLayer(1 + dims + 128, 128), PlainLayer(128, 1)
        self.hidden = nn.ModuleList(PlainLayer(128, 128) for _ in range(6))

    def forward(self, points: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Intensities of points ``(N, 1 + D)``."""
        h = self.first(torch.cat([points, self.latents(row).expand(len(points), -1)], dim=1))
        for layer in self.hidden:
            h = (layer(h) + h) / 2
        return self.last(h)


def plain_step(image: torch.Tensor, brain: torch.Tensor, ratio: float) -> Callable[[], None]:
    """A training step as the released code is described: everything of the volume's size is made anew."""
    network = PlainINR(image.ndim)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        axes = [(torch.arange(side) - side / 2) / max(image.shape) for side in image.shape]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, image.ndim)
        points = torch.cat([torch.full((len(places), 1), 0.4), places], dim=1)
        inside, outside = brain.reshape(-1).nonzero()[:, 0], (~brain).reshape(-1).nonzero()[:, 0]
        count = round(ratio * image.numel())
        chosen = [part[torch.randperm(len(part))[:n]] for part, n in ((inside, round(0.9 * count)), (outside, count - round(0.9 * count)))]
        index = torch.cat(chosen)
        optimizer.zero_grad()
        loss = (network(points[index], torch.tensor([1]))[:, 0] - image.reshape(-1)[index].float()).square().mean()
        loss.backward()
        optimizer.step()

    return step


def our_step(image: torch.Tensor, brain: torch.Tensor, ratio: float) -> Callable[[], None]:
    """The same step with what a bundle trains with."""
    scan = {"image": image[None], "brain": brain[None], "age": 40.0, "subject": "s", "id": "s_1"}
    # as many rows as the released table has
    network = BrainINR([*identities([scan]), *map(str, range(997))], dims=image.ndim)
    prepare = VoxelSampling(VoxelBank([scan]), network.latents, ratio=ratio)
    optimizer = LazyRowAdamW(network.parameter_groups(), lr=1e-4)

    def step() -> None:
        points, values, rows, _ = prepare({"index": torch.tensor([0])})
        optimizer.zero_grad()
        (network(points, *rows) - values).square().mean().backward()
        optimizer.step()

    return step


def compare_steps(grid: Sequence[int], rounds: int) -> float:
    """Print the seconds of both steps; their ratio."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in grid), indexing="ij")
    brain = sum(axis.square() for axis in axes) < 0.5
    image = (torch.rand(tuple(grid), generator=torch.Generator().manual_seed(0)) * brain).double()
    ways = {"plain": plain_step(image, brain, 0.05), "ours": our_step(image, brain, 0.05)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                times[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(values) for name, values in times.items()}
    count = round(0.05 * image.numel())
    print(f"\nTraining step on {'x'.join(map(str, grid))}, {count} voxels, batch 1, {threads()}, {rounds} rounds")
    for name, values in times.items():
        print(f"  {name:8s}{middle[name]:8.3f} s ({min(values):.3f}-{max(values):.3f}) {1e6 * middle[name] / count:8.2f} us per voxel")
    print(f"  ratio {middle['plain'] / middle['ours']:.2f} (target >= {TARGET_STEP:g})")
    return middle["plain"] / middle["ours"]


def threads() -> str:
    """E.g. ``CPU, 2 threads``."""
    return f"CPU, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> None:
    """Train or load, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2D, a short training, a small grid for the step")
    parser.add_argument("--dims", type=int, choices=(2, 3), help="default 3, with --quick 2")
    parser.add_argument("--fit-spacing-mm", type=float, help="voxels of the fitted scans; default 2 in 3D, 0.566 (1 with --quick) in 2D")
    parser.add_argument("--weights", help="model.pt of the paper's network; else one is trained")
    parser.add_argument("--save", help="where to keep the trained weights")
    parser.add_argument("--steps", type=int, help="of the training")
    parser.add_argument("--subjects", type=int, default=5, help="unseen subjects to fit")
    parser.add_argument("--fit-steps", type=int, help="of AdamW's fit; default as in the paper, 500 with --quick")
    parser.add_argument("--lr", type=float, default=1e-3, help="of AdamW's fit; the paper's by default")
    given = parser.parse_args(arguments)
    dims = given.dims or (2 if given.quick else 3)
    fit_spacing = given.fit_spacing_mm or (2.0 if dims == 3 else 1.0 if given.quick else 0.566)
    fit_steps = given.fit_steps or (500 if given.quick else ADAMW_STEPS[dims])
    steps, trained = given.steps or (1500 if given.quick else 6000), 24 if given.quick else 40
    if given.weights:
        network = BrainINR(dims=dims)
        network.load_state_dict(torch.load(given.weights, map_location="cpu", weights_only=True))
        network.eval()
    else:
        print(f"Training on {trained} simulated subjects, {dims}D, {TRAIN_MM:g} mm, {steps} steps, {threads()}", flush=True)
        network = train(make_scans(range(trained), TRAIN_MM, dims), dims, steps, 2048 if given.quick else 4096)
        if given.save:
            torch.save(network.state_dict(), given.save)
    # the first scan of subjects that the training has not seen
    unseen = [make_scans([subject], fit_spacing, dims)[0] for subject in range(1000, 1000 + given.subjects)]
    sides = "x".join(map(str, unseen[0]["image"].shape[1:]))
    print(f"\nLatent fits on {sides}, {threads()}; AdamW: lr {given.lr:g}, 5 % of the voxels, {fit_steps} steps", flush=True)
    result = compare_fits(network, unseen, fit_steps, given.lr)
    result["step_ratio"] = compare_steps((48, 64, 64) if given.quick else (96, 128, 128), 5)
    print("RESULT name=neonatal_inr " + " ".join(f"{key}={value:.3g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
