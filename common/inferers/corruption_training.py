"""The training step of the brain autoencoder: corrupt clean images and ask for them; MONAI's ``PrepareBatch`` draws nothing per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from monai.utils import convert_to_tensor

from common.transforms.coarse_noise import RandCoarseNoise
from common.transforms.rand_corruption import RandCorruption


class CorruptionTraining(Randomizable):
    """``prepare_batch`` of MONAI's trainer and evaluator: from clean images to (input, what to reconstruct).

    Args:
        corruption: of the input; None, or one of no kind, reconstructs the input itself (training without augmentation, and validation).
            ``RandCoarseNoise`` makes a denoising autoencoder; it acts where the image is above 0 and is not clipped.

    Source: methods/brain_autoencoder.md, section 4 (the target stays clean; validation has clean input); Kascenas et al. 2022.
    """

    def __init__(self, corruption: RandCorruption | RandCoarseNoise | None = None) -> None:
        self.corruption = corruption

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> CorruptionTraining:
        """Seed the corruption."""
        if self.corruption is not None:
            self.corruption.set_random_state(seed, state)
        return self

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare one batch.

        Args:
            batch: ``image`` in [0, 1], ``(B, 1, *spatial)``, float.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            The corrupted and the clean image, ``(B, 1, *spatial)`` both.
        """
        clean = convert_to_tensor(batch["image"], track_meta=False).to(device=device, non_blocking=non_blocking, **kwargs)
        with torch.no_grad():
            return self._corrupted(clean), clean

    def _corrupted(self, clean: torch.Tensor) -> torch.Tensor:
        if self.corruption is None:
            return clean
        if isinstance(self.corruption, RandCoarseNoise):
            return self.corruption(clean, clean > 0)
        return self.corruption(clean)
