import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import chisquare, kstest

from common.errors import UserError
from common.transforms.coordinates import AddCoordinatesd, coordinate_channels
from common.transforms.patch_sampling import HALF_WIDTHS, RandPatchd, padding_before, patch_position, patch_start

# standard deviation (variances a^2 / 3 and b^2 / 3 add up) and mass within 1/3 of the middle: the density of X + Y is flat, 1 / (2 b), as
# far as b - a. Thirds: sqrt((1 + 4) / 27) and 2/3 * 3/4; quarters: sqrt((1 + 9) / 48) and 2/3 * 2/3; uniform: sqrt(1/3) and 1/3.
LAWS = {"thirds": (np.sqrt(5 / 27), 1 / 2), "quarters": (np.sqrt(5 / 24), 4 / 9), "uniform": (np.sqrt(1 / 3), 1 / 3)}


def trapezoid_cdf(u, a, b):
    """Distribution function of X + Y, X ~ U[-a, a], Y ~ U[-b, b], a <= b: the integral over Y's of X's."""
    if a == 0:
        return np.clip((u + b) / (2 * b), 0, 1)

    def integral(x):  # of clip((x + a) / (2 a), 0, 1) from minus infinity
        inner = np.clip(x, -a, a)
        return (inner + a) ** 2 / (4 * a) + np.maximum(x - a, 0)

    return (integral(u + b) - integral(u - b)) / (2 * b)


def positions(distribution, count=40_000, seed=0):
    draws = np.random.default_rng(seed).random((count, 2))
    return np.array([patch_position(x, y, distribution) for x, y in draws])


# ------------------------------------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("distribution", LAWS)
def test_positions_follow_the_exact_law(distribution):
    a, b = HALF_WIDTHS[distribution]
    drawn = positions(distribution)
    sd, mass = LAWS[distribution]
    assert trapezoid_cdf(1 / 3, a, b) - trapezoid_cdf(-1 / 3, a, b) == pytest.approx(mass)
    assert a + b == 1 and np.abs(drawn).max() <= 1
    assert drawn.std() == pytest.approx(sd, abs=0.006)
    assert np.mean(np.abs(drawn) < 1 / 3) == pytest.approx(mass, abs=0.01)  # four standard errors
    assert kstest(drawn, lambda u: trapezoid_cdf(u, a, b)).pvalue > 0.01


def test_the_two_laws_have_the_papers_numbers():
    assert [round(sd, 2) for sd, _ in LAWS.values()] == [0.43, 0.46, 0.58]


@pytest.mark.parametrize("distribution", LAWS)
def test_every_start_occurs_with_its_probability_at_both_ends_alike(distribution):
    reach = 8
    edges = np.linspace(-1, 1, reach + 2)
    expected = np.diff(trapezoid_cdf(edges, *HALF_WIDTHS[distribution]))
    np.testing.assert_allclose(expected, expected[::-1])
    found = np.bincount([patch_start(u, reach) for u in positions(distribution, seed=1)], minlength=reach + 1)
    assert len(found) == reach + 1
    assert chisquare(found, expected * found.sum()).pvalue > 0.01


def test_starts_by_hand():
    assert [patch_start(u, 128) for u in (-1.0, 0.0, 1.0)] == [0, 64, 128]
    assert patch_start(0.3, 0) == 0
    assert patch_position(0.5, 0.5) == 0 and patch_position(0, 0) == -1
    assert patch_position(1, 0, "thirds") == pytest.approx(-1 / 3) and patch_position(1, 0, "quarters") == -0.5


def test_axes_are_drawn_independently():
    transform = RandPatchd(patch_size=4, padded_size=36)
    transform.set_random_state(0)
    starts = np.array([transform.randomize() for _ in range(3_000)])
    assert np.abs(np.corrcoef(starts.T) - np.eye(3)).max() < 0.06


# ------------------------------------------------------------------------------------------------------------------ the patch


