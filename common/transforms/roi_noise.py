"""Label-aware noise: the region of interest around a lesion contour and the noise of LADP that depends on it (Eq. 1-5)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from common.errors import UserError


def deepest(distance: torch.Tensor) -> torch.Tensor:
    r"""Size of a lesion: :math:`|D(\cdot \mid y)_{min}|` per sample, 0 without lesion.

    Args:
        distance: signed distances, ``(B, 1, *spatial)``; ``+inf`` where a sample has no lesion.

    Returns:
        ``(B,)``, unit of ``distance``, >= 0.
    """
    return distance.flatten(1).amin(dim=1).neg().clamp(min=0)


def roi_threshold(deepest: torch.Tensor, side: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    r"""Width of the region of interest from two uniform numbers.

    .. math:: \lambda \sim \tfrac12 U(-\tfrac12 |D_{min}|, 0) + \tfrac12 U(0, |D_{min}|)

    Args:
        deepest: :math:`|D_{min}|`, ``(B,)``, >= 0.
        side: uniform in [0, 1), ``(B,)``; below 1/2 shrinks the lesion, else grows it.
        position: uniform in [0, 1), ``(B,)``; place inside the chosen interval.

    Returns:
        :math:`\lambda`, ``(B,)``, unit of ``deepest``.

    Source: LADP, Eq. 3 (the law of CarveMix).
    """
    return torch.where(side < 0.5, -0.5 * deepest * position, deepest * position)


def roi_indicator(distance: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    r"""Region of interest: :math:`C(y) = [D(\cdot \mid y) \le \lambda]`.

    Args:
        distance: signed distances, ``(B, 1, *spatial)``; ``+inf`` without lesion, which leaves the region empty.
        threshold: :math:`\lambda`, ``(B,)``, unit of ``distance``.

    Returns:
        ``(B, 1, *spatial)`` bool; True marks the region of interest.

    Source: LADP, Eq. 2. The released code compares strictly; the paper's <= is used.
    """
    return distance <= threshold.reshape(-1, *[1] * (distance.ndim - 1))


def noise_field(
    noise: torch.Tensor, roi: torch.Tensor, sigma_roi: float, sigma_rest: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Scale standard normal noise: one strength inside the region of interest, another outside.

    .. math:: W^y = \varepsilon \odot (\sigma_a C + \sigma_b (1 - C))

    Args:
        noise: standard normal :math:`\varepsilon`, ``(B, C, *spatial)``.
        roi: indicator :math:`C(y)`, ``(B, 1, *spatial)``, bool; True marks pixels that get ``sigma_roi``.
        sigma_roi: standard deviation :math:`\sigma_a` inside, >= 0, in units of the normalised image.
        sigma_rest: standard deviation :math:`\sigma_b` outside, >= 0.
        out: where the result goes, may be ``noise`` itself; None makes a new tensor.

    Returns:
        :math:`W^y`, shape and dtype of ``noise``.

    Source: LADP, Eq. 4 (sigma read as standard deviation, as there; Eq. 1 prints a square root of it).
    """
    # the strengths have one channel, the noise has many: one pass over the noise, not three
    sigma = torch.full_like(roi, sigma_rest, dtype=noise.dtype).masked_fill_(roi, sigma_roi)
    return torch.mul(noise, sigma, out=out)


def diffuse(image: torch.Tensor, noise: torch.Tensor, gamma: float | None) -> torch.Tensor:
    r"""Mix an image with noise: :math:`x' = \sqrt{\gamma}\,x + \sqrt{1-\gamma}\,W`.

    Args:
        image: normalised :math:`x`, ``(B, C, *spatial)``.
        noise: scaled noise :math:`W`, shape of ``image``.
        gamma: share of the signal's variance that is kept, in (0, 1]; None adds the noise as it is
            (the additive denoising autoencoder).

    Returns:
        :math:`x'`, shape and dtype of ``image``.

    Source: LADP, Eq. 5.
    """
    if gamma is None:
        return image + noise
    if not 0 < gamma <= 1:
        raise UserError(f"gamma: got {gamma}, expected a number in (0, 1], or null for additive noise.")
    return (gamma**0.5 * image).add_(noise, alpha=(1 - gamma) ** 0.5)


