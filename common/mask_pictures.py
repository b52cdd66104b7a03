"""Pictures of an ensemble of masks (the paper's figure 7), of cases that are chosen only when all are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import convert_to_tensor

from common.atomic import write_atomic
from common.data.cases import volume_stem
from common.figures import overlay_figure
from common.handlers.case_pictures import volume
from common.inference import case_id
from common.mask_measure import whole_tumour_maps
from common.transforms.to_source_axes import to_source_axes
from common.weights import read_record

SAMPLES = 3
"""Samples that are shown, as in the paper's figure 7."""


def ensemble_picture(item: Mapping[str, Any], result: Mapping[str, Any], inputs: Sequence[str], shown: Sequence[str], title: str) -> bytes:
    """Draw inputs with the contours of truth and mask, the first samples, mean and variance.

    Args:
        item: ``image`` ``(C, X, Y, Z)``; perhaps ``label``, on the same grid.
        result: ``pred`` and perhaps ``samples``, ``mean``, ``variance``, on the same grid.
        inputs: names of the image channels.
        shown: which of them are drawn.
        title: above the picture.

    Returns:
        PNG; the variance is drawn times 4, so that its largest value for 0 and 1, 0.25, is 1.
    """
    image = item["image"]
    images = {name.upper(): np.asarray(image[inputs.index(name)]) for name in shown}
    masks = {"truth": volume(item["label"])} if "label" in item else {}
    masks["prediction"] = volume(result["pred"])
    maps: dict[str, np.ndarray] = {}
    for index, sample in enumerate(result.get("samples", ())[:SAMPLES]):
        maps[f"sample {index + 1}"] = np.asarray(torch.as_tensor(sample).sum(dim=0).cpu()).clip(0, 1)
    found = whole_tumour_maps(result)
    if found is not None:
        maps |= {"mean": found[0], "variance x 4": (4 * found[1]).clip(0, 1)}
    axes = "".join(nibabel.aff2axcodes(np.asarray(image.affine)))
    return overlay_figure(images, masks, maps, [float(edge) for edge in image.pixdim[:3]], title, axes=axes)


def on_source_grid(item: Mapping[str, Any]) -> Any:
    """The prepared image with its axes as in the file, where ``Orientationd`` had turned them."""
    return to_source_axes(item["image"], item["image"].affine, item["brain"].affine)


def keep_ensemble(
    item: Mapping[str, Any], result: Mapping[str, Any], inputs: Sequence[str], shown: Sequence[str]
) -> dict[str, torch.Tensor]:
    """What :func:`draw_ensemble` needs of a case, in half precision; see :func:`ensemble_picture` for the arguments."""
    image = on_source_grid(item)
    kept = {"image": image[[inputs.index(name) for name in shown]], "label": item["label"]}
    kept |= {key: result[key] for key in ("pred", "mean", "variance") if key in result}
    if "samples" in result:
        kept["samples"] = result["samples"][:SAMPLES]
    plain = {key: convert_to_tensor(value, track_meta=False).detach().cpu() for key, value in kept.items()}
    plain = {key: (value.half() if value.is_floating_point() else value).clone() for key, value in plain.items()}
    return {**plain, "affine": torch.as_tensor(np.asarray(image.affine))}


def draw_ensemble(kept: Mapping[str, torch.Tensor], title: str, shown: Sequence[str]) -> bytes:
    """Picture of what :func:`keep_ensemble` kept."""
    full = {key: value.float() if value.dtype == torch.half else value for key, value in kept.items()}
    item = {"image": MetaTensor(full["image"], affine=full["affine"]), "label": full["label"]}
    return ensemble_picture(item, full, shown, shown, title)


class MaskPictures:
    """Handler of inference: a picture of every case that was written, with the mask's name and ``.png``.

    Args:
        inputs: names of the image channels.
        shown: which of them are drawn.
        output_dir: folder for the pictures.
        ckpt_dir: weights; when their record says that they come from simulated data, the title says so too.
    """

    def __init__(
        self, inputs: Sequence[str], output_dir: str, shown: Sequence[str] = ("t1ce", "flair"), ckpt_dir: str | None = None
    ) -> None:
        self.inputs, self.output_dir, self.shown = list(inputs), Path(output_dir), [name for name in shown if name in inputs]
        self.ckpt_dir = ckpt_dir

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw the cases of the batch that was just done."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        source = " by weights from SIMULATED data" if self.ckpt_dir is not None and read_record(self.ckpt_dir).get("simulated") else ""
        for item, result in zip(batch, output, strict=True):
            title = f"{case_id(item)}: prediction{source}. Research only, not for diagnosis."
            png = ensemble_picture({"image": on_source_grid(item)}, result, self.inputs, self.shown, title)
            path = self.output_dir / f"{volume_stem(result['pred_path'])}.png"
            write_atomic(path, lambda temporary, png=png: temporary.write_bytes(png))  # type: ignore[misc]
