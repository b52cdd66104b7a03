"""One volume's slices, clean and with each corruption, to rows: what the network restores, and what doing nothing would have left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.engines import Evaluator
from monai.networks.utils import eval_mode
from monai.utils import convert_to_tensor
from numpy.typing import NDArray

from common.errors import UserError
from common.inference import case_id
from common.metrics.slice_similarity import METRICS, changed_mse, mean_psnr, slice_similarity
from common.metrics.statistics import describe
from common.transforms.corruptions import slice_seed

Corrupt = Callable[[torch.Tensor, str, Sequence[int]], torch.Tensor]
"""From clean slices ``(n, 1, P, S)``, a kind and a seed for each slice to corrupted ones."""

KINDS = ("none", "dropout", "noise", "square", "blur")
CASE_FACTS = ("subject", "age", "sex", "ethnicity", "site")
LOCAL = ("dropout", "square")
"""Kinds that leave most pixels alone: the error of those that were changed is measured too."""

MEASURED = (*METRICS, "changed_mse")

Rows = Sequence[Mapping[str, Any]]


def chosen_slices(item: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Where the selected slices lie in the image, and their numbers in the volume.

    Args:
        item: ``image`` ``(1, P, S, N)`` and perhaps ``slices``, numbers of the selected ones; the image may hold these alone.

    Raises:
        UserError: a number beyond the volume, or none.
    """
    count = int(item["image"].shape[-1])
    if "slices" not in item:
        return list(range(count)), list(range(count))
    numbers = [int(number) for number in item["slices"]]
    if len(numbers) == count:
        return list(range(count)), numbers
    if not numbers or max(numbers) >= count or min(numbers) < 0:
        raise UserError(f"slices: got {numbers}, expected numbers from 0 to {count - 1}, at least one. Was the volume cut or turned?")
    return numbers, numbers


class ReconstructionMeasure:
    """From a batch item to a row of means; keeps the rows of the slices, and of each case the planes of its picture.

    Args:
        evaluator: its inferer and network restore what this class corrupts; in float32, since bf16 alone has an MSE of 1e-6.
        cases: dicts with ``id`` and facts such as ``subject`` and ``age``.
        corruptions: kinds; ``none`` is the clean image.
        seed: of the corruptions, the same for all runs that are compared; see ``slice_seed``.
        corrupt: makes the corruptions.
    """

    def __init__(
        self, evaluator: Evaluator, cases: Sequence[Mapping[str, Any]], corruptions: Sequence[str], seed: int, corrupt: Corrupt
    ) -> None:
        self.evaluator, self.corruptions, self.seed, self.corrupt = evaluator, list(corruptions), seed, corrupt
        self.cases = {str(case["id"]): case for case in cases}
        self.slice_rows: list[dict[str, Any]] = []
        self.planes: dict[str, dict[str, tuple[NDArray[Any], ...]]] = {}
        self.number: dict[str, int] = {}

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Row of a case, behind its id.

        Args:
            item: ``image`` ``(1, P, S, N)`` in [0, 1], perhaps ``slices``, see :func:`chosen_slices`.
            result: of the evaluator; not used, since the corrupted images are restored here.

        Returns:
            Facts, ``slices`` (count), and for each kind the means over the slices ``<kind>_<metric>`` of what was restored and
            ``<kind>_input_<metric>`` of what the network got.
        """
        name = case_id(item)
        places, numbers = chosen_slices(item)
        clean = convert_to_tensor(item["image"], dtype=torch.float32, device="cpu", track_meta=False)[None]
        seeds = [slice_seed(name, number, self.seed) for number in numbers]
        facts = {key: self.cases.get(name, {}).get(key) for key in CASE_FACTS}
        row: dict[str, Any] = {**facts, "subject": facts["subject"] or name, "slices": len(numbers)}
        self.planes[name], self.number[name] = {}, numbers[len(numbers) // 2]
        for kind in self.corruptions:
            target = clean[0].movedim(-1, 0)[places]
            given = target if kind == "none" else self.corrupt(target, kind, seeds)
            restored = self._restore(clean, given, places)
            found = _measured(restored, given, target, kind)
            for index, number in enumerate(numbers):
                own = {key: float(values[index]) for key, values in found.items()}
                self.slice_rows.append({"id": name, "subject": row["subject"], "slice": number, "corruption": kind, **own})
            row |= {f"{kind}_{key}": _mean(key, values.tolist()) for key, values in found.items()}
            middle = [part[len(numbers) // 2, 0].cpu().numpy().astype(np.float16) for part in (target, given, restored)]
            self.planes[name][kind] = tuple(middle)
        return row

    def _restore(self, clean: torch.Tensor, given: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Slices ``(n, 1, P, S)`` as the network restores them; one of three dimensions sees the whole volume around them."""
        engine: Any = self.evaluator
        volume = given.movedim(0, -1)[None]
        whole = getattr(engine.inferer, "spatial_dims", 2) == 3 and len(places) < clean.shape[-1]
        if whole:
            volume, given_at = clean.clone(), torch.as_tensor(list(places))
            volume[..., given_at] = given.movedim(0, -1)[None]
        with eval_mode(engine.network):
            restored: torch.Tensor = engine.inferer(volume.to(engine.state.device), engine.network).cpu()
        slices = restored[0].movedim(-1, 0)
        return slices[list(places)] if whole else slices


