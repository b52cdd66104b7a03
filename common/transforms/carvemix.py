"""CarveMix: carve the region of interest of one case and paste it into another, image and label alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable

from common.errors import UserError
from common.transforms.roi_noise import deepest, roi_indicator, roi_threshold


def carve_and_mix(target: torch.Tensor, source: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
    r"""Paste one array into another inside a region: :math:`x = x_b \odot M + x_a \odot (1 - M)`.

    Args:
        target: :math:`x_a`, ``(B, C, *spatial)``, any dtype.
        source: :math:`x_b`, shape and dtype of ``target``.
        roi: :math:`M`, the region of interest of the source, ``(B, 1, *spatial)``, bool.

    Returns:
        Shape and dtype of ``target``. The same call mixes images and labels.

    Source: CarveMix (Zhang et al. 2021), as cited by LADP.
    """
    return torch.where(roi, source, target)


class RandCarveMix(Randomizable):
    """CarveMix within a batch: each sample may receive the region of interest of another sample that has a lesion.

    Pairs come from the batch, hence only from the training fold. Works for slices and volumes.

    Args:
        prob: probability that a sample is mixed, in [0, 1].

    Deviation: the released CarveMix writes mixed volumes to disk once; here pairs are drawn anew in every batch.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise UserError(f"prob: got {prob}, expected a probability in [0, 1].")
        self.prob = prob

    def randomize(  # type: ignore[override]
        self, has_lesion: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Draw a source index per sample (its own index: leave it), and side and position of the threshold."""
        count = len(has_lesion)
        sources = np.arange(count)
        for index in range(count):
            others = np.flatnonzero(has_lesion & (np.arange(count) != index))
            if len(others) and self.R.random() < self.prob:
                sources[index] = self.R.choice(others)
        side, position = torch.from_numpy(self.R.random((2, count)).astype(np.float32))
        return sources, side, position

    def __call__(self, image: torch.Tensor, label: torch.Tensor, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch.

        Args:
            image: ``(B, C, *spatial)``.
            label: lesion, ``(B, 1, *spatial)``.
            distance: signed distances of ``label``, ``(B, 1, *spatial)``; ``+inf`` without lesion.

        Returns:
            Mixed image and label.
        """
        size = deepest(distance)
        sources, side, position = self.randomize((size > 0).cpu().numpy())
        index = torch.from_numpy(sources).to(image.device)
        threshold = roi_threshold(size[index], side.to(image.device), position.to(image.device))
        kept = index == torch.arange(len(index), device=index.device)
        roi = roi_indicator(distance[index], threshold) & ~kept.reshape(-1, *[1] * (distance.ndim - 1))
        return carve_and_mix(image, image[index], roi), carve_and_mix(label, label[index], roi)


class RandCarveMixd(Randomizable):
    """Dictionary form of :class:`RandCarveMix` for a collated batch.

    Args:
        image_key: images, ``(B, C, *spatial)``.
        label_key: lesions, ``(B, 1, *spatial)``.
        distance_key: signed distances, ``(B, 1, *spatial)``.
        prob: probability that a sample is mixed.
    """

    def __init__(self, image_key: str = "image", label_key: str = "label", distance_key: str = "distance", prob: float = 0.5) -> None:
        self.image_key, self.label_key, self.distance_key = image_key, label_key, distance_key
        self.mix = RandCarveMix(prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandCarveMixd:
        """Seed the draw."""
        self.mix.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the batch with mixed image and label; the distance is left as it was."""
        result = dict(data)
        mixed = self.mix(result[self.image_key], result[self.label_key], result[self.distance_key])
        result[self.image_key], result[self.label_key] = mixed
        return result
