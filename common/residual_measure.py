"""One volume and its anomaly maps to a row of scores; voxel counts and slice scores are kept until all volumes are done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.inference import case_id
from common.inferers.residual_map import ResidualMap, equalised_intensity
from common.metrics.pixel_anomaly import BINS, QUANTILES, Counts, count_scores, pixel_summary
from common.metrics.roc import bootstrap_auroc, structure_score
from common.metrics.statistics import describe
from common.reconstruction_measure import CASE_FACTS, chosen_slices

AGGREGATES = ("mean", "p99", "max")
"""Scores of a slice and of a volume; see ``common.metrics.roc.structure_score``."""

PIXEL = ("auroc", "auprc", "oracle_dice")


class ResidualMeasure:
    """From a batch item and its maps to a row; keeps what is pooled, and of each volume the planes of a picture.

    Args:
        cases: dicts with ``id`` and facts; ``healthy`` false marks a patient without a lesion mask.
        residual: how maps are masked and filtered; the rule of intensity is treated alike.
        rule: of intensity, see ``equalised_intensity``; None leaves it out.
        aggregates: scores.
    """

    def __init__(
        self, cases: Sequence[Mapping[str, Any]], residual: ResidualMap, rule: str | None = "both", aggregates: Sequence[str] = AGGREGATES
    ) -> None:
        self.cases, self.residual, self.rule = {str(case["id"]): case for case in cases}, residual, rule
        self.aggregates = list(aggregates)
        self.maps = ["residual", *([f"intensity_{rule}"] if rule else [])]
        self.healthy: dict[str, Counts] = {name: np.zeros((2, BINS), dtype=np.int64) for name in self.maps}
        self.patients: dict[str, dict[str, NDArray[np.int32]]] = {name: {} for name in self.maps}
        self.slice_rows: list[dict[str, Any]] = []
        self.planes: dict[str, dict[str, NDArray[Any]]] = {}
        self.number: dict[str, int] = {}

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of a volume, behind its id.

        Args:
            item: ``image`` ``(1, P, S, N)``; perhaps ``brain``, ``label`` (lesions, > 0), ``slices`` (numbers of those that count).
            result: ``pred`` (the restoration) and ``residual``, on the same grid, as ``ResidualMapd`` leaves them.

        Returns:
            Facts, ``patient`` (0 or 1), ``lesion_voxels`` and ``<map>_<aggregate>`` over the brain without its rim.

        Raises:
            UserError: no map in the output, or a lesion mask on another grid.
        """
        name, (places, numbers) = case_id(item), chosen_slices(item)
        if "residual" not in result:
            raise UserError(f"output: it holds {', '.join(map(str, result))}, expected 'residual': put ResidualMapd into postprocessing.")
        case, image = self.cases.get(name, {}), item["image"].cpu()
        inside = _volume(self.residual.inside(image, item.get("brain")))[..., places]
        lesion = _volume(item["label"]) > 0 if "label" in item else np.zeros(image.shape[1:], dtype=bool)
        if lesion.shape != tuple(image.shape[1:]):
            raise UserError(f"label: shape {lesion.shape}, expected that of the image, {tuple(image.shape[1:])}; resample both alike.")
        lesion = lesion[..., places]
        patient = bool(lesion.any()) or case.get("healthy") is False
        maps = {key: _volume(values)[..., places] for key, values in self._maps(item, result).items()}
        row: dict[str, Any] = {key: case.get(key) for key in CASE_FACTS}
        row |= {"subject": row["subject"] or name, "patient": int(patient), "lesion_voxels": int((lesion & inside).sum())}
        for key, values in maps.items():
            counts = count_scores(values[inside], lesion[inside])
            if not patient:
                self.healthy[key] += counts
            elif row["lesion_voxels"]:
                self.patients[key][name] = counts.astype(np.int32)
            row |= {f"{key}_{aggregate}": structure_score(values, inside, aggregate) for aggregate in self.aggregates}
        self._add_slices(name, row, maps, inside, lesion, numbers)
        self._keep(name, item, result, maps, lesion, inside, places, numbers)
        return row

    def _maps(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        maps = {"residual": result["residual"]}
        if self.rule:
            image, brain = item["image"].cpu(), item.get("brain")
            equalised = equalised_intensity(image, self.residual.mask(image, brain), self.rule)
            maps[self.maps[1]] = self.residual.finish(equalised, image, brain)
        return maps

    def _add_slices(
        self, name: str, row: Mapping[str, Any], maps: Mapping[str, NDArray[Any]], inside: Any, lesion: Any, numbers: Sequence[int]
    ) -> None:
        """Scores of the slices that hold brain; a patient's slice is positive where its mask has a voxel in it."""
        for place, number in enumerate(numbers):
            within = inside[..., place]
            if not within.any() or (row["patient"] and not row["lesion_voxels"]):
                continue  # of a patient without a mask no slice is known
            found = {"id": name, "subject": row["subject"], "slice": number, "lesion_voxels": int((lesion[..., place] & within).sum())}
            for key, values in maps.items():
                found |= {f"{key}_{part}": structure_score(values[..., place], within, part) for part in self.aggregates}
            self.slice_rows.append(found)

    def _keep(
        self, name: str, item: Mapping[str, Any], result: Mapping[str, Any], maps: Mapping[str, Any], lesion: Any, inside: Any,
        places: Sequence[int], numbers: Sequence[int],
    ) -> None:  # fmt: skip
        """Keep one slice: that with the largest lesion, else that where the map is highest."""
        weight = (lesion & inside).sum(axis=(0, 1)) if (lesion & inside).any() else np.where(inside, maps["residual"], 0).sum(axis=(0, 1))
        place = int(weight.argmax())
        planes = {"image": _volume(item["image"])[..., places[place]], "restored": _volume(result["pred"])[..., places[place]]}
        planes |= {key: values[..., place] for key, values in maps.items()}
        self.planes[name] = {key: plane.astype(np.float16) for key, plane in planes.items()} | {"truth": lesion[..., place]}
        self.number[name] = numbers[place]


def pixel_rows(measure: ResidualMeasure, quantiles: Sequence[float] = QUANTILES) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How well each map marks lesions, pooled over the voxels of all patients and as mean over patients.

    Args:
        measure: after all volumes.
        quantiles: shares of healthy voxels that lie below a threshold.

    Returns:
        A row per map (``voxels`` "pooled" or "per patient", with intervals over patients), and a row per patient and map. The thresholds
        come from the healthy volumes of the same run. ``best_quantile`` is the one with the highest pooled Dice: chosen on the
        patients, so its Dice is somewhat too good; the quantile is fixed before looking where ``dice_q99`` is read.
    """
    table, patients = [], []
    for name in measure.maps:
        healthy, own = measure.healthy[name], measure.patients[name]
        if not own:
            continue
        rows = [{"id": case, "map": name, **pixel_summary(counts.astype(np.int64), healthy, quantiles)} for case, counts in own.items()]
        pooled = pixel_summary(np.sum(list(own.values()), axis=0, dtype=np.int64), healthy, quantiles)
        dices = [f"dice_q{100 * share:g}" for share in quantiles]
        held = [key for key in dices if not math.isnan(pooled[key])]
        best = max(held, key=lambda key: pooled[key], default=None)
        table.append(
            {"map": name, "voxels": "pooled", "patients": len(own), **pooled, "best_quantile": best and best.removeprefix("dice_q")}
        )
        means = {key: describe(float(row[key]) for row in rows) for key in (*PIXEL, "prevalence", *dices)}
        line: dict[str, Any] = {"map": name, "voxels": "per patient", "patients": len(own)}
        for key, found in means.items():
            line |= {key: found["mean"]} | ({f"{key}_low": found["low"], f"{key}_high": found["high"]} if key in PIXEL else {})
        table.append(line)
        patients += rows
    return table, patients


def auroc_rows(rows: Sequence[Mapping[str, Any]], measure: ResidualMeasure) -> list[dict[str, Any]]:
    """AUROC of each map and score for volumes (patient or not) and for slices (with a lesion or not), intervals by patient.

    Args:
        rows: one per volume.
        measure: holds the rows of the slices.
    """
    table = []
    for level, held, truth in (("volume", rows, "patient"), ("slice", measure.slice_rows, "lesion_voxels")):
        for name in measure.maps:
            for part in measure.aggregates:
                scores = [float(row[f"{name}_{part}"]) for row in held]
                found = bootstrap_auroc(scores, [int(row[truth] > 0) for row in held], [str(row["subject"]) for row in held])
                table.append({"level": level, "map": name, "score": part, **found})
    return table


def _volume(values: Any) -> NDArray[Any]:
    """``(1, P, S, N)`` on any device as an array ``(P, S, N)``."""
    return np.asarray(values[0].detach().cpu())
