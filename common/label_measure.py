"""One case of many classes to a flat row: what was measured against the truth, or the volumes that were found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor

from common.handlers.case_pictures import volume
from common.inference import case_id
from common.metrics.class_metrics import ClassNames, as_labels, class_table, foreground_mean, measure_classes
from common.metrics.masks import voxel_ml


class ClassMeasure:
    """From a case and its prediction to one flat row: foreground means first, then Dice and HD95 of each class; keeps the rows by class.

    Args:
        class_names: see ``common.metrics.class_metrics.class_table``.
        hd95: see ``measure_classes``.
        absent: see ``measure_classes``.
    """

    def __init__(self, class_names: ClassNames, hd95: str = "larger", absent: str = "leave_out") -> None:
        self.class_names, self.hd95, self.absent = class_table(class_names), hd95, absent
        self.class_rows: list[dict[str, Any]] = []

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of a case.

        Args:
            item: ``label``, ``(1, X, Y, Z)``, a ``MetaTensor``.
            result: ``pred`` on the same grid, perhaps ``entropy``.

        Returns:
            ``dice``, ``hd_mm``, ``hd95_mm``, ``masd_mm`` (means over the foreground), ``missed_classes``, ``invented_classes``,
            ``empty_prediction``, ``entropy`` (mean where truth or prediction have a class), ``<class>_dice``, ``<class>_hd95_mm``.
        """
        truth, pred = volume(item["label"]), volume(result["pred"])
        rows = measure_classes(truth, pred, spacing_mm(item["label"]), self.class_names, self.hd95, self.absent)
        self.class_rows += [{"id": case_id(item), **row} for row in rows]
        found: dict[str, Any] = foreground_mean(rows) | {"empty_prediction": int(not pred.any())}
        if "entropy" in result:
            inside = (truth > 0) | (pred > 0)
            found["entropy"] = float(volume(result["entropy"])[inside].mean()) if inside.any() else float("nan")
        for key in ("dice", "hd95_mm"):
            found |= {f"{column_name(row['class'])}_{key}": row[key] for row in rows}
        return found


class ClassVolumes:
    """From a case and its prediction to the volume of each class, for ``common.inference.CaseRows`` (``volumes.csv``).

    Args:
        class_names: see ``common.metrics.class_metrics.class_table``.
    """

    def __init__(self, class_names: ClassNames) -> None:
        self.class_names = class_table(class_names)

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of ``<class>_ml`` and ``foreground_ml``; the spacing is that of ``pred``, or of the image where ``pred`` has none."""
        pred = result["pred"]
        labels = as_labels(volume(pred), "pred", self.class_names)
        voxel = voxel_ml(spacing_mm(pred if isinstance(pred, MetaTensor) else item["image"]))
        counts = np.bincount(labels.ravel(), minlength=max(self.class_names) + 1)
        volumes = {f"{column_name(name)}_ml": float(counts[number] * voxel) for number, name in self.class_names.items()}
        return {"foreground_ml": float(counts[1:].sum() * voxel), **volumes}


def spacing_mm(placed: MetaTensor) -> list[float]:
    """Voxel edges of a ``MetaTensor``."""
    return [float(edge) for edge in placed.pixdim[:3]]


def column_name(class_name: str) -> str:
    """Name of a class as part of a column: ``deep grey matter`` becomes ``deep_grey_matter``."""
    return re.sub(r"\W+", "_", class_name).strip("_")
