"""Pairs of scans of a child and what is predicted for them, one after the other; MONAI's evaluators know single cases only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from common.errors import UserError
from common.inferers.brain_at_age import LatentFitInferer
from common.networks.brain_inr import BrainINR

Item = dict[str, Any]
Baseline = Callable[[Item], torch.Tensor]
"""From an item to an image ``(1, *grid)`` at the target's age."""


def prepared_pairs(
    pairs: Sequence[Mapping[str, Mapping[str, Any]]], scans: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]]
) -> Iterator[Item]:
    """Pairs of cases as pairs of prepared scans; the scans of one child are held at a time, so that none is prepared twice.

    Args:
        pairs: ``{"input": case, "target": case}`` as ``scan_pairs`` gives them.
        scans: prepared scans, for example a dataset: read when they are needed.
        cases: ``id`` of each scan, in the same order.

    Yields:
        ``input`` and ``target``, prepared scans; those of one child follow each other.

    Raises:
        UserError: a pair names a case that is not there.
    """
    index = {str(case["id"]): place for place, case in enumerate(cases)}
    if missing := sorted({str(case["id"]) for pair in pairs for case in pair.values()} - set(index)):
        raise UserError(f"pairs: {', '.join(missing[:5])} are not among the {len(index)} scans; pair the cases of the same data set.")
    held: dict[str, Mapping[str, Any]] = {}
    child = None
    for pair in sorted(pairs, key=lambda pair: str(pair["input"]["subject"])):
        if pair["input"]["subject"] != child:
            held, child = {}, pair["input"]["subject"]
        for case in pair.values():
            if case["id"] not in held:
                held[case["id"]] = scans[index[str(case["id"])]]
        yield {side: held[case["id"]] for side, case in pair.items()}


def predict_pairs(
    items: Iterable[Item],
    network: BrainINR,
    inferer: LatentFitInferer | Baseline,
    estimate_ages: bool = True,
    progress: bool = True,
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Fit each input scan once, and predict it at its own age and at the target's.

    Args:
        items: of :func:`prepared_pairs`; pairs of one input follow each other, or it is fitted again.
        network: the trained network.
        inferer: how scans are fitted; or a baseline in the network's place.
        estimate_ages: fit the age of each input too, as if it were not known; by method "lm" only, else there are no estimates.
        progress: show a bar.

    Yields:
        (item, result); result has ``prediction`` and ``reconstruction``, ``(1, *grid)`` float32 in [0, 1] on the CPU, ``fit_psnr_db`` (on
        voxels that were not fitted to), ``fit_seconds``, and with estimates ``age_estimate_weeks``. Of a baseline ``prediction`` alone.
    """
    items = tqdm(items, desc="Pairs", disable=None if progress else True)
    if not isinstance(inferer, LatentFitInferer):
        yield from ((item, {"prediction": inferer(item)}) for item in items)
        return
    device = next(network.parameters()).device
    name, fit, known = None, None, dict[str, Any]()
    for item in items:
        scan = item["input"]
        image = torch.as_tensor(scan["image"]).as_subclass(torch.Tensor).to(device).float()
        if fit is None or scan["id"] != name:
            name, fit = scan["id"], inferer.fit(image, network, float(scan["age"]))
            known = {"fit_psnr_db": fit.check_psnr, "fit_seconds": fit.seconds}
            if estimate_ages and inferer.method == "lm":
                known["age_estimate_weeks"] = inferer.fit(image, network, math.nan).age_weeks
        ages = [fit.age_weeks, float(item["target"]["age"])]
        own, other = inferer.predict(fit, network, ages, image.shape[1:]).cpu()
        yield item, {"reconstruction": own[None], "prediction": other[None], **known}


def method_name(fit: LatentFitInferer | str) -> str:
    """Name of what predicts, in tables: "inr", that of another inferer, or that of a baseline."""
    return fit if isinstance(fit, str) else getattr(fit, "table_name", "inr")


def method_called(fit: LatentFitInferer | str, baselines: Mapping[str, Baseline]) -> LatentFitInferer | Baseline:
    """What predicts: the inferer given, or the baseline of this name.

    Raises:
        UserError: no such baseline.
    """
    if not isinstance(fit, str):
        return fit
    if fit not in baselines:
        raise UserError(f"fit: got '{fit}', expected an inferer or one of the baselines {', '.join(baselines)}.")
    return baselines[fit]
