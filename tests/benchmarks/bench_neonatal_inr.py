"""Time of a latent fit by Levenberg-Marquardt and by the paper's AdamW to equal PSNR, and of a step against a plain one.

Run ``python tests/benchmarks/bench_neonatal_inr.py [--quick] [--dims 2] [--models DIR]``. Without a folder of weights the bundle is trained
first, by the user's own command, with the paper's network on the simulated cohort (in 3D about half an hour). Fitted are unseen simulated
children, one after the other in one process, the order turning; PSNR is measured afterwards, outside the clock. The plain step is written
from what is known of the released code: all coordinates and two permutations anew in each step, float64 images, the latent beside every
voxel, two linear maps, dense AdamW, weights that collect gradients in a fit too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.inferers.latent_fit import Fit, FitScan, fit_adamw, fit_lm
from common.inferers.voxel_error import VoxelError, frozen, psnr_of
from common.inferers.voxel_sampling import VoxelBank, VoxelSampling, foreground_gaps, identities, sample_voxels
from common.networks.brain_inr import BrainINR
from common.networks.lazy_rows import LazyRowAdamW
from common.weights import load_weights, read_record

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "neonatal_inr" / "configs"
PAPER_NETWORK = {"width": 128, "layers": 8, "latent_size": 128, "learning_rate": 1e-3}
"""The bundle's quick size has a narrower one; the step size is smaller than its, as the network is wider."""
COHORT = {"seed": 1003, "style": "main", "repeated": 0.0}
"""Children on whom nothing was chosen."""
FOREGROUND = 0.5  # share of the voxels inside the brain, in the training at quick size and in both fits
TARGET_FIT, TARGET_STEP = 20.0, 2.0
MARGIN_DB = 0.1
"""Both fits have to come this near to the lower of the two final PSNRs."""
JUDGED = 60000  # voxels of the image on which the PSNR is measured
ADAMW_STEPS = {2: 2000, 3: 1000}  # the paper's
Scans = list[dict[str, Any]]


def train(models: Path, dims: int, epochs: int) -> None:
    """Train the bundle as a user does, with the paper's network."""
    size = "quick.json" if dims == 2 else "quick_3d.json"
    given = {**PAPER_NETWORK, "max_epochs": epochs, "ckpt_dir": models, "output_dir": models / "eval", "device": "cpu"}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"['{CONFIGS / 'train.json'}','{CONFIGS / size}']"]
    subprocess.run(command + [text for key, value in given.items() for text in (f"--{key}", str(value))], check=True, cwd=ROOT)


def load(models: Path, subjects: int) -> tuple[BrainINR, Scans]:
    """The trained network, and a prepared scan of each unseen child."""
    parser, record = ConfigParser(), read_record(models)
    parser.read_config(str(CONFIGS / "train.json"))
    simulated = {**COHORT, "spacing_mm": record["settings"]["spacing_mm"], "subjects": subjects}
    parser.update({**record["settings"], "ckpt_dir": str(models), "simulated": simulated, "device": "cpu"})
    parser["reference"] = str(models / "reference.npz")  # of the training; the config would choose one among these children
    network = parser.get_parsed_content("network_def").eval()
    load_weights(network, models / "model.pt")
    prepare, first = parser.get_parsed_content("prepare"), {}
    for case in parser.get_parsed_content("cases"):
        first.setdefault(case["subject"], case)
    scans = [{**case, **prepare(case)} for case in first.values()]
    for scan in scans:
        scan["image"], scan["brain"] = scan["image"].as_tensor().float(), scan["brain"].as_tensor() > 0
    return network, scans


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
                fits[name] = fit_lm(network.inr, image, age, brain, foreground=FOREGROUND)
            else:
                fits[name] = fit_adamw(network.inr, image, age, brain, steps=steps, lr=lr, foreground=FOREGROUND)
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

    def forward(self, points: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Intensities of points ``(N, 1 + D)`` for a latent ``(1, 128)``."""
        h = self.first(torch.cat([points, latent.expand(len(points), -1)], dim=1))
        for layer in self.hidden:
            h = (layer(h) + h) / 2
        return self.last(h)


def ball(grid: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy ball as image (float64, as the released code keeps it) and its mask."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in grid), indexing="ij")
    brain = sum(axis.square() for axis in axes) < 0.5
    return (torch.rand(tuple(grid), generator=torch.Generator().manual_seed(0)) * brain).double(), brain


def plain_step(image: torch.Tensor, brain: torch.Tensor, ratio: float, fit: bool) -> Callable[[], None]:
    """A step as the released code is described: everything of the volume's size is made anew; a fit moves the latent alone."""
    network = PlainINR(image.ndim)
    latent = torch.zeros(1, 128, requires_grad=True)
    optimizer = torch.optim.AdamW([latent] if fit else network.parameters(), lr=1e-4)

    def step() -> None:
        axes = [(torch.arange(side) - side / 2) / max(image.shape) for side in image.shape]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, image.ndim)
        points = torch.cat([torch.full((len(places), 1), 0.4), places], dim=1)
        inside, outside = brain.reshape(-1).nonzero()[:, 0], (~brain).reshape(-1).nonzero()[:, 0]
        count = round(ratio * image.numel())
        chosen = [part[torch.randperm(len(part))[:n]] for part, n in ((inside, round(0.9 * count)), (outside, count - round(0.9 * count)))]
        index = torch.cat(chosen)
        optimizer.zero_grad()
        values = network(points[index], latent if fit else network.latents(torch.tensor([1])))
        loss = (values[:, 0] - image.reshape(-1)[index].float()).square().mean()
        loss.backward()
        optimizer.step()

    return step


