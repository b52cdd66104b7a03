"""On Gaussian data the probability-flow trajectory is known exactly; the error must fall with the order of the solver."""

import math
from itertools import pairwise

import pytest
import torch

from common.inferers.accelerated_schedule import AcceleratedDDIMScheduler, half_log_snr
from common.inferers.dpm_solver import DPMSolverScheduler

MEAN, SD = 0.3, 0.5


def noise_in(x, a):
    """Best prediction of the noise when x0 ~ N(MEAN, SD^2)."""
    return (1 - a) ** 0.5 * (x - a**0.5 * MEAN) / (a * SD**2 + 1 - a)


def flow(x, a, b):
    """Exact trajectory: the standard score of x_t in its Gaussian, N(sqrt(a) MEAN, a SD^2 + 1 - a), stays the same."""
    score = (x - a**0.5 * MEAN) / (a * SD**2 + 1 - a) ** 0.5
    return b**0.5 * MEAN + (b * SD**2 + 1 - b) ** 0.5 * score


def solve(scheduler, steps, x, end=0):
    """Walk until timestep ``end`` is reached (-1: the end)."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps.tolist():
        if t == end:
            return x
        x, _ = scheduler.step(noise_in(x, scheduler.alpha_bar(t)), t, x)
    return x


def error(kind, steps, end=0, **kwargs):
    scheduler = kind(clip_sample=False, **kwargs)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    exact = flow(x, scheduler.alpha_bar(999), scheduler.alpha_bar(end))
    return float((solve(scheduler, steps, x, end) - exact).abs().max())


# 37, 111 and 333 divide 999, so that the steps are equal: three times as many each time
@pytest.mark.parametrize(("kind", "order", "room"), [(DPMSolverScheduler, 2, 0.35), (AcceleratedDDIMScheduler, 1, 0.25)])
def test_the_error_falls_with_the_order_of_the_solver(kind, order, room):
    errors = [error(kind, steps + 1, spacing="time") for steps in (111, 333, 999)]
    assert errors == sorted(errors, reverse=True)
    for coarse, fine in pairwise(errors):
        assert math.log(coarse / fine, 3) == pytest.approx(order, abs=room)


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_few_steps_are_better_than_as_many_of_ddim(steps):
    factor = 2 if steps == 5 else 7  # measured: 2.7, 8.6, 9.6, 25
    assert factor * error(DPMSolverScheduler, steps, end=-1) < error(AcceleratedDDIMScheduler, steps, end=-1)


def test_equal_steps_in_time_are_why_it_has_a_spacing_of_its_own():
    assert error(DPMSolverScheduler, 20, end=-1, spacing="time") > 10 * error(DPMSolverScheduler, 20, end=-1)


def test_the_whole_way_ends_at_the_exact_end():
    scheduler = DPMSolverScheduler(clip_sample=False)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    assert torch.allclose(solve(scheduler, 50, x, end=-1), flow(x, scheduler.alpha_bar(999), 1.0), atol=3e-3)


def test_the_first_and_the_last_step_are_those_of_ddim():
    ddim, solver = AcceleratedDDIMScheduler(), DPMSolverScheduler(spacing="time")
    x, output = torch.full((1, 1), 0.4), torch.full((1, 1), 0.9)
    for scheduler in (ddim, solver):
        scheduler.set_timesteps(20)
    assert torch.allclose(solver.step(output, 999, x)[0], ddim.step(output, 999, x)[0], atol=1e-6)
    last = [scheduler.step(output, 0, x) for scheduler in (ddim, solver)]
    assert torch.equal(last[1][0], last[1][1])
    assert torch.allclose(last[0][0], last[1][0])


def test_the_second_step_extrapolates_as_written():
    solver = DPMSolverScheduler(spacing="time", clip_sample=False, prediction_type="sample")
    solver.set_timesteps(4)  # 999, 666, 333, 0
    x, _ = solver.step(torch.tensor([0.2]), 999, torch.tensor([1.0]))
    moved, x0 = solver.step(torch.tensor([0.6]), 666, x)
    r, t, s = (half_log_snr(solver.alpha_bar(step)) for step in (999, 666, 333))
    a, b = solver.alpha_bar(666), solver.alpha_bar(333)
    target = 0.6 + (s - t) / (2 * (t - r)) * (0.6 - 0.2)
    assert x0.item() == pytest.approx(0.6)
    assert moved.item() == pytest.approx(((1 - b) / (1 - a)) ** 0.5 * x.item() + b**0.5 * (1 - math.exp(t - s)) * target, rel=1e-6)


def test_a_sample_knows_nothing_of_the_one_before_even_of_a_broken_one():
    x = torch.full((1, 1), 0.7, dtype=torch.float64)
    fresh = solve(DPMSolverScheduler(), 20, x, end=-1)
    used = DPMSolverScheduler()
    used.set_timesteps(20)
    used.step(torch.full((1, 1), 5.0), 999, -x)
    for t in used.timesteps.tolist():
        x, _ = used.step(noise_in(x, used.alpha_bar(t)), t, x)
    assert torch.equal(x, fresh)
    assert used.last is None


def test_clipping_holds_the_estimate_in_its_range():
    scheduler = DPMSolverScheduler()
    scheduler.set_timesteps(1)
    end, x0 = scheduler.step(torch.zeros(1, 1), 999, torch.full((1, 1), 3.0))
    assert end.item() == x0.item() == 1
