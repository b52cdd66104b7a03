"""The noise process and its sampler by name, which weights record; MONAI's schedulers are classes with arguments of their own."""

from __future__ import annotations

from typing import Any

from monai.networks.schedulers import RFlowScheduler, Scheduler

from common.errors import UserError
from common.inferers.accelerated_schedule import AcceleratedDDIMScheduler
from common.inferers.dpm_solver import DPMSolverScheduler

PROCESSES = ("diffusion", "flow")
SAMPLERS = ("ddim", "ancestral", "dpm_solver")


def mask_scheduler(
    process: str = "diffusion",
    sampler: str = "ddim",
    timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    prediction: str = "epsilon",
    full_last_step: bool = True,
) -> Scheduler:
    """Scheduler of training and sampling.

    Args:
        process: ``diffusion`` (the paper) or ``flow``: rectified flow by MONAI's ``RFlowScheduler``, whose target is the velocity; of the
            other arguments it takes ``timesteps`` alone.
        sampler: ``ddim`` (the paper), ``ancestral`` (DDPM's posterior, eta 1) or ``dpm_solver`` (second order, for few steps). Weights do
            not depend on it.
        timesteps: of the training, T.
        beta_start: first of the linear betas.
        beta_end: last of them.
        prediction: what the network predicts: ``epsilon`` (the paper), ``sample`` or ``v_prediction``.
        full_last_step: the last step ends at alpha-bar 1; False ends at 0.9999, as the released code does.

    Raises:
        UserError: another process or sampler.

    Source: PatchDDM, Sec. 2.1 and 3: T = 1000, linear betas. Deviation: the paper prints them from 0.02 to 1e-4, reversed. x0 is
        clamped to [-1, 1] as in the released code, also where the mask lives in {0, 1}.
    """
    if process not in PROCESSES or sampler not in SAMPLERS:
        raise UserError(f"got process '{process}' and sampler '{sampler}'; expected one of {PROCESSES} and one of {SAMPLERS}.")
    if process == "flow":
        return RFlowScheduler(num_train_timesteps=timesteps, use_discrete_timesteps=True)
    numbers: dict[str, Any] = {"num_train_timesteps": timesteps, "schedule": "linear_beta", "beta_start": beta_start, "beta_end": beta_end}
    numbers |= {"clip_sample": True, "prediction_type": prediction, "set_alpha_to_one": full_last_step}
    if sampler == "dpm_solver":
        return DPMSolverScheduler(**numbers)
    return AcceleratedDDIMScheduler(eta=1.0 if sampler == "ancestral" else 0.0, **numbers)
