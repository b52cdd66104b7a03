"""DDIM between the timesteps that are really visited, for any number of steps.

MONAI's ``DDIMScheduler`` visits the right timesteps, but moves by ``1000 // S`` from each of them: with 10 steps from 999 to 899, where
the network is then told 888; with 2 steps to 499, which it takes for 0. It also keeps the predicted noise where x0 was clipped, and its
``DDPMScheduler`` always moves by one timestep. Timesteps, betas, noising and the prediction types are MONAI's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler

from common.errors import UserError

SPACINGS = ("time", "log_snr")


def half_log_snr(alpha_bar: float) -> float:
    r""":math:`\lambda = \tfrac12 \log \frac{\bar\alpha}{1 - \bar\alpha}`; infinite at the end, where :math:`\bar\alpha = 1`."""
    return math.inf if alpha_bar >= 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))


class AcceleratedDDIMScheduler(DDIMScheduler):
    r"""DDIM and, with :math:`\eta = 1`, ancestral (DDPM) sampling in S steps.

    With :math:`s` the timestep that follows :math:`t` among the visited ones (``linspace(999, 0, S)`` rounded, then the end, where
    :math:`\bar\alpha_s = 1`), and :math:`\hat\varepsilon` taken anew from the clipped :math:`\hat x_0`:

    .. math::
        \hat\varepsilon = \frac{x_t - \sqrt{\bar\alpha_t}\,\hat x_0}{\sqrt{1 - \bar\alpha_t}}, \quad
        \sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \Big(1 - \frac{\bar\alpha_t}{\bar\alpha_s}\Big)}, \quad
        x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\,\hat\varepsilon + \sigma z

    Args:
        spacing: ``time`` visits timesteps at equal distances (the paper), ``log_snr`` those nearest to equal distances in
            :math:`\lambda`, each once, so that there may be fewer of them than asked for.
        eta: :math:`\eta` in [0, 1]; 0 is deterministic (the paper), 1 is DDPM's posterior.
        kwargs: those of MONAI's ``DDIMScheduler``: ``num_train_timesteps``, ``schedule``, ``beta_start``, ``beta_end``, ``clip_sample``,
            ``clip_sample_min``, ``clip_sample_max``, ``prediction_type``, ``set_alpha_to_one``.

    Source: Song et al. 2021 (DDIM), Eq. 12 and 16; PatchDDM, Sec. 5 (betas 1e-4 to 0.02 over 1000 timesteps, which the paper prints
        reversed). Deviation: the last step ends at :math:`\bar\alpha = 1`; the released code ends at 0.9999, so that 1 % of the noise
        stays (``set_alpha_to_one=False`` for that), and fails at one step.
    """

    spacing = "time"  # while MONAI's constructor runs

    def __init__(self, spacing: str = "time", eta: float = 0.0, **kwargs: Any) -> None:
        if not 0 <= eta <= 1:
            raise UserError(f"eta: got {eta}, expected a number from 0 (DDIM) to 1 (ancestral sampling).")
        if spacing not in SPACINGS:
            raise UserError(f"spacing: got {spacing!r}, expected one of {SPACINGS}.")
        super().__init__(**kwargs)
        self.spacing, self.eta = spacing, eta
        # in float64: near t = 0 the float32 table loses digits of 1 - alpha_bar
        self.alpha_bars: list[float] = torch.cumprod(1.0 - self.betas.double(), dim=0).tolist()

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the timesteps that are visited.

        Args:
            num_inference_steps: S, 1 to the number of training timesteps.
            device: where ``timesteps`` lies.

        Raises:
            UserError: S out of this range.
        """
        if not 1 <= num_inference_steps <= self.num_train_timesteps:
            raise UserError(f"steps: got {num_inference_steps}, expected 1 to {self.num_train_timesteps}, the timesteps of the training.")
        super().set_timesteps(num_inference_steps, device)
        if self.spacing == "log_snr":
            levels = torch.tensor([half_log_snr(a) for a in self.alpha_bars], dtype=torch.float64)
            wanted = torch.linspace(float(levels[-1]), float(levels[0]), num_inference_steps, dtype=torch.float64)
            nearest = (levels - wanted[:, None]).abs().argmin(dim=1)
            self.timesteps = nearest.unique().flip(0).to(self.timesteps.device)
        visited = self.timesteps.tolist()
        self.following = dict(zip(visited, [*visited[1:], -1], strict=True))

    def next_timestep(self, timestep: int) -> int:
        """The timestep visited after this one, -1 for the end.

        Raises:
            UserError: this timestep is not visited.
        """
        if timestep not in self.following:
            raise UserError(f"timestep: got {timestep}, which is not among the {len(self.following)} of set_timesteps.")
        return self.following[timestep]

    def alpha_bar(self, timestep: int) -> float:
        r""":math:`\bar\alpha_t`, in (0, 1]; a negative timestep is the end."""
        return self.alpha_bars[timestep] if timestep >= 0 else float(self.final_alpha_cumprod)

    def estimate(self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Clipped :math:`\hat x_0` and the noise :math:`\hat\varepsilon` that goes with it.

        Args:
            model_output: what the network predicts by ``prediction_type``, ``(B, K, *spatial)``.
            timestep: t.
            sample: :math:`x_t`, shape of ``model_output``.
        """
        signal, noise = self.alpha_bar(timestep) ** 0.5, (1 - self.alpha_bar(timestep)) ** 0.5
        if self.prediction_type == "epsilon":
            x0 = (sample - noise * model_output) / signal
        elif self.prediction_type == "sample":
            x0 = model_output
        else:
            x0 = signal * sample - noise * model_output
        if self.clip_sample:
            x0 = x0.clamp(*self.clip_sample_values)
        return x0, (sample - signal * x0) / noise

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        eta: float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move to the next visited timestep.

        Args:
            model_output: the network's prediction, ``(B, K, *spatial)``.
            timestep: t, one of ``timesteps``.
            sample: :math:`x_t`, shape of ``model_output``.
            eta: in place of the constructor's.
            generator: source of z, on the device of the sample.

        Returns:
            :math:`x_s` and :math:`\\hat x_0`, shape of ``sample``.
        """
        following = self.next_timestep(int(timestep))
        a, b = self.alpha_bar(int(timestep)), self.alpha_bar(following)
        x0, epsilon = self.estimate(model_output, int(timestep), sample)
        eta = self.eta if eta is None else eta
        sigma = eta * ((1 - b) / (1 - a) * max(1 - a / b, 0.0)) ** 0.5
        moved = b**0.5 * x0 + max(1 - b - sigma**2, 0.0) ** 0.5 * epsilon
        if sigma > 0:
            moved += sigma * torch.randn(sample.shape, dtype=sample.dtype, device=sample.device, generator=generator)
        return moved, x0
