import math

import numpy as np
import pytest
import torch
from monai.networks.layers import separable_filtering

from common.errors import UserError
from common.transforms.corruptions import (
    KINDS,
    Draw,
    add_noise,
    blank_square,
    blur_slices,
    chosen_kinds,
    corrupt,
    corrupted_test,
    drop_pixels,
    finish,
    slice_seed,
    square_box,
)

SHAPES = [(3, 1, 24, 40), (2, 1, 16, 12, 20)]


@pytest.fixture(params=SHAPES, ids=str)
def image(request):
    return torch.rand(request.param, generator=torch.Generator().manual_seed(0))


def test_dropped_pixels_are_zero_and_survivors_stay_or_are_rescaled(image):
    keep = torch.rand(image.shape) > 0.3
    assert torch.equal(drop_pixels(image, keep), torch.where(keep, image, 0))
    rate = torch.linspace(0, 0.5, len(image))
    for sample, scaled, kept, r in zip(image, drop_pixels(image, keep, rate), keep, rate, strict=True):
        torch.testing.assert_close(scaled, torch.where(kept, sample / (1 - r), 0))


def test_noise_of_each_sample_has_its_own_deviation(image):
    noise, sd = torch.randn(image.shape), torch.arange(len(image)) * 0.1
    for index, result in enumerate(add_noise(image, noise, sd)):
        torch.testing.assert_close(result, image[index] + 0.1 * index * noise[index])


def test_a_square_is_blanked_where_it_is_said_and_cut_at_the_border():
    start, stop = torch.tensor([[1, 4], [-3, 38], [0, 0]]), torch.tensor([[3, 7], [2, 45], [0, 0]])
    result = blank_square(torch.ones(3, 1, 24, 40), start, stop)
    expected = torch.ones(3, 1, 24, 40)
    expected[0, :, 1:3, 4:7] = 0
    expected[1, :, :2, 38:] = 0
    assert torch.equal(result, expected)


def test_in_3d_the_square_is_a_cube():
    result = blank_square(torch.ones(1, 2, 8, 9, 10), torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]]))
    assert (result == 0).sum() == 2 * 27
    assert not result[:, :, 1:4, 2:5, 3:6].any()


def test_squares_keep_their_pixels_on_the_papers_grid_and_scale_on_others():
    centres, sides = np.array([[20, 90], [10, 99]]), np.array([25, 0])
    start, stop = square_box(centres, sides, (128, 128))
    assert start[0].tolist() == [8, 78] and stop[0].tolist() == [33, 103]  # 25 pixels, 12 of them before the centre
    assert torch.equal(start[1], stop[1])
    start, stop = square_box(centres, sides, (64, 256))
    assert (stop - start)[0].tolist() == [12, 12]  # 12.5 of the shorter side
    assert start[0].tolist() == [10 - 6, 180 - 6]
    assert (square_box(centres, np.array([1, 1]), (8, 8))[1] - square_box(centres, np.array([1, 1]), (8, 8))[0]).tolist() == [[1, 1]] * 2


def test_blur_by_hand_on_the_chosen_samples_alone():
    image = torch.zeros(2, 1, 5, 6)
    image[:, :, 2, 3] = 1
    result = blur_slices(image, torch.tensor([False, True]), 0.6)
    edge = math.exp(-1 / 0.72)
    weights = torch.tensor([edge, 1, edge]) / (1 + 2 * edge)
    assert torch.equal(result[0], image[0])
    torch.testing.assert_close(result[1, 0, 1:4, 2:5], weights[:, None] * weights)
    assert result[1].sum() == pytest.approx(1)


def test_the_blur_is_that_of_monais_separable_filter(image):
    edge = math.exp(-1 / (2 * 0.9**2))
    expected = separable_filtering(image, torch.tensor([edge, 1, edge]) / (1 + 2 * edge))
    torch.testing.assert_close(blur_slices(image, torch.ones(len(image), dtype=torch.bool), 0.9), expected)


def test_beyond_the_border_the_blur_sees_zeros():
    result = blur_slices(torch.ones(1, 1, 4, 4, 4), torch.tensor([True]))
    kept = 1 - math.exp(-1 / 0.72) / (1 + 2 * math.exp(-1 / 0.72))
    assert float(result[0, 0, 0, 1, 1]) == pytest.approx(kept) and float(result[0, 0, 1, 1, 1]) == pytest.approx(1)
    assert float(result[0, 0, 0, 0, 0]) == pytest.approx(kept**3)


