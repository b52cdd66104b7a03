"""The fine-tuning step: slices with their lesions, optionally mixed by CarveMix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable

from common.transforms.carvemix import RandCarveMix


class FineTuning(Randomizable):
    """``prepare_batch`` of a ``SupervisedTrainer``: from a batch of slices to (raw image, lesion).

    Args:
        carvemix_prob: probability that CarveMix mixes a sample; 0 leaves the batch as it is.
    """

    def __init__(self, carvemix_prob: float = 0.0) -> None:
        self.carvemix = RandCarveMix(carvemix_prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> FineTuning:
        """Seed CarveMix."""
        self.carvemix.set_random_state(seed, state)
        return self

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image ``(B, C, H, W)`` and lesion ``(B, 1, H, W)`` on ``device``."""
        keys = ("image", "label", "distance") if self.carvemix.prob else ("image", "label")
        image, label, *distance = (batch[key].to(device=device, non_blocking=non_blocking, **kwargs) for key in keys)
        return self.carvemix(image, label, distance[0]) if distance else (image, label)
