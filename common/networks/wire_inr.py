"""A coordinate network with real WIRE activations that gives the intensity of one brain at a point of space and age.

MONAI has no implicit neural representation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from common.errors import UserError

SIREN_FACTOR = 30.0
MAPS = {"wire": 2, "siren": 1, "relu": 1}
"""Linear maps that an activation takes."""
HEADS = (*MAPS, "linear")
RESIDUALS = ("full", "skip2", "none")
ENCODINGS = (None, "fourier", "gaussian")


class _Wire(torch.autograd.Function):
    """:func:`wire` with its derivative written out: no temporary that autograd would keep, one gradient for both maps."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, omega: float, sigma: float) -> torch.Tensor:
        a, b = z.chunk(2, dim=-1)
        envelope = (sigma * b).square_().neg_().exp_()
        y = (omega * a).cos_().mul_(envelope)
        ctx.omega, ctx.sigma = omega, sigma
        ctx.save_for_backward(z, envelope, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        z, envelope, y = ctx.saved_tensors
        (a, b), both = z.chunk(2, dim=-1), torch.empty_like(z)
        to_a, to_b = both.chunk(2, dim=-1)
        torch.mul((ctx.omega * a).sin_().mul_(envelope), grads[0], out=to_a).mul_(-ctx.omega)
        torch.mul(b, y, out=to_b).mul_(grads[0]).mul_(-2 * ctx.sigma**2)
        return both, None, None


def wire(z: torch.Tensor, omega: float = 10.0, sigma: float = 10.0) -> torch.Tensor:
    r"""Real Gabor wavelet of two linear maps: :math:`\cos(\omega a)\,\exp(-(\sigma b)^2)`.

    Args:
        z: both maps side by side, :math:`[a\,|\,b]`, ``(..., 2 * C)``, float.
        omega: frequency of the cosine, > 0.
        sigma: inverse width of the Gaussian, > 0.

    Returns:
        ``(..., C)`` in [-1, 1].

    Source: Neonatal INR, Sec. 2.1, after WIRE (Saragadam et al., 2023), real form; both factors 10 as in the released code.
    """
    if not torch.compiler.is_compiling():  # a compiler fuses the plain formula better
        return _Wire.apply(z, omega, sigma)
    a, b = z.chunk(2, dim=-1)
    return torch.cos(omega * a) * torch.exp(-(sigma * b).square())


def encode_position(space: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    r"""Append Fourier features: :math:`[x, \sin(x F), \cos(x F)]`.

    Args:
        space: coordinates :math:`x`, ``(..., D)``.
        frequencies: :math:`F`, ``(D, K)``, in radians per unit of the coordinates.

    Returns:
        ``(..., D + 2 * K)``.
    """
    phase = space @ frequencies
    return torch.cat([space, phase.sin(), phase.cos()], dim=-1)


def draw_frequencies(encoding: str, dims: int, count: int, spread: float) -> torch.Tensor:
    r"""Frequencies of a positional encoding, ``(dims, K)``.

    Args:
        encoding: "fourier", :math:`2^i \pi` per axis with :math:`i < count` (NeRF), or "gaussian", :math:`2 \pi` times a normal matrix.
        dims: axes of space.
        count: per axis for "fourier", in all for "gaussian".
        spread: standard deviation of "gaussian", in cycles per unit of the coordinates.
    """
    if encoding == "fourier":
        return torch.kron(torch.eye(dims), math.pi * 2.0 ** torch.arange(count)[None])
    fixed = torch.Generator().manual_seed(0)  # the same for all members of an ensemble
    return 2 * math.pi * spread * torch.randn(dims, count, generator=fixed)


class WireINR(nn.Module):
    r"""Intensity :math:`f(t, x, l)` at age :math:`t` and place :math:`x` of the brain that the latent :math:`l` names.

    Every layer is an activation of linear maps; the hidden ones are averaged with their input, :math:`(f(h) + h) / 2`.
    The latent is the same at all points of an image, so it acts as a shift of the first layer's bias, :math:`W_l l + b`,
    computed once per image instead of once per voxel. The two maps of a WIRE layer are one matrix, :math:`[a\,|\,b]`.

    Args:
        dims: axes of space, 2 or 3.
        latent_size: numbers in a latent.
        width: features per layer.
        layers: layers in all, first and last included, at least 2.
        activation: "wire" (real), "siren" (sine with factor 30) or "relu".
        scales: the factors :math:`\omega, \sigma` of :func:`wire`.
        residual: "full" (every hidden layer is averaged with its input), "skip2" (every second one) or "none".
        head: the last layer: "wire" (as in the paper; the output lies in [-1, 1]), "siren", "relu" or "linear".
        outputs: intensities per point.
        encoding: None (the paper), "fourier" or "gaussian": features of the place, see :func:`encode_position`. Age is never encoded, so
            that the first layer stays linear in it.
        frequencies: see :func:`draw_frequencies`.
        spread: see :func:`draw_frequencies`.
        label_classes: logits that a linear layer adds behind the intensities; 0 leaves it out.

    Raises:
        UserError: a choice that does not exist, or too few layers.

    Source: Neonatal INR, Sec. 2.1; sizes and the averaged residual as in the released code. 232,450 parameters in 3D, 232,194 in 2D.
    Deviation: the label head is the authors' future work; "skip2" averages the third, fifth, ... layer, as the released code does.
    """

    frequencies: torch.Tensor | None

    def __init__(
        self,
        dims: int = 3,
        latent_size: int = 128,
        width: int = 128,
        layers: int = 8,
        activation: str = "wire",
        scales: tuple[float, float] = (10.0, 10.0),
        residual: str = "full",
        head: str = "wire",
        outputs: int = 1,
        encoding: str | None = None,
        frequencies: int = 6,
        spread: float = 4.0,
        label_classes: int = 0,
    ) -> None:
        super().__init__()
        _check_choices(
            activation=(activation, tuple(MAPS)), residual=(residual, RESIDUALS), head=(head, HEADS), encoding=(encoding, ENCODINGS)
        )
        if layers < 2:
            raise UserError(f"layers: got {layers}; expected at least 2, the first and the last.")
        self.dims, self.latent_size, self.activation, self.residual, self.head_kind = dims, latent_size, activation, residual, head
        self.scales = (float(scales[0]), float(scales[1]))
        drawn = None if encoding is None else draw_frequencies(encoding, dims, frequencies, spread)
        self.register_buffer("frequencies", drawn)
        self.places = 1 + dims + (0 if drawn is None else 2 * drawn.shape[1])
        maps = MAPS[activation]
        self.first = nn.Linear(self.places + latent_size, maps * width)
        self.hidden = nn.ModuleList(nn.Linear(width, maps * width) for _ in range(layers - 2))
        self.head = nn.Linear(width, MAPS.get(head, 1) * outputs)
        self.labels = nn.Linear(width, label_classes) if label_classes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights: torch's default (the same for two maps in one matrix as for two matrices), or SIREN's."""
        for layer in [self.first, *self.hidden, self.head] + ([] if self.labels is None else [self.labels]):
            assert isinstance(layer, nn.Linear)
            layer.reset_parameters()
            kind = self.head_kind if layer is self.head else self.activation
            if kind == "siren" and layer is not self.labels:
                bound = math.sqrt(6 / layer.in_features) / SIREN_FACTOR
                nn.init.uniform_(layer.weight, -bound, bound)

    @property
    def latent_weight(self) -> torch.Tensor:
        """Derivative of the first pre-activation with respect to the latent, ``(maps * width, latent_size)``."""
        return self.first.weight[:, self.places :]

    @property
    def age_weight(self) -> torch.Tensor:
        """Derivative of the first pre-activation with respect to the age, ``(maps * width,)``."""
        return self.first.weight[:, 0]

    def first_preactivation(self, points: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        r"""The first layer before its activation, :math:`z = W_p p + (W_l l + b)`: linear in latent and age.

        Args:
            points: age and place, ``(B, N, 1 + dims)``: ``(t, x, y[, z])`` with :math:`t` = weeks / 100 and coordinates in [-0.5, 0.5].
            latents: ``(B, latent_size)``.

        Returns:
            ``(B, N, 2 * width)`` for WIRE, ``(B, N, width)`` otherwise.
        """
        if self.frequencies is not None:
            points = torch.cat([points[..., :1], encode_position(points[..., 1:], self.frequencies)], dim=-1)
        shift = linear(latents, self.latent_weight, self.first.bias)
        weight = self.first.weight[:, : self.places].t()
        return torch.baddbmm(shift[:, None], points, weight.expand(points.shape[0], -1, -1))

    def from_first(self, z: torch.Tensor) -> torch.Tensor:
        """All that follows the first pre-activation ``z``, see :meth:`first_preactivation`; returns ``(B, N, outputs + label_classes)``."""
        h = self._activate(z, self.activation)
        for number, layer in enumerate(self.hidden, start=1):
            change = self._activate(layer(h), self.activation)
            averaged = self.residual == "full" or (self.residual == "skip2" and number % 2 == 0)
            h = (change + h) / 2 if averaged else change
        y = self._activate(self.head(h), self.head_kind)
        return y if self.labels is None else torch.cat([y, self.labels(h)], dim=-1)

    def forward(self, points: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Intensities, then label logits, ``(B, N, outputs + label_classes)``; see :meth:`first_preactivation` for the arguments."""
        return self.from_first(self.first_preactivation(points, latents))

    def _activate(self, z: torch.Tensor, kind: str) -> torch.Tensor:
        if kind == "wire":
            return wire(z, *self.scales)
        if kind == "siren":
            return torch.sin(SIREN_FACTOR * z)
        return torch.relu(z) if kind == "relu" else z


def _check_choices(**chosen: tuple[Any, tuple[Any, ...]]) -> None:
    for name, (value, choices) in chosen.items():
        if value not in choices:
            raise UserError(f"{name}: got {value!r}; expected one of {', '.join(map(repr, choices))}.")
