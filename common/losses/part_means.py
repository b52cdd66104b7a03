"""A loss that is a weighted sum and keeps its parts by name, for the lines of an epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class PartMeans(nn.Module):
    """Base of losses of several parts.

    Args:
        weights: factor per part; parts of weight 0 are left out.

    Attributes:
        weights: the factors that are not 0.
        parts: the unweighted parts that were noted last, by name, detached.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        self.parts: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._batches = 0

    def weighted(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the parts, scalars each, times their weights: a scalar."""
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()

    def note(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Keep a batch's parts for :meth:`mean_parts`."""
        self.parts = {name: part.detach() for name, part in parts.items()}
        self._sums = {name: self._sums.get(name, 0) + part for name, part in self.parts.items()}
        self._batches += 1

    def mean_parts(self) -> dict[str, float]:
        """Means of the noted parts since the last call; empty when there were none."""
        means = {name: float(total) / self._batches for name, total in self._sums.items()}
        self._sums, self._batches = {}, 0
        return means
