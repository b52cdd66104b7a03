"""Before training: choose the reference head, prepare all volumes once, fit the intensity map."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.data.cases import Case
from common.data.head_ct import read_head_ct
from common.networks.head_ct_model import HeadCTModel
from common.transforms.prepare_head_ct import PrepareHeadCTd, prepare_cases
from common.transforms.reference_frame import choose_reference, make_reference
from common.weights import load_weights

logger = logging.getLogger("brain_bundles")


def fit_head_model(
    model: HeadCTModel,
    prepare: PrepareHeadCTd,
    train: Sequence[Case],
    others: Sequence[Case] = (),
    reference: str | None = None,
    weights: str | None = None,
    num_workers: int = 0,
    rank: int = 0,
) -> list[Mapping[str, Any]]:
    """Set reference and intensity map of a model from its training cases and prepare all cases in the cache.

    Args:
        model: gets both as buffers.
        prepare: the transform of the training; its frame is the model.
        train: healthy training cases; reference and intensity map come from these alone.
        others: cases that are only prepared (validation).
        reference: id of a training case, or a file; None chooses one, see ``choose_reference``.
        weights: a ``state_dict`` that is fine-tuned: its reference and intensity map are kept.
        num_workers: processes that prepare.
        rank: every rank needs the buffers; the cache is filled by whoever comes first.

    Returns:
        Records of the prepared cases, see ``prepare_cases``.

    Raises:
        UserError: a case that cannot be used, named.
    """
    if weights is not None:
        load_weights(model, weights)
    else:
        chosen = choose_reference(train, reference)
        if rank == 0:
            logger.info("Reference head: %s", chosen.get("id", chosen["image"]))
        model.set_reference(make_reference(read_head_ct(chosen["image"][0]), model.registration_spacing_mm))
    records = prepare_cases([*train, *others], prepare, num_workers)
    if weights is None:
        model.fit_equalisation(torch.as_tensor(prepare(dict(case))["image"]) for case in train)
    return records
