import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from common.errors import UserError
from common.transforms.disruptions import RandDisruption, disrupt, lower_resolution, noise_sd, scaled_noise

SHAPE = (2, 1, 16, 12, 8)


def seeded(seed=0, **settings):
    disruption = RandDisruption(**settings)
    disruption.set_random_state(seed)
    return disruption


def test_a_variance_of_a_tenth_is_the_released_standard_deviation():
    assert noise_sd(0.1) == pytest.approx(0.316, abs=5e-4)
    assert noise_sd(0.1, "sd") == 0.1
    assert noise_sd(0) == 0


def test_noise_by_hand():
    noise = torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1, 1)
    # 0.5 + 2 * 1 = 2.5 and 0.5 + 2 * -2 = -3.5; scaled by 1 and by 0.1
    assert scaled_noise(noise, 2, 0.5).flatten().tolist() == [2.5, -3.5]
    assert scaled_noise(noise, 2, 0.5, torch.tensor([1, 0.1])).flatten().tolist() == pytest.approx([2.5, -0.35])


def interpolated_by_scipy(volume, shape):
    """Linear interpolation between centres of voxels, edges repeated."""
    points = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(volume.shape, shape, strict=True)]
    return map_coordinates(volume, np.meshgrid(*points, indexing="ij"), order=1, mode="nearest")


@pytest.mark.parametrize(("factor", "low"), [(2, (8, 6, 4)), (4, (4, 3, 2)), (3, (5, 4, 3)), (1.5, (11, 8, 5))])
def test_linear_loss_of_resolution_equals_scipys(factor, low):
    volume = np.random.default_rng(0).normal(size=(16, 12, 8))
    expected = interpolated_by_scipy(interpolated_by_scipy(volume, low), volume.shape)
    found = lower_resolution(torch.from_numpy(volume)[None, None], factor)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_at_factor_four_linear_keeps_the_mean_of_the_two_inner_voxels_and_nearest_the_first():
    line = torch.tensor([0.0, 1, 5, 9, 2, 4, 4, 0]).reshape(1, 1, 8, 1, 1)
    # inner voxels: (1 + 5) / 2 = 3 and (4 + 4) / 2 = 4 at centres 1.5 and 5.5; between them steps of 1/4, from 3 + 0.5/4
    expected = [3, 3, 3.125, 3.375, 3.625, 3.875, 4, 4]
    assert lower_resolution(line, 4).flatten().tolist() == pytest.approx(expected)
    assert lower_resolution(line, 4, "nearest").flatten().tolist() == [0, 0, 0, 0, 2, 2, 2, 2]


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
def test_a_constant_stays_and_so_do_shape_and_dtype_on_odd_sides(mode):
    image = torch.full((2, 3, 7, 5, 1), 4.5, dtype=torch.float64)
    assert torch.equal(lower_resolution(image, 4, mode), image)


def test_nearest_twice_is_nearest_once():
    once = lower_resolution(torch.randn(SHAPE), 4, "nearest")
    assert torch.equal(lower_resolution(once, 4, "nearest"), once)


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
def test_losing_resolution_is_linear(mode):
    a, b = torch.randn(2, *SHAPE)
    torch.testing.assert_close(lower_resolution(2 * a + b, 4, mode), 2 * lower_resolution(a, 4, mode) + lower_resolution(b, 4, mode))


def test_a_larger_factor_leaves_less_detail():
    wave = torch.linspace(0, 8, 32).cos()  # smooth: of white noise more would be left at 4 than at 2, as nothing is smoothed before
    image = (wave[:, None, None] + wave[None, :, None] + wave)[None, None]
    lost = [float((lower_resolution(image, factor) - image).abs().mean()) for factor in (1, 2, 4, 8)]
    assert lost[0] == 0
    assert all(later > 2 * earlier for earlier, later in itertools.pairwise(lost))


