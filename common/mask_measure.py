"""One case and its ensemble of masks to rows of metrics, on the grid of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.handlers.case_pictures import volume
from common.inferers.ensemble_mask import largest_class
from common.metrics.calibration import reliability_table
from common.metrics.case_metrics import measure_case
from common.metrics.components import isolated_components
from common.metrics.ensemble_calibration import measure_ensemble, variance_table
from common.metrics.hausdorff_union import hd95_mm
from common.metrics.overlap import dice

REGIONS = {"core": (1, 4), "enhancing": (4,)}
"""Regions that BraTS scores beside the whole tumour, by label numbers; only a model with classes can tell them."""


class MaskMeasure:
    """From a case and its prediction to one row of metrics of the whole tumour; keeps what is pooled and the rows by ensemble size.

    Args:
        classes: label numbers of the mask's channels; None for a mask of the whole tumour alone. With classes, `REGIONS` are measured too.
        sizes: of the ensemble, for ``by_size``: the first n samples make the mask, so that one run measures all sizes.
        hd95: definition of HD95, see ``hd95_mm``.
        min_component: a component of fewer voxels is isolated.
    """

    def __init__(
        self, classes: Sequence[int] | None = None, sizes: Sequence[int] = (1,), hd95: str = "union", min_component: int = 10
    ) -> None:
        self.classes, self.sizes, self.hd95, self.min_component = classes, list(sizes), hd95, min_component
        self.reliability: list[Any] = []
        self.variances: list[Any] = []
        self.by_size: list[dict[str, Any]] = []

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of ``measure_case`` with HD95 as the paper defines it, empty masks, components, calibration and regions.

        Args:
            item: ``id``, ``label`` (BraTS's numbers), ``brain``.
            result: ``pred`` (label numbers), ``mean``, ``variance``, perhaps ``samples``, as ``EnsembleMaskd`` leaves them.
        """
        label, pred, brain = volume(item["label"]), volume(result["pred"]), volume(item["brain"]) > 0
        spacing = [float(edge) for edge in item["label"].pixdim[:3]]
        truth, mask = label > 0, pred > 0
        row: dict[str, Any] = dict(measure_case(truth, mask, brain, spacing))
        for key in ("stratum", "lesion_load"):
            row.pop(key)
        row["hd95_mm"] = hd95_mm(truth, mask, spacing, self.hd95)
        row |= {"empty_prediction": int(not mask.any()), "empty_truth": int(not truth.any())}
        row |= isolated_components(mask, self.min_component)
        row |= self._calibration(result, mask, truth, brain)
        for name, numbers in REGIONS.items() if self.classes is not None else ():
            part, found = np.isin(label, numbers), np.isin(pred, numbers)
            row |= {f"{name}_dice": dice(part, found), f"{name}_hd95_mm": hd95_mm(part, found, spacing, self.hd95)}
        self.by_size += [{"id": str(item.get("id", "")), **found} for found in self._sizes(result, truth, spacing)]
        return row

    def _calibration(self, result: Mapping[str, Any], mask: NDArray[Any], truth: NDArray[Any], brain: NDArray[Any]) -> dict[str, float]:
        maps = whole_tumour_maps(result)
        if maps is None:
            return {}
        mean, variance = maps
        self.reliability.append(reliability_table(mean, truth, brain))
        self.variances.append(variance_table(variance, mask, truth, brain))
        return measure_ensemble(mean, variance, mask, truth, brain)

    def _sizes(self, result: Mapping[str, Any], truth: NDArray[Any], spacing: Sequence[float]) -> list[dict[str, Any]]:
        samples = result.get("samples")
        if samples is None:
            return []
        rows = []
        for size in self.sizes:
            if size <= len(samples):
                mask = np.asarray(largest_class(torch.as_tensor(samples[:size]).mean(dim=0))[0].cpu()) > 0
                found = {"samples": size, "dice": dice(truth, mask), "hd95_mm": hd95_mm(truth, mask, spacing, self.hd95)}
                found["isolated_components"] = isolated_components(mask, self.min_component)["isolated_components"]
                rows.append({**found, "empty_prediction": int(not mask.any())})
        return rows


def whole_tumour_maps(result: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Mean and variance of the whole tumour, ``(X, Y, Z)`` each, the mean clipped to [0, 1].

    With several classes the whole tumour is their sum, whose variance needs the samples; None where they were not kept.
    """
    samples, mean, variance = (result.get(key) for key in ("samples", "mean", "variance"))
    if mean is None or variance is None:
        return None
    if len(mean) == 1:
        return volume(mean).clip(0, 1), volume(variance)
    if samples is None:
        return None
    whole = torch.as_tensor(samples).sum(dim=1)
    return np.asarray(whole.mean(dim=0).clamp(0, 1).cpu()), np.asarray(whole.var(dim=0, correction=0).cpu())
