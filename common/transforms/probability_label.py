"""From probabilities of classes to labels and their uncertainty; MONAI's ``AsDiscrete`` gives labels alone, of whole volumes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from common.errors import UserError
from common.transforms.label_cleanup import restore_classes, smooth, spacing_of
from common.transforms.to_source_grid import to_source_grid

Grid = tuple[torch.Tensor, list[int]]
"""Affine ``(4, 4)`` float64 and shape ``(X, Y, Z)``."""


def label_of(channels: Iterator[torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Most probable class, its probability and the entropy of all, :math:`-\sum_k p_k \ln p_k / \ln K`, channel by channel.

    Args:
        channels: :math:`p_k`, ``(X, Y, Z)`` float each, the background first.
        count: :math:`K`, 2 or more.

    Returns:
        Label uint8 (the lower number where two are equal), probability and entropy, float32, in [0, 1], ``(X, Y, Z)`` each.
    """
    label = top = entropy = None
    for number, share in enumerate(channels):
        share = share.float().clamp(0, 1)
        surprise = -torch.xlogy(share, share) / math.log(count)
        if label is None or top is None or entropy is None:
            label, top, entropy = torch.zeros_like(share, dtype=torch.uint8), share.clone(), surprise
            continue
        entropy += surprise
        label[share > top] = number
        torch.maximum(top, share, out=top)
    assert label is not None and top is not None and entropy is not None
    return label, top, entropy.clamp_(0, 1)


class ProbabilityToLabeld(MapTransform):
    """Turn the ensemble's probabilities into labels, the probability of the label and the entropy, class by class.

    Args:
        keys: probabilities ``(K, X, Y, Z)``, the background first, at most 256 classes; becomes the labels, ``(1, X, Y, Z)`` uint8.
        probability_key: where the largest probability goes, ``(1, X, Y, Z)`` float32.
        entropy_key: where the entropy goes, as a share of that of equal probabilities, ``(1, X, Y, Z)`` float32 in [0, 1]: an
            uncertainty, of which nobody has shown here that it is calibrated.
        sigma_mm: standard deviation by which the probabilities are smoothed before the decision, mm; 0 does not. The maps are
            those of the smoothed probabilities. A class that would vanish keeps its voxels, unless all is brought onto another grid.
        image_key: the prepared image, whose grid the probabilities have where they are no ``MetaTensor``.
        source_key: a ``MetaTensor``, mostly the prepared image, onto the grid of whose file all is brought, class by class and linearly
            (its meta's ``source_affine`` and ``source_shape``, else ``original_affine`` and ``spatial_shape``); outside of the
            probabilities is background. None stays on their grid.

    Source: smoothing: DAE, appendix F, without details.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        probability_key: str = "probability",
        entropy_key: str = "entropy",
        sigma_mm: float = 0.0,
        image_key: str = "image",
        source_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.probability_key, self.entropy_key, self.sigma_mm = probability_key, entropy_key, sigma_mm
        self.image_key, self.source_key = image_key, source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with label, probability and entropy.

        Raises:
            UserError: fewer than two or more than 256 classes, or a grid that is not known.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            values = result[key]
            if values.ndim != 4 or not 2 <= len(values) <= 256:
                raise UserError(f"{key!s}: got shape {tuple(values.shape)}, expected probabilities (K, X, Y, Z) of 2 to 256 classes.")
            placed = values if isinstance(values, MetaTensor) else result.get(self.image_key)
            affine = getattr(placed, "affine", None)
            channels = self._channels(convert_to_tensor(values, track_meta=False), placed, str(key))
            goal = None if self.source_key is None else source_grid(result.get(self.source_key), self.source_key)
            if goal is not None and affine is None:
                raise UserError(f"{key!s}: its place is not known; expected a MetaTensor, or one called '{self.image_key}' beside it.")
            if goal is not None and not _same_grid(goal, affine, values.shape[1:]):
                channels, affine = _on_grid(channels, affine, goal), goal[0]
                label, top, entropy = label_of(channels, len(values))
            else:
                label, top, entropy = label_of(channels, len(values))
                self._restore(label, convert_to_tensor(values, track_meta=False))
            for name, found in ((key, label), (self.probability_key, top), (self.entropy_key, entropy)):
                result[name] = found[None] if affine is None else MetaTensor(found[None], affine=affine, meta=_file_of(placed))
        return result

    def _channels(self, values: torch.Tensor, placed: Any, name: str) -> Iterator[torch.Tensor]:
        if not self.sigma_mm:
            return iter(values)
        spacing = spacing_of(values if placed is None else placed, placed, name)
        total = smooth(torch.ones_like(values[0]), spacing, self.sigma_mm)  # below 1 at the volume's edge; shares sum to 1 there as well
        return (smooth(channel, spacing, self.sigma_mm) / total for channel in values)

    def _restore(self, label: torch.Tensor, values: torch.Tensor) -> None:
        if self.sigma_mm:
            before = values.argmax(dim=0).to(torch.uint8)
            restore_classes(label, before, [int(number) for number in torch.unique(before)])


def source_grid(holder: Any, name: str) -> Grid:
    """Grid of the file that a tensor was read from.

    Args:
        holder: a ``MetaTensor`` as a loader or a later step made it.
        name: its key, for the message.

    Raises:
        UserError: it does not say.
    """
    meta = getattr(holder, "meta", {})
    for affine, shape in (("source_affine", "source_shape"), ("original_affine", "spatial_shape")):
        if meta.get(affine) is not None and meta.get(shape) is not None:
            return torch.as_tensor(np.asarray(meta[affine]), dtype=torch.float64), [int(side) for side in meta[shape]]
    raise UserError(
        f"source_key: '{name}' does not say which grid its file has (original_affine and spatial_shape in its meta);"
        " name a MetaTensor that a loader made."
    )


def _same_grid(grid: Grid, affine: Any, shape: Sequence[int]) -> bool:
    return list(grid[1]) == list(shape) and bool(np.allclose(grid[0], np.asarray(affine), atol=1e-4))


def _on_grid(channels: Iterator[torch.Tensor], affine: Any, grid: Grid) -> Iterator[torch.Tensor]:
    """Resample each class; of the background what is left over, so that it is certain outside of the probabilities."""
    for number, channel in enumerate(channels):
        share = to_source_grid((channel if number else 1 - channel)[None], affine, *grid).as_tensor()[0]
        yield share if number else 1 - share


def _file_of(placed: Any) -> dict[str, Any]:
    found = getattr(placed, "meta", {}).get("filename_or_obj")
    return {} if found is None else {"filename_or_obj": found}
