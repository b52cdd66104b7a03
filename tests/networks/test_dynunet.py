import pytest
import torch

from common.networks.dynunet import CHANNELS, plain_dynunet


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (32, 64)), (3, (32, 16, 32))])
def test_output_has_the_grid_of_the_input(spatial_dims, size):
    network = plain_dynunet(2, out_channels=3, spatial_dims=spatial_dims, width=1 / 8)
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_width_scales_all_channels_but_leaves_four():
    assert list(plain_dynunet(2, width=0.5).filters) == [round(c / 2) for c in CHANNELS]
    assert min(plain_dynunet(2, width=1 / 32).filters) == 4


def test_gradient_reaches_every_parameter_that_deep_supervision_does_not_own():
    network = plain_dynunet(2, width=1 / 8)
    network(torch.randn(2, 2, 32, 32)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
