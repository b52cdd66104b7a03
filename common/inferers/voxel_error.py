"""The error of one scan on sampled voxels as a function of latent and age, with its whole Jacobian from one backward pass.

``torch.func.jacrev`` and ``jacfwd`` would take a pass per voxel or per number of the latent; they do not know how it enters the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.inferers.voxel_sampling import grid_index, scan_points
from common.networks.wire_inr import WireINR


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within it no parameter asks for a gradient, gradients of other tensors are on, and lower precision is off (a bf16 gradient of this
    network is 24 % wrong); afterwards all is as before."""
    asked = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    device = next(iter(network.parameters())).device.type
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)


def psnr_of(values: torch.Tensor, target: torch.Tensor) -> float:
    """PSNR in dB of predictions clipped to [0, 1], data range 1; 120 dB at most."""
    return float(-10 * torch.log10((values.clamp(0, 1) - target).square().mean().clamp_min(1e-12)))


class VoxelError:
    r"""Residuals of one scan on given voxels, as a function of the latent and the age.

    .. math:: r_i(l, t) = f(t, x_i, l) - I(x_i), \qquad
        \frac{\partial r_i}{\partial l} = \Big(\frac{\partial f}{\partial z}\Big)_i^\top \frac{\partial z}{\partial l}

    The latent enters the network by its first pre-activation z alone, and linearly; voxels do not see each other. So one backward pass of
    :math:`\sum_i f_i` with respect to z gives the whole Jacobian; the age enters the same way, so its column costs nothing.

    Args:
        inr: the network, frozen by the caller.
        image: ``(*grid)`` in [0, 1].
        flat: numbers of the voxels in the flattened image, ``(N,)``.
        age_scale: weeks that are t = 1.
    """

    def __init__(self, inr: WireINR, image: torch.Tensor, flat: torch.Tensor, age_scale: float) -> None:
        self.inr, self.age_scale = inr, age_scale
        self.points = scan_points(grid_index(flat, image.shape), image.shape, 0.0)
        self.target = image.reshape(-1)[flat].float()

    def __len__(self) -> int:
        return len(self.target)

    def values(self, latent: torch.Tensor, age_weeks: float) -> torch.Tensor:
        """Predicted intensities, ``(N,)``; differentiable with respect to the latent ``(L,)``."""
        return self.inr(self._at(age_weeks)[None], latent[None])[0, :, 0]

    def psnr(self, latent: torch.Tensor, age_weeks: float) -> float:
        """PSNR in dB, see :func:`psnr_of`."""
        with torch.no_grad():
            return psnr_of(self.values(latent, age_weeks), self.target)

    def linearise(self, latent: torch.Tensor, age_weeks: float) -> Linearised:
        """Residuals, and what gives their derivatives where they are wanted."""
        z = self.inr.first_preactivation(self._at(age_weeks)[None], latent[None]).detach().requires_grad_()
        values = self.inr.from_first(z)[0, :, 0]
        return Linearised(self.inr, z, values, (values - self.target).detach())

    def _at(self, age_weeks: float) -> torch.Tensor:
        points = self.points.clone()
        points[:, 0] = age_weeks / self.age_scale
        return points


class Linearised:
    """The graph of one forward pass: ``residual`` ``(N,)``, ``error`` their mean square, and the Jacobian when it is asked for."""

    def __init__(self, inr: WireINR, z: torch.Tensor, values: torch.Tensor, residual: torch.Tensor) -> None:
        self._inr, self._z, self._values = inr, z, values
        self.residual, self.error = residual, float(residual.square().mean())

    def jacobian(self, with_age: bool = False) -> torch.Tensor:
        """Derivatives of the predicted intensities with respect to the latent, ``(N, L)``, and in one more column to t; once only."""
        (by_z,) = torch.autograd.grad(self._values.sum(), self._z)
        weights = [self._inr.latent_weight, self._inr.age_weight[:, None]]
        return by_z[0] @ torch.cat(weights[: 1 + with_age], dim=1)