def test_brats_is_padded_as_in_the_paper():
    assert padding_before((240, 240, 155), (256, 256, 256)) == [8, 8, 50]
    assert [256 - 50 - 155, 256 - 8 - 240] == [51, 8]


@pytest.mark.parametrize("distribution", LAWS)
def test_a_patch_is_the_cut_of_the_volume_padded_in_memory(distribution):
    image, label = torch.rand(4, 10, 9, 5) + 1, torch.randint(1, 5, (1, 10, 9, 5), dtype=torch.uint8)
    padding = (5, 6, 3, 4, 3, 3)  # z: 16 - 5 = 11, y: 16 - 9 = 7, x: 16 - 10 = 6
    whole = {"image": torch.nn.functional.pad(image, padding, value=-1.0), "label": torch.nn.functional.pad(label, padding)}
    transform = RandPatchd(patch_size=(8, 6, 4), padded_size=16, distribution=distribution)
    transform.set_random_state(0)
    starts = set()
    for _ in range(60):
        patch = transform({"image": image - 1, "label": label})
        x, y, z = patch["patch_start"].tolist()
        starts.add((x, y, z))
        assert torch.equal(patch["image"], (whole["image"][:, x : x + 8, y : y + 6, z : z + 4] - 1).clamp(min=0))
        assert torch.equal(patch["label"], whole["label"][:, x : x + 8, y : y + 6, z : z + 4])
        assert patch["label"].dtype == torch.uint8
    assert len(starts) > 50


def test_the_patch_of_the_whole_padded_volume_is_the_padded_volume():
    image = torch.rand(1, 5, 6, 3)
    patch = RandPatchd("image", 8, 8)({"image": image})
    assert torch.equal(patch["image"], torch.nn.functional.pad(image, (2, 3, 1, 1, 1, 2)))
    assert patch["patch_start"].tolist() == [0, 0, 0] and patch["padded_shape"].tolist() == [8, 8, 8]


def test_coordinates_follow_the_patch():
    patch = AddCoordinatesd()(RandPatchd("image", 4, 16).set_random_state(3)({"image": torch.rand(1, 9, 9, 9)}))
    expected = coordinate_channels((16, 16, 16), (0, 0, 0), (16, 16, 16))
    x, y, z = patch["patch_start"].tolist()
    assert torch.equal(patch["coordinates"], expected[:, x : x + 4, y : y + 4, z : z + 4])


def test_same_seed_same_patch_and_the_next_differs():
    case = {"image": torch.rand(1, 20, 20, 20)}
    first, second = (RandPatchd("image", 4, 24).set_random_state(5) for _ in range(2))
    draws = [transform(case)["image"] for transform in (first, second)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(first(case)["image"], draws[0])


def test_cached_half_precision_gives_float32_and_meta_is_left_behind():
    image = MetaTensor(torch.rand(1, 6, 6, 6).half())
    patch = RandPatchd("image", 4, 8)({"image": image})["image"]
    assert patch.dtype == torch.float32 and type(patch) is torch.Tensor


def test_mistakes_are_named():
    with pytest.raises(UserError, match="distribution: got 'halves'; expected one of thirds, quarters, uniform"):
        RandPatchd(distribution="halves")
    with pytest.raises(UserError, match=r"patch_size: got \[64, 300, 64\]; expected sides from 1 to those of padded_size"):
        RandPatchd(patch_size=(64, 300, 64))
    with pytest.raises(UserError, match=r"padded_size: got \(8, 8, 8\) for a volume of \(9, 4, 4\) voxels.*next multiple of 64"):
        RandPatchd("image", 4, 8)({"image": torch.zeros(1, 9, 4, 4)})
    with pytest.raises(UserError, match=r"case p: label has \(4, 4, 5\) voxels, image \(4, 4, 4\); expected one"):
        RandPatchd(patch_size=4, padded_size=8)({"id": "p", "image": torch.zeros(1, 4, 4, 4), "label": torch.zeros(1, 4, 4, 5)})
