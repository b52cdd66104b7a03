import pytest
import torch

from common.errors import UserError
from common.inferers.error_calibration import SMALLEST_SD, StandardiseErrord, coarsen, fit_calibration, standardise_error
from common.networks.head_ct_model import HeadCTModel

SIDE = 6


class NoNetwork(torch.nn.Module):
    outputs = 3


def truth(maps=1):
    """Mean and SD of healthy errors, smooth in space and unequal between the maps: ``(maps, SIDE, SIDE, SIDE)``."""
    ramp = torch.linspace(0, 1, SIDE).expand(SIDE, SIDE, SIDE)
    level = torch.arange(1, maps + 1).view(-1, 1, 1, 1)
    return level * (0.1 + 0.01 * ramp), level * (0.02 + 0.03 * ramp.transpose(0, 2))


def healthy_errors(heads, maps=1, seed=0):
    mean, sd = truth(maps)
    noise = torch.randn(heads, *mean.shape, generator=torch.Generator().manual_seed(seed))
    return mean + sd * noise


def everywhere(heads):
    return torch.ones(heads, 1, SIDE, SIDE, SIDE, dtype=torch.bool)


# -------------------------------------------------------------------------------------------------------------------- fit_calibration


@pytest.mark.parametrize("maps", [1, 2])
def test_a_constant_error_has_that_mean_and_the_smallest_sd(maps):
    mean, sd = fit_calibration(torch.full((4, maps, SIDE, SIDE, SIDE), 0.25), everywhere(4))
    assert mean.shape == sd.shape == (maps, SIDE, SIDE, SIDE)
    assert mean.dtype == sd.dtype == torch.float32
    torch.testing.assert_close(mean, torch.full_like(mean, 0.25))
    assert sd.min() > 0
    assert sd.max() < 2e-6


def test_one_place_that_never_varies_gets_the_smallest_sd():
    errors = 0.3 + 0.1 * torch.randn(5000, 1, 12, 1, 1, generator=torch.Generator().manual_seed(0))
    errors[:, :, :8] = 0.3  # the Gaussian reaches four voxels, so that the first ones have no neighbour that varies
    _, sd = fit_calibration(errors, torch.ones(5000, 1, 12, 1, 1, dtype=torch.bool))
    smallest = SMALLEST_SD * errors.double().std(unbiased=False).item()
    assert sd[0, :4].flatten().tolist() == pytest.approx([smallest] * 4)
    assert sd[0, -1].item() > 5 * smallest


def test_adding_a_constant_to_all_errors_shifts_the_mean_alone():
    errors, heads = healthy_errors(5), everywhere(5)
    heads[:2, :, :2] = False
    mean, sd = fit_calibration(errors, heads)
    shifted, same = fit_calibration(errors + 0.5, heads)
    torch.testing.assert_close(shifted, mean + 0.5)
    torch.testing.assert_close(same, sd)


def test_scaling_all_errors_scales_both():
    errors, heads = healthy_errors(5), everywhere(5)
    mean, sd = fit_calibration(errors, heads)
    larger = fit_calibration(3 * errors, heads)
    torch.testing.assert_close(larger[0], 3 * mean)
    torch.testing.assert_close(larger[1], 3 * sd)


def test_the_order_of_the_heads_does_not_matter_and_maps_do_not_mix():
    errors, heads = healthy_errors(4, maps=2), everywhere(4)
    heads[1, :, 2:4] = False
    mean, sd = fit_calibration(errors, heads)
    turned = fit_calibration(errors.flip(0), heads.flip(0))
    torch.testing.assert_close(turned[0], mean)
    torch.testing.assert_close(turned[1], sd)
    for channel in range(2):
        alone = fit_calibration(errors[:, channel : channel + 1], heads)
        assert torch.equal(alone[0][0], mean[channel])
        assert torch.equal(alone[1][0], sd[channel])


def test_more_heads_come_nearer_to_the_truth_at_every_place():
    mean, sd = truth()
    inner = (0, slice(2, -2), slice(2, -2), slice(2, -2))  # at the border the smoothing sees fewer neighbours
    away = []
    for heads in (2, 20, 2000):
        found = fit_calibration(healthy_errors(heads), everywhere(heads))
        away.append([(found[0] - mean)[inner].abs().mean().item(), (found[1] - sd)[inner].abs().mean().item()])
    for few, some, many in zip(*away, strict=True):
        assert few > some > many
        assert many < 0.003


def test_outside_the_heads_the_values_are_those_over_all_places():
    heads = everywhere(3)
    heads[..., 1:] = False  # one slab of six is head; the Gaussian is cut off after four voxels
    errors = healthy_errors(3)
    mean, sd = fit_calibration(errors, heads)
    inside = errors[heads].double()
    torch.testing.assert_close(mean[..., -1], torch.full_like(mean[..., -1], inside.mean().item()))
    torch.testing.assert_close(sd[..., -1], torch.full_like(sd[..., -1], inside.std(unbiased=False).item()))


def test_errors_outside_the_heads_are_ignored():
    errors, heads = healthy_errors(3), everywhere(3)
    heads[:, :, 4:] = False
    expected = fit_calibration(errors, heads)
    errors[:, :, 4:] = 77.0
    found = fit_calibration(errors, heads)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_values_far_from_any_border_are_those_counted_by_hand():
    # two heads of constant errors 0.1 and 0.3: S0 = 2, S1 = 0.4, S2 = 0.1 in the middle; over all places mean 0.2, second moment 0.05
    # mean (0.4 + 0.2) / 3 = 0.2; variance (0.1 + 0.05) / 3 - 0.04 = 0.01
    errors = torch.tensor([0.1, 0.3]).view(2, 1, 1, 1, 1).expand(2, 1, 11, 11, 11)
    mean, sd = fit_calibration(errors, torch.ones(2, 1, 11, 11, 11, dtype=torch.bool))
    assert mean[0, 5, 5, 5].item() == pytest.approx(0.2)
    assert sd[0, 5, 5, 5].item() == pytest.approx(0.1)


