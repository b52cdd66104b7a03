import pytest
import torch

from common.errors import UserError
from common.transforms.corruptions import KINDS
from common.transforms.rand_corruption import RandCorruption


def corrupted(image, seed=0, **settings):
    return RandCorruption(**settings).set_random_state(seed)(image)


@pytest.fixture(params=[(6, 1, 32, 40), (4, 1, 16, 24, 32)], ids=str)
def image(request):
    return torch.rand(request.param, generator=torch.Generator().manual_seed(0))


def test_the_same_seed_draws_the_same_and_the_next_draw_differs(image):
    corruption = RandCorruption().set_random_state(3)
    first, second = corruption(image), corruption(image)
    assert torch.equal(first, corrupted(image, 3))
    assert not torch.equal(first, second)


def test_the_image_is_not_changed_and_the_result_lies_between_0_and_1(image):
    before = image.clone()
    for ending in ("clip", "minmax"):
        result = corrupted(image, ending=ending, noise_max=0.5, rescale="true")
        assert torch.equal(image, before)
        assert result.shape == image.shape and result.dtype == image.dtype
        assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize("kinds", ["none", []])
def test_no_corruption_is_the_image_itself(image, kinds):
    assert RandCorruption(kinds)(image) is image


def test_corruptions_of_no_strength_are_the_identity(image):
    assert torch.equal(corrupted(image, dropout_max=0, noise_max=0, square_probability=0, blur_probability=0), image)


def test_a_corruption_draws_the_same_alone_and_beside_the_others(image):
    whole = RandCorruption(rescale=True).set_random_state(1).randomize(image)
    fields = {"dropout": ("keep", "rate"), "noise": ("noise", "sd"), "square": ("box",), "blur": ("blur",)}
    for kind in KINDS:
        alone = RandCorruption(kind, rescale=True).set_random_state(1).randomize(image)
        for name, fields_of in fields.items():
            for field in fields_of:
                if name == kind:
                    torch.testing.assert_close(getattr(alone, field), getattr(whole, field), rtol=0, atol=0)
                else:
                    assert getattr(alone, field) is None


def test_the_numbers_of_many_draws_are_those_of_the_paper():
    draw = RandCorruption(rescale=True).set_random_state(0).randomize(torch.empty(2000, 1, 128, 2))
    for strengths in (draw.rate, draw.sd):
        assert strengths.min() >= 0 and 0.0395 < strengths.max() <= 0.04
        assert strengths.mean() == pytest.approx(0.02, rel=0.05)
    share = (~draw.keep).flatten(1).double().mean(1)
    assert float(share.mean()) == pytest.approx(0.02, rel=0.1)
    assert torch.corrcoef(torch.stack([share, draw.rate.double()]))[0, 1] > 0.5
    assert float(draw.blur.double().mean()) == pytest.approx(0.1, abs=0.03)


def test_squares_have_the_papers_sides_and_centres():
    draw = RandCorruption("square").set_random_state(0).randomize(torch.empty(4000, 1, 128, 128))
    start, stop = draw.box
    sides = (stop - start)[:, 0]
    squared = sides > 0
    assert float(squared.double().mean()) == pytest.approx(0.2, abs=0.03)
    assert sides[squared].min() == 10 and sides.max() == 39
    centres = (start + sides[:, None] // 2)[squared]
    assert centres.min() == 10 and centres.max() == 99
    assert abs(float(torch.corrcoef(centres.T.double())[0, 1])) < 0.15


def test_the_original_has_squares_on_the_diagonal_alone():
    start, stop = RandCorruption("square", square_centres="diagonal").set_random_state(0).randomize(torch.empty(50, 1, 128, 128)).box
    assert torch.equal(start[:, 0], start[:, 1]) and torch.equal(stop[:, 0], stop[:, 1])
    assert len(set(start[:, 0].tolist())) > 20


def test_rescaling_keeps_the_mean_of_the_survivors_above():
    image = torch.full((8, 1, 64, 64), 0.5)
    plain, scaled = (corrupted(image, kinds="dropout", dropout_max=0.5, rescale=rescale) for rescale in (False, True))
    assert torch.equal(plain == 0, scaled == 0)
    assert set(plain.unique().tolist()) == {0, 0.5}
    torch.testing.assert_close(scaled.mean((1, 2, 3)), torch.full((8,), 0.5), rtol=0.05, atol=0)


def test_a_batch_of_one_and_half_precision_work():
    image = torch.rand(1, 1, 16, 16)
    assert corrupted(image, square_probability=1, blur_probability=1).shape == image.shape
    assert corrupted(image.half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kinds": "rain"}, r"kinds: got \['rain'\]"),
        ({"dropout_max": 1}, r"dropout_max: got 1, expected a share in \[0, 1\)"),
        ({"noise_max": -0.1}, "got noise_max=-0.1"),
        ({"square_probability": 1.2}, "square_probability: got 1.2, expected a share"),
        ({"square_sides": (40, 10)}, r"square_sides: got \[40, 10\), expected pixels of a 128 grid"),
        ({"square_centres": "middle"}, "square_centres 'middle', expected one of"),
        ({"ending": "none"}, "ending 'none'"),
        ({"blur_probability": float("nan")}, "blur_probability: got nan"),
        ({"blur_sigma": 0}, "blur_sigma=0"),
    ],
)
def test_impossible_numbers_are_errors(settings, text):
    with pytest.raises(UserError, match=text):
        RandCorruption(**settings)
