"""Fits of a latent: the Jacobian, what is found again, what stays as it was, and when they stop."""

import pytest
import torch

from common.errors import UserError
from common.inferers.brain_at_age import predict_at
from common.inferers.latent_fit import damped_step, fit_adamw, fit_lm
from common.inferers.voxel_error import VoxelError, frozen, psnr_of
from common.networks.wire_inr import WireINR

AGE = 36.0


def an_inr(dims=2, size=5, seed=0, **settings):
    """A random network whose intensities lie about 1/2, so that nothing is clipped."""
    torch.manual_seed(seed)
    inr = WireINR(dims=dims, latent_size=size, width=24, layers=3, head="linear", scales=(5.0, 5.0), **settings)
    with torch.no_grad():
        inr.latent_weight.mul_(0.4)  # tame: a fit from 0 shall not end in another minimum
        inr.head.weight.mul_(0.7)
        inr.head.bias.fill_(0.5)
    return inr


def a_latent(size=5, seed=1):
    return 0.4 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def an_image(inr, latent, age=AGE, grid=(24, 20)):
    grid = grid if inr.dims == 2 else (9, 8, 10)
    return predict_at(inr, latent, [age], grid)[0]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("settings", [{}, {"activation": "siren"}, {"encoding": "fourier", "frequencies": 2}, {"label_classes": 3}])
def test_the_jacobian_agrees_with_finite_differences(dims, settings):
    inr = an_inr(dims, **settings).double()
    latent = a_latent().double()
    error = VoxelError(inr, torch.rand((7, 8, 9)[:dims]), torch.arange(0, 50, 5), 100.0)
    error.points = error.points.double()
    with frozen(inr):
        jacobian = error.linearise(latent, AGE).jacobian(with_age=True)
    step = 1e-5
    for number in range(5):
        change = step * torch.eye(5, dtype=torch.float64)[number]
        slope = (error.values(latent + change, AGE) - error.values(latent - change, AGE)) / (2 * step)
        assert torch.allclose(jacobian[:, number], slope, atol=1e-6)
    slope = (error.values(latent, AGE + 100 * step) - error.values(latent, AGE - 100 * step)) / (2 * step)
    assert torch.allclose(jacobian[:, 5], slope, atol=1e-6)
    assert jacobian.shape == (10, 6)


def test_the_step_solves_the_damped_normal_equations():
    jacobian = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).double()
    residual = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
    # without damping: the least-squares solution; J'J + mu d I is that of rows sqrt(mu d) appended to J, d the mean square of a column
    plain = torch.linalg.lstsq(jacobian, -residual[:, None]).solution[:, 0]
    assert torch.allclose(damped_step(normal, gradient, 0.0).double(), plain, atol=1e-6)
    longer = torch.cat([jacobian, torch.eye(4).double() * (0.7 * normal.diagonal().mean()).sqrt()])
    damped = torch.linalg.lstsq(longer, -torch.cat([residual, torch.zeros(4).double()])[:, None]).solution[:, 0]
    assert torch.allclose(damped_step(normal, gradient, 0.7).double(), damped, atol=1e-6)


def test_much_damping_is_a_short_step_downhill_and_a_matrix_without_a_root_is_none():
    normal, gradient = torch.diag(torch.tensor([1.0, 2.0])).double(), torch.tensor([1.0, -1.0]).double()
    assert torch.allclose(damped_step(normal, gradient, 1e6).double() * 1.5e6, torch.tensor([-1.0, 1.0]).double(), atol=1e-4)
    assert damped_step(-normal, gradient, 0.0) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_levenberg_marquardt_finds_the_latent_that_made_an_image(dims):
    inr = an_inr(dims)
    made = a_latent()
    fit = fit_lm(inr, an_image(inr, made), AGE, voxels=300, check=300)
    assert torch.allclose(fit.latent, made, atol=1e-3)
    assert fit.check_psnr > 60
    assert fit.age_weeks == AGE


def test_the_age_is_found_with_the_latent_when_it_is_asked_for():
    inr = an_inr(size=3)
    made = a_latent(3)
    image = an_image(inr, made, age=38.5)
    fit = fit_lm(inr, image, AGE, voxels=400, check=400, fit_age=True)
    assert fit.check_psnr > 60
    assert fit.age_weeks == pytest.approx(38.5, abs=0.05)
    assert fit_lm(inr, image, AGE, voxels=400, check=400).check_psnr < 60


def test_a_fitted_age_stays_between_the_ages_allowed():
    inr = an_inr()
    image = an_image(inr, a_latent())
    fit = fit_lm(inr, image, AGE + 1, voxels=400, check=400, fit_age=True, age_range=(AGE + 1, AGE + 2))
    assert all(AGE + 1 <= step.age_weeks <= AGE + 2 for step in fit.history)


def test_adamw_reaches_what_levenberg_marquardt_reaches_in_many_more_passes():
    inr = an_inr()
    image = an_image(inr, a_latent())
    slow = fit_adamw(inr, image, AGE, steps=150, lr=0.03, ratio=0.4, weight_decay=0.0)
    fast = fit_lm(inr, image, AGE, voxels=200, check=200)
    assert torch.allclose(slow.latent, fast.latent, atol=0.02)
    assert slow.evaluations > 4 * fast.evaluations
    assert len(slow.history) == 150


