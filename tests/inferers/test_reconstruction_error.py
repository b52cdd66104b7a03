import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from common.errors import UserError
from common.inferers.reconstruction_error import ReconstructionErrorInferer
from common.transforms.map_filters import filter_maps


class Shifted(nn.Module):
    """Reconstructs everything 0.25 too bright, also the background."""

    def forward(self, image):
        return image + 0.25


class Model(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def equalise(self, hu):
        return ((hu.float() + 1024) / 2048).clamp(0, 1)


@pytest.fixture
def volume():
    """A head of 12^3 voxels in a cube of 16^3."""
    hu = torch.full((1, 1, 16, 16, 16), -1024, dtype=torch.int16)
    hu[..., 2:14, 2:14, 2:14] = torch.randint(-500, 900, (12, 12, 12), generator=torch.Generator().manual_seed(0)).short()
    return hu


def test_a_perfect_reconstruction_has_no_error(volume):
    assert not ReconstructionErrorInferer()(volume, Model(nn.Identity())).any()


def test_the_error_is_the_absolute_difference_inside_the_head_and_0_outside(volume):
    error = ReconstructionErrorInferer()(volume, Model(Shifted()))
    torch.testing.assert_close(error, 0.25 * (volume > -1024).float())


@pytest.mark.parametrize("filter", ["median", "erosion"])
def test_the_filter_acts_on_the_error_and_nothing_leaves_the_head(volume, filter):
    torch.manual_seed(0)
    model = Model(nn.Conv3d(1, 1, 3, padding=1))
    with torch.no_grad():
        plain, filtered = (ReconstructionErrorInferer(name, 3)(volume, model) for name in ("none", filter))
    head = volume > -1024
    assert torch.equal(filtered, filter_maps(plain, filter, 3) * head)
    assert filtered.any()
    assert (filtered >= 0).all()


@pytest.mark.parametrize("roi_size", [8, [8, 16, 12], 32])
def test_windows_of_a_voxelwise_network_give_the_map_of_the_whole(volume, roi_size):
    whole, windows = (ReconstructionErrorInferer(roi_size=roi)(volume, Model(Shifted())) for roi in (None, roi_size))
    torch.testing.assert_close(windows, whole)


def test_a_unet_of_monai_runs_in_windows_with_sides_that_no_power_of_two_divides():
    torch.manual_seed(0)
    model = Model(BasicUNet(3, 1, 1, features=(4, 4, 8, 8, 8, 4), norm=("group", {"num_groups": 4}))).eval()
    with torch.no_grad():
        error = ReconstructionErrorInferer("median", 3, roi_size=32, overlap=0.5)(torch.zeros(2, 1, 40, 33, 32), model)
    assert error.shape == (2, 1, 40, 33, 32)
    assert error.dtype == torch.float32


def test_an_unknown_filter_is_an_error():
    with pytest.raises(UserError, match="filter: got 'mean', expected one of"):
        ReconstructionErrorInferer("mean")
