"""Noise and loss of resolution (Eq. 1-2) for a batch on its device, replayable; MONAI's random transforms act on single cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.transforms import Randomizable
from torch.nn.functional import interpolate

from common.errors import UserError

STRENGTHS = ("variance", "sd")
MODES = ("trilinear", "nearest")
ORDERS = ("chained", "sum")


def noise_sd(strength: float, strength_is: str = "variance") -> float:
    """Standard deviation of the noise.

    Args:
        strength: >= 0, in (squared) units of the normalised image.
        strength_is: ``variance`` (its root is taken) or ``sd``.

    Raises:
        UserError: a negative strength, or another word.

    Source: DAE, Eq. 1 with the text below it and appendix G.1, which call sigma the variance; so does the released code.
    """
    if strength_is not in STRENGTHS:
        raise UserError(f"strength_is: got '{strength_is}', expected one of {STRENGTHS}.")
    if not strength >= 0:
        raise UserError(f"strength: got {strength}, expected a {strength_is} >= 0 (0 adds no noise).")
    return strength**0.5 if strength_is == "variance" else float(strength)


def scaled_noise(noise: torch.Tensor, sd: float, mean: float = 0.0, scale: torch.Tensor | None = None) -> torch.Tensor:
    r"""Noise of a batch: :math:`n_b = s_b (\mu + \sigma \varepsilon_b)`.

    Args:
        noise: standard normal :math:`\varepsilon`, ``(B, C, X, Y, Z)``.
        sd: standard deviation :math:`\sigma`, >= 0, in units of the normalised image.
        mean: :math:`\mu`, same unit.
        scale: :math:`s`, one factor per sample, ``(B,)``, >= 0; None is 1.

    Returns:
        Shape and dtype of ``noise``.

    Source: DAE, Eq. 1. The scale is ours: a z-scored MR image varies about 1, CT in [0, 1] ten times less.
    """
    field = noise * sd + mean
    return field if scale is None else field * scale.to(field).reshape(-1, *[1] * (field.ndim - 1))


def lower_resolution(image: torch.Tensor, factor: float, mode: str = "trilinear") -> torch.Tensor:
    r"""Lose resolution: :math:`D(x, \epsilon)`, down by :math:`\epsilon` and up again to the same grid.

    Voxels are areas (``align_corners`` is False, where the mode knows it) and nothing is smoothed before (no anti-aliasing): at factor 4
    linear interpolation keeps the mean of the inner :math:`2^3` of each :math:`4^3` voxels, nearest keeps the first of them.

    Args:
        image: ``(B, C, X, Y, Z)``, float.
        factor: :math:`\epsilon`, >= 1; 1 returns the image. Sides that it does not divide are rounded, at least 1 voxel stays.
        mode: ``trilinear`` (the paper's linear interpolation) or ``nearest`` (the released code, by omission).

    Returns:
        Shape and dtype of ``image``.

    Raises:
        UserError: a factor below 1, or another mode.

    Source: DAE, Eq. 2.
    """
    if mode not in MODES:
        raise UserError(f"mode: got '{mode}', expected one of {MODES}.")
    if not factor >= 1:
        raise UserError(f"factor: got {factor}, expected a number >= 1 (1 keeps the resolution).")
    if factor == 1:
        return image
    corners = False if mode == "trilinear" else None
    low = interpolate(image, size=[max(1, round(side / factor)) for side in image.shape[2:]], mode=mode, align_corners=corners)
    return interpolate(low, size=image.shape[2:], mode=mode, align_corners=corners)


def disrupt(image: torch.Tensor, noise: torch.Tensor, factor: float, mode: str = "trilinear", order: str = "chained") -> torch.Tensor:
    r"""Both disruptions: chained :math:`x' = D(x + n, \epsilon)`, or their sum :math:`x' = x + n + (D(x, \epsilon) - x)`.

    Args:
        image: :math:`x`, ``(B, C, X, Y, Z)``.
        noise: :math:`n`, already scaled, shape of ``image``.
        factor: :math:`\epsilon`, >= 1.
        mode: see :func:`lower_resolution`.
        order: ``chained`` as the released code does, or ``sum``.

    Returns:
        Shape and dtype of ``image``.

    Raises:
        UserError: another order.

    Source: DAE, section 2: "we first add noise and downsample the image, then add the two perturbations", which can be read both ways.
        Deviation: the sum is of the two changes, not of two whole images, so that the range stays that of the image.
    """
    if order not in ORDERS:
        raise UserError(f"order: got '{order}', expected one of {ORDERS}.")
    if order == "sum":
        return lower_resolution(image, factor, mode) + noise
    return lower_resolution(image + noise, factor, mode)


class RandDisruption(Randomizable):
    """Draw the noise of a whole batch on its device, and disrupt the batch by Eq. 1-2.

    Args:
        strength: of the noise; 0 adds none.
        strength_is: ``variance`` or ``sd``.
        mean: of the noise.
        factor: of the loss of resolution, >= 1; 1 loses none.
        mode: ``trilinear`` or ``nearest``.
        order: ``chained`` or ``sum``.
        scales: a factor of noise for each modality, by its index; None is 1 for all.
    """

    def __init__(
        self,
        strength: float = 0.1,
        strength_is: str = "variance",
        mean: float = 0.0,
        factor: float = 4,
        mode: str = "trilinear",
        order: str = "chained",
        scales: Sequence[float] | None = None,
    ) -> None:
        self.sd, self.mean = noise_sd(strength, strength_is), float(mean)
        disrupt(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), factor, mode, order)  # checks the arguments
        self.factor, self.mode, self.order = factor, mode, order
        self.scales = None if scales is None else torch.as_tensor(scales, dtype=torch.float32)
        self.generators: dict[torch.device, torch.Generator] = {}

    def randomize(self, image: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Standard normal noise, shape, dtype and device of ``image``."""
        # one number from self.R seeds a generator on the image's device: replayable, and no copy from the CPU
        generator = self.generators.setdefault(image.device, torch.Generator(image.device))
        generator.manual_seed(int(self.R.randint(2**31)))
        return torch.empty_like(image).normal_(generator=generator)

    def __call__(self, image: torch.Tensor, modality_index: torch.Tensor | None = None) -> torch.Tensor:
        """Disrupt a batch.

        Args:
            image: normalised images, ``(B, C, X, Y, Z)``, float.
            modality_index: which modality each sample has, ``(B,)`` long; needed where ``scales`` are given.

        Returns:
            Shape and dtype of ``image``.

        Raises:
            UserError: scales without modalities, or too few of them.
        """
        if self.sd == 0 and self.mean == 0:
            return lower_resolution(image, self.factor, self.mode)
        noise = scaled_noise(self.randomize(image), self.sd, self.mean, self._scale(modality_index))
        return disrupt(image, noise, self.factor, self.mode, self.order)

    def _scale(self, modality_index: torch.Tensor | None) -> torch.Tensor | None:
        if self.scales is None:
            return None
        if modality_index is None or int(modality_index.max()) >= len(self.scales) or int(modality_index.min()) < 0:
            found = "no modality_index" if modality_index is None else f"modality_index {modality_index.tolist()}"
            raise UserError(
                f"scales: got {len(self.scales)} factors of noise and {found}, expected a factor for the modality of each sample."
            )
        return self.scales.to(modality_index.device)[modality_index]
