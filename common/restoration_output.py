"""What the restoration of new volumes leaves beside its files: scores of volumes and of slices, and a picture of every volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from numpy.typing import NDArray

from common.atomic import write_atomic, write_csv
from common.handlers.case_pictures import volume
from common.inference import case_id
from common.inferers.residual_map import ResidualMap
from common.metrics.overlap import volume_ml
from common.metrics.slice_similarity import METRICS, mean_psnr, slice_similarity
from common.reconstruction_measure import chosen_slices
from common.residual_measure import AGGREGATES, ResidualMeasure
from common.residual_pictures import residual_figure
from common.weights import is_simulated

PICTURED = 3
"""Slices of a picture: that with the highest mean of the map, and steps through the others."""


class RestorationScores:
    """Row of a volume for ``CaseRows``; the rows of its slices go to a file of their own, written after each volume.

    Args:
        residual: how the maps were made; scores are taken in its brain without the rim, of the selected slices.
        slices_file: CSV of the slices; None keeps the rows in memory only.
        aggregates: see ``common.metrics.roc.structure_score``.
    """

    def __init__(self, residual: ResidualMap | None = None, slices_file: str | None = None, aggregates: Sequence[str] = AGGREGATES) -> None:
        self.residual, self.slices_file, self.aggregates = residual or ResidualMap(), slices_file, list(aggregates)
        self.slice_rows: list[dict[str, Any]] = []

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of a volume, behind its id.

        Args:
            item: ``image`` ``(1, P, S, N)`` in [0, 1], perhaps ``brain`` and ``slices`` (numbers of those that count, from the left).
            result: ``pred`` and ``residual`` on the same grid.

        Returns:
            ``slices`` (how many count), ``brain_ml``, ``anomaly_<aggregate>``, ``highest_slice`` (largest mean of the map), and ``mse``,
            ``dssim``, ``psnr_db``: how far the restoration is from the volume, means over the slices.
        """
        own = {"image": item["image"], **{key: item[key] for key in ("brain", "slices") if key in item}, "id": case_id(item)}
        measure = ResidualMeasure([], self.residual, None, self.aggregates)
        found, (places, numbers) = measure(own, result), chosen_slices(own)
        volumes = (convert_to_tensor(part, torch.float32, "cpu", track_meta=False) for part in (result["pred"], item["image"]))
        pairs = [volume.movedim(-1, 0)[places] for volume in volumes]
        similar = {key: values.tolist() for key, values in slice_similarity(*pairs).items()}
        by_number = {number: {key: similar[key][place] for key in METRICS} for place, number in enumerate(numbers)}
        rows = [self._named({**row, **by_number[row["slice"]]}) for row in measure.slice_rows]
        self.slice_rows += [{"id": own["id"], "slice": row["slice"], **{key: row[key] for key in self._columns}} for row in rows]
        self._write()
        brain = volume(self.residual.mask(item["image"].cpu(), item.get("brain")))
        spacing = [float(step) for step in item["image"].pixdim[:3]]
        score = f"anomaly_{self.aggregates[0]}"
        row: dict[str, Any] = {"slices": len(numbers), "brain_ml": volume_ml(brain, spacing)}
        row |= {key: value for key, value in self._named(found).items() if key.startswith("anomaly_")}
        row["highest_slice"] = max(rows, key=lambda line: line[score])["slice"] if rows else None
        return row | {key: mean_psnr(similar[key]) if key == "psnr_db" else float(np.mean(similar[key])) for key in METRICS}

    @property
    def _columns(self) -> list[str]:
        return [*(f"anomaly_{part}" for part in self.aggregates), *METRICS]

    def _named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with ``anomaly_`` in place of ``residual_``, as the files are called."""
        return {key.replace("residual_", "anomaly_"): value for key, value in row.items()}

    def _write(self) -> None:
        if self.slices_file is not None and self.slice_rows:
            write_csv(self.slices_file, self.slice_rows, digits=6)


class RestorationPictures:
    """Handler of an evaluator: slices of volume, restoration and anomaly map, ``<case>_anomaly.png``.

    Args:
        output_dir: folder for the pictures.
        ckpt_dir: weights; when their record says that they come from simulated data, the title says so too.
    """

    def __init__(self, output_dir: str, ckpt_dir: str | None = None) -> None:
        self.output_dir = Path(output_dir)
        self.simulated = is_simulated(ckpt_dir)

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw the cases of the batch that was just done."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        source = " by weights from SIMULATED data" if self.simulated else ""
        for item, result in zip(batch, output, strict=True):
            name, (places, numbers) = case_id(item), chosen_slices(item)
            maps = {"image": item["image"], "restored": result["pred"], "residual": result["residual"]}
            planes = {key: volume(values) for key, values in maps.items()}
            rows = {
                f"slice {numbers[at]}": {
                    **{key: values[..., places[at]] for key, values in planes.items()},
                    "truth": np.zeros(planes["image"].shape[:2], bool),
                }
                for at in shown_slices(planes["residual"][..., places])
            }
            png = residual_figure(rows, f"{name}: anomaly map{source}.\nResearch only, not for diagnosis.")
            write_atomic(self.output_dir / f"{name}_anomaly.png", lambda path, png=png: path.write_bytes(png))  # type: ignore[misc]


def shown_slices(values: NDArray[Any], count: int = PICTURED) -> list[int]:
    """Slices of a picture, ascending: that with the highest mean, and even steps through the others.

    Args:
        values: map ``(P, S, N)``.
        count: how many at most, >= 1.
    """
    depth = values.shape[-1]
    highest = int(values.mean(axis=(0, 1)).argmax())
    steps = np.floor((np.arange(count - 1) + 0.5) * depth / max(count - 1, 1)).astype(int)
    return sorted({highest, *(int(step) for step in steps)})
