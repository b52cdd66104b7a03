"""Guided denoising: noising and denoising undo each other, the gradient is that of finite differences, and ages go where they shall."""

import math

import pytest
import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelEncoder, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler

from common.errors import UserError
from common.inferers.age_guidance import AgeGuidanceInferer, age_gradient, generate, guided_noise, invert
from common.inferers.noised_scans import NoisedScans, NoiseLevels
from common.inferers.voxel_sampling import VoxelBank
from common.networks.age_diffusion import AgeDiffusion
from common.training import reset_weights

GRID = (5, 7)
MEAN, SD = 0.3, 0.5


def a_scheduler(timesteps=1000, clip=False):
    return DDIMScheduler(num_train_timesteps=timesteps, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, clip_sample=clip)


def perfect(scheduler, mean=MEAN, sd=SD):
    """The best denoiser of voxels that are normal and independent: E[noise | x_t]."""

    def denoiser(x, timesteps):
        a = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * sd**2 + 1 - a)

    return denoiser


def images(count=3, seed=0):
    return MEAN + SD * torch.randn(count, 1, *GRID, generator=torch.Generator().manual_seed(seed))


def a_network(grid=GRID, heads=8):
    torch.manual_seed(0)
    settings = {"channels": (8, 16), "attention_levels": (False, True), "num_res_blocks": 1, "num_head_channels": heads}
    unet = DiffusionModelUNet(2, 1, 1, norm_num_groups=4, **settings)
    return AgeDiffusion(unet, DiffusionModelEncoder(2, 1, 1, input_shape=grid, norm_num_groups=4, **settings))


# --- the equations ----------------------------------------------------------------------------------------------