def _measured(restored: torch.Tensor, given: torch.Tensor, target: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    """Metrics of each slice of what was restored, then, as ``input_``, of what the network got."""
    found: dict[str, torch.Tensor] = {}
    for prefix, image in (("", restored), ("input_", given)):
        found |= {prefix + key: values for key, values in slice_similarity(image, target).items()}
        if kind in LOCAL:
            found[f"{prefix}changed_mse"] = changed_mse(image, given, target)
    return found


def _mean(key: str, values: Sequence[float]) -> float:
    if key.endswith("psnr_db"):
        return mean_psnr(values)
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def describe_slices(key: str, values: Sequence[float]) -> dict[str, Any]:
    """Mean and SD over slices, as the paper prints them; infinite PSNRs are left out and counted, see ``mean_psnr``.

    Args:
        key: the metric.
        values: one per slice; NaN is left out.
    """
    numbers = np.asarray(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    sd = float(finite.std(ddof=1)) if finite.size > 1 else math.nan
    return {"n": int(finite.size), "infinite": int(np.isinf(numbers).sum()), "mean": _mean(key, values), "sd": sd}


def describe_subjects(rows: Rows, key: str) -> dict[str, Any]:
    """Mean, SD and 95 % interval of the mean over subjects; several volumes of one are averaged first.

    Args:
        rows: one per volume, with ``subject`` and the column.
        key: the column; infinite values are left out, unless there are no others.
    """
    held: dict[str, list[float]] = {}
    for row in rows:
        held.setdefault(str(row["subject"]), []).append(float(row[key]))
    values = [_mean(key, own) for own in held.values()]
    found: dict[str, Any] = describe([value if math.isfinite(value) else math.nan for value in values])
    return found if found["n"] else found | {"mean": _mean(key, values)}


def summarise_reconstruction(rows: Rows, slice_rows: Rows, corruptions: Sequence[str]) -> dict[str, Any]:
    """All means of a run.

    Args:
        rows: one per volume.
        slice_rows: one per slice and corruption.
        corruptions: kinds.

    Returns:
        kind -> ``restored`` and ``input`` (doing nothing) -> metric -> ``slices`` and ``subjects``, see :func:`describe_slices` and
        :func:`describe_subjects`.
    """
    found: dict[str, Any] = {}
    for kind in corruptions:
        own = [row for row in slice_rows if row["corruption"] == kind]
        found[kind] = {
            image: {
                key: {
                    "slices": describe_slices(key, [float(row[prefix + key]) for row in own]),
                    "subjects": describe_subjects(rows, f"{kind}_{prefix}{key}"),
                }
                for key in MEASURED
                if own and prefix + key in own[0]
            }
            for image, prefix in (("restored", ""), ("input", "input_"))
        }
    return found
