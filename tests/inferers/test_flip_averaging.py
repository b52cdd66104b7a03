import pytest
import torch
from monai.inferers import SimpleInferer, SliceInferer
from torch import nn

from common.inferers.flip_averaging import FlipAveragingInferer


@pytest.fixture
def lopsided():
    """A network that does not commute with any flip."""
    torch.manual_seed(0)
    return nn.Conv2d(2, 1, (3, 5), padding=(1, 2))


def flips(axes):
    return FlipAveragingInferer(SimpleInferer(), axes)


@pytest.mark.parametrize("dims", [(2,), (3,), (2, 3)])
def test_prediction_of_a_flipped_image_is_the_flipped_prediction(lopsided, dims):
    image = torch.randn(2, 2, 8, 6)
    of_flipped = flips([0, 1])(image.flip(dims), lopsided)
    torch.testing.assert_close(of_flipped, flips([0, 1])(image, lopsided).flip(dims))
    # without averaging the network has no such symmetry
    assert not torch.allclose(flips([])(image.flip(dims), lopsided), flips([])(image, lopsided).flip(dims))


def test_one_axis_gives_symmetry_along_that_axis_only(lopsided):
    image = torch.randn(1, 2, 8, 6)
    averaged = flips([0])
    torch.testing.assert_close(averaged(image.flip(2), lopsided), averaged(image, lopsided).flip(2))
    assert not torch.allclose(averaged(image.flip(3), lopsided), averaged(image, lopsided).flip(3))


def test_no_axes_give_the_networks_own_probabilities(lopsided):
    image = torch.randn(2, 2, 8, 6)
    assert torch.equal(flips([])(image, lopsided), torch.sigmoid(lopsided(image)))


def test_two_axes_average_the_probabilities_of_four_flips(lopsided):
    image = torch.randn(2, 2, 8, 6)
    four = [torch.sigmoid(lopsided(image.flip(dims))).flip(dims) for dims in ([], [2], [3], [2, 3])]
    torch.testing.assert_close(flips([0, 1])(image, lopsided), torch.stack(four).mean(dim=0))


@pytest.mark.parametrize(("axes", "calls"), [([], 1), ([0], 2), ([0, 1], 4), ([0, 1, 2], 8)])
def test_all_subsets_of_the_axes_are_used_once(axes, calls):
    seen = []

    def network(x):
        seen.append(x)
        return x[:, :1]

    flips(axes)(torch.rand(1, 2, 4, 5, 3), network)
    assert len(seen) == calls
    assert len({tuple(x.flatten().tolist()) for x in seen}) == calls


def test_volumes_are_flipped_in_plane_through_a_slice_inferer(lopsided):
    volume = torch.randn(1, 2, 8, 6, 3)
    inferer = FlipAveragingInferer(SliceInferer(roi_size=(8, 6), spatial_dim=2, sw_batch_size=2), [0, 1])
    found = inferer(volume, lopsided)
    for z in range(3):
        torch.testing.assert_close(found[..., z], flips([0, 1])(volume[..., z], lopsided))


def test_half_precision_logits_give_float_probabilities():
    image = torch.randn(1, 2, 4, 4)
    assert flips([0])(image, lambda x: x[:, :1].to(torch.bfloat16)).dtype == torch.float32
