"""Any number of steps must end where the model says, and 1000 steps must be MONAI's own DDIM and DDPM."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from common.errors import UserError
from common.inferers.accelerated_schedule import AcceleratedDDIMScheduler, half_log_snr

SHAPE = (1, 1, 3, 4, 5)


def normal(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(scheduler, steps, predict, seed=0, shape=SHAPE, **kwargs):
    """From noise to the end by a model ``predict(x_t, alpha_bar)``."""
    scheduler.set_timesteps(steps)
    x = normal(seed, shape)
    for t in scheduler.timesteps.tolist():
        x, _ = scheduler.step(predict(x, float(scheduler.alphas_cumprod[t])), t, x, **kwargs)
    return x


def knows(x0):
    """A perfect model of one known mask: the noise that leads from it to x_t."""
    return lambda x, a: (x - a**0.5 * x0) / (1 - a) ** 0.5


def a_model(x, a):
    return 0.4 * x.sin() + 0.2


def test_the_betas_are_those_of_the_released_code():
    scheduler = AcceleratedDDIMScheduler(schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    assert scheduler.alpha_bar(0) == pytest.approx(0.9999, abs=1e-8)
    assert scheduler.alpha_bar(999) == pytest.approx(4.04e-5, rel=2e-3)
    assert scheduler.alpha_bar(-1) == 1
    assert scheduler.alpha_bars == pytest.approx(scheduler.alphas_cumprod.tolist(), rel=2e-5)


@given(st.integers(1, 1000))
@settings(deadline=None, max_examples=40)
def test_the_timesteps_fall_from_999_to_0_and_end_behind_it(steps):
    scheduler = AcceleratedDDIMScheduler()
    scheduler.set_timesteps(steps)
    visited = scheduler.timesteps.tolist()
    assert len(set(visited)) == steps
    assert visited == sorted(visited, reverse=True)
    assert visited[0] == 999
    assert visited[-1] == (0 if steps > 1 else 999)
    assert [scheduler.next_timestep(t) for t in visited] == [*visited[1:], -1]


def test_spacing_by_log_snr_takes_steps_of_equal_height():
    scheduler = AcceleratedDDIMScheduler(spacing="log_snr")
    scheduler.set_timesteps(12)
    visited = scheduler.timesteps.tolist()
    assert visited[0] == 999
    assert visited[-1] == 0
    assert visited == sorted(set(visited), reverse=True)
    heights = torch.tensor([half_log_snr(scheduler.alpha_bar(t)) for t in visited]).diff()
    assert heights.mean() == pytest.approx((4.605 + 5.059) / 11, abs=0.01)  # ln(0.9999 / 1e-4) / 2 and ln(4.04e-5) / 2
    assert (heights / heights.mean() - 1).abs().max() < 0.5, "near 0 two neighbours are 0.56 apart"


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 600, 1000])
def test_a_known_mask_is_reached_in_any_number_of_steps(steps):
    mask = (normal(1) > 0).double()
    assert torch.allclose(sample(AcceleratedDDIMScheduler(), steps, knows(mask)), mask, atol=1e-4)


@pytest.mark.parametrize(("steps", "error"), [(2, 0.1), (10, 0.05)])
def test_monai_steps_past_its_own_timesteps(steps, error):
    """Why theirs does not do: every step of a perfect model leaves the trajectory. When this fails, theirs has been mended."""
    predicted = sample(DDIMScheduler(clip_sample=False), steps, lambda x, a: a_model(x, a))
    ours = sample(AcceleratedDDIMScheduler(clip_sample=False), steps, lambda x, a: a_model(x, a))
    assert float((predicted - ours).abs().max()) > error


def test_a_thousand_steps_without_clipping_are_monais_ddim():
    ours = sample(AcceleratedDDIMScheduler(clip_sample=False), 1000, a_model)
    assert torch.allclose(ours, sample(DDIMScheduler(clip_sample=False), 1000, a_model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("clip", [False, True])
def test_a_thousand_ancestral_steps_are_monais_ddpm(clip):
    ours, theirs = AcceleratedDDIMScheduler(eta=1.0, clip_sample=clip), DDPMScheduler(clip_sample=clip)
    ours.set_timesteps(1000)
    for t in (999, 700, 300, 50, 1, 0):
        x = normal(t) * 2  # large enough to be clipped
        a, x0 = ours.step(a_model(x, 0), t, x, generator=torch.Generator().manual_seed(t))
        b, x0_b = theirs.step(a_model(x, 0), t, x, generator=torch.Generator().manual_seed(t))
        assert torch.allclose(x0, x0_b, rtol=1e-3, atol=1e-3)
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3), t  # theirs divides float32 numbers: 2e-4 at t = 0


def test_the_noise_of_a_clipped_estimate_is_taken_anew():
    scheduler = AcceleratedDDIMScheduler()
    scheduler.set_timesteps(1000)
    a, b = scheduler.alpha_bar(500), scheduler.alpha_bar(499)
    moved, x0 = scheduler.step(torch.zeros(1, 1), 500, torch.full((1, 1), 3.0))
    # x0 = 3 / sqrt(a) = 10.8 is clipped to 1; the rest of x_t is then noise: (3 - sqrt(a)) / sqrt(1 - a)
    assert x0.item() == 1
    assert moved.item() == pytest.approx(b**0.5 + (1 - b) ** 0.5 * (3 - a**0.5) / (1 - a) ** 0.5, abs=1e-6)


def test_the_last_step_keeps_no_noise_and_that_of_the_released_code_one_percent():
    x, noise = torch.full((1, 1), 0.5), torch.full((1, 1), 0.7)
    ours, released = AcceleratedDDIMScheduler(), AcceleratedDDIMScheduler(set_alpha_to_one=False)
    for scheduler in (ours, released):
        scheduler.set_timesteps(20)
    end, x0 = ours.step(noise, 0, x)
    assert torch.equal(end, x0)
    kept, x0 = released.step(noise, 0, x)
    assert (kept - 0.9999**0.5 * x0).item() == pytest.approx(0.01 * 0.7, rel=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_all_kinds_of_prediction_give_the_same_step(kind):
    scheduler = AcceleratedDDIMScheduler(prediction_type=kind)
    scheduler.set_timesteps(20)
    x0, noise, t = normal(0).clamp(-1, 1), normal(1), int(scheduler.timesteps[7])
    a = scheduler.alpha_bar(t)
    x = a**0.5 * x0 + (1 - a) ** 0.5 * noise
    output = {"epsilon": noise, "sample": x0, "v_prediction": a**0.5 * noise - (1 - a) ** 0.5 * x0}[kind]
    moved, found = scheduler.step(output, t, x)
    b = scheduler.alpha_bar(scheduler.next_timestep(t))
    assert torch.allclose(found, x0, atol=1e-6)
    assert torch.allclose(moved, b**0.5 * x0 + (1 - b) ** 0.5 * noise, atol=1e-6)


def test_ancestral_sampling_draws_from_the_distribution_that_the_model_knows():
    mean, sd = 0.3, 0.5  # the best prediction of the noise of x_t when x0 ~ N(mean, sd^2)
    scheduler = AcceleratedDDIMScheduler(eta=1.0, clip_sample=False)
    drawn = sample(
        scheduler,
        500,
        lambda x, a: (1 - a) ** 0.5 * (x - a**0.5 * mean) / (a * sd**2 + 1 - a),
        shape=(1, 20000),
        generator=torch.Generator().manual_seed(5),
    )
    assert drawn.mean().item() == pytest.approx(mean, abs=0.015)
    assert drawn.std().item() == pytest.approx(sd, rel=0.05)


def test_the_same_generator_walks_the_same_way_and_the_next_draw_differs():
    def walk(seed):
        return sample(AcceleratedDDIMScheduler(eta=1.0), 5, a_model, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(walk(1), walk(1))
    assert not torch.equal(walk(1), walk(2)), "the noise of the steps, not only the first one"


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: AcceleratedDDIMScheduler(spacing="log"), "spacing: got 'log', expected one of"),
        (lambda: AcceleratedDDIMScheduler(eta=2), "eta: got 2, expected a number from 0"),
        (lambda: AcceleratedDDIMScheduler().set_timesteps(0), "steps: got 0, expected 1 to 1000"),
        (lambda: AcceleratedDDIMScheduler().set_timesteps(1001), "steps: got 1001"),
        (lambda: AcceleratedDDIMScheduler().next_timestep(1000), "timestep: got 1000, which is not among the 1000"),
    ],
)
def test_mistakes_are_told(act, text):
    with pytest.raises(UserError, match=text):
        act()
