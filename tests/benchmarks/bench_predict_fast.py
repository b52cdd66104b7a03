"""``predict --fast`` of all six bundles: seconds from cold start to saved file and peak memory, on one scan of clinical size each.

Run ``python tests/benchmarks/bench_predict_fast.py [--quick] [--plain] [--bundles ladp,patchddm] [--work DIR]``. The scans are simulated
and the networks have the paper's size with weights that nobody trained: time and memory do not depend on what they say. The command runs
in a process of its own. "At best" is the CPU time divided by two: a lower bound of the wall time on two free cores, for a machine that
others use too.
``--quick`` takes small scans, ``--plain`` also runs the command without ``--fast`` (for `PATIENCE` CPU seconds at most). This process
imports nothing large: a child's peak memory begins with its parent's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS, LIMIT_GIB, CORES = 180.0, 4.0, 2
PATIENCE = 600
"""CPU seconds after which a run without ``--fast`` is stopped: five minutes on two cores."""


class Scan(NamedTuple):
    """A simulated scan of clinical size: layout, what its generator is given, the same for ``--quick``, and words for the table."""

    layout: str
    size: dict[str, Any]
    quick: dict[str, Any]
    words: str


SCANS = {
    "ladp": Scan("bonbid", {"size": 256, "slices": "30,30"}, {"size": 64, "slices": "10,10"}, "ADC and Z map, 256 x 256 x 30"),
    "position_regression": Scan("cq500", {"size": 512, "slice_mm": 5}, {"size": 128, "slice_mm": 5}, "head CT, 512 x 512, slices of 5 mm"),
    "patchddm": Scan("brats", {"size": 240}, {"size": 64}, "four sequences, 240 x 240 x 155"),
    "neonatal_inr": Scan("dhcp", {"spacing_mm": 0.5, "repeated": 0}, {"spacing_mm": 2.0, "repeated": 0}, "T2w, 217 x 290 x 290 at 0.5 mm"),
    "disruptive_autoencoder": Scan("feta", {"spacing_mm": 0.5}, {"spacing_mm": 2.0}, "T2w of a fetus, 256^3 at 0.5 mm"),
    "brain_autoencoder": Scan("ixi", {"spacing_mm": 0.9375}, {"spacing_mm": 3.75}, "T1, 256 x 256 x 150"),
}
COUNTS = {"cq500": {"healthy": 1, "abnormal": 0}}


class Run(NamedTuple):
    """What a run took: wall and CPU seconds (None: stopped), peak memory, the line that says what was given up."""

    wall: float
    cpu: float
    gib: float
    done: bool
    said: str


def simulate(scan: Scan, folder: Path, quick: bool) -> None:
    """Make the scan; a complete one is left as it is."""
    given = {**COUNTS.get(scan.layout, {"subjects": 1}), "seed": 1, **(scan.quick if quick else scan.size)}
    options = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", "common.data", "simulate", scan.layout, str(folder), *options], cwd=ROOT, check=True)


def make_weights(bundle: str, scans: Path, folder: Path) -> None:
    """Child process: weights of the paper's network that nobody trained, with what a training of the bundle leaves beside them."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / "inference.json"))
    parser.update({"ckpt_dir": str(folder)})
    torch.manual_seed(0)
    network: Any = parser.get_parsed_content("network_def")
    if bundle == "ladp":
        network.mean.copy_(torch.tensor([1200.0, 0.0]))
        network.std.copy_(torch.tensor([300.0, 1.0]))
    elif bundle == "position_regression":
        fill_head_model(network, scans)
    elif bundle == "neonatal_inr":
        save_reference(scans, folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "weights.json").write_text(json.dumps({"bundle": bundle, "members": ["model.pt"], "simulated": False}))


def fill_head_model(network: Any, scans: Path) -> None:
    """Reference head, equalisation and calibration as buffers; the head of the scan itself, in its own pose, is not met again exactly."""
    import torch

    from common.data.dataset import find_cases
    from common.data.head_ct import read_head_ct
    from common.transforms.reference_frame import make_reference

    (case,) = find_cases(scans, "cq500", ["ct"])
    image = case["image"]
    network.set_reference(make_reference(read_head_ct(image[0] if isinstance(image, list) else image), network.registration_spacing_mm))
    network.levels.copy_(torch.linspace(0, 1, len(network.levels)))
    network.calibration_mean.fill_(0.3)
    network.calibration_sd.fill_(0.1)
    network.healthy_quantiles.copy_(torch.linspace(0, 1, network.healthy_quantiles.shape[-1]).expand_as(network.healthy_quantiles))


