"""The training step of the baselines that reconstruct: a plain or a denoising autoencoder of equalised head CT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from monai.transforms import Randomizable

from common import flag
from common.transforms.coarse_noise import RandCoarseNoise


class Equaliser(Protocol):
    """What the step asks of the model that holds the trained network."""

    def equalise(self, hu: torch.Tensor) -> torch.Tensor:
        """Map HU ``(B, 1, *spatial)`` to [0, 1]."""
        ...


class ReconstructionTraining(Randomizable):
    """``prepare_batch`` of a ``SupervisedTrainer`` of the inner network: from HU to (input, what to reconstruct).

    Args:
        model: holds the histogram equalisation, e.g. ``HeadCTModel``; the trainer's network is ``model.network``.
        noise: noises the input inside the head (denoising autoencoder); None reconstructs the input itself.
        foreground_only: give the loss the head's mask too, for a loss such as ``MaskedMSELoss``; False scores the whole
            cube by a plain loss such as ``torch.nn.L1Loss``, as the paper does for its autoencoder.

    Source: position regression, section 3.4 (noise None); Kascenas et al. 2022 (with noise: L2 to the clean image in the
        foreground).
    """

    def __init__(self, model: Equaliser, noise: RandCoarseNoise | None = None, foreground_only: bool = False) -> None:
        self.model, self.noise = model, noise
        self.foreground_only = flag(foreground_only, "foreground_only")

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> ReconstructionTraining:
        """Seed the noise."""
        if self.noise is not None:
            self.noise.set_random_state(seed, state)
        return self

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """Prepare one batch.

        Args:
            batch: ``image`` in HU, ``(B, 1, *spatial)``, and ``structures``, same shape, 0 outside the head.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            The equalised, perhaps noised image ``(B, 1, *spatial)``, and the clean one; with ``foreground_only`` the pair
            of the clean one and the head's mask, bool.
        """
        image, structures = (batch[key].to(device=device, non_blocking=non_blocking, **kwargs) for key in ("image", "structures"))
        foreground = structures > 0
        with torch.no_grad():
            clean = self.model.equalise(image)
            noised = clean if self.noise is None else self.noise(clean, foreground)
        return noised, (clean, foreground) if self.foreground_only else clean
