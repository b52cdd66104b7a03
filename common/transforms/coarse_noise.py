"""Coarse noise of a denoising autoencoder: drawn on a lattice, upsampled and shifted; MONAI's ``RandGaussianNoise`` is white."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from common.errors import UserError

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def coarse_noise(noise_lattice: torch.Tensor, shape: Sequence[int], shift: torch.Tensor) -> torch.Tensor:
    r"""Upsample noise linearly from a lattice to a grid and shift it circularly: :math:`n = T_s U \varepsilon`.

    The shift takes the lattice's nodes off fixed places. Between the nodes interpolation averages, so that the variance
    over a cell is about :math:`(2/3)^d` of the nodes' in d dimensions.

    Args:
        noise_lattice: :math:`\varepsilon`, ``(B, C, *lattice)``, float.
        shape: sides of the grid, one per spatial axis, voxels.
        shift: :math:`s`, ``(B, d)``, int, voxels; one shift per sample, shared by its channels.

    Returns:
        ``(B, C, *shape)``, dtype of the lattice.

    Source: Kascenas et al., Denoising autoencoders for unsupervised anomaly detection in brain MRI (MIDL 2022), and
        arXiv 2301.08330.
    """
    mode = MODES[noise_lattice.ndim - 2]
    fine = torch.nn.functional.interpolate(noise_lattice, size=tuple(shape), mode=mode, align_corners=False)
    axes = tuple(range(1, fine.ndim - 1))
    return torch.stack([torch.roll(sample, steps, axes) for sample, steps in zip(fine, shift.tolist(), strict=True)])


class RandCoarseNoise(Randomizable):
    """Draw coarse noise for a batch on its device and add it inside the foreground.

    Args:
        sigma: standard deviation at the lattice's nodes, >= 0, in units of the image (equalised CT in [0, 1]); 0 adds nothing.
        spacing: distance of two nodes, voxels, >= 1. 1 is white noise.

    Raises:
        UserError: a negative sigma or a spacing below one voxel.

    Source: Kascenas et al. 2022: 16 x 16 nodes on slices of 128 x 128 (8 voxels of about 2 mm), sigma 0.2. Deviation: the
        lattice has three axes, so the same sigma gives noise of 0.54 sigma on average, where two give 0.66 sigma.
    """

    def __init__(self, sigma: float = 0.2, spacing: float = 8) -> None:
        if sigma < 0:
            raise UserError(f"sigma: got {sigma}, expected the noise's standard deviation, 0 or more.")
        if spacing < 1:
            raise UserError(f"spacing: got {spacing}, expected the distance of two lattice nodes in voxels, 1 or more.")
        self.sigma, self.spacing = sigma, spacing
        self.generators: dict[torch.device, torch.Generator] = {}

    def randomize(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Draw the standard normal lattice, ``(B, C, *lattice)``, and the shifts, ``(B, d)`` int64, of a batch ``(B, C, *spatial)``."""
        # one number from self.R seeds a generator on the image's device: replayable, and no copy from the CPU
        generator = self.generators.setdefault(image.device, torch.Generator(image.device))
        generator.manual_seed(int(self.R.randint(2**31)))
        sides = image.shape[2:]
        nodes = [max(1, round(side / self.spacing)) for side in sides]
        lattice = torch.randn(*image.shape[:2], *nodes, generator=generator, device=image.device, dtype=image.dtype)
        where = torch.rand(image.shape[0], len(sides), generator=generator, device=image.device)
        return lattice, (where * torch.tensor(sides, device=image.device)).long()

    def __call__(self, image: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
        """Noise a batch.

        Args:
            image: ``(B, C, *spatial)`` with one to three spatial axes, float.
            foreground: ``(B, 1, *spatial)``, bool; True marks voxels that get noise.

        Returns:
            The noised image, shape and dtype of ``image``; not clipped, background untouched.

        Raises:
            UserError: the two do not lie on the same grid.
        """
        if image.shape[:1] + image.shape[2:] != foreground.shape[:1] + foreground.shape[2:]:
            raise UserError(f"foreground: got shape {tuple(foreground.shape)}, expected batch and grid of the image, {tuple(image.shape)}.")
        lattice, shift = self.randomize(image)
        return image + coarse_noise(lattice, image.shape[2:], shift).mul_(self.sigma).mul_(foreground)


class RandCoarseNoised(MapTransform, Randomizable):
    """Dictionary form of :class:`RandCoarseNoise` for one sample.

    Args:
        keys: images, each ``(C, *spatial)``; every key gets a draw of its own.
        foreground_key: ``(1, *spatial)``; voxels above 0 get noise, e.g. ``structures``.
        kwargs: numbers of :class:`RandCoarseNoise`.
    """

    def __init__(self, keys: KeysCollection, foreground_key: str = "structures", allow_missing_keys: bool = False, **kwargs: Any) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.foreground_key, self.noise = foreground_key, RandCoarseNoise(**kwargs)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandCoarseNoised:
        """Seed the draw."""
        self.noise.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the sample with noised ``keys``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.noise(result[key][None], result[self.foreground_key][None] > 0)[0]
        return result
