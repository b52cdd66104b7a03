"""Noise process and sampler by name."""

import pytest
import torch
from monai.networks.schedulers import RFlowScheduler

from common.errors import UserError
from common.inferers.accelerated_schedule import AcceleratedDDIMScheduler
from common.inferers.dpm_solver import DPMSolverScheduler
from common.inferers.mask_scheduler import mask_scheduler


def test_the_default_is_the_schedule_of_the_released_code():
    scheduler = mask_scheduler()
    assert type(scheduler) is AcceleratedDDIMScheduler and scheduler.eta == 0
    # the cumulative product of 1 - beta over linspace(1e-4, 0.02, 1000)
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert scheduler.alpha_bars[0] == pytest.approx(0.9999) and scheduler.alpha_bars[-1] == pytest.approx(4.04e-5, rel=1e-2)
    assert scheduler.alpha_bars[500] == pytest.approx(float(bars[500]), rel=1e-4)
    assert scheduler.alpha_bar(-1) == 1


@pytest.mark.parametrize(("sampler", "kind", "eta"), [("ancestral", AcceleratedDDIMScheduler, 1), ("dpm_solver", DPMSolverScheduler, 0)])
def test_samplers_differ_and_noise_alike(sampler, kind, eta):
    scheduler, x, noise, t = mask_scheduler(sampler=sampler), torch.rand(1, 1, 2, 2, 2), torch.rand(1, 1, 2, 2, 2), torch.tensor([300])
    assert type(scheduler) is kind and scheduler.eta == eta
    assert torch.equal(scheduler.add_noise(x, noise, t), mask_scheduler().add_noise(x, noise, t))


def test_flow_goes_straight_from_mask_to_noise():
    scheduler = mask_scheduler("flow")
    assert isinstance(scheduler, RFlowScheduler)
    x, noise = torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    assert scheduler.add_noise(x, noise, torch.tensor([250])).unique().tolist() == [0.25]


def test_the_released_last_step_is_an_option():
    assert mask_scheduler(full_last_step=False).alpha_bar(-1) == pytest.approx(0.9999)


@pytest.mark.parametrize("wrong", [{"process": "walk"}, {"sampler": "euler"}])
def test_other_names_are_refused_with_those_there_are(wrong):
    with pytest.raises(UserError, match=r"expected one of \('diffusion', 'flow'\) and one of \('ddim', 'ancestral', 'dpm_solver'\)"):
        mask_scheduler(**wrong)
