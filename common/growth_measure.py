"""One pair of scans of a child and what was predicted for it, to rows of metrics: one per method, baselines beside the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.metrics.head_circumference import head_circumference_cm, slice_perimeter_cm
from common.metrics.head_size_age import AgeFromSize, brain_size, fit_age_from_size
from common.metrics.image_similarity import image_similarity

Baseline = Callable[[Mapping[str, Any]], Any]
"""From an item (``input``, ``target``) to an image ``(1, *grid)`` at the target's age."""


FIT = ("fit_psnr_db", "fit_seconds")
"""What a result may tell of the fit of its input: PSNR on voxels that were not fitted to, dB, and its time."""


class Outline(NamedTuple):
    """How a head is measured; see ``head_circumference_cm``. ``smooth_slices`` counts in 3D only."""

    threshold: float = 0.1
    smooth_slices: int = 5
    kind: str = "hull"

    def measure_cm(self, image: NDArray[Any], spacing_mm: Sequence[float]) -> float:
        """Head circumference of a volume ``(X, Y, Z)``, or perimeter of a slice ``(X, Y)``, cm."""
        if image.ndim == 2:
            return slice_perimeter_cm(image, spacing_mm, self.threshold, self.kind)
        return head_circumference_cm(image, spacing_mm, self.threshold, self.smooth_slices, self.kind)


def pair_id(item: Mapping[str, Any]) -> str:
    """Name of a pair: its ``id``, or the names of both scans."""
    return str(item.get("id") or f"{item['input']['id']}->{item['target']['id']}")


def plain(image: Any) -> NDArray[np.float32]:
    """An image ``(1, *grid)`` or ``(*grid)``, tensor on any device or array, as ``(*grid)`` float32."""
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image).astype(np.float32)
    return np.asarray(array[0] if array.shape[0] == 1 else array)


def spacing_of(scan: Mapping[str, Any]) -> tuple[float, ...]:
    """Voxel edges of a prepared scan, mm, one per axis; its ``spacing_mm`` may be one number for all."""
    found = np.asarray(scan["spacing_mm"], dtype=np.float64).ravel()
    dims = plain(scan["image"]).ndim
    return tuple(float(edge) for edge in (np.repeat(found, dims) if found.size == 1 else found[:dims]))


def scan_sizes(scan: Mapping[str, Any], outline: Outline) -> dict[str, float]:
    """What a regression of age may use of a scan: ``brain_size`` (ml; cm² in 2D) and ``outline`` (cm)."""
    spacing = spacing_of(scan)
    return {
        "brain_size": brain_size(plain(scan["brain"]), spacing),
        "outline": outline.measure_cm(plain(scan["image"]), spacing),
    }


def fit_age_rivals(scans: Iterable[Mapping[str, Any]], outline: Outline | None = None, degree: int = 2) -> dict[str, AgeFromSize]:
    """Regressions of age on head size, from training scans.

    Args:
        scans: prepared scans with ``image``, ``brain``, ``age`` (weeks) and ``spacing_mm``; each is looked at once.
        outline: how heads are measured; None for the defaults.
        degree: of the polynomial.

    Returns:
        ``brain_size`` and ``outline``, see :func:`scan_sizes`.

    Raises:
        UserError: fewer than 2 scans of different sizes.
    """
    measured = [(float(scan["age"]), scan_sizes(scan, outline or Outline())) for scan in scans]
    ages = [age for age, _ in measured]
    return {name: fit_age_from_size([sizes[name] for _, sizes in measured], ages, degree) for name in ("brain_size", "outline")}


class GrowthMeasure:
    """From (item, result) to rows.

    Args:
        method: name of the model in the rows.
        baselines: name -> what predicts the target from the item without the model.
        age_rivals: of :func:`fit_age_rivals`; empty for none.
        outline: how heads are measured.
    """

    def __init__(
        self,
        method: str = "inr",
        baselines: Mapping[str, Baseline] | None = None,
        age_rivals: Mapping[str, AgeFromSize] | None = None,
        outline: Outline | None = None,
    ) -> None:
        self.method, self.baselines, self.age_rivals = method, dict(baselines or {}), dict(age_rivals or {})
        self.outline = outline or Outline()

    def __call__(
        self, item: Mapping[str, Any], result: Mapping[str, Any], images: Mapping[str, NDArray[np.float32]] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a pair, the model's first.

        Args:
            item: ``input`` and ``target``, prepared scans: ``image`` ``(1, *grid)`` in [0, 1], ``brain``, ``age``, ``id``, ``subject``,
                ``spacing_mm``, perhaps ``head_circumference_cm`` (of the head, from the data set's table).
            result: ``prediction`` at the target's age; perhaps ``reconstruction`` at the input's and ``age_estimate_weeks`` of the input.
            images: of :meth:`predictions`, where the caller has them already.

        Returns:
            Per method ``id``, ``method``, ``subject``, ``input``, ``target``, both ages, `image_similarity` with the target, and the
            outline: ``circumference_cm`` of the prediction, ``_scan_cm`` of the real scan by the same measure, ``_table_cm`` of the table
            in 3D; ``slice_perimeter_cm`` and ``slice_perimeter_scan_cm`` in 2D. The model's row also has ``reconstruction_psnr_db``, ...,
            ``age_estimate_weeks``, ``age_from_brain_size_weeks``, ``age_from_outline_weeks`` (of the input), `FIT`, where known.
        """
        target = item["target"]
        real, brain, spacing = plain(target["image"]), plain(target["brain"]), spacing_of(target)
        name = "circumference" if real.ndim == 3 else "slice_perimeter"
        scan_cm, rows = self.outline.measure_cm(real, spacing), []
        for method, image in (images or self.predictions(item, result)).items():
            row: dict[str, Any] = {"id": pair_id(item), "method": method, "subject": str(target["subject"])}
            row |= {"input": str(item["input"]["id"]), "target": str(target["id"])}
            row |= {f"{side}_age_weeks": float(item[side]["age"]) for side in ("input", "target")}
            row |= image_similarity(image, real, brain)
            row |= {f"{name}_cm": self.outline.measure_cm(image.clip(0, 1), spacing), f"{name}_scan_cm": scan_cm}
            if real.ndim == 3:
                row["circumference_table_cm"] = _number(target.get("head_circumference_cm"))
            rows.append(row)
        rows[0] |= self._input_metrics(item["input"], result)
        return rows

    def predictions(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Images at the target's age by method, ``(*grid)`` each."""
        made = {self.method: plain(result["prediction"])}
        return made | {name: plain(predict(item)) for name, predict in self.baselines.items()}

    def _input_metrics(self, scan: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, float]:
        """What is known of the input: how well it was fitted, and its age by the model and by its size."""
        found: dict[str, float] = {}
        if result.get("reconstruction") is not None:
            fitted = image_similarity(plain(result["reconstruction"]), plain(scan["image"]))
            found = {f"reconstruction_{name}": value for name, value in fitted.items()}
        if result.get("age_estimate_weeks") is not None:
            found["age_estimate_weeks"] = float(result["age_estimate_weeks"])
        found |= {key: float(result[key]) for key in FIT if key in result}
        sizes = scan_sizes(scan, self.outline) if self.age_rivals else {}
        return found | {f"age_from_{name}_weeks": float(rival.age_weeks(sizes[name])) for name, rival in self.age_rivals.items()}


def _number(value: Any) -> float:
    """A float; NaN for None or an empty cell."""
    return math.nan if value is None or value == "" else float(value)