def save_reference(scans: Path, folder: Path) -> None:
    """The outline that scans are aligned to."""
    import nibabel
    import numpy as np

    from common.data.dataset import find_cases
    from common.transforms.brain_pose import BrainReference

    case = find_cases(scans, "dhcp", ["t2w"])[0]
    images = [nibabel.load(file) for file in (_first(case["image"]), _first(case["brain"]))]
    image, brain = (np.asarray(one.dataobj) for one in images)  # type: ignore[attr-defined]
    folder.mkdir(parents=True, exist_ok=True)
    BrainReference.make(image, brain > 0, images[0].affine).save(folder / "reference.npz")  # type: ignore[attr-defined]


def _first(files: Any) -> str:
    return str(files[0] if isinstance(files, list | tuple) else files)


def run(bundle: str, scans: Path, weights: Path, output: Path, fast: bool) -> Run:
    """The user's command in a process of its own."""
    command = [sys.executable, "-m", "common.predict", bundle, str(scans), str(output), "--weights", str(weights), "--device", "cpu"]
    log = output.with_suffix(".log")
    with open(log, "wb") as file:
        start = time.perf_counter()
        patience = [] if fast else ["bash", "-c", f'ulimit -t {PATIENCE}; exec "$@"', "bash"]
        child = subprocess.Popen(patience + command + ["--fast"] * fast, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    if child.returncode > 0:
        raise SystemExit(f"{' '.join(command)}\n{text[-3000:]}")
    said = next((line for line in text.splitlines() if line.startswith("Fast: ")), "")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20, child.returncode == 0, said)


def report(bundle: str, found: Run, fast: bool) -> None:
    """One row of the table."""
    if not found.done:
        print(f"  {bundle:24s} plain   stopped after {found.wall:.0f} s wall, {found.cpu:.0f} CPU s {found.gib:6.2f} GiB")
        return
    bound = found.cpu / CORES
    verdict = "within" if bound <= LIMIT_SECONDS and found.gib <= LIMIT_GIB else "OVER"
    print(
        f"  {bundle:24s} {'--fast' if fast else 'plain':7s} {found.wall:7.1f} s wall {found.cpu:7.1f} CPU s {bound:7.1f} s at best"
        f" {found.gib:6.2f} GiB  {verdict if fast else ''}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure the bundles one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small scans")
    parser.add_argument("--plain", action="store_true", help="also without --fast")
    parser.add_argument("--bundles", default=",".join(SCANS), help="names, parted by commas")
    parser.add_argument("--work", help="folder that keeps scans and weights; default: a temporary one")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        sys.path.insert(0, str(ROOT))
        make_weights(given.child[0], Path(given.child[1]), Path(given.child[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(given.work or temporary).absolute()
        measure(given.bundles.split(","), work, given.quick, given.plain)


def measure(bundles: list[str], work: Path, quick: bool, plain: bool) -> None:
    """Print the table and one line of numbers per bundle."""
    load = os.getloadavg()[0]
    print(f"One scan from cold start to saved file on a CPU; limits {LIMIT_SECONDS:g} s and {LIMIT_GIB:g} GiB on {CORES} cores")
    print(f"  {os.cpu_count()} cores, load {load:.1f} at the start, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}")
    for bundle in bundles:
        scan, size = SCANS[bundle], "quick" if quick else "clinical"
        scans, weights = work / f"{scan.layout}_{size}", work / f"weights_{bundle}"
        simulate(scan, scans, quick)
        subprocess.run([sys.executable, __file__, "--child", bundle, str(scans), str(weights)], check=True, cwd=ROOT)
        print(f"\n{bundle}: {'a small scan' if quick else scan.words}", flush=True)
        runs = {fast: run(bundle, scans, weights, work / f"out_{bundle}_{fast}", fast) for fast in ([False, True] if plain else [True])}
        for fast, found in runs.items():
            report(bundle, found, fast)
        best = runs[True]
        print(f"  {best.said}")
        print(f"RESULT name=predict_fast_{bundle} wall_s={best.wall:.1f} cpu_s={best.cpu:.1f} peak_gib={best.gib:.2f}", flush=True)


if __name__ == "__main__":
    main()
