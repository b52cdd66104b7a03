import pytest
import torch
from monai.data.utils import set_rnd

from common.inferers.corruption_training import CorruptionTraining
from common.transforms.coarse_noise import RandCoarseNoise
from common.transforms.rand_corruption import RandCorruption


@pytest.fixture(params=[(4, 1, 32, 24), (2, 1, 16, 16, 24)], ids=["2D", "3D"])
def batch(request):
    image = torch.rand(request.param, generator=torch.Generator().manual_seed(0))
    image[..., :8] = 0
    return {"image": image}


@pytest.mark.parametrize("corruption", [None, RandCorruption("none")], ids=["None", "none"])
def test_without_corruption_the_clean_image_comes_twice(batch, corruption):
    given, target = CorruptionTraining(corruption)(batch)
    assert given is target
    assert torch.equal(target, batch["image"])


def test_the_input_is_corrupted_and_the_target_clean(batch):
    before = batch["image"].clone()
    given, target = CorruptionTraining(RandCorruption())(batch)
    assert torch.equal(target, before) and torch.equal(batch["image"], before)
    assert not torch.equal(given, target) and 0 <= given.min() <= given.max() <= 1
    assert not given.requires_grad


@pytest.mark.parametrize("corruption", [RandCorruption, RandCoarseNoise])
def test_a_seed_given_to_the_step_fixes_its_draws_and_the_next_batch_differs(batch, corruption):
    step = CorruptionTraining(corruption())
    set_rnd(step, 7)  # as common.training does at every epoch
    first, second = step(batch)[0], step(batch)[0]
    set_rnd(step, 7)
    assert torch.equal(step(batch)[0], first)
    assert not torch.equal(first, second)


def test_coarse_noise_acts_inside_the_head_alone_in_2d_and_3d(batch):
    given, target = CorruptionTraining(RandCoarseNoise(0.2, 4)).set_random_state(0)(batch)
    assert torch.equal(given != target, target > 0)


def test_meta_tensors_lose_their_history(batch):
    from monai.data import MetaTensor

    given, target = CorruptionTraining(RandCorruption())({"image": MetaTensor(batch["image"])})
    assert type(given) is torch.Tensor and type(target) is torch.Tensor
