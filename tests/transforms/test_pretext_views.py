import numpy as np
import pytest
import torch
from scipy.stats import kstest

from common.errors import UserError
from common.transforms.pretext_views import RandCutOut, RandQuarterTurn, cut_out, quarter_turns


def seeded(drawer, seed=0):
    drawer.set_random_state(seed)
    return drawer


@pytest.mark.parametrize(("axis", "shape", "plane"), [(2, (4, 4, 3), (0, 1)), (1, (4, 3, 4), (0, 2)), (0, (3, 4, 4), (1, 2))])
def test_turns_are_numpys_about_the_named_axis(axis, shape, plane):
    image = torch.randn(4, 2, *shape)
    found = quarter_turns(image, torch.arange(4), axis)
    for k in range(4):
        for channel in range(2):
            np.testing.assert_array_equal(found[k, channel].numpy(), np.rot90(image[k, channel].numpy(), k, plane))


def test_no_turn_and_four_turns_are_the_identity_and_turns_add_up():
    image = torch.randn(2, 1, 5, 5, 3)
    assert torch.equal(quarter_turns(image, torch.tensor([0, 4])), image)
    twice = quarter_turns(quarter_turns(image, torch.tensor([1, 3])), torch.tensor([1, 3]))
    assert torch.equal(twice, quarter_turns(image, torch.tensor([2, 2])))


def test_the_class_undoes_the_turn_and_all_classes_are_equally_likely():
    image = torch.randn(400, 1, 3, 3, 2)
    turned, classes = seeded(RandQuarterTurn())(image)
    assert torch.equal(quarter_turns(turned, 4 - classes), image)
    assert classes.dtype == torch.long
    counts = torch.bincount(classes, minlength=4)
    assert float((counts - 100).square().sum() / 100) < 16.3  # chi square with 3 degrees of freedom, p = 0.001


def test_turning_needs_square_planes_and_a_known_axis():
    with pytest.raises(
        UserError, match=r"image: got sides \(4, 5, 4\), expected equal ones around axis 2; quarter turns need square crops"
    ):
        quarter_turns(torch.zeros(1, 1, 4, 5, 4), torch.tensor([1]))
    with pytest.raises(UserError, match=r"axis: got 3, expected 0, 1 or 2 \(x, y or z\)"):
        quarter_turns(torch.zeros(1, 1, 4, 4, 4), torch.tensor([1]), 3)


def test_cutting_by_hand():
    image = torch.tensor([1.0, 2, 3]).reshape(1, 1, 3, 1, 1)
    holes = torch.tensor([True, False, True]).reshape(1, 1, 3, 1, 1)
    assert cut_out(image, holes, torch.tensor(0.0)).flatten().tolist() == [0, 2, 0]


def test_outside_the_holes_nothing_changes_and_channels_share_them():
    image = torch.randn(3, 2, 16, 12, 20) + 5
    found = seeded(RandCutOut(fill="zero"))(image)
    holes = found == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    assert torch.equal(found[~holes], image[~holes])
    assert holes.any()


def test_the_cut_share_is_uniform_below_its_limit():
    cut = seeded(RandCutOut(0.4, 0.1, 0.2), 2)
    shares = cut.randomize(120, (20, 24, 28)).flatten(1).float().mean(dim=1)
    # the last box may go beyond the drawn share, by 4 * 4 * 5 / 13440 = 0.006 at most
    assert float(shares.max()) < 0.406
    assert kstest(shares.numpy(), "uniform", args=(0, 0.4)).pvalue > 0.01


def test_a_single_box_has_sides_within_their_limits():
    sizes = []
    for seed in range(30):
        hole = seeded(RandCutOut(1e-6, 0.1, 0.5), seed).randomize(1, (20, 10, 30))[0, 0].nonzero()
        sizes.append((hole.amax(dim=0) - hole.amin(dim=0) + 1).tolist())
        assert len(hole) == np.prod(sizes[-1]), "a full box"
    low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
    assert (low >= [2, 1, 3]).all()
    assert (high <= [10, 5, 15]).all()
    assert (high > low).all()


def test_noise_fills_holes_within_the_range_of_the_sample():
    image = torch.stack([torch.rand(1, 12, 12, 12), 100 + torch.rand(1, 12, 12, 12)])
    found = seeded(RandCutOut(0.5, 0.2, 0.4))(image)
    assert (found[0] <= 1).all()
    assert (found[1] >= 100).all()
    assert (found != image).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("fill", ["noise", "zero"])
def test_same_seed_same_holes_the_next_differ_and_the_image_stays(fill):
    image = torch.randn(2, 1, 12, 12, 12)
    before, state = image.clone(), torch.get_rng_state()
    cut = seeded(RandCutOut(fill=fill), 3)
    first, second = cut(image), cut(image)
    assert torch.equal(first, seeded(RandCutOut(fill=fill), 3)(image))
    assert not torch.equal(first, second)
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_share_cuts_nothing():
    image = torch.randn(2, 1, 4, 4, 4)
    assert torch.equal(RandCutOut(0)(image), image)


def test_wrong_shares_and_fills_are_errors():
    with pytest.raises(UserError, match=r"cut-out: got share=1, smallest=0.05, largest=0.25; expected share in \[0, 1\) and 0 < smallest"):
        RandCutOut(1)
    with pytest.raises(UserError, match=r"fill: got 'mean', expected one of \('noise', 'zero'\)"):
        RandCutOut(fill="mean")
