"""After training: measure the error on healthy validation heads and keep its mean, SD and scores beside the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Events
from monai.engines import Evaluator

from common.atomic import save_tensors
from common.errors import UserError
from common.inference import run_cases
from common.inferers.error_calibration import coarsen, fit_calibration, standardise_error
from common.networks.head_ct_model import QUANTILES, HeadCTModel
from common.transforms.head_masks import STRUCTURES
from common.transforms.histogram_equalisation import HU_RANGE
from common.weights import load_weights, read_weights

logger = logging.getLogger("brain_bundles")


class HealthyHead(NamedTuple):
    """What is kept of one healthy head.

    Attributes:
        errors: E on the calibration's lattice, ``(K, m, m, m)``.
        head: where the head is, ``(1, m, m, m)`` bool.
        scores: largest E (mean over the scales) in the left brain, the right brain and the skull, ``(3,)``; NaN where it has no voxel.
        structures: label map ``(1, m, m, m)`` uint8.
    """

    errors: torch.Tensor
    head: torch.Tensor
    scores: torch.Tensor
    structures: torch.Tensor


def structure_maxima(error: torch.Tensor, structures: torch.Tensor) -> torch.Tensor:
    """Largest value of a map ``(1, *spatial)`` in the left brain, the right brain and the skull, ``(3,)``; NaN without voxels."""
    found = [error[structures == label] for label in STRUCTURES.values()]
    return torch.stack([values.max() if len(values) else torch.tensor(torch.nan) for values in found]).float()


def measure_healthy(evaluator: Evaluator, side: int) -> list[HealthyHead]:
    """Run an evaluator over its healthy cases.

    Args:
        evaluator: gives E under ``pred``, ``(K, n, n, n)``, without any calibration.
        side: voxels per side of the calibration's lattice.
    """
    heads: list[HealthyHead] = []

    def keep(engine: Any) -> None:
        for item, result in zip(engine.state.batch, engine.state.output, strict=True):
            errors, structures = torch.as_tensor(result["maps"]).cpu(), torch.as_tensor(item["structures"]).cpu()
            image = (torch.as_tensor(item["image"]) > HU_RANGE[0]).cpu()
            scores = structure_maxima(errors.mean(dim=0, keepdim=True), structures)
            coarse = torch.nn.functional.interpolate(structures[None].float(), [side] * 3)[0].to(torch.uint8)
            heads.append(HealthyHead(coarsen(errors, side), coarsen(image, side) > 0.5, scores, coarse))

    handle = evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
    try:
        run_cases(evaluator)
    finally:
        handle.remove()
    return heads


def healthy_quantiles(heads: list[HealthyHead]) -> torch.Tensor:
    """Quantiles 0, 1, ..., 100 % of the healthy scores, ``(2, 3, 101)`` by map (error, zmap) and structure.

    The z-map of a head is made by the calibration of the others, as it will be for a new head.
    """
    standard = []
    for index, own in enumerate(heads):
        others = [head for number, head in enumerate(heads) if number != index] or heads
        mean, sd = fit_calibration(torch.stack([h.errors for h in others]), torch.stack([h.head for h in others]))
        standard.append(structure_maxima(standardise_error(own.errors, mean, sd) * own.head, own.structures))
    tables = [torch.stack([head.scores for head in heads]), torch.stack(standard)]
    levels = torch.linspace(0, 1, QUANTILES)
    return torch.stack([torch.nanquantile(table, levels, dim=0).T for table in tables])


def same_weights(state: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> bool:
    """Whether the file of a whole model holds the same network, calibrated or not.

    Two files of the same tensors differ in their bytes, since torch writes the file's name into them.

    Args:
        state: of a :class:`HeadCTModel`.
        network: ``state_dict`` of the network in another one.
    """
    own = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    return own.keys() == network.keys() and all(torch.equal(own[key], value.cpu()) for key, value in network.items())


def calibrate(model: HeadCTModel, evaluator: Evaluator, ckpt_dir: str, rank: int = 0) -> None:
    """Calibrate the weights of ``ckpt_dir`` on the evaluator's healthy cases and save them again, each file whole.

    Args:
        model: the network of the config; it ends with the weights of ``model.pt``.
        evaluator: see :func:`measure_healthy`; its cases were not trained on.
        ckpt_dir: folder with ``model.pt`` and the members' files.
        rank: only rank 0 works.

    Raises:
        UserError: no weights there.
    """
    if rank:
        return
    best = Path(ckpt_dir) / "model.pt"
    load_weights(model, best)
    same = [path for path in sorted(Path(ckpt_dir).glob("member_*.pt")) if same_weights(read_weights(path), model.network.state_dict())]
    heads = measure_healthy(evaluator, model.calibration_mean.shape[-1])
    if not heads:
        raise UserError("Calibration: there are no healthy validation cases; give validation_share or more healthy cases.")
    mean, sd = fit_calibration(torch.stack([head.errors for head in heads]), torch.stack([head.head for head in heads]))
    model.calibration_mean.copy_(mean)
    model.calibration_sd.copy_(sd)
    model.healthy_quantiles.copy_(healthy_quantiles(heads))
    for path in [*same, best]:
        save_tensors(path, model.state_dict())
    logger.info("Calibrated on %d healthy validation heads.", len(heads))
