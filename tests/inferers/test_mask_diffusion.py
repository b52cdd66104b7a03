"""One training step: what is noised, by how much, in which order the network sees it, and what it is asked for."""

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedTrainer
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import nn

from common.errors import UserError
from common.inferers.mask_diffusion import MaskDiffusion, mask_channels, network_input

SIDES = (3, 4, 5)


def a_batch(size=2, coordinates=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(0, 4, (size, 1, *SIDES), generator=generator)]
    batch = {"image": torch.rand(size, 4, *SIDES, generator=generator), "label": labels}
    return batch | ({"coordinates": torch.rand(size, 3, *SIDES, generator=generator) * 2 - 1} if coordinates else {})


def prepare(step, batch=None, seed=3):
    torch.manual_seed(seed)
    return step(a_batch() if batch is None else batch)


def test_x_t_is_the_equation_and_the_target_is_the_noise_in_it():
    scheduler, batch = DDPMScheduler(schedule="linear_beta", beta_start=1e-4, beta_end=0.02), a_batch()
    inputs, noise, args, kwargs = prepare(MaskDiffusion(scheduler), batch)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[kwargs["timesteps"]].reshape(-1, 1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * (batch["label"] > 0) + (1 - alpha_bar).sqrt() * noise
    assert torch.allclose(inputs[:, -1:], x_t.float(), atol=1e-6)
    assert args == ()
    assert kwargs["timesteps"].shape == (2,)


def test_the_network_sees_the_scaled_image_then_the_coordinates_then_the_noised_mask():
    batch = a_batch()
    inputs = prepare(MaskDiffusion(DDPMScheduler()), batch)[0]
    assert inputs.shape == (2, 8, *SIDES)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs[:, :4], 2 * batch["image"] - 1)
    assert torch.equal(inputs[:, 4:7], batch["coordinates"])
    assert prepare(MaskDiffusion(DDPMScheduler()), a_batch(coordinates=False))[0].shape == (2, 5, *SIDES)


def test_background_zero_becomes_minus_one():
    assert torch.equal(network_input(torch.zeros(1, 4, *SIDES), None), torch.full((1, 4, *SIDES), -1.0))


def test_the_whole_tumour_is_every_label_and_classes_are_channels_in_their_order():
    label = torch.tensor([0, 1, 2, 4]).reshape(1, 1, 4)
    assert mask_channels(label).tolist() == [[[0, 1, 1, 1]]]
    assert mask_channels(label, (1, 2, 4)).tolist() == [[[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]


def test_classes_noise_one_channel_each():
    inputs, noise, _, _ = prepare(MaskDiffusion(DDPMScheduler(), classes=(1, 2, 4)))
    assert inputs.shape == (2, 4 + 3 + 3, *SIDES)
    assert noise.shape == (2, 3, *SIDES)


def mask_in(step, batch):
    """The mask that a step noised, solved from x_t."""
    inputs, noise, _, kwargs = prepare(step, batch)
    a = step.scheduler.alphas_cumprod[kwargs["timesteps"]].reshape(-1, 1, 1, 1, 1)
    return ((inputs[:, -1:] - (1 - a).sqrt() * noise) / a.sqrt()).round(decimals=3)


def test_the_mask_lives_in_0_and_1_or_signed_in_minus_1_and_1():
    batch = a_batch()
    batch["label"][0] = 0
    scheduler = DDPMScheduler(num_train_timesteps=10)
    assert set(mask_in(MaskDiffusion(scheduler), batch).unique().tolist()) == {0, 1}
    assert set(mask_in(MaskDiffusion(scheduler, signed="true"), batch).unique().tolist()) == {-1, 1}


def test_an_image_is_learned_from_coordinates_and_noise_alone():
    batch = a_batch()
    del batch["label"]
    step = MaskDiffusion(DDPMScheduler(), conditional=False)
    inputs, noise, _, kwargs = prepare(step, batch)
    assert inputs.shape == (2, 3 + 4, *SIDES)
    assert torch.allclose(inputs[:, 3:], step.scheduler.add_noise(2 * batch["image"] - 1, noise, kwargs["timesteps"]))


def test_flow_asks_for_the_velocity_along_a_straight_line():
    batch = a_batch()
    inputs, velocity, _, kwargs = prepare(MaskDiffusion(RFlowScheduler()), batch)
    share = (kwargs["timesteps"] / 1000).reshape(-1, 1, 1, 1, 1)
    mask = (batch["label"] > 0).float()
    # x_t = (1 - s) x0 + s e and v = x0 - e, so x_t + s v = x0
    assert torch.allclose(inputs[:, -1:] + share * velocity, mask, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_target_is_what_the_scheduler_will_take_it_for(kind):
    batch, scheduler = a_batch(size=1), DDPMScheduler(prediction_type=kind)
    inputs, target, _, kwargs = prepare(MaskDiffusion(scheduler), batch)
    _, x0 = scheduler.step(target, int(kwargs["timesteps"][0]), inputs[:, -1:])
    assert torch.allclose(x0, (batch["label"] > 0).float(), atol=2e-3)


def test_the_same_seed_draws_the_same_and_every_timestep_is_drawn():
    step, batch = MaskDiffusion(DDPMScheduler(num_train_timesteps=8)), a_batch(size=400)
    once, again = prepare(step, batch), prepare(step, batch)
    assert torch.equal(once[0], again[0])
    assert not torch.equal(step(batch)[1], once[1])
    counts = torch.bincount(once[3]["timesteps"], minlength=8)
    assert counts.min() > 25, "uniform: 50 each"


def test_all_goes_to_the_device_without_meta_data():
    batch = a_batch() | {"image": MetaTensor(torch.rand(2, 4, *SIDES)), "label": MetaTensor(torch.ones(2, 1, *SIDES))}
    inputs, target, _, kwargs = MaskDiffusion(DDPMScheduler())(batch)
    assert type(inputs) is type(target) is torch.Tensor
    step = MaskDiffusion(DDPMScheduler())
    assert step.timesteps(torch.zeros(2, 1, device="meta")).device.type == "meta"
    assert kwargs["timesteps"].dtype == torch.int64


def test_a_case_without_label_is_told():
    with pytest.raises(UserError, match=r"The batch holds \['image'\], but no 'label'"):
        MaskDiffusion(DDPMScheduler())({"image": torch.rand(1, 4, *SIDES)})


class Tiny(nn.Module):
    """One convolution that looks at x_t and the image."""

    def __init__(self, channels, outputs=1):
        super().__init__()
        self.layer = nn.Conv3d(channels, outputs, 1)

    def forward(self, x, timesteps):
        assert timesteps.shape == (len(x),)
        return self.layer(x)


def test_monais_trainer_runs_it_with_the_timesteps_and_the_noise_is_learned():
    torch.manual_seed(0)
    network, step = Tiny(8), MaskDiffusion(DDPMScheduler())
    inputs, noise, _, kwargs = prepare(step, a_batch(size=200, seed=99))
    before = nn.functional.mse_loss(network(inputs, **kwargs), noise).item()
    cases = [{key: value[0] for key, value in a_batch(seed=seed).items()} for seed in range(8)]
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=30,
        train_data_loader=DataLoader(cases, batch_size=4),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.05),
        loss_function=nn.MSELoss(),
        prepare_batch=step,
        decollate=False,
    ).run()
    assert nn.functional.mse_loss(network(inputs, **kwargs), noise).item() < 0.75 * before
