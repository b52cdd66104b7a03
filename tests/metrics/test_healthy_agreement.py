import pytest
import torch

from common.metrics.healthy_agreement import HealthyAgreement


def heads(*sides):
    structures = torch.zeros(1, 1, *sides, dtype=torch.uint8)
    structures[:, :, 1:] = 3
    return structures


def measured(errors, structures):
    metric = HealthyAgreement()
    metric(y_pred=errors, y=structures)
    return metric.aggregate().item()


def test_it_is_one_minus_the_mean_error_over_the_foreground():
    errors = torch.tensor([0.9, 0.1, 0.2, 0.3]).view(1, 1, 4, 1, 1)
    structures = torch.tensor([0, 1, 2, 4]).view(1, 1, 4, 1, 1)
    # (0.1 + 0.2 + 0.3) / 3 = 0.2; the first voxel is background
    assert measured(errors, structures) == pytest.approx(0.8)


def test_a_perfect_map_has_1_and_a_larger_error_less():
    structures = heads(3, 4, 5)
    errors = torch.rand(1, 1, 3, 4, 5)
    assert measured(torch.zeros(1, 1, 3, 4, 5), structures) == 1
    assert measured(errors, structures) > measured(errors + 0.01, structures) > measured(2 * errors + 0.01, structures)


def test_errors_in_the_background_do_not_matter():
    structures, errors = heads(3, 4, 5), torch.rand(1, 1, 3, 4, 5)
    other = errors.clone()
    other[structures == 0] = 100
    assert measured(other, structures) == measured(errors, structures)


def test_the_maps_of_several_scales_are_averaged():
    structures, errors = heads(3, 4, 5), torch.rand(1, 2, 3, 4, 5)
    assert measured(errors, structures) == pytest.approx(measured(errors.mean(dim=1, keepdim=True), structures))


def test_volumes_count_alike_whatever_the_size_of_their_heads():
    small, large = torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4)
    small[0, 0, 0, 0] = 1
    metric = HealthyAgreement()
    metric(y_pred=[torch.full((1, 4, 4, 4), 0.2)], y=[small])  # decollated, as the evaluator gives them
    metric(y_pred=[torch.full((1, 4, 4, 4), 0.4)], y=[large])
    assert metric.aggregate().item() == pytest.approx(0.7)
    together = torch.tensor([0.2, 0.4]).view(2, 1, 1, 1, 1).expand(2, 1, 4, 4, 4)
    assert measured(together, torch.stack([small, large])) == pytest.approx(0.7)


def test_a_reset_forgets_what_was_measured():
    metric = HealthyAgreement()
    metric(y_pred=torch.ones(1, 1, 2, 2, 2), y=torch.ones(1, 1, 2, 2, 2))
    metric.reset()
    metric(y_pred=torch.zeros(1, 1, 2, 2, 2), y=torch.ones(1, 1, 2, 2, 2))
    assert metric.aggregate().item() == 1
