"""MSE, DSSIM and PSNR of every slice of a batch at once; MONAI's ``SSIMMetric`` needs 5 times as long (one thread).

All in float64: in float32 the variance of a bright flat region is rounding, which moves DSSIM by 5e-5 where the paper's is 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.metrics.image_similarity import WINDOW, ssim_map

METRICS = ("mse", "dssim", "psnr_db")
"""What is measured of a slice, in the order of the paper's tables."""

HIGHER_IS_BETTER = {"mse": False, "dssim": False, "psnr_db": True}


def slice_similarity(prediction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    r"""Measure slices against their originals, both in [0, 1] (data range 1).

    .. math:: \mathrm{MSE} = \overline{(p - y)^2}, \qquad \mathrm{DSSIM} = \frac{1 - \overline{\mathrm{SSIM}}}{2}, \qquad
        \mathrm{PSNR} = -10 \log_{10} \mathrm{MSE}

    Args:
        prediction: ``(B, 1, H, W)``, any float type, any device; clipped to [0, 1] first.
        target: the originals, same shape.

    Returns:
        ``mse`` (in [0, 1]), ``dssim`` (in [0, 1], 0 for equal slices), ``psnr_db`` (infinite for equal slices, see :func:`mean_psnr`);
        ``(B,)`` float64 each, on the device of ``prediction``.

    Raises:
        UserError: unequal shapes, not ``(B, 1, H, W)``, a side below 11 pixels, NaN or infinite values.

    Source: the thesis' tables; SSIM with an 11 x 11 Gaussian window, sigma 1.5, borders left out (methods/brain_autoencoder.md, section 6).
    """
    p, y = _pair(prediction, target)
    mse = (p - y).square().mean(dim=(1, 2))
    dssim = (1 - ssim_maps(p, y).mean(dim=(1, 2))) / 2
    return {"mse": mse, "dssim": dssim.clamp(min=0), "psnr_db": -10 * torch.log10(mse)}


def ssim_maps(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural similarity around each pixel of many slices, see ``common.metrics.image_similarity.ssim_map``.

    Args:
        prediction: ``(B, H, W)``, float32 or float64, in [0, 1].
        target: same shape.

    Returns:
        ``(B, H - 10, W - 10)``, in [-1, 1].
    """
    maps: torch.Tensor = torch.vmap(ssim_map)(prediction, target)
    return maps


def changed_mse(prediction: torch.Tensor, corrupted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the pixels alone that a corruption has changed, such as those of a blanked square.

    Args:
        prediction: ``(B, 1, H, W)``, in [0, 1]; clipped first.
        corrupted: what the network got, same shape.
        target: the originals, same shape.

    Returns:
        ``(B,)`` float64; NaN for a slice of which nothing was changed.
    """
    p, y = _pair(prediction, target)
    mask = (corrupted[:, 0].to(p) != y).to(p)
    errors: torch.Tensor = ((p - y).square() * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
    return errors


def mean_psnr(values: Iterable[float]) -> float:
    """Mean PSNR of slices: the infinite ones (equal slices) are left out as long as a finite one is there, else the mean is infinite.

    One equal slice would else make every mean infinite; the evaluation counts them.

    Args:
        values: dB, one per slice; NaN is left out.
    """
    numbers = np.asarray(list(values), dtype=np.float64)
    known = numbers[~np.isnan(numbers)]
    finite = known[np.isfinite(known)]
    if finite.size:
        return float(finite.mean())
    return math.inf if known.size else math.nan


def _pair(prediction: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float64 ``(B, H, W)``, clipped."""
    if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] != 1 or min(prediction.shape[2:]) < WINDOW:
        raise UserError(
            f"prediction and target: got shapes {tuple(prediction.shape)} and {tuple(target.shape)}, expected slices (B, 1, H, W) of one"
            f" shape with sides of at least {WINDOW} pixels, the window of SSIM."
        )
    pair = []
    for name, image in (("prediction", prediction), ("target", target)):
        plain = torch.as_tensor(image.detach()[:, 0], dtype=torch.float64, device=prediction.device)
        if bad := int((~torch.isfinite(plain)).sum()):
            raise UserError(f"{name}: {bad} of {plain.numel()} pixels are NaN or infinite. Did the training diverge?")
        pair.append(plain.clamp(0, 1))
    return pair[0], pair[1]