def our_training_step(image: torch.Tensor, brain: torch.Tensor, ratio: float, compiled: bool) -> Callable[[], None]:
    """The same step with what a bundle trains with."""
    scan = {"image": image[None], "brain": brain[None], "age": 40.0, "subject": "s", "id": "s_1"}
    # as many rows as the released table has
    network = BrainINR([*identities([scan]), *map(str, range(997))], dims=image.ndim)
    prepare = VoxelSampling(VoxelBank([scan]), network.latents, ratio=ratio)
    optimizer = LazyRowAdamW(network.parameter_groups(), lr=1e-4)
    call = torch.compile(network, dynamic=False) if compiled else network

    def step() -> None:
        points, values, rows, _ = prepare({"index": torch.tensor([0])})
        optimizer.zero_grad()
        (call(points, *rows) - values).square().mean().backward()
        optimizer.step()

    return step


def our_fit_step(image: torch.Tensor, brain: torch.Tensor, ratio: float, compiled: bool) -> Callable[[], None]:
    """One step of :func:`common.inferers.latent_fit.fit_adamw`."""
    inr = BrainINR(dims=image.ndim).inr
    scan, count = FitScan(inr, image.half(), brain, 0.9, 100.0, 0), round(ratio * image.numel())
    if compiled:
        inr.from_first = torch.compile(inr.from_first, dynamic=False)  # type: ignore[method-assign]
    latent = torch.zeros(inr.latent_size, requires_grad=True)
    optimizer = torch.optim.AdamW([latent], lr=1e-3)

    def step() -> None:
        with frozen(inr):
            optimizer.zero_grad()
            part = scan.draw(count)
            (part.values(latent, 40.0) - part.target).square().mean().backward()
            optimizer.step()

    return step


def compare_steps(grid: Sequence[int], rounds: int, fit: bool) -> dict[str, float]:
    """Print the seconds of a step in three ways; the plain one's over ours, as it is and compiled."""
    image, brain = ball(grid)
    ours = our_fit_step if fit else our_training_step
    ways = {"plain": plain_step(image, brain, 0.05, fit), "ours": ours(image, brain, 0.05, False)}
    ways["compiled"] = ours(image, brain, 0.05, True)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number > 1:  # the first calls compile
                times[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(values) for name, values in times.items()}
    count, kind = round(0.05 * image.numel()), "fit" if fit else "training"
    print(f"\nStep of the {kind} on {'x'.join(map(str, grid))}, {count} voxels, batch 1, {threads()}, {rounds} rounds")
    for name, values in times.items():
        spread = f"({min(values):.3f}-{max(values):.3f}) {1e6 * middle[name] / count:8.2f} us per voxel"
        print(f"  {name:9s}{middle[name]:8.3f} s {spread} {middle['plain'] / middle[name]:6.2f}x")
    print(f"  (target of the ratio >= {TARGET_STEP:g})", flush=True)
    return {f"{kind}_step": middle["plain"] / middle["ours"], f"{kind}_step_compiled": middle["plain"] / middle["compiled"]}


def threads() -> str:
    """E.g. ``CPU, 2 threads``."""
    return f"CPU, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> None:
    """Train or load, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2D, a short training, fewer steps, a small grid for the step")
    parser.add_argument("--dims", type=int, choices=(2, 3), help="default 3, with --quick 2")
    parser.add_argument("--models", type=Path, help="folder of a training with the paper's network; else one is made")
    parser.add_argument("--epochs", type=int, help="of the training; default 60, with --quick 5")
    parser.add_argument("--subjects", type=int, default=8, help="unseen children to fit")
    parser.add_argument("--fit-steps", type=int, help="of AdamW's fit; default as in the paper, 300 with --quick")
    parser.add_argument("--lr", type=float, default=1e-3, help="of AdamW's fit; the paper's by default")
    given = parser.parse_args(arguments)
    dims = given.dims or (2 if given.quick else 3)
    fit_steps = given.fit_steps or (300 if given.quick else ADAMW_STEPS[dims])
    with tempfile.TemporaryDirectory() as folder:
        models = given.models or Path(folder) / "models"
        if given.models is None:
            train(models, dims, given.epochs or (5 if given.quick else 60))
        network, scans = load(models, given.subjects)
    sides = "x".join(map(str, scans[0]["image"].shape[1:]))
    print(f"\nLatent fits on {sides}, {threads()}; AdamW: lr {given.lr:g}, 5 % of the voxels, {fit_steps} steps", flush=True)
    result = compare_fits(network, scans, fit_steps, given.lr)
    for fit in (True, False):
        result |= compare_steps((48, 64, 64) if given.quick else (96, 128, 128), 5, fit)
    print("RESULT name=neonatal_inr " + " ".join(f"{key}={value:.3g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
