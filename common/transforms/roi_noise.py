"""Label-aware noise: the region of interest around a lesion contour and the noise of LADP that depends on it (Eq. 1-5)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from scipy.ndimage import distance_transform_edt

from common import flag
from common.errors import UserError


def signed_distance(mask: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    r"""Distance of each pixel to the lesion, negative inside: :math:`D(\cdot \mid y)`.

    Inside, the distance to the nearest background pixel with a minus sign (the contour pixel has -1); outside, the
    distance to the nearest lesion pixel (the first pixel outside has +1). No lesion gives ``+inf`` everywhere, so that
    no threshold selects a pixel. A mask without background counts the outside of the array as background.

    Args:
        mask: lesion, ``(*spatial)`` of any dimension, bool or number; non-zero is lesion.
        spacing: size of a pixel per axis in mm; None measures in pixels.

    Returns:
        ``(*spatial)`` float32, pixels or mm.

    Raises:
        UserError: ``spacing`` has another length than ``mask`` has axes, or is not positive.

    Source: LADP, Sec. II.C, text after Eq. 2; inside convention as in CarveMix. Deviation: none.
    """
    if spacing is not None and (len(spacing) != mask.ndim or min(spacing) <= 0):
        raise UserError(f"spacing: got {tuple(spacing)} for a mask with {mask.ndim} axes, expected one positive number per axis.")
    inside = np.asarray(mask) != 0
    if not inside.any():
        return np.full(inside.shape, np.inf, dtype=np.float32)
    if inside.all():
        centre = (slice(1, -1),) * inside.ndim
        return -distance_transform_edt(np.pad(inside, 1), sampling=spacing)[centre].astype(np.float32)
    outer = distance_transform_edt(~inside, sampling=spacing)
    return np.where(inside, -distance_transform_edt(inside, sampling=spacing), outer).astype(np.float32)


def slicewise_signed_distance(mask: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Signed distance within each slice along the last axis; see :func:`signed_distance`.

    Args:
        mask: lesion volume, ``(X, Y, Z)``; non-zero is lesion.
        spacing: in-plane pixel size ``(x, y)`` in mm; None measures in pixels.

    Returns:
        ``(X, Y, Z)`` float32; ``+inf`` in slices without lesion.
    """
    return np.stack([signed_distance(mask[..., z], spacing) for z in range(mask.shape[-1])], axis=-1)


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


class SignedDistanced(MapTransform):
    """Add the signed distance of a lesion volume, computed once so that every later draw is cheap.

    Args:
        keys: one lesion mask, ``(1, X, Y, Z)``; non-zero is lesion.
        distance_key: where the result goes, ``(1, X, Y, Z)`` float32.
        spacing_aware: measure in mm with the in-plane spacing of the volume, in place of pixels.
        slicewise: measure within each slice of the last axis (2D method); else in 3D.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        distance_key: str = "distance",
        spacing_aware: bool = False,
        slicewise: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.distance_key, self.slicewise = distance_key, slicewise
        self.spacing_aware = flag(spacing_aware, "spacing_aware")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with the distance added."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask = result[key]
            spacing = [float(s) for s in mask.pixdim[:3]] if self.spacing_aware and isinstance(mask, MetaTensor) else None
            array = np.asarray(mask[0].cpu())
            if self.slicewise:
                distance = slicewise_signed_distance(array, None if spacing is None else spacing[:2])
            else:
                distance = signed_distance(array, spacing)
            result[self.distance_key] = torch.from_numpy(distance)[None]
        return result
