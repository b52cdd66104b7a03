import pytest
import torch

from common.errors import UserError
from common.transforms.coarse_noise import RandCoarseNoise, RandCoarseNoised, coarse_noise


def noised(image, foreground=None, seed=0, **settings):
    noise = RandCoarseNoise(**settings)
    noise.set_random_state(seed)
    return noise(image, torch.ones_like(image[:, :1], dtype=torch.bool) if foreground is None else foreground)


def test_a_constant_lattice_gives_a_constant():
    lattice = torch.full((2, 1, 3, 2, 4), 1.5)
    assert torch.equal(coarse_noise(lattice, (12, 8, 20), torch.tensor([[3, 4, 5], [0, 7, 19]])), torch.full((2, 1, 12, 8, 20), 1.5))


def test_a_shift_rolls_the_unshifted_noise_each_sample_by_its_own():
    lattice = torch.randn(2, 3, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    still = coarse_noise(lattice, (12, 8, 20), torch.zeros(2, 3, dtype=torch.int64))
    moved = coarse_noise(lattice, (12, 8, 20), torch.tensor([[1, 2, 3], [0, 0, 5]]))
    assert torch.equal(moved[0], still[0].roll((1, 2, 3), (1, 2, 3)))
    assert torch.equal(moved[1], still[1].roll(5, 3))


def test_between_two_nodes_the_noise_is_linear():
    # one axis, nodes 0 and 8, 4 voxels each, centres at 1.5 and 5.5: voxel 2 lies 1/8 of the way, voxel 5 lies 7/8
    lattice = torch.tensor([[[0.0, 8.0]]])
    expected = torch.tensor([0, 0, 1, 3, 5, 7, 8, 8.0])
    torch.testing.assert_close(coarse_noise(lattice, (8,), torch.zeros(1, 1, dtype=torch.int64))[0, 0], expected)


@pytest.mark.parametrize(("axes", "share"), [(2, 0.66), (3, 0.54)])
def test_the_standard_deviation_is_the_share_of_sigma_that_interpolation_leaves(axes, share):
    # the variance of a voxel w between two nodes is w^2 + (1-w)^2; over w = 1/16, 3/16, ... its mean is 0.664 per axis
    expected = (sum(w * w + (1 - w) ** 2 for w in [(k + 0.5) / 8 for k in range(8)]) / 8) ** (axes / 2)
    assert expected == pytest.approx(share, abs=0.005)
    side = 512 if axes == 2 else 96
    image = torch.zeros(2, 1, *[side] * axes)
    # the outer half cell is constant there, which adds a little at the rim
    assert noised(image, sigma=0.2, spacing=8).std() == pytest.approx(0.2 * expected, rel=0.08)


def test_noise_is_alike_within_a_cell_and_unrelated_two_cells_away():
    noise = noised(torch.zeros(4, 1, 64, 64, 64), sigma=1.0, spacing=8)[:, 0]
    spread = noise.square().mean()
    correlation = {lag: float((noise[:, :-lag] * noise[:, lag:]).mean() / spread) for lag in (1, 4, 20)}
    assert correlation[1] > 0.95
    assert 0.5 < correlation[4] < 0.9
    assert abs(correlation[20]) < 0.15


def test_a_spacing_of_one_voxel_is_white_noise_of_sigma():
    noise = noised(torch.zeros(1, 1, 32, 32, 32), sigma=0.3, spacing=1)[0, 0]
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert abs(float((noise[1:] * noise[:-1]).mean() / noise.var())) < 0.03


def test_no_noise_is_the_identity():
    image = torch.rand(2, 1, 16, 16, 16)
    assert torch.equal(noised(image, sigma=0), image)


def test_the_same_seed_draws_the_same_and_the_next_draw_differs():
    image = torch.rand(2, 1, 16, 12, 20)
    noise, everywhere = RandCoarseNoise(), torch.ones(2, 1, 16, 12, 20, dtype=torch.bool)
    noise.set_random_state(3)
    first, second = noise(image, everywhere), noise(image, everywhere)
    assert torch.equal(first, noised(image, seed=3))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0] - image[0], first[1] - image[1])


def test_the_background_stays_and_the_image_is_not_changed_in_place():
    image = torch.rand(1, 1, 16, 16, 16)
    before, foreground = image.clone(), image > 0.5
    result = noised(image, foreground)
    assert torch.equal(image, before)
    assert torch.equal(result[~foreground], image[~foreground])
    assert bool((result[foreground] != image[foreground]).all())


def test_a_lattice_coarser_than_the_image_is_one_number_per_sample():
    difference = noised(torch.zeros(2, 1, 6, 6, 6), spacing=40)
    assert torch.all(difference.flatten(1).std(dim=1) < 1e-6)
    assert difference[0, 0, 0, 0, 0] != difference[1, 0, 0, 0, 0]


def test_the_dictionary_form_noises_one_sample_inside_its_structures():
    structures = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    structures[:, 4:12] = 3
    sample = {"image": torch.rand(1, 16, 16, 16), "structures": structures}
    transform = RandCoarseNoised("image", sigma=0.2, spacing=4)
    first, again = (transform.set_random_state(0)(sample)["image"] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first != sample["image"], structures > 0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sigma": -0.1}, "sigma: got -0.1, expected the noise's standard deviation"),
        ({"spacing": 0.5}, "spacing: got 0.5, expected the distance"),
    ],
)
def test_impossible_numbers_are_errors(settings, text):
    with pytest.raises(UserError, match=text):
        RandCoarseNoise(**settings)


def test_a_foreground_of_another_grid_is_an_error():
    with pytest.raises(
        UserError, match=r"foreground: got shape \(1, 1, 4, 4, 8\), expected batch and grid of the image, \(1, 1, 4, 4, 4\)"
    ):
        noised(torch.zeros(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 8, dtype=torch.bool))
