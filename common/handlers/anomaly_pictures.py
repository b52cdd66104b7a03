"""What an inference leaves beside its maps: a row with scores and a picture of every case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from common.anomaly_figures import anomaly_figure, brightest_voxel
from common.anomaly_scores import describe_anomaly
from common.atomic import write_atomic
from common.handlers.case_pictures import volume
from common.inference import case_id
from common.networks.head_ct_model import HeadCTModel
from common.transforms.head_masks import STRUCTURES
from common.weights import is_simulated


class AnomalyDescription:
    """Row of a case for ``CaseRows``; see :func:`common.anomaly_scores.describe_anomaly`.

    Args:
        model: its healthy quantiles tell how unusual a score is; where its network regresses positions of patches, errors are in mm.
    """

    def __init__(self, model: HeadCTModel) -> None:
        self.model, self.in_mm = model, hasattr(model.network, "patch_size")

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Scores of one case."""
        healthy = self.model.healthy_quantiles.cpu().numpy() if self.model.calibrated else None
        return describe_anomaly(item, result, healthy, in_mm=self.in_mm)


class AnomalyPictures:
    """Handler of an evaluator: planes of CT, error and z-map through the largest error inside the brain, ``<case>_anomaly.png``.

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
        """Draw the cases of the batch that was just done, on the cube of the reference, where left is left whatever the source's pose."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, result in zip(batch, output, strict=True):
            name = case_id(item)
            image, labels = (np.asarray(torch.as_tensor(item[key]).cpu())[0] for key in ("image", "structures"))
            maps = {label: volume(result[key]) for key, label in (("error", "error"), ("zmap", "z")) if key in result}
            at = brightest_voxel(next(iter(maps.values())), labels >= STRUCTURES["left"])
            source = " by weights from SIMULATED data" if self.simulated else ""
            png = anomaly_figure(
                image, maps, f"{name}: anomaly map{source}. Research only, not for diagnosis.", head=labels, at=at,
                ranges={"z": (0.0, 6.0)} if "z" in maps else None,
            )  # fmt: skip
            write_atomic(self.output_dir / f"{name}_anomaly.png", lambda path, png=png: path.write_bytes(png))  # type: ignore[misc]
