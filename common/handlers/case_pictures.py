"""One PNG per case beside its mask: the inputs with the predicted lesion, the mean probability, the vote share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from ignite.engine import Engine, Events

from common.atomic import write_atomic
from common.data.cases import volume_stem
from common.figures import overlay_figure
from common.transforms.load_case import LoadCased
from common.weights import is_simulated


def volume(tensor: torch.Tensor) -> np.ndarray:
    """The array ``(X, Y, Z)`` of a channel-first volume ``(1, X, Y, Z)``."""
    return np.asarray(tensor[0].detach().cpu())


def case_picture(case: Mapping[Any, Any], result: Mapping[str, Any], inputs: Sequence[str], title: str) -> bytes:
    """Draw a case on its own grid: inputs, truth where there is one, prediction, and the maps that the result holds.

    Args:
        case: as ``LoadCased`` reads it: ``image`` ``(C, X, Y, Z)``, perhaps ``label`` ``(1, X, Y, Z)``.
        result: ``pred`` and perhaps ``probability`` and ``vote_share``, each ``(1, X, Y, Z)`` on the same grid.
        inputs: names of the image channels.
        title: above the picture.

    Returns:
        PNG.
    """
    image = case["image"]
    images = {name.upper(): np.asarray(image[channel]) for channel, name in enumerate(inputs)}
    masks = {"truth": volume(case["label"])} if "label" in case else {}
    masks["prediction"] = volume(result["pred"])
    maps = {key.replace("_", " "): volume(result[key]).clip(0, 1) for key in ("probability", "vote_share") if key in result}
    spacing = [float(edge) for edge in image.pixdim[:3]]
    return overlay_figure(images, masks, maps, spacing, title, axes="".join(nibabel.aff2axcodes(image.affine.numpy())))


class CasePictures:
    """Handler of an evaluator: a picture of every case that was written, with the mask's name and ``.png``.

    Args:
        cases: the cases as dicts of paths; the files are read again, since the batch holds resampled images.
        inputs: names of the image channels.
        output_dir: folder for the pictures.
        ckpt_dir: weights; when their record says that they come from simulated data, the title says so too.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], inputs: Sequence[str], output_dir: str, ckpt_dir: str | None = None) -> None:
        self.images = {str(case["id"]): case["image"] for case in cases if "id" in case}
        self.inputs, self.output_dir = list(inputs), Path(output_dir)
        self.simulated = is_simulated(ckpt_dir)

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw the cases of the batch that was just done."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, result in zip(batch, output, strict=True):
            name = str(item.get("id", ""))
            if name not in self.images:
                logging.getLogger("brain_bundles").warning("No picture of a case without an id.")
                continue
            case = LoadCased(keys=("image",), channels=len(self.inputs))({"id": name, "image": self.images[name]})
            source = " by weights from SIMULATED data" if self.simulated else ""
            png = case_picture(case, result, self.inputs, f"{name}: prediction{source}. Research only, not for diagnosis.")
            path = self.output_dir / f"{volume_stem(result['pred_path'])}.png"
            write_atomic(path, lambda temporary, png=png: temporary.write_bytes(png))  # type: ignore[misc]
