"""What a training of brains by age needs beside MONAI's engines: latents of its children, and the scans that weights have seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common import flag
from common.data.cases import Case
from common.data.dataset import find_cases, open_dataset
from common.data.splits import fingerprints
from common.errors import UserError
from common.inferers.voxel_sampling import identities, identity
from common.networks.brain_inr import BrainINR
from common.networks.latent_table import FLIP
from common.weights import read_record

logger = logging.getLogger("brain_bundles")


def with_latents_of(
    network: BrainINR,
    cases: Sequence[Mapping[str, Any]],
    shared: bool = True,
    mirrored: bool = True,
    age_latents: bool = False,
    age_scale: float = 100.0,
    device: torch.device | str = "cpu",
) -> BrainINR:
    """Give a network a latent for every identity of a training set, and move it to the device.

    A network is built without identities, so that train.json and inference.json build the same one; weights bring their own.

    Args:
        network: changed in place.
        cases: of the training, with ``id``, ``subject`` and ``age`` (weeks).
        shared: SSL, one latent per subject; False gives each scan its own.
        mirrored: also one for each mirrored image.
        age_latents: keep the ages of the latents, by which they are regressed on age.
        age_scale: weeks that are t = 1.
        device: where the network goes.

    Returns:
        The network itself.

    Raises:
        UserError: latents regressed on age that are shared by scans of several ages.
    """
    shared, mirrored, ages = flag(shared, "ssl"), flag(mirrored, "mirrored"), None
    names = identities(cases, shared, mirrored)
    if flag(age_latents, "age_latents"):
        if shared:
            raise UserError("age_latents: got true with ssl true, but a latent of a subject has no one age; set ssl to false.")
        weeks = {identity(case, shared): float(case["age"]) for case in cases}
        ages = [weeks[name.removesuffix(FLIP)] / age_scale for name in names]
    network.latents.hold(names, ages)
    return network.to(device)


def age_span(cases: Sequence[Mapping[str, Any]]) -> list[float]:
    """Youngest and oldest age of cases, weeks; beyond them a prediction is a guess."""
    ages = [float(case["age"]) for case in cases]
    return [min(ages), max(ages)]


def training_cases(
    cases: Sequence[Case],
    ckpt_dir: str | Path,
    inputs: Sequence[str],
    simulated_dir: str | Path,
    training_dir: str | Path | None = None,
    layout: str = "dhcp",
) -> list[Case]:
    """The cases that weights have seen, which baselines may look at: those among the given ones, else of the data set of the training.

    Args:
        cases: of the data set that is evaluated.
        ckpt_dir: folder of the weights, whose record (``weights.json``) tells the cases by the content of their images.
        inputs: names of the inputs.
        simulated_dir: where a simulated cohort is made again, which the record names.
        training_dir: the data set of the training, where it is another than the one that is evaluated.
        layout: of that data set.

    Returns:
        At least two cases with an age. Where the training's cannot be had, all given ones, with a warning: a baseline leaves out the child
        that is predicted.
    """
    record = read_record(ckpt_dir)
    marks = set(record.get("trained_on", []))
    found = _among(cases, marks) if training_dir is None else _among(find_cases(training_dir, layout, inputs), marks)
    if len(found) < 2 and training_dir is None and record.get("cohort"):
        found = _among(open_dataset(None, layout, inputs, Path(simulated_dir), record["cohort"], labelled=False), marks)
    if len(found) < 2:
        logger.warning("Baselines look at the other children of the evaluated data, since those of the training are not there.")
        found = list(cases)
    return [case for case in found if "age" in case]


def _among(cases: Sequence[Case], marks: set[str]) -> list[Case]:
    return [case for case, mark in zip(cases, fingerprints(cases), strict=True) if mark in marks]
