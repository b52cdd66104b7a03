"""The diffusion baseline of the neonatal INR: noise a scan without chance, and denoise it towards another age.

MONAI's ``DiffusionInferer`` starts at chance and knows no guidance by a gradient; the steps in both directions are its scheduler's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler
from monai.networks.utils import eval_mode

from common.errors import UserError
from common.inferers.brain_at_age import LatentFitInferer
from common.inferers.latent_fit import Fit
from common.inferers.voxel_error import frozen

AtNoiseLevel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From images ``(B, 1, *grid)`` and timesteps ``(B,)`` to their noise, or to their scaled ages ``(B, 1)``."""


def guided_noise(noise: torch.Tensor, gradient: torch.Tensor, alpha_bar: float | torch.Tensor, scale: float) -> torch.Tensor:
    r"""The noise that a step takes away, turned so that a cost falls.

    .. math:: \hat\varepsilon = \varepsilon + s \sqrt{1 - \bar\alpha_t}\; \nabla_{x_t} c(x_t)

    Args:
        noise: predicted :math:`\varepsilon`, ``(B, 1, *grid)``.
        gradient: of the cost, shape of ``noise``.
        alpha_bar: :math:`\bar\alpha_t` in (0, 1].
        scale: s, >= 0.

    Source: Dhariwal and Nichol 2021, Algorithm 2, with :math:`c = -\log p`; Wolleb et al. 2022 (arXiv:2204.02641) put a squared
        difference in its place.
    """
    return noise + scale * (1 - alpha_bar) ** 0.5 * gradient


