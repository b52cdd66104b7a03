"""Average brains at many ages, from the zero and from the mean latent: an age-resolved atlas with its figures (4a, 4b)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from common.atomic import write_atomic, write_csv
from common.growth_charts import growth_chart
from common.growth_measure import Outline
from common.growth_output import save_growth, save_growth_gif
from common.growth_pictures import ages_figure
from common.growth_references import read_atlas, read_percentiles
from common.inferers.brain_at_age import labels_at, predict_at
from common.networks.brain_inr import BrainINR
from common.transforms.align_brain import grid_affine
from common.weights import read_record

logger = logging.getLogger("brain_bundles")


def average_latents(network: BrainINR, ages_weeks: Sequence[float], age_scale: float = 100.0) -> dict[str, torch.Tensor]:
    """Latents of average brains, one per age: ``zero`` (the global one where it was learned) and ``mean`` of the training.

    Args:
        network: trained.
        ages_weeks: ``(A,)``.
        age_scale: weeks that are t = 1.

    Returns:
        Name -> ``(A, L)``; the mean is moved along the regression on age where latents were trained per scan with their ages.
    """
    table = network.latents
    with torch.no_grad():
        known = table.identity_ages[~table.identity_ages.isnan()]
        ages = torch.tensor(list(ages_weeks), dtype=torch.float32, device=table.weight.device) / age_scale
        middle = known.mean().to(ages) if len(known) else ages.mean()
        mean = network.latent_at(table.mean().expand(len(ages), -1), middle.expand(len(ages)), ages)
        return {"zero": table.weight.detach()[0].expand(len(ages), -1), "mean": mean}


def write_atlas(
    network: BrainINR,
    ages_weeks: Sequence[float],
    grid: Sequence[int],
    spacing_mm: float,
    output_dir: str | Path,
    ckpt_dir: str | Path,
    percentiles: str | None = None,
    atlases: Mapping[str, str] | None = None,
    micro_batch: int = 65536,
    age_scale: float = 100.0,
) -> list[dict[str, Any]]:
    """Write ``atlas_zero.nii.gz`` and ``atlas_mean.nii.gz`` (4D, ages on the fourth axis), animations, ``atlas.csv`` and the figures.

    Args:
        network: trained.
        ages_weeks: rising ages.
        grid: sides of the training's grid, voxels, 2 or 3.
        spacing_mm: of the grid.
        output_dir: folder of results.
        ckpt_dir: folder of the weights, whose record tells whether they are a demonstration.
        percentiles: CSV of a growth chart, see ``read_percentiles``; None draws none.
        atlases: name -> CSV of an atlas' volumes, see ``read_atlas``.
        micro_batch: voxels in memory at a time.
        age_scale: weeks that are t = 1.

    Returns:
        Rows of ``atlas.csv``: average brain, age, and in 3D the circumference of the brain, cm.

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 4, figure 4.
    """
    folder, sides = Path(output_dir), tuple(int(side) for side in grid)
    title = "SIMULATED weights, a demonstration" if read_record(ckpt_dir).get("simulated") else ""
    affine = grid_affine(np.eye(4), (*sides, 1)[:3], spacing_mm)
    spacing, rows, growth = [float(spacing_mm)] * len(sides), [], {}
    for name, latents in average_latents(network, ages_weeks, age_scale).items():
        volumes = predict_at(network.inr, latents, ages_weeks, sides, micro_batch, age_scale).cpu().numpy()
        growth[f"{name} latent"] = volumes
        save_growth(volumes, ages_weeks, affine, folder / f"atlas_{name}.nii.gz", title)
        save_growth_gif(volumes, ages_weeks, spacing, folder / f"atlas_{name}.gif", f"{name} latent {title}".strip())
        for age, volume in zip(ages_weeks, volumes, strict=True):
            rows.append({"brain": f"{name} latent", "age_weeks": float(age)})
            if len(sides) == 3:
                rows[-1]["circumference_cm"] = Outline().measure_cm(volume, spacing)
        if network.inr.labels is not None:
            _save_labels(
                labels_at(network.inr, latents, ages_weeks, sides, micro_batch, age_scale), affine, folder / f"labels_{name}.nii.gz"
            )
    write_csv(folder / "atlas.csv", rows)
    figures = {"figure_4b": ages_figure(growth, ages_weeks, spacing, title)}
    if len(sides) == 3:
        figures["figure_4a"] = _chart(rows, percentiles, atlases or {}, title)
    for name, png in figures.items():
        write_atomic(folder / f"{name}.png", lambda temporary, png=png: temporary.write_bytes(png))  # type: ignore[misc]
    return rows


def _chart(rows: Sequence[Mapping[str, Any]], percentiles: str | None, atlases: Mapping[str, str], title: str) -> bytes:
    """Figure 4a: the circumference of the average brains over a growth chart and beside atlases."""
    curves: dict[str, Any] = {}
    for name in dict.fromkeys(row["brain"] for row in rows):
        own = [(row["age_weeks"], row["circumference_cm"]) for row in rows if row["brain"] == name]
        curves[name] = tuple(zip(*own, strict=True))
    chart = read_percentiles(percentiles) if percentiles else None
    return growth_chart(curves, chart, {name: read_atlas(path) for name, path in atlases.items()}, title)


def _save_labels(labels: torch.Tensor, affine: Any, path: Path) -> None:
    """Labels ``(A, *grid)`` as a 4D NIfTI of integers."""
    voxels = labels.cpu().numpy().astype(np.uint8)
    voxels = np.moveaxis(voxels if voxels.ndim == 4 else voxels[..., None], 0, -1)
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), affine)
    write_atomic(path, lambda temporary: nibabel.save(image, temporary))
