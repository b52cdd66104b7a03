"""How large must a bleed be to be seen? Spheres of blood are put into healthy simulated heads and their hemisphere is scored as it was.

Run ``python tests/benchmarks/insert_spheres.py --ckpt_dir DIR [--bundle_root DIR] [--heads 20] [--hu 65]`` with the weights of a training;
``--overlays "['quick.json']"`` names those it was trained with. Printed by radius: the share of hemispheres above the 90th percentile of
healthy ones and the AUROC against them, for the raw map and, where the weights are calibrated, for the standardised one. The heads are
simulated, of seed 1001, which no setting was chosen on.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.metrics.roc import auroc, structure_score
from common.transforms.head_masks import BRAIN_LEFT, BRAIN_RIGHT

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "position_regression" / "configs"
RADII_MM = (4, 6, 8, 11, 14, 18, 22)
NOISE_HU = 4.0
"""Standard deviation of the blood's density from voxel to voxel."""


def insert_sphere(hu: np.ndarray, side: np.ndarray, centre: np.ndarray, radius: float, blood_hu: float, rng: Any) -> np.ndarray:
    """Fill a ball with blood, inside one hemisphere only.

    Args:
        hu: ``(n, n, n)``.
        side: the hemisphere, ``(n, n, n)`` bool.
        centre: voxel index, ``(3,)``.
        radius: voxels.
        blood_hu: mean density of the blood.
        rng: source of its noise.
    """
    axes = [np.arange(n) - c for n, c in zip(hu.shape, centre, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.ix_(*axes)))
    ball = (distance <= radius) & side
    out = hu.copy()
    out[ball] = np.round(blood_hu + NOISE_HU * rng.standard_normal(np.count_nonzero(ball)))
    return out


def scores(parser: Any, hu: np.ndarray, side: np.ndarray) -> list[float]:
    """Largest value of the raw and, where there is one, of the standardised map in a hemisphere."""
    evaluator = parser.get_parsed_content("validate::evaluator")
    image = torch.from_numpy(hu)[None]
    with torch.no_grad():
        error = evaluator.inferer(image[None], evaluator.network)[0]
    result = parser.get_parsed_content("validate::postprocessing")({"pred": error, "image": image})
    return [structure_score(np.asarray(result[key])[0], side) for key in ("error", "zmap") if key in result]


def healthy_hemispheres(parser: Any, heads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """HU and one hemisphere of each healthy head, ``(n, n, n)`` both."""
    dataset = parser.get_parsed_content("validate::dataset")
    found = [index for index, case in enumerate(dataset.data) if not any(case["findings"].values())][:heads]
    for index in found:
        item = dataset[index]
        labels = np.asarray(item["structures"])[0]
        for label in (BRAIN_LEFT, BRAIN_RIGHT):
            yield np.asarray(item["image"])[0], labels == label


def workflow(given: argparse.Namespace) -> Any:
    """The evaluation on the test cohort, weights loaded and heads prepared."""
    settings = {"evaluate_on": "all", "simulated::healthy": 30, "simulated::seed": 1001, "device": "cpu", "ckpt_dir": given.ckpt_dir}
    settings |= {"bundle_root": given.bundle_root} if given.bundle_root else {}
    files = [str(CONFIGS / name) for name in ("train.json", *ast.literal_eval(given.overlays), "evaluate.json")]
    run = ConfigWorkflow(files, workflow_type="train", logging_file=False, **settings)
    run.initialize()
    run.parser["run"] = run.parser["run"][3:5]  # weights, preparation
    run.run()
    return run.parser


def main(arguments: list[str] | None = None) -> None:
    """Print one table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ckpt_dir", required=True)
    options.add_argument("--bundle_root")
    options.add_argument("--heads", type=int, default=20)
    options.add_argument("--hu", type=float, default=65.0)
    options.add_argument("--overlays", default="['quick.json']")
    given = options.parse_args(arguments)
    parser, rng = workflow(given), np.random.default_rng(0)
    parser.get_parsed_content("network").eval()
    spacing = float(parser.get_parsed_content("spacing_mm"))
    hemispheres = list(healthy_hemispheres(parser, given.heads))
    healthy = np.array([scores(parser, hu, side) for hu, side in hemispheres])
    names = ("error", "zmap")[: healthy.shape[1]]
    print(f"{len(hemispheres)} healthy simulated hemispheres, spheres of {given.hu:g} HU at random places of them")
    print("radius mm   ml (median)" + "".join(f"   {name}: > p90 of healthy   AUROC" for name in names))
    for radius in RADII_MM:
        rows, volumes = [], []
        for hu, side in hemispheres:
            inside = np.argwhere(side)
            changed = insert_sphere(hu, side, inside[rng.integers(len(inside))], radius / spacing, given.hu, rng)
            volumes.append(np.count_nonzero(changed != hu) * spacing**3 / 1000)
            rows.append(scores(parser, changed, side))
        found = np.array(rows)
        line = f"{radius:9d} {np.median(volumes):13.1f}"
        for column in range(len(names)):
            above = np.mean(found[:, column] > np.percentile(healthy[:, column], 90))
            area = auroc([*found[:, column], *healthy[:, column]], [1] * len(found) + [0] * len(healthy))
            line += f"{above:25.2f}{area:8.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