def test_endings():
    image = torch.tensor([[-0.5, 0.5, 1.5], [0.2, 0.3, 0.4], [0.7, 0.7, 0.7]])[:, None, None]
    assert finish(image)[0, 0, 0].tolist() == [0, 0.5, 1]
    torch.testing.assert_close(finish(image, "minmax")[:, 0, 0], torch.tensor([[0, 0.5, 1], [0, 0.5, 1], [0, 0, 0]]))


def test_the_chain_runs_in_the_papers_order(image):
    dims = image.ndim - 2
    draw = Draw(
        torch.rand(image.shape) > 0.2,
        None,
        torch.randn(image.shape),
        torch.full((len(image),), 0.1),
        (torch.full((len(image), dims), 2), torch.full((len(image), dims), 6)),
        torch.ones(len(image), dtype=torch.bool),
    )
    expected = blur_slices(blank_square(add_noise(drop_pixels(image, draw.keep), draw.noise, draw.sd), *draw.box), draw.blur)
    assert torch.equal(corrupt(image, draw), expected.clamp(0, 1))
    assert torch.equal(corrupt(image, Draw()), image)


def test_names_of_corruptions():
    assert chosen_kinds("all") == KINDS and chosen_kinds("none") == () and chosen_kinds("blur") == ("blur",)
    assert chosen_kinds(["blur", "dropout"]) == ("dropout", "blur")
    with pytest.raises(UserError, match=r"kinds: got \['fog'\], expected 'all', 'none' or some of"):
        chosen_kinds(["blur", "fog"])


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_a_test_slice_does_not_depend_on_its_batch_or_its_place(image, kind):
    seeds = [slice_seed("IXI002-Guys-0828", index) for index in range(len(image))]
    whole = corrupted_test(image, kind, seeds)
    alone = torch.cat([corrupted_test(image[k : k + 1], kind, seeds[k : k + 1]) for k in range(len(image))])
    assert torch.equal(whole, alone)
    assert torch.equal(corrupted_test(image.flip(0), kind, seeds[::-1]).flip(0), whole)
    assert not torch.equal(whole, image) and 0 <= whole.min() <= whole.max() <= 1


def test_test_corruptions_have_their_stated_strengths():
    image, seeds = torch.full((4, 1, 128, 128), 0.5), range(4)
    dropped = (corrupted_test(image, "dropout", seeds) == 0).float().mean((1, 2, 3))
    torch.testing.assert_close(dropped, torch.full((4,), 0.04), rtol=0, atol=0.006)  # 4 SD of a share of 16,384 pixels
    noise = corrupted_test(image, "noise", seeds) - image
    torch.testing.assert_close(noise.std((1, 2, 3)), torch.full((4,), 0.04), rtol=0.03, atol=0)
    blank = (corrupted_test(image, "square", seeds) == 0).sum((1, 2, 3))
    assert ((blank > 20 * 20) & (blank <= 25 * 25)).all()  # one square, cut by the border at most at centre 10
    assert torch.equal(corrupted_test(image, "blur", seeds), blur_slices(image, torch.ones(4, dtype=torch.bool)))
    assert corrupted_test(image, "none", seeds) is image


def test_a_corruption_is_the_same_alone_and_within_all():
    image, seeds = torch.full((3, 1, 64, 64), 0.5), [5, 6, 7]
    alone = {kind: corrupted_test(image, kind, seeds) for kind in ("dropout", "square")}
    chained = corrupted_test(image, "all", seeds, noise=0, blur_sigma=1e-3)
    assert torch.equal(chained == 0, (alone["dropout"] == 0) | (alone["square"] == 0))


def test_seeds_name_the_slice():
    seeds = {slice_seed(case, index, seed) for case in ("a", "b") for index in (0, 1) for seed in (0, 1)}
    assert len(seeds) == 8 and slice_seed("a", 1) == slice_seed("a", 1)


def test_a_seed_is_needed_for_each_slice():
    with pytest.raises(UserError, match="seeds: got 1 for 3 slices, expected one per slice"):
        corrupted_test(torch.rand(3, 1, 8, 8), "noise", [1])
