"""Before training: choose the reference head, prepare all volumes once, fit the intensity map."""

from __future__ import annotations

import logging
from typing import Any

import torch

from common.data.cases import Case
from common.errors import UserError
from common.networks.head_ct_model import HeadCTModel
from common.transforms.prepare_head_ct import PrepareHeadCTd, prepare_cases
from common.transforms.reference_frame import choose_reference, make_reference
from common.weights import load_weights

logger = logging.getLogger("brain_bundles")


def fit_head_model(
    model: HeadCTModel,
    prepare: PrepareHeadCTd,
    train: list[Case],
    others: list[Case],
    reference: str | None = None,
    weights: str | None = None,
    num_workers: int = 0,
    contrast_limit: float | None = None,
) -> list[dict[str, Any]]:
    """Set reference and intensity map of a model from its training cases and prepare all cases in the cache.

    Cases that cannot be used are taken out of ``train`` and ``others``, with a warning that names each.

    Args:
        model: gets both as buffers.
        prepare: the transform of the training; its frame is the model.
        train: healthy training cases; reference and intensity map come from these alone.
        others: cases that are only prepared (validation).
        reference: id of a training case, or a file; None chooses one, see ``choose_reference``.
        weights: a ``state_dict`` that is fine-tuned: its reference and intensity map are kept.
        num_workers: processes that prepare.
        contrast_limit: largest share of the foreground's voxels per HU that the intensity map follows; None limits nothing.

    Returns:
        Records of the prepared cases, see ``prepare_cases``.

    Raises:
        UserError: no training case can be used.
    """
    if weights is not None:
        load_weights(model, weights)
    else:
        model.set_reference(make_reference(choose_reference(train, reference), model.registration_spacing_mm))
    records = prepare_cases([*train, *others], prepare, num_workers)
    failed = {record["id"]: record["error"] for record in records if "error" in record}
    for name, reason in failed.items():
        logger.warning("%s is left out: %s", name, reason)
    for cases in (train, others):
        cases[:] = [case for case in cases if str(case["id"]) not in failed]
    if not train:
        raise UserError("none of the training cases can be used; the reasons are above.")
    if weights is None:
        volumes = (torch.as_tensor(prepare(dict[Any, Any](case))["image"]) for case in train)
        model.fit_equalisation(volumes, contrast_limit)
    return records
