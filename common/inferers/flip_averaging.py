"""Test-time augmentation by flips, since MONAI's ``TestTimeAugmentation`` draws at random and works on data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer


class FlipAveragingInferer(Inferer):
    r"""Mean probability over all flips: :math:`p(x) = \frac{1}{|F|} \sum_{f \in F} f^{-1}(\sigma(g(f(x))))`.

    Args:
        inferer: computes logits, ``(B, 1, *spatial)``.
        flip_axes: spatial axes; all subsets are used, the empty one (identity) included. ``[0, 1]`` gives four flips,
            ``[]`` none but the identity.

    Source: LADP, Sec. II.D.
    """

    def __init__(self, inferer: Inferer, flip_axes: Sequence[int] = (0, 1)) -> None:
        super().__init__()
        self.inferer = inferer
        self.flips = [subset for size in range(len(flip_axes) + 1) for subset in combinations(flip_axes, size)]

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities in [0, 1] of a batch ``(B, C, *spatial)``, shape ``(B, 1, *spatial)``."""
        total: torch.Tensor | None = None
        for axes in self.flips:
            dims = [axis + 2 for axis in axes]
            flipped = torch.flip(inputs, dims) if dims else inputs
            probability = torch.sigmoid(self.inferer(flipped, network, *args, **kwargs).float())
            probability = torch.flip(probability, dims) if dims else probability
            total = probability if total is None else total + probability
        assert total is not None
        return total / len(self.flips)
