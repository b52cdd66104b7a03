"""Structural dissimilarity to train with, alone or beside the squared error.

MONAI's ``SSIMLoss`` runs one dense window by convolution: 3.3 s forward and backward for 32 slices of 128 x 128 on one CPU thread at its
best, and on a GPU cuDNN may round it to TF32. Here the same window is a banded matrix per axis: 0.4 s, in float32 also under autocast.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn.functional import mse_loss

from common.errors import UserError
from common.losses.part_means import PartMeans
from common.metrics.image_similarity import SIGMA, WINDOW

C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants :math:`(K L)^2` for K 0.01 and 0.03 and the data range L = 1."""


@lru_cache(maxsize=16)
def gaussian_band(side: int, device: torch.device) -> torch.Tensor:
    """SSIM's Gaussian mean along one axis as a matrix: ``(side - WINDOW + 1, side)``, float32, each row sums to 1."""
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(place**2) / (2 * SIGMA**2))
    band = torch.zeros(side - WINDOW + 1, side, dtype=torch.float64)
    for start, share in enumerate((weights / weights.sum()).tolist()):
        band.diagonal(start).fill_(share)
    return band.float().to(device)


def window_means(image: torch.Tensor) -> torch.Tensor:
    """Gaussian means of all windows that lie inside ``(B, C, *spatial)``; each side is shorter by ``WINDOW - 1``."""
    for axis in range(2, image.ndim):
        band = gaussian_band(image.shape[axis], image.device)
        image = torch.matmul(image.movedim(axis, -1), band.T).movedim(-1, axis)
    return image


def dssim(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Structural dissimilarity of each sample, :math:`(1 - \overline{\mathrm{SSIM}}) / 2`.

    .. math:: \mathrm{SSIM} = \frac{(2 \mu_p \mu_y + c_1)(2 \sigma_{py} + c_2)}{(\mu_p^2 + \mu_y^2 + c_1)(\sigma_p^2 + \sigma_y^2 + c_2)}

    Args:
        prediction: ``(B, C, *spatial)`` with two or three spatial axes, any float type, in [0, 1]; computed in float32.
        target: same shape, in [0, 1].

    Returns:
        ``(B,)`` float32 in [0, 1]; 0 where both are equal, 0.5 where they are unrelated. Windows over the border are left out.

    Raises:
        UserError: unequal shapes, or sides below the window's.

    Source: methods/brain_autoencoder.md, section 6: the defaults of TensorFlow's SSIM (11 x 11 window of SD 1.5, K 0.01 and 0.03, range 1).
    """
    if prediction.shape != target.shape or prediction.ndim not in (4, 5) or min(prediction.shape[2:]) < WINDOW:
        raise UserError(
            f"DSSIM: got shapes {tuple(prediction.shape)} and {tuple(target.shape)}, expected one shape (B, C, *spatial) with two or three "
            f"spatial sides of at least {WINDOW}, the window of SSIM."
        )
    with torch.autocast(prediction.device.type, enabled=False):
        p, y = prediction.float(), target.float()
        # the variances enter by their sum alone, so four means do
        mu_p, mu_y, squares, product = window_means(torch.stack([p, y, p * p + y * y, p * y]).flatten(0, 1)).unflatten(0, (4, len(p)))
        mu_py, mu_squares = mu_p * mu_y, mu_p * mu_p + mu_y * mu_y
        cov, var = product - mu_py, squares - mu_squares
        ssim = (2 * mu_py + C1) * (2 * cov + C2) / ((mu_squares + C1) * (var + C2))
        return (1 - ssim.flatten(1).mean(1)) / 2


class ReconstructionLoss(PartMeans):
    r""":math:`L = w_1 \mathrm{MSE} + w_2 \mathrm{DSSIM}`, means over the batch; each part is kept by its name.

    Args:
        mse: :math:`w_1`, >= 0; the thesis has 1 or 0.
        dssim: :math:`w_2`, >= 0; the thesis has 0 or 1. A part of weight 0 is not computed.

    Attributes:
        parts: the unweighted parts of the last training batch by name, detached. What is computed without a gradient, such as a
            validation by the same loss, does not count.

    Raises:
        UserError: a negative weight, or two of 0.

    Source: methods/brain_autoencoder.md, section 6. The mix is ours.
    """

    def __init__(self, mse: float = 1.0, dssim: float = 0.0) -> None:
        weights = {"mse": float(mse), "dssim": float(dssim)}
        if any(not weight >= 0 for weight in weights.values()) or not any(weights.values()):
            raise UserError(f"ReconstructionLoss: got weights {weights}, expected numbers >= 0 and one at least above 0.")
        super().__init__(weights)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of a batch: a scalar, float32, of images in [0, 1], ``(B, C, *spatial)`` both.

        Raises:
            UserError: unequal shapes, or sides below SSIM's window where DSSIM counts.
        """
        if prediction.shape != target.shape:
            raise UserError(f"ReconstructionLoss: got shapes {tuple(prediction.shape)} and {tuple(target.shape)}, expected one shape.")
        parts = {}
        if "mse" in self.weights:
            parts["mse"] = mse_loss(prediction.float(), target.float())
        if "dssim" in self.weights:
            parts["dssim"] = dssim(prediction, target).mean()
        total = self.weighted(parts)
        if total.requires_grad:
            self.note(parts)
        return total
