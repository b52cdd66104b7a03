"""The pre-training step of LADP: noise the image around the lesion and ask for the noise (Eq. 1-6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable

from common import flag
from common.errors import UserError
from common.networks.standardized import Standardized
from common.transforms.roi_noise import RandRoiNoise

TARGETS = ("noise", "unit", "image")


class DenoisingPretraining(Randomizable):
    """``prepare_batch`` of a ``SupervisedTrainer``: from a batch of slices to (noised image, (target, mask)).

    Args:
        network: holds the normalisation constants; the noise acts on normalised images.
        noise: draws and applies the noise.
        target: ``noise`` the scaled noise W (the paper); ``unit`` the noise before scaling (the released code);
            ``image`` the clean image (denoising autoencoder).
        brain_only: noise and score brain pixels only; False noises and scores the whole image, as Eq. 5-6 print it.

    Source: LADP, Eq. 6. Deviation: ``brain_only`` is on by default, because the background is a constant that no
        network can learn anything from.
    """

    def __init__(self, network: Standardized, noise: RandRoiNoise, target: str = "noise", brain_only: bool = True) -> None:
        if target not in TARGETS:
            raise UserError(f"target: got '{target}', expected one of {TARGETS}.")
        self.network, self.noise, self.target = network, noise, target
        self.brain_only = flag(brain_only, "brain_only")

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> DenoisingPretraining:
        """Seed the noise."""
        self.noise.set_random_state(seed, state)
        return self

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Noise one batch.

        Args:
            batch: ``image`` raw, ``(B, C, H, W)``, and ``distance`` to the lesion, ``(B, 1, H, W)``.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            The noised normalised image and the pair (target, mask), ``(B, C, H, W)`` and ``(B, 1, H, W)`` bool.
        """
        raw, distance = (batch[key].to(device=device, non_blocking=non_blocking, **kwargs) for key in ("image", "distance"))
        image, brain = self.network.standardize(raw), self.network.brain(raw)
        drawn = self.noise(image, distance, keep_unit=self.target == "unit")
        noised = torch.where(brain, drawn.image, image) if self.brain_only else drawn.image
        target = {"noise": drawn.field, "unit": drawn.unit, "image": image}[self.target]
        assert target is not None
        return noised, (target, brain if self.brain_only else torch.ones_like(brain))