def test_chained_noise_is_blurred_too_and_summed_noise_is_not():
    image, noise = torch.randn(2, *SHAPE)
    assert torch.equal(disrupt(image, noise, 4), lower_resolution(image + noise, 4))
    total = disrupt(image, noise, 4, order="sum")
    # both changes added: x + n + (D(x) - x)
    torch.testing.assert_close(total, image + noise + (lower_resolution(image, 4) - image))
    assert not torch.allclose(total, disrupt(image, noise, 4))


@pytest.mark.parametrize("order", ["chained", "sum"])
def test_without_one_of_the_two_either_order_is_the_other_alone(order):
    image, noise = torch.randn(2, *SHAPE)
    assert torch.equal(disrupt(image, noise, 1, order=order), image + noise)
    assert torch.equal(disrupt(image, torch.zeros_like(image), 4, order=order), lower_resolution(image, 4))


def test_the_drawn_noise_has_its_mean_and_variance_and_each_sample_its_own():
    found = seeded(strength=0.1, mean=0.2, factor=1)(torch.zeros(2, 1, 40, 40, 40))
    assert float(found.var()) == pytest.approx(0.1, rel=0.02)  # standard error 0.4 %
    assert float(found.mean()) == pytest.approx(0.2, abs=0.005)
    assert not torch.equal(found[0], found[1])
    assert float(seeded(strength=0.1, strength_is="sd", factor=1)(torch.zeros(2, 1, 40, 40, 40)).std()) == pytest.approx(0.1, rel=0.02)


def test_every_modality_has_its_own_strength_of_noise():
    image, modality = torch.zeros(3, 1, 30, 30, 30), torch.tensor([1, 0, 1])
    plain, scaled = seeded(factor=1)(image, modality), seeded(factor=1, scales=[1.0, 0.1])(image, modality)
    torch.testing.assert_close(scaled, plain * torch.tensor([0.1, 1, 0.1]).reshape(3, 1, 1, 1, 1))


def test_nothing_to_do_is_the_identity():
    image = torch.randn(SHAPE)
    assert torch.equal(RandDisruption(strength=0, factor=1)(image), image)


def test_same_seed_same_draw_the_next_differs_and_nothing_else_is_touched():
    image = torch.randn(SHAPE)
    before, state = image.clone(), torch.get_rng_state()
    disruption = seeded(5)
    first, second = disruption(image), disruption(image)
    assert torch.equal(first, seeded(5)(image))
    assert not torch.equal(first, second)
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_is_that_of_the_image(dtype):
    found = seeded(scales=[0.5])(torch.randn(SHAPE).to(dtype), torch.zeros(2).long())
    assert (found.dtype, found.shape) == (dtype, SHAPE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_by_the_same_laws_and_replays():
    image = torch.zeros(2, 1, 32, 32, 32, device="cuda")
    found = seeded(1, factor=1)(image)
    assert found.is_cuda
    assert float(found.var()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(found, seeded(1, factor=1)(image))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"strength": -1}, r"strength: got -1, expected a variance >= 0 \(0 adds no noise\)"),
        ({"strength": 0.1, "strength_is": "sigma"}, r"strength_is: got 'sigma', expected one of \('variance', 'sd'\)"),
        ({"factor": 0.5}, r"factor: got 0.5, expected a number >= 1 \(1 keeps the resolution\)"),
        ({"mode": "cubic"}, r"mode: got 'cubic', expected one of \('trilinear', 'nearest'\)"),
        ({"order": "both"}, r"order: got 'both', expected one of \('chained', 'sum'\)"),
    ],
)
def test_arguments_out_of_range_are_errors_when_built(settings, text):
    with pytest.raises(UserError, match=text):
        RandDisruption(**settings)


def test_scales_need_the_modality_of_each_sample():
    image = torch.zeros(SHAPE)
    with pytest.raises(UserError, match="scales: got 1 factors of noise and no modality_index, expected a factor for the modality of each"):
        RandDisruption(scales=[1.0])(image)
    with pytest.raises(UserError, match=r"scales: got 1 factors of noise and modality_index \[0, 1\]"):
        RandDisruption(scales=[1.0])(image, torch.tensor([0, 1]))