class Noised(NamedTuple):
    """One draw of label-aware noise for a batch, ``(B, C, *spatial)`` where nothing else is said."""

    image: torch.Tensor
    """The noised image :math:`x'`."""
    field: torch.Tensor
    """The scaled noise :math:`W^y`."""
    unit: torch.Tensor | None
    """The standard normal noise before scaling; None unless it was asked for."""
    roi: torch.Tensor
    """The region of interest, ``(B, 1, *spatial)``, bool."""


class RandRoiNoise(Randomizable):
    """Draw the region of interest and the noise for a whole batch on its device, and apply Eq. 2-5.

    Args:
        gamma: share of the signal's variance that is kept, in (0, 1]; None for additive noise.
        sigma_roi: standard deviation inside the region of interest.
        sigma_rest: standard deviation elsewhere.
    """

    def __init__(self, gamma: float | None = 0.95, sigma_roi: float = 1.5, sigma_rest: float = 0.8) -> None:
        self.gamma, self.sigma_roi, self.sigma_rest = gamma, sigma_roi, sigma_rest
        self.generators: dict[torch.device, torch.Generator] = {}

    def randomize(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Draw side and position of the threshold, ``(B,)`` each, and the noise, shape of ``image``."""
        # one number from self.R seeds a generator on the image's device: replayable, and no copy from the CPU
        generator = self.generators.setdefault(image.device, torch.Generator(image.device))
        generator.manual_seed(int(self.R.randint(2**31)))
        batch = image.shape[0]
        side, position = torch.rand(2, batch, generator=generator, device=image.device)
        noise = torch.empty(image.shape, device=image.device, dtype=image.dtype)
        # a CPU draws a sample within its cache, in 3/4 of the time of a whole batch; a GPU wants one call
        for part in noise if image.device.type == "cpu" else [noise]:
            part.normal_(generator=generator)
        return side, position, noise

    def __call__(self, image: torch.Tensor, distance: torch.Tensor, keep_unit: bool = False) -> Noised:
        """Noise a batch.

        Args:
            image: normalised images, ``(B, C, *spatial)``, float.
            distance: signed distances to the lesion, ``(B, 1, *spatial)``.
            keep_unit: return the noise before scaling too; else its memory holds the scaled noise.

        Raises:
            UserError: the two do not lie on the same grid.
        """
        if image.shape[:1] + image.shape[2:] != distance.shape[:1] + distance.shape[2:]:
            raise UserError(f"distance: got shape {tuple(distance.shape)}, expected the batch and grid of the image, {tuple(image.shape)}.")
        side, position, noise = self.randomize(image)
        roi = roi_indicator(distance, roi_threshold(deepest(distance), side, position))
        field = noise_field(noise, roi, self.sigma_roi, self.sigma_rest, out=None if keep_unit else noise)
        return Noised(diffuse(image, field, self.gamma), field, noise if keep_unit else None, roi)


class RandRoiNoised(MapTransform, Randomizable):
    """Dictionary form of :class:`RandRoiNoise` for one sample: noises ``keys`` by the distance in ``distance_key``.

    Args:
        keys: normalised images, each ``(C, *spatial)``; they share one draw of the region of interest and of the noise.
        distance_key: signed distance, ``(1, *spatial)``.
        kwargs: numbers of :class:`RandRoiNoise`.
    """

    def __init__(self, keys: KeysCollection, distance_key: str = "distance", allow_missing_keys: bool = False, **kwargs: Any) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.distance_key, self.noise = distance_key, RandRoiNoise(**kwargs)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandRoiNoised:
        """Seed the draw."""
        self.noise.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the sample with noised ``keys``."""
        result = dict(data)
        seed = int(self.noise.R.randint(2**31))
        for key in self.key_iterator(result):
            self.noise.set_random_state(seed)
            result[key] = self.noise(result[key][None], result[self.distance_key][None]).image[0]
        self.noise.set_random_state(seed + 1)
        return result
