"""The training step of position regression: windows of a head in, the places of their patches asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class PositionRegression:
    """``prepare_batch`` of a ``SupervisedTrainer``: from windows to (HU, (positions, which of them count)).

    Source: Bieder et al., MIDL 2022, Sec. 2: the network regresses the coordinates of a patch from the patch alone.
    """

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Prepare one batch.

        Args:
            batch: what ``RandPositionCropsd`` makes: ``image`` ``(B, 1, *sides)`` int16 HU, ``position`` ``(B, 3, n, n, n)`` in [0, 1],
                ``counts`` ``(B, 1, n, n, n)`` bool.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            The windows and the pair (positions, counts).
        """
        image, position, counts = (
            torch.as_tensor(batch[key]).to(device=device, non_blocking=non_blocking, **kwargs) for key in ("image", "position", "counts")
        )
        return image, (position, counts)