def test_a_single_head_gives_finite_values():
    mean, sd = fit_calibration(healthy_errors(1), everywhere(1))
    assert bool(mean.isfinite().all())
    assert bool((sd > 0).all())


# ------------------------------------------------------------------------------------------------------- coarsen, standardise_error


def test_a_coarse_map_holds_the_corners_and_runs_straight_between_them():
    axis = torch.linspace(-1, 1, 9)
    volume = (axis[:, None, None] + 2 * axis[:, None] + 4 * axis)[None]
    coarse = coarsen(volume, 4)
    axis = torch.linspace(-1, 1, 4)
    torch.testing.assert_close(coarse, (axis[:, None, None] + 2 * axis[:, None] + 4 * axis)[None])
    assert torch.equal(coarsen(volume, 9), volume)


def test_healthy_heads_have_mean_0_and_sd_1_once_standardised():
    mean, sd = truth(2)
    z = torch.stack([standardise_error(errors, mean, sd) for errors in healthy_errors(2000, maps=2)])
    assert z.shape == (2000, 1, SIDE, SIDE, SIDE)
    assert z.mean(dim=0).abs().max() < 0.1
    # the mean of two independent scores has an SD of sqrt(1/2)
    assert (z.std(dim=0) - 0.5**0.5).abs().max() < 0.1
    assert z.mean().item() == pytest.approx(0, abs=0.005)
    assert z.std().item() == pytest.approx(0.5**0.5, abs=0.005)


def test_healthy_heads_that_were_not_fitted_have_mean_0_and_sd_1_too():
    mean, sd = fit_calibration(healthy_errors(500), everywhere(500))
    z = torch.stack([standardise_error(errors, mean, sd) for errors in healthy_errors(500, seed=1)])
    assert z[:, :, 1:-1, 1:-1, 1:-1].mean().item() == pytest.approx(0, abs=0.05)
    assert z[:, :, 1:-1, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.05)


def test_a_calibration_on_a_coarser_lattice_lies_over_the_same_cube():
    mean, sd = truth()
    fine = torch.linspace(0, 1, 16).expand(16, 16, 16)
    errors = (0.1 + 0.01 * fine) + 2 * (0.02 + 0.03 * fine.transpose(0, 2))  # two SD above the mean everywhere
    z = standardise_error(errors[None], mean, sd)
    torch.testing.assert_close(z, torch.full((1, 16, 16, 16), 2.0), rtol=1e-4, atol=0)


# ------------------------------------------------------------------------------------------------------------------ StandardiseErrord


def a_model(maps=2, calibrated=True):
    model = HeadCTModel(NoNetwork(), 64.0, bins=4, maps=maps, calibration_side=SIDE)
    if calibrated:
        mean, sd = truth(maps)
        model.calibration_mean.copy_(mean)
        model.calibration_sd.copy_(sd)
    return model


@pytest.fixture
def case():
    image = torch.randint(-500, 1500, (1, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    image[:, :2] = -1024
    return {"id": "a", "image": image, "pred": healthy_errors(1, maps=2)[0] * (image > -1024)}


def test_a_calibrated_model_gives_the_error_its_maps_and_the_z_map(case):
    result = StandardiseErrord("pred", a_model())(case)
    head = case["image"] > -1024
    assert set(result) == {"id", "image", "pred", "maps", "error", "head", "zmap"}
    assert torch.equal(result["maps"], case["pred"])
    assert torch.equal(result["head"], head)
    assert torch.equal(result["error"], case["pred"].mean(dim=0, keepdim=True))
    assert torch.equal(result["zmap"], standardise_error(case["pred"], *truth(2)) * head)
    assert not result["zmap"][~head].any()
    assert not result["error"][~head].any()
    assert result["error"].shape == result["zmap"].shape == (1, SIDE, SIDE, SIDE)


@pytest.mark.parametrize("calibrated", [False, "false", True, "true"])
def test_the_switch_chooses_which_map_is_the_prediction(case, calibrated):
    result = StandardiseErrord("pred", a_model(), calibrated=calibrated)(case)
    assert torch.equal(result["pred"], result["zmap" if calibrated in (True, "true") else "error"])


@pytest.mark.parametrize("model", [None, a_model(calibrated=False)])
def test_without_a_calibration_there_is_no_z_map(case, model):
    result = StandardiseErrord("pred", model)(case)
    assert set(result) == {"id", "image", "pred", "maps", "error", "head"}
    assert torch.equal(result["pred"], result["error"])


def test_one_map_is_its_own_mean(case):
    case["pred"] = case["pred"][:1]
    result = StandardiseErrord("pred", a_model(maps=1))(case)
    assert torch.equal(result["error"], case["pred"])


def test_the_case_that_came_in_is_left_as_it_was(case):
    before = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in case.items()}
    StandardiseErrord("pred", a_model())(case)
    assert set(case) == set(before)
    assert torch.equal(case["pred"], before["pred"])


def test_a_switch_that_is_neither_true_nor_false_is_an_error():
    with pytest.raises(UserError, match="calibrated: got 'perhaps', expected true or false"):
        StandardiseErrord("pred", calibrated="perhaps")