def test_noising_and_plain_denoising_give_the_image_back_under_a_perfect_denoiser_the_better_the_finer_the_steps():
    scheduler, errors = a_scheduler(), []
    for stride in (100, 20, 4, 1):
        noised = invert(perfect(scheduler), scheduler, images(), 600, stride)
        errors.append(float((generate(perfect(scheduler), scheduler, noised, 600, stride) - images()).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_of_a_single_image_noising_and_denoising_are_exact_in_any_steps():
    scheduler, image = a_scheduler(), images(1)
    denoiser = perfect(scheduler, mean=image, sd=0.0)
    other = image + 0.2
    noised = invert(denoiser, scheduler, other, 600, 200)
    torch.testing.assert_close(generate(denoiser, scheduler, noised, 600, 200), other, atol=1e-4, rtol=0)


def test_noising_takes_the_data_to_the_distribution_of_the_timestep():
    # the probability flow keeps quantiles: mean + z SD of the data goes to the same z at timestep L
    scheduler, z = a_scheduler(), torch.linspace(-2, 2, 5).reshape(5, 1, 1, 1)
    a = float(scheduler.alphas_cumprod[600])
    noised = invert(perfect(scheduler), scheduler, MEAN + SD * z, 600)
    torch.testing.assert_close(noised, a**0.5 * MEAN + math.sqrt(a * SD**2 + 1 - a) * z, atol=0.02, rtol=0)


def test_scale_0_is_plain_denoising_bit_for_bit():
    scheduler = a_scheduler()
    noised = invert(perfect(scheduler), scheduler, images(), 600, 100)
    plain = generate(perfect(scheduler), scheduler, noised, 600, 100)
    assert torch.equal(generate(perfect(scheduler), scheduler, noised, 600, 100, gradient=lambda x, t: x, scale=0.0), plain)
    noise = torch.rand(2, 1, *GRID)
    assert torch.equal(guided_noise(noise, torch.rand(2, 1, *GRID), 0.5, 0.0), noise)


def test_guided_noise_by_hand():
    found = guided_noise(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.5), 0.75, 10.0)
    assert float(found) == pytest.approx(2 + 10 * 0.5 * 0.5)
    assert float(guided_noise(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 1.0, 10.0)) == 1, "without noise there is nothing to turn"


def test_the_gradient_is_that_of_finite_differences_and_each_image_has_its_own_target():
    network = a_network().double().eval()
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x, times = torch.randn(2, 1, *GRID, dtype=torch.float64), torch.tensor([3, 500])
    targets = torch.tensor([0.3, 0.4], dtype=torch.float64)
    gradient = age_gradient(network.regressor, x, times, targets)
    torch.manual_seed(2)
    way, h = torch.randn_like(x), 1e-5
    with torch.no_grad():
        costs = [(network.regressor(x + sign * h * way, times)[:, 0] - targets).square() for sign in (1, -1)]
    along = (gradient * way).sum(dim=(1, 2, 3))
    assert bool((along.abs() > 1e-8).all())
    torch.testing.assert_close(along, (costs[0] - costs[1]) / (2 * h), rtol=1e-4, atol=1e-10)


def test_guidance_moves_the_age_to_its_target_from_both_sides_and_further_with_a_larger_scale():
    scheduler, regressor = a_scheduler(), lambda x, t: x.mean(dim=(1, 2, 3))[:, None]
    noised = invert(perfect(scheduler), scheduler, images(1), 600, 20)
    targets = torch.tensor([-0.5, 1.1])

    def gradient(x, timesteps):
        return age_gradient(regressor, x, timesteps, targets)

    means = [
        generate(perfect(scheduler), scheduler, noised.expand(2, -1, -1, -1), 600, 20, gradient, scale).mean(dim=(1, 2, 3))
        for scale in (0.0, 1.0, 4.0)
    ]
    assert means[0][0] == means[0][1]
    assert means[2][0] < means[1][0] < means[0][0] < means[1][1] < means[2][1]
    assert float((means[2] - targets).abs().max()) < float((means[0] - targets).abs().max())


@pytest.mark.parametrize(("steps", "stride"), [(1000, 1), (600, 7), (600, 16), (0, 1), (20, 40)])
def test_steps_that_cannot_be_walked_are_refused(steps, stride):
    with pytest.raises(UserError, match=f"noise_steps {steps}, stride {stride}: expected a stride that divides both"):
        AgeGuidanceInferer(a_scheduler(), steps, stride)


# --- networks and training steps --------------------------------------------------------------------------------


def test_the_denoiser_takes_sides_that_its_levels_cannot_halve():
    network = a_network().eval()
    torch.nn.init.normal_(network.denoiser.unet.out[-1].conv.weight)
    even, times = torch.randn(2, 1, 6, 8), torch.tensor([1, 9])
    even[:, :, 5:], even[:, :, :, 7:] = 0, 0
    found = network.denoiser(even[:, :, :5, :7], times)
    assert torch.equal(found, network.denoiser.unet(even, times)[:, :, :5, :7])
    assert network.regressor(even[:, :, :5, :7], times).shape == (2, 1)


def test_weights_drawn_anew_differ_and_predict_no_noise_at_first():
    network = a_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(5)
    reset_weights(network)
    after = network.state_dict()
    zeros = [key for key in before if key.endswith("weight") and not before[key].any()]
    assert len(zeros) > 3 and not any(after[key].any() for key in zeros)
    assert not torch.equal(before["regressor.encoder.conv_in.conv.weight"], after["regressor.encoder.conv_in.conv.weight"])
    assert not network.denoiser(torch.randn(1, 1, *GRID), torch.tensor([3])).any()


def a_bank(count=4):
    generator = torch.Generator().manual_seed(0)
    scans = [torch.rand(1, *GRID, generator=generator) for _ in range(count)]
    return VoxelBank(
        [
            {"image": scan, "brain": torch.ones_like(scan), "age": 30.0 + k, "subject": f"s{k}", "id": f"s{k}_1"}
            for k, scan in enumerate(scans)
        ]
    )


def test_a_training_step_noises_whole_scans_mirrored_or_not_and_asks_for_the_noise():
    bank, scheduler = a_bank(), a_scheduler()
    torch.manual_seed(0)
    x_t, noise, _, times = NoisedScans(bank, scheduler)({"index": torch.tensor([0, 3] * 20)})
    a = scheduler.alphas_cumprod[times["timesteps"]].reshape(-1, 1, 1, 1)
    shown = ((x_t - (1 - a).sqrt() * noise) / a.sqrt() + 1) / 2
    flips = 0
    for number, image in zip([0, 3] * 20, shown, strict=True):
        real = bank.scans[number].image.reshape(1, *GRID).float()
        mirrored = bool((image - real.flip(1)).abs().max() < (image - real).abs().max())
        torch.testing.assert_close(image, real.flip(1) if mirrored else real, atol=2e-2, rtol=0)
        flips += mirrored
    assert 8 < flips < 32 and len(set(times["timesteps"].tolist())) > 20


def test_or_for_the_scaled_age():
    step = NoisedScans(a_bank(), a_scheduler(), "age", flip_prob=0.0)
    x_t, ages, _, times = step({"index": torch.tensor([2, 0])})
    assert x_t.shape == (2, 1, *GRID) and times["timesteps"].shape == (2,)
    torch.testing.assert_close(ages, torch.tensor([[0.32], [0.30]]))


def test_another_target_is_refused():
    with pytest.raises(UserError, match="target: got 'sex', expected one of noise, age"):
        NoisedScans(a_bank(), a_scheduler(), "sex")


def test_validation_sees_the_same_noise_at_the_same_levels_each_time_whatever_was_drawn_before():
    scheduler = a_scheduler()
    step, batch = NoiseLevels(scheduler, levels=5, seed=3), {"image": (images(2).clamp(-1, 1).half() + 1) / 2}
    x_t, noise, _, times = step(batch)
    torch.rand(3)
    again = step(batch)
    assert torch.equal(x_t, again[0]) and torch.equal(noise, again[1])
    assert times["timesteps"].tolist() == [100, 300, 500, 700, 900] * 2
    a = scheduler.alphas_cumprod[times["timesteps"]].reshape(-1, 1, 1, 1)
    expected = (2 * batch["image"].float() - 1).repeat_interleave(5, dim=0)
    torch.testing.assert_close((x_t - (1 - a).sqrt() * noise) / a.sqrt(), expected, atol=1e-3, rtol=1e-3)
    better = perfect(scheduler)(x_t, times["timesteps"])
    assert (better - noise).square().mean() < noise.square().mean()


# --- the inferer ------------------------------------------------------------------------------------------------


class Perfect(torch.nn.Module):
    """A perfect denoiser, and a regressor that takes the mean in [0, 1] for the age; a parameter to look at."""

    def __init__(self, scheduler):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.denoiser = perfect(scheduler)

    def regressor(self, x, timesteps):
        return (x.mean(dim=(1, 2, 3))[:, None] + 1) / 2 + 0 * self.weight


def test_the_inferer_is_called_as_that_of_the_inr_and_leaves_the_network_as_it_was():
    scheduler = a_scheduler()
    network, inferer = Perfect(scheduler).train(), AgeGuidanceInferer(scheduler, 600, 20, scale=4.0)
    scans = ((images(2) + 1) / 2).clamp(0, 1).half()
    ages, targets = torch.tensor([30.0, 60.0]), torch.tensor([[40.0, 70.0, 90.0]] * 2)
    found = inferer(scans, network, ages, targets)
    assert found.shape == (2, 3, *GRID) and found.dtype == torch.float32
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    means = found.mean(dim=(2, 3))
    assert bool((means[:, 0] < means[:, 1]).all() and (means[:, 1] < means[:, 2]).all())
    assert network.training and network.weight.requires_grad and network.weight.grad is None
    assert [fit.age_weeks for fit in inferer.fits] == [30, 60]


def test_without_guidance_each_scan_comes_back_and_without_an_age_the_regressor_tells_it():
    scheduler = a_scheduler()
    inferer = AgeGuidanceInferer(scheduler, 600, 1, scale=0.0)
    scans = (images(2).clamp(-1, 1) + 1) / 2
    torch.testing.assert_close(inferer(scans, Perfect(scheduler))[:, 0], scans[:, 0], atol=0.01, rtol=0)
    expected = (100 * scans.mean(dim=(1, 2, 3))).tolist()
    assert [fit.age_weeks for fit in inferer.fits] == pytest.approx(expected, abs=1e-3)
