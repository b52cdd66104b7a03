import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.inferers.denoising_pretraining import DenoisingPretraining
from common.networks.standardized import Standardized
from common.transforms.roi_noise import RandRoiNoise
from common.transforms.signed_distance import signed_distance


@pytest.fixture
def network():
    network = Standardized(nn.Identity(), 2)
    network.mean.copy_(torch.tensor([1300.0, 0.3]))
    network.std.copy_(torch.tensor([400.0, 2.0]))
    return network


@pytest.fixture
def batch():
    """Two slices with a frame of background; the second has no lesion."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(2, 2, 16, 12)
    image[:, 0, 3:13, 2:10] = 800 + 900 * torch.rand(2, 10, 8, generator=generator)
    image[:, 1, 3:13, 2:10] = torch.randn(2, 10, 8, generator=generator)
    lesion = np.zeros((2, 16, 12))
    lesion[0, 5:9, 4:8] = 1
    return {"image": image, "distance": torch.stack([torch.from_numpy(signed_distance(mask))[None] for mask in lesion])}


def step(network, seed=0, gamma=0.95, **settings):
    step = DenoisingPretraining(network, RandRoiNoise(gamma), **settings)
    return step.set_random_state(seed)


def test_the_noised_image_is_made_of_the_normalised_image_and_the_target(network, batch):
    noised, (target, brain) = step(network)(batch)
    expected = 0.95**0.5 * network.standardize(batch["image"]) + 0.05**0.5 * target
    inside = brain.expand_as(noised)
    torch.testing.assert_close(noised[inside], expected[inside])


def test_background_stays_at_minus_six_and_is_not_scored(network, batch):
    noised, (_, mask) = step(network)(batch)
    assert torch.equal(mask, batch["image"][:, :1] > 0)
    assert torch.all(noised[~mask.expand_as(noised)] == -6.0)


def test_the_whole_image_is_noised_and_scored_as_eq_5_and_6_print_it(network, batch):
    noised, (target, mask) = step(network, brain_only="false")(batch)
    assert mask.all()
    assert mask.shape == (2, 1, 16, 12)
    torch.testing.assert_close(noised, 0.95**0.5 * network.standardize(batch["image"]) + 0.05**0.5 * target)


def test_targets_are_noise_unit_noise_or_the_clean_image_of_one_draw(network, batch):
    drawn = {target: step(network, target=target)(batch) for target in ("noise", "unit", "image")}
    noise, unit, image = (drawn[target][1][0] for target in ("noise", "unit", "image"))
    assert torch.equal(drawn["noise"][0], drawn["unit"][0])
    assert torch.equal(drawn["noise"][0], drawn["image"][0])
    assert torch.equal(image, network.standardize(batch["image"]))
    ratio = noise / unit
    assert sorted({round(r, 3) for r in ratio.flatten().tolist()}) == [0.8, 1.5]
    # the slice without lesion has the weaker noise everywhere
    torch.testing.assert_close(noise[1], unit[1] * 0.8)


def test_noise_around_the_lesion_is_stronger_in_all_channels_alike(network, batch):
    noise, unit = (step(network, target=target)(batch)[1][0] for target in ("noise", "unit"))
    strong = (noise / unit) > 1
    assert torch.equal(strong[:, 0], strong[:, 1])
    assert strong[0].any()
    inside, outside = batch["distance"][0, 0][strong[0, 0]], batch["distance"][0, 0][~strong[0, 0]]
    assert inside.max() < outside.min()


def test_same_seed_same_draw_and_the_next_draw_differs(network, batch):
    first = step(network, seed=4)
    a, b, again = first(batch)[0], first(batch)[0], step(network, seed=4)(batch)[0]
    assert torch.equal(a, again)
    assert not torch.equal(a, b)


def test_additive_noise_when_gamma_is_null(network, batch):
    noised, (target, _) = step(network, gamma=None, brain_only=False)(batch)
    torch.testing.assert_close(noised, network.standardize(batch["image"]) + target)


def test_the_batch_stays_as_it_was(network, batch):
    before = {key: value.clone() for key, value in batch.items()}
    step(network)(batch)
    assert all(torch.equal(batch[key], before[key]) for key in before)


def test_it_is_a_prepare_batch_of_monai(network, batch):
    noised, _ = step(network)(batch, torch.device("cpu"), False)
    assert noised.dtype == torch.float32
    assert not noised.requires_grad


def test_unknown_target_is_an_error(network):
    with pytest.raises(UserError, match=r"target: got 'x', expected one of \('noise', 'unit', 'image'\)"):
        DenoisingPretraining(network, RandRoiNoise(), target="x")
