"""Choose the filter of an error map on labelled validation cases, never on those it is tested on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.roc import auroc, why_undefined
from common.transforms.map_filters import filter_maps

Row = dict[str, str | int | float]


def sweep_filters(
    errors: Iterable[torch.Tensor],
    masks: Iterable[Sequence[NDArray[np.bool_] | torch.Tensor]],
    truths: Iterable[Sequence[int]],
    filters: Sequence[str] = ("none", "median", "erosion"),
    sizes: Sequence[int] = (3, 5, 7),
    score: Callable[[torch.Tensor], torch.Tensor] = torch.max,
) -> tuple[list[Row], Row]:
    """AUROC of every filter type and size; one score per structure of a case.

    Args:
        errors: one unfiltered map per case, ``(1, X, Y, Z)``, float; may be a generator, maps are used one at a time.
        masks: per case one mask per structure, each ``(1, X, Y, Z)``, bool, e.g. left and right hemisphere.
        truths: per case one 0 or 1 per structure, e.g. bleeding on the left and on the right.
        filters: names that ``filter_maps`` knows; ``none`` is tried once, as size 1.
        sizes: sides of the filters, odd, voxels.
        score: scores the filtered voxels of a structure, ``(N,)`` to a scalar.

    Returns:
        All rows (``filter``, ``size``, ``auroc``, ``cases``, ``positives``) and the best of them; of equals the first one.
        An empty mask has no score and is left out.

    Raises:
        UserError: no cases, cases of one class only, or numbers of masks and truths that differ.

    Source: position regression, section 3.4 (filter type and kernel size optimised; on which cases is not stated).
    """
    tried = [(f, s) for f in filters for s in ([1] if f == "none" else sizes)]
    scores: list[list[float]] = []
    labels: list[int] = []
    cases = 0
    for error, structures, found in zip(errors, masks, truths, strict=True):
        if len(structures) != len(found):
            raise UserError(f"truths: got {len(found)} for the {len(structures)} masks of case {cases}, expected one per mask.")
        filtered = [filter_maps(error[None], f, s)[0] for f, s in tried]
        for mask, truth in zip(structures, found, strict=True):
            inside = torch.as_tensor(mask, dtype=torch.bool, device=error.device)
            scores.append([float(score(volume[inside])) if bool(inside.any()) else math.nan for volume in filtered])
            labels.append(int(truth))
        cases += 1
    if not cases:
        raise UserError("sweep_filters: got no cases; give labelled validation cases, or name the filter in the config.")
    rows: list[Row] = []
    for (name, size), column in zip(tried, zip(*scores, strict=True), strict=True):
        if why_not := why_undefined(column, labels):
            raise UserError(
                f"sweep_filters: {why_not}; give validation cases with and without the finding, or name the filter in the config."
            )
        rows.append({"filter": name, "size": size, "auroc": auroc(column, labels), "cases": cases, "positives": sum(labels)})
    return rows, max(rows, key=lambda row: row["auroc"])