def age_gradient(regressor: AtNoiseLevel, x: torch.Tensor, timesteps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    r""":math:`\nabla_x (R(x_t, t) - v)^2`, each image by its own age.

    Args:
        regressor: R, to scaled ages ``(B, 1)``; images of a batch must not see each other.
        x: ``(B, 1, *grid)``.
        timesteps: ``(B,)``.
        targets: v, scaled ages ``(B,)``.

    Returns:
        Shape of ``x``.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        cost = (regressor(x, timesteps)[:, 0] - targets).square().sum()
        return torch.autograd.grad(cost, x)[0]


def check_steps(scheduler: DDIMScheduler, steps: int, stride: int) -> None:
    """Raise a UserError where a scheduler cannot walk to a timestep by strides."""
    total = scheduler.num_train_timesteps
    if not 1 <= stride <= steps < total or steps % stride or total % stride:
        raise UserError(
            f"noise_steps {steps}, stride {stride}: expected a stride that divides both noise_steps and the {total} timesteps of the "
            f"training, and noise_steps below {total}."
        )


def invert(denoiser: AtNoiseLevel, scheduler: DDIMScheduler, image: torch.Tensor, steps: int, stride: int = 1) -> torch.Tensor:
    r"""Noise images by what a denoiser sees in them, without chance: DDIM backwards, from timestep 0 to ``steps``.

    .. math:: x_{t + k} = \sqrt{\bar\alpha_{t + k}}\,\hat x_0(x_t) + \sqrt{1 - \bar\alpha_{t + k}}\;\varepsilon(x_t, t)

    Args:
        denoiser: :math:`\varepsilon`.
        scheduler: its schedule; the timesteps that it visits are set.
        image: :math:`x_0` in [-1, 1], ``(B, 1, *grid)``; taken for an image at timestep 0, whose noise has an SD of 0.01.
        steps: L, the last timestep.
        stride: k, timesteps per step; 1 is the paper.

    Returns:
        :math:`x_L`, shape of ``image``.

    Source: Wolleb et al. 2022 (arXiv:2204.02641); Bieder et al., PRIME-MICCAI 2024, Sec. 3: L = 600 of T = 1000.
    """
    check_steps(scheduler, steps, stride)
    scheduler.set_timesteps(scheduler.num_train_timesteps // stride)  # MONAI then moves by the stride
    x = image
    for t in range(0, steps, stride):
        x, _ = scheduler.reversed_step(denoiser(x, _times(x, t)), t, x)
    return x


def generate(
    denoiser: AtNoiseLevel,
    scheduler: DDIMScheduler,
    noised: torch.Tensor,
    steps: int,
    stride: int = 1,
    gradient: AtNoiseLevel | None = None,
    scale: float = 0.0,
) -> torch.Tensor:
    """Denoise by DDIM from timestep ``steps`` to 0, where :func:`invert` began, along a gradient.

    Args:
        denoiser: predicts the noise.
        scheduler: its schedule; the timesteps that it visits are set.
        noised: images at timestep ``steps``, ``(B, 1, *grid)``.
        steps: L.
        stride: timesteps per step.
        gradient: of the cost that shall fall, shape of the images; None is plain DDIM.
        scale: s of :func:`guided_noise`; 0 is plain DDIM.

    Returns:
        Images in about [-1, 1], shape of ``noised``.
    """
    check_steps(scheduler, steps, stride)
    scheduler.set_timesteps(scheduler.num_train_timesteps // stride)
    x = noised
    for t in range(steps, 0, -stride):
        noise = denoiser(x, _times(x, t))
        if gradient is not None and scale > 0:
            noise = guided_noise(noise, gradient(x, _times(x, t)), float(scheduler.alphas_cumprod[t]), scale)
        x, _ = scheduler.step(noise, t, x)
    return x


class AgeGuidanceInferer(LatentFitInferer):
    """Predictions of a batch of scans at other ages by guided denoising (DDM+GG); called as :class:`LatentFitInferer`.

    What is fitted is the noised scan, once for all ages: ``Fit.latent`` is the image at timestep L.

    Args:
        scheduler: of the training.
        steps: L, timesteps of noising and denoising.
        stride: timesteps per step; 1 is the paper.
        scale: s of the guidance; it belongs to ages in units of ``age_scale``.
        age_scale: weeks that are 1.

    Raises:
        UserError: steps and stride that the scheduler cannot walk.

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 3 and Table 1 (DDM+GG): T = 1000, L = 600, s = 3e5, both tuned on the test set.
        Deviation: the unit of the age is not stated there; 3e5 is taken to belong to the age that the coordinate network gets.
    """

    table_name = "ddm_gg"

    def __init__(self, scheduler: DDIMScheduler, steps: int = 600, stride: int = 1, scale: float = 3e5, age_scale: float = 100.0) -> None:
        super().__init__(age_scale=age_scale)
        check_steps(scheduler, int(steps), int(stride))
        self.method, self.scheduler = "ddm_gg", scheduler
        self.steps, self.stride, self.scale = int(steps), int(stride), float(scale)

    def fit(self, scan: torch.Tensor, network: Any, age_weeks: float = math.nan) -> Fit:
        """Noise one scan ``(1, *grid)`` in [0, 1]; without an age, the regressor's."""
        began, x = time.perf_counter(), 2 * scan[None].float() - 1
        with eval_mode(network), frozen(network):
            if math.isnan(age_weeks):
                age_weeks = float(network.regressor(x, _times(x, 0))) * self.age_scale
            noised = invert(network.denoiser, self.scheduler, x, self.steps, self.stride)
        evaluations = x.numel() * (self.steps // self.stride)
        return Fit(noised[0], age_weeks, math.nan, math.nan, evaluations, time.perf_counter() - began)

    def predict(self, fit: Fit, network: Any, ages_weeks: Sequence[float], grid: Sequence[int]) -> torch.Tensor:
        """A noised scan at a list of ages, ``(A, *grid)`` in [0, 1]."""
        targets = torch.tensor(ages_weeks, dtype=torch.float32, device=fit.latent.device) / self.age_scale

        def gradient(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return age_gradient(network.regressor, x, timesteps, targets)

        noised = fit.latent.expand(len(targets), 1, *grid)
        with eval_mode(network), frozen(network):
            x = generate(network.denoiser, self.scheduler, noised, self.steps, self.stride, gradient, self.scale)
        return ((x[:, 0] + 1) / 2).clamp(0, 1)


def _times(x: torch.Tensor, timestep: int) -> torch.Tensor:
    """One timestep for every image, ``(B,)``."""
    return torch.full((len(x),), timestep, device=x.device)
