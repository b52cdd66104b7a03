import numpy as np
import pytest
import torch
from torch import nn

from common.data.slices import SliceDataset
from common.errors import UserError
from common.networks.standardized import Standardized, fit_mean_std, standardize


def volume(seed=0, shape=(2, 8, 6, 4)):
    """ADC around 1300 and Z around 0 in a box of brain, zeros outside."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, dtype=np.float32)
    image[0, 2:6, 1:5] = rng.uniform(800, 1800, image[0, 2:6, 1:5].shape)
    image[1, 2:6, 1:5] = rng.normal(0.3, 2, image[1, 2:6, 1:5].shape)
    return torch.from_numpy(image)


def dataset(*volumes):
    return SliceDataset([{"image": v} for v in volumes], lambda case: case, keys=("image",), progress=False)


def test_constants_are_numpys_over_the_brain_of_all_images():
    images = [volume(seed) for seed in range(3)]
    mean, std = fit_mean_std(images)
    voxels = np.concatenate([image.numpy()[:, image.numpy()[0] > 0].astype(np.float64) for image in images], axis=1)
    np.testing.assert_allclose(mean.numpy(), voxels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std.numpy(), voxels.std(axis=1), rtol=1e-10)


def test_constants_see_nothing_outside_the_brain():
    image = volume()
    changed = torch.where(image[:1] > 0, image, torch.tensor([0.0, 7.7]).view(2, 1, 1, 1))
    for ours, expected in zip(fit_mean_std([changed]), fit_mean_std([image]), strict=True):
        assert torch.equal(ours, expected)


def test_brain_keeps_its_zeros_of_z_score():
    # Z = 0 is a legal value inside the brain: mean of 0, 0, 3 is 1
    image = torch.tensor([[[5.0, 6.0, 7.0, 0.0]], [[0.0, 0.0, 3.0, 9.0]]])
    mean, _ = fit_mean_std([image])
    assert mean.tolist() == [6.0, 1.0]


def test_constants_do_not_depend_on_how_voxels_are_packed():
    image = volume()
    whole = fit_mean_std([image])
    for ours, expected in zip(fit_mean_std(list(image.unbind(-1))), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_training_brain_gets_mean_zero_and_deviation_one():
    images = [volume(seed) for seed in range(2)]
    network = Standardized(nn.Identity(), 2, background=-1e9).fit(dataset(*images))
    brains = [network.standardize(image[None])[0][:, image[0] > 0] for image in images]
    voxels = torch.cat(brains, dim=1)
    torch.testing.assert_close(voxels.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(voxels.std(dim=1, correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_standardising_by_hand():
    image = torch.tensor([[[[10.0, 4.0, -50.0, 99.0]]]])
    brain = torch.tensor([[[[True, True, True, False]]]])
    # (10 - 4) / 2 = 3; (4 - 4) / 2 = 0; (-50 - 4) / 2 = -27, clipped to -6; background is exactly -6
    found = standardize(image, brain, torch.tensor([4.0]), torch.tensor([2.0]), -6.0)
    assert found.flatten().tolist() == [3.0, 0.0, -6.0, -6.0]


def test_background_is_exactly_minus_six_and_nothing_lies_below():
    network = Standardized(nn.Identity(), 2)
    network.mean.copy_(torch.tensor([1300.0, 0.3]))
    network.std.copy_(torch.tensor([10.0, 0.1]))
    image = volume()[None]
    found = network(image)
    outside = ~network.brain(image).expand_as(found)
    assert torch.all(found[outside] == -6.0)
    assert float(found.min()) == -6.0
    assert float(found.max()) > 6.0  # no upper bound


def test_nan_outside_the_brain_stays_out():
    image = volume()[None]
    image[:, 1][image[:, 0] == 0] = torch.nan
    network = Standardized(nn.Identity(), 2)
    assert torch.isfinite(network(image)).all()


@pytest.mark.parametrize("shape", [(1, 2, 8, 6), (3, 2, 8, 6, 4)])
def test_slices_and_volumes_work_alike(shape):
    network = Standardized(nn.Identity(), 2)
    image = torch.rand(shape)
    assert network(image).shape == shape
    assert network.brain(image).shape == (shape[0], 1, *shape[2:])


def test_constants_travel_with_the_weights():
    trained = Standardized(nn.Conv2d(2, 1, 1), 2).fit(dataset(volume()))
    assert {"mean", "std"} <= set(trained.state_dict())
    assert "mean" not in dict(trained.named_parameters())  # no optimiser moves them
    fresh = Standardized(nn.Conv2d(2, 1, 1), 2)
    fresh.load_state_dict(trained.state_dict())
    image = volume(5)[None, ..., 0]
    assert torch.equal(fresh(image), trained(image))


def test_another_channel_may_tell_the_brain():
    image = volume().flip(0)
    network = Standardized(nn.Identity(), 2, brain_channel=1).fit
    ours, expected = network(dataset(image)), Standardized(nn.Identity(), 2).fit(dataset(volume()))
    assert torch.equal(ours.mean.flip(0), expected.mean)


def test_gradient_reaches_the_network_through_the_normalised_image():
    network = Standardized(nn.Conv2d(2, 1, 1), 2)
    network(volume()[None, ..., 0]).sum().backward()
    assert network.network.weight.grad is not None


def test_training_fold_without_brain_is_an_error():
    with pytest.raises(
        UserError, match=r"found no brain voxel \(first channel > 0\) in the training fold; check that the first input is ADC"
    ):
        fit_mean_std([torch.zeros(2, 3, 3)])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1.3, 1234.567, -3.3e4])
def test_a_constant_channel_is_an_error(constant):
    image = volume()
    image[1] = constant
    with pytest.raises(UserError, match="a channel is constant inside the brain"):
        fit_mean_std([image, image[..., :3], image])
