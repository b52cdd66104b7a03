import pytest
import torch

from common.errors import UserError
from common.networks.autoencoder3d import Autoencoder3D
from common.training import reset_weights


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("stages", "sides"), [(3, (32, 32, 32)), (5, (32, 64, 32)), (2, (8, 12, 16))])
@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_the_reconstruction_has_the_shape_of_the_volume_and_lies_between_0_and_1(stages, sides, kernel_size):
    network = Autoencoder3D(1, stages, kernel_size=kernel_size).eval()
    image = torch.rand(1, 1, *sides)
    with torch.no_grad():
        result = network(image)
    assert result.shape == image.shape
    assert result.min() > 0
    assert result.max() < 1


@pytest.mark.parametrize(("stages", "side"), [(6, 256), (5, 128), (3, 32)])
def test_every_size_of_the_cube_ends_in_a_bottleneck_of_4_cubed(stages, side):
    network = Autoencoder3D(1, stages).eval()
    with torch.device("meta"), torch.no_grad():
        code = network.to("meta").bottleneck[0](network.encoder(torch.empty(1, 1, side, side, side)))
    assert code.shape == (1, 1, 4, 4, 4)


def test_the_parameters_are_those_counted_by_hand():
    # m = 1, channels 1-1-2: down 64*1*1 + 2 and 64*1*2 + 4; bottleneck 2*1 + 1 and 1*2 + 2; up 64*2*1 + 2 and 64*1*1 + 1
    assert parameters(Autoencoder3D(1, stages=2)) == 66 + 132 + 3 + 4 + 130 + 65


@pytest.mark.parametrize(("width", "count"), [(1, 22_022), (4, 349_397), (16, 5_578_577)])
def test_the_parameters_grow_with_the_square_of_the_width(width, count):
    # kernels of 64 weights between 1, m, 2m, 4m, 8m, 8m, 8m channels, down and up, and two numbers per channel and norm
    m = width
    kernels = 2 * 64 * (m + m * m * (1 * 2 + 2 * 4 + 4 * 8 + 8 * 8 + 8 * 8))
    norms = 2 * m * (1 + 2 + 4 + 8 + 8 + 8) + 2 * m * (8 + 8 + 4 + 2 + 1)
    bottleneck = (8 * m * m + m) + (8 * m * m + 8 * m)
    assert parameters(Autoencoder3D(width)) == kernels + norms + bottleneck + 1 == count


def test_one_tiny_volume_is_learnt():
    torch.manual_seed(0)
    grid = torch.linspace(-1, 1, 16)
    ball = ((grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2) < 0.5).float()[None, None]
    network = Autoencoder3D(2, stages=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.l1_loss(network(ball), ball)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_gradient_reaches_every_weight():
    network = Autoencoder3D(1, stages=2)
    network(torch.rand(2, 1, 8, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_weights_drawn_anew_depend_on_the_seed_alone():
    network = Autoencoder3D(1, stages=2)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        reset_weights(network)
        draws.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_side_that_cannot_be_halved_is_an_error_that_names_the_divisor():
    with pytest.raises(UserError, match=r"got a volume of \(32, 40, 32\) voxels, expected sides that are multiples of 2\^4 = 16"):
        Autoencoder3D(1, stages=4)(torch.rand(1, 1, 32, 40, 32))


@pytest.mark.parametrize("stages", [0, 7])
def test_more_stages_than_multipliers_are_an_error(stages):
    with pytest.raises(UserError, match=f"stages: got {stages}, expected 1 to 6"):
        Autoencoder3D(1, stages)


def test_a_kernel_of_one_voxel_is_an_error():
    with pytest.raises(UserError, match="kernel_size: got 1, expected at least 2"):
        Autoencoder3D(1, 2, kernel_size=1)
