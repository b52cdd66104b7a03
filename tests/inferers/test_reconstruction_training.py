import pytest
import torch
from torch import nn

from common.inferers.reconstruction_training import ReconstructionTraining
from common.losses.masked_mse import MaskedMSELoss
from common.networks.autoencoder3d import Autoencoder3D
from common.transforms.coarse_noise import RandCoarseNoise


class Model(nn.Module):
    """Equalises by a straight line; the inner network is an autoencoder."""

    def __init__(self):
        super().__init__()
        self.network = Autoencoder3D(1, stages=2)

    def equalise(self, hu):
        return ((hu.float() + 1024) / 2048).clamp(0, 1)


@pytest.fixture
def batch():
    hu = torch.randint(-200, 800, (2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    structures = torch.zeros(2, 1, 16, 16, 16, dtype=torch.uint8)
    structures[:, :, 4:12, 2:14] = 3
    hu[structures == 0] = -1024
    return {"image": hu, "structures": structures}


def test_an_autoencoder_reconstructs_its_own_input(batch):
    model = Model()
    image, target = ReconstructionTraining(model)(batch)
    assert torch.equal(image, model.equalise(batch["image"]))
    assert torch.equal(target, image)
    assert not image.requires_grad


def test_a_denoising_autoencoder_sees_noise_inside_the_head_and_is_asked_for_the_clean_image(batch):
    model = Model()
    noised, (clean, mask) = ReconstructionTraining(model, RandCoarseNoise(0.2, 4), foreground_only="true").set_random_state(0)(batch)
    assert torch.equal(mask, batch["structures"] > 0)
    assert torch.equal(clean, model.equalise(batch["image"]))
    assert torch.equal(noised != clean, mask)


def test_the_same_seed_noises_alike_and_the_next_batch_differs(batch):
    step = ReconstructionTraining(Model(), RandCoarseNoise(0.2, 4))
    first, second = (step.set_random_state(5)(batch)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(step(batch)[0], second)


def test_noise_of_no_strength_is_plain_reconstruction(batch):
    noised, target = ReconstructionTraining(Model(), RandCoarseNoise(0.0))(batch)
    assert torch.equal(noised, target)


def test_a_step_with_either_loss_reaches_the_inner_network(batch):
    for masked, loss in [(False, nn.L1Loss()), (True, MaskedMSELoss())]:
        model = Model()
        noised, target = ReconstructionTraining(model, RandCoarseNoise(0.2, 4), foreground_only=masked)(batch)
        loss(model.network(noised), target).backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.network.parameters())


def test_a_head_that_is_not_in_the_crop_gives_no_loss_and_no_nan(batch):
    batch["structures"].zero_()
    model = Model()
    noised, target = ReconstructionTraining(model, RandCoarseNoise(), foreground_only=True)(batch)
    assert MaskedMSELoss()(model.network(noised), target) == 0
