import pytest
import torch
from monai.losses import SSIMLoss

from common.errors import UserError
from common.losses.dssim import ReconstructionLoss, dssim, gaussian_band
from common.metrics.image_similarity import ssim_map

SHAPES = [(3, 1, 24, 40), (2, 2, 16, 13, 20), (1, 1, 11, 11)]


@pytest.fixture(params=SHAPES, ids=str)
def pair(request):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(request.param, generator=generator)
    return (target + 0.1 * torch.randn(request.param, generator=generator)).clamp(0, 1), target


def test_it_is_half_of_monais_loss(pair):
    expected = SSIMLoss(pair[0].ndim - 2)(*pair) / 2
    torch.testing.assert_close(dssim(*pair).mean(), expected, rtol=0, atol=1e-5)


def test_its_gradient_is_that_of_monais_loss(pair):
    gradients = []
    for loss in (lambda p, y: dssim(p, y).mean(), lambda p, y: SSIMLoss(p.ndim - 2)(p, y) / 2):
        prediction = pair[0].clone().requires_grad_()
        loss(prediction, pair[1]).backward()
        gradients.append(prediction.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
    assert gradients[0].abs().max() > 1e-5


def test_each_sample_is_measured_alone_and_as_the_metric_does():
    prediction, target = torch.rand(3, 1, 20, 17), torch.rand(3, 1, 20, 17)
    expected = torch.stack([(1 - ssim_map(p[0], y[0]).mean()) / 2 for p, y in zip(prediction, target, strict=True)])
    torch.testing.assert_close(dssim(prediction, target), expected, rtol=0, atol=1e-5)


def test_equal_images_have_none_opposite_ones_much_and_the_order_does_not_matter():
    image, other = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    assert dssim(image, image).abs().max() < 1e-6
    assert (dssim(image, 1 - image) > 0.7).all()
    torch.testing.assert_close(dssim(image, other), dssim(other, image))


def test_constant_images_by_hand():
    # no variance: SSIM = (2 * 0.5 * 0.25 + 1e-4) / (0.25 + 0.0625 + 1e-4) = 0.2501 / 0.3126
    found = dssim(torch.full((1, 1, 12, 12), 0.5), torch.full((1, 1, 12, 12), 0.25))
    assert float(found) == pytest.approx((1 - 0.2501 / 0.3126) / 2, abs=2e-5)


def test_a_bright_flat_slice_is_measured_to_less_than_the_least_improvement_that_counts():
    generator = torch.Generator().manual_seed(0)
    target = 0.9 + 1e-3 * torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    prediction = target + 1e-3 * torch.randn(target.shape, generator=generator)
    exact = (1 - ssim_map(prediction[0, 0].double(), target[0, 0].double()).mean()) / 2
    assert abs(float(dssim(prediction, target)) - float(exact)) < 5e-6  # the schedule looks at 2e-5


def test_the_window_sums_to_one_and_lies_inside_the_image():
    band = gaussian_band(13, torch.device("cpu"))
    assert band.shape == (3, 13)
    torch.testing.assert_close(band.sum(1), torch.ones(3))
    assert torch.equal(band[0, :11], band[2, 2:]) and band[0].argmax() == 5 and not band[0, 11:].any()


def test_half_precision_and_autocast_are_measured_in_float32():
    target = torch.rand(1, 1, 16, 16).half()
    prediction = (target * 0.9).half()
    expected = dssim(prediction.float(), target.float())
    assert torch.equal(dssim(prediction, target), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dssim(prediction, target), expected)


@pytest.mark.parametrize(
    ("settings", "names"), [({}, {"mse"}), ({"mse": 0, "dssim": 1}, {"dssim"}), ({"mse": 2, "dssim": 0.5}, {"mse", "dssim"})]
)
def test_the_mix_is_weighted_and_its_parts_are_named_without_weights(settings, names):
    prediction, target = torch.rand(2, 1, 16, 16, requires_grad=True), torch.rand(2, 1, 16, 16)
    loss = ReconstructionLoss(**settings)
    total = loss(prediction, target)
    weights = {"mse": 1.0, "dssim": 0.0, **settings}
    parts = {"mse": (prediction - target).square().mean(), "dssim": dssim(prediction, target).mean()}
    torch.testing.assert_close(total, sum(weights[name] * part for name, part in parts.items()))
    assert set(loss.parts) == names
    for name in names:
        torch.testing.assert_close(loss.parts[name], parts[name].detach())


def test_mean_parts_run_over_training_batches_and_begin_anew():
    loss, target = ReconstructionLoss(), torch.zeros(1, 1, 2, 2)
    for value in (1.0, 3.0):
        loss(torch.full_like(target, value).requires_grad_(), target)
    with torch.no_grad():
        loss(target + 100, target)  # a validation does not count
    assert loss.mean_parts() == {"mse": 5.0}  # (1 + 9) / 2
    assert loss.mean_parts() == {}


@pytest.mark.parametrize("shapes", [((1, 1, 16, 16), (1, 1, 16, 17)), ((1, 1, 16, 10), (1, 1, 16, 10)), ((1, 16, 16), (1, 16, 16))])
def test_images_that_cannot_be_compared_are_one_clear_error(shapes):
    with pytest.raises(UserError, match=r"expected one shape \(B, C, \*spatial\) with two or three spatial sides of at least 11"):
        dssim(*(torch.zeros(shape) for shape in shapes))
    if shapes[0] != shapes[1]:
        with pytest.raises(UserError, match="ReconstructionLoss: got shapes"):
            ReconstructionLoss()(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (1, float("nan"))])
def test_weights_that_mean_nothing_are_errors(weights):
    with pytest.raises(UserError, match="expected numbers >= 0 and one at least above 0"):
        ReconstructionLoss(*weights)
