"""DPM-Solver++(2M), a second-order solver with one evaluation per step; MONAI's only multistep scheduler, PNDM, does not clip x0."""

from __future__ import annotations

import math
from typing import Any

import torch

from common.inferers.accelerated_schedule import AcceleratedDDIMScheduler, half_log_snr


class DPMSolverScheduler(AcceleratedDDIMScheduler):
    r"""Probability-flow ODE, solved exactly but for :math:`\hat x_0`, which is extrapolated linearly in :math:`\lambda`.

    With t the present, r the previous and s the next visited timestep, and :math:`h = \lambda_s - \lambda_t`:

    .. math::
        D = \hat x_0^t + \frac{h}{2 (\lambda_t - \lambda_r)} (\hat x_0^t - \hat x_0^r), \qquad
        x_s = \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}}\, x_t + \sqrt{\bar\alpha_s}\, (1 - e^{-h})\, D

    The first step and the last one, where h is infinite, take :math:`D = \hat x_0^t` (that is DDIM). The scheduler remembers
    :math:`\hat x_0` between two steps of one sample, so samples are drawn one after the other.

    Args:
        spacing: see ``AcceleratedDDIMScheduler``. Equal distances in time make the last steps far too long in :math:`\lambda` for an
            extrapolation: with 20 of them the solver is worse than DDIM, with 20 equal distances in :math:`\lambda` ten times better.
        kwargs: those of ``AcceleratedDDIMScheduler``; ``eta`` has no effect, the solver is deterministic.

    Source: Lu et al. 2022 (DPM-Solver++), Algorithm 2. Not in the paper, which names Heun's method as future work; Heun needs two
        evaluations per step.
    """

    def __init__(self, spacing: str = "log_snr", **kwargs: Any) -> None:
        super().__init__(spacing, **kwargs)
        self.last: tuple[int, torch.Tensor] | None = None

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """As ``AcceleratedDDIMScheduler``; forgets the sample before."""
        super().set_timesteps(num_inference_steps, device)
        self.last = None

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        eta: float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Move to the next visited timestep.

        Args:
            model_output: the network's prediction, ``(B, K, *spatial)``.
            timestep: t, one of ``timesteps``.
            sample: :math:`x_t`, shape of ``model_output``.
            eta: without effect.
            generator: without effect.

        Returns:
            :math:`x_s` and :math:`\hat x_0^t`, shape of ``sample``.
        """
        following = self.next_timestep(int(timestep))
        a, b = self.alpha_bar(int(timestep)), self.alpha_bar(following)
        h = half_log_snr(b) - half_log_snr(a)
        x0, _ = self.estimate(model_output, int(timestep), sample)
        target = x0
        # only the step before in the same sample counts; the first timestep follows none
        if self.last is not None and self.following.get(self.last[0]) == int(timestep) and math.isfinite(h):
            before = half_log_snr(a) - half_log_snr(self.alpha_bar(self.last[0]))
            target = x0 + h / (2 * before) * (x0 - self.last[1])
        self.last = (int(timestep), x0) if following >= 0 else None
        return ((1 - b) / (1 - a)) ** 0.5 * sample - b**0.5 * math.expm1(-h) * target, x0