def test_a_fit_of_all_voxels_is_the_same_in_any_micro_batches():
    inr = an_inr()
    image = an_image(inr, a_latent())
    whole, parts = (fit_adamw(inr, image, AGE, steps=5, ratio=None, micro_batch=size) for size in (1000, 37))
    assert torch.allclose(whole.latent, parts.latent, atol=1e-6)
    assert whole.history[0].error == pytest.approx(float((an_image(inr, torch.zeros(5)) - image).square().mean()), rel=1e-3)


def test_adamw_is_that_of_torch_on_the_same_voxels():
    inr = an_inr()
    image = an_image(inr, a_latent())
    ours = fit_adamw(inr, image, AGE, steps=4, ratio=None, lr=0.01)
    latent = torch.nn.Parameter(torch.zeros(1, 5))
    optimizer = torch.optim.AdamW([latent], lr=0.01)
    everything = VoxelError(inr, image, torch.arange(image.numel()), 100.0)
    everything.points[:, 0] = AGE / 100
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(inr(everything.points[None], latent)[0, :, 0], image.reshape(-1)).backward()
        optimizer.step()
    assert torch.allclose(ours.latent, latent[0].detach(), atol=1e-6)


@pytest.mark.parametrize("fit", [fit_lm, fit_adamw])
def test_the_network_stays_as_it_was_and_gets_no_gradients_even_where_gradients_are_off(fit):
    inr = an_inr()
    image = an_image(inr, a_latent())
    inr.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in inr.state_dict().items()}
    with torch.no_grad():
        fit(inr, image, AGE, check=99, **({"steps": 3} if fit is fit_adamw else {"iterations": 3, "voxels": 99}))
    assert all(torch.equal(value, before[name]) for name, value in inr.state_dict().items())
    assert all(parameter.grad is None for parameter in inr.parameters())
    assert [name for name, parameter in inr.named_parameters() if not parameter.requires_grad] == ["head.weight"]


@pytest.mark.parametrize(("fit", "settings"), [(fit_lm, {"iterations": 4, "voxels": 99, "check": 99}), (fit_adamw, {"steps": 4})])
def test_the_same_seed_gives_the_same_fit_whatever_was_drawn_before(fit, settings):
    inr = an_inr()
    image = an_image(inr, a_latent())
    first = fit(inr, image, AGE, **settings)
    torch.rand(7)
    assert torch.equal(first.latent, fit(inr, image, AGE, **settings).latent)
    assert not torch.equal(first.latent, fit(inr, image, AGE, seed=1, **settings).latent)


def test_the_step_that_is_best_on_unseen_voxels_is_returned_and_the_fit_stops_after_it():
    inr = an_inr(size=40)
    noisy = (an_image(inr, a_latent(40)) + 0.1 * torch.randn(24, 20, generator=torch.Generator().manual_seed(0))).clamp(0.01, 1)
    fit = fit_lm(inr, noisy, AGE, voxels=60, check=400, patience=2, foreground=None, redraw=0)
    chosen = next(number for number, step in enumerate(fit.history) if torch.equal(step.latent, fit.latent))
    assert chosen <= len(fit.history) - 1
    assert len(fit.history) - 1 - chosen <= 2


def test_every_taken_step_makes_the_error_smaller():
    inr = an_inr()
    errors = [step.error for step in fit_lm(inr, an_image(inr, a_latent()), AGE, voxels=200, check=200, redraw=0).history]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) > 3


def test_a_bound_holds_every_number_of_the_latent():
    inr = an_inr()
    fit = fit_lm(inr, an_image(inr, 3 * a_latent()), AGE, voxels=200, check=200, bound=0.2)
    assert fit.latent.abs().max() <= 0.2


def test_the_start_is_where_the_search_begins():
    inr = an_inr()
    made = a_latent()
    fit = fit_lm(inr, an_image(inr, made), AGE, voxels=200, check=200, start=made)
    assert fit.history[0].error < 1e-10


def test_psnr_by_hand_is_of_clipped_values():
    # errors 0 (clipped from 1.5 to 1) and 0.1: mean square 0.005
    assert psnr_of(torch.tensor([1.5, 0.3]), torch.tensor([1.0, 0.4])) == pytest.approx(23.0103, abs=1e-3)
    assert psnr_of(torch.ones(3), torch.ones(3)) == pytest.approx(120.0)


@pytest.mark.parametrize("fit", [fit_lm, fit_adamw])
def test_mistakes_are_told(fit):
    inr = an_inr()
    with pytest.raises(UserError, match=r"image: got 3 axes \(1, 24, 20\), but the network is made for 2"):
        fit(inr, torch.ones(1, 24, 20), AGE)
    with pytest.raises(UserError, match="there is no brain in it"):
        fit(inr, torch.zeros(24, 20), AGE)
    with pytest.raises(UserError, match="ratio: got 0, expected a share"):
        fit_adamw(inr, torch.ones(24, 20), AGE, ratio=0)
