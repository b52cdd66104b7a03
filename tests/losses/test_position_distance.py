import pytest
import torch

from common.losses.position_distance import PositionDistanceLoss, position_error


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_error_is_the_euclidean_distance():
    # (0.3, 0.4, 0) apart: 0.5; (0.2, 0.1, 0.2) apart: sqrt(0.04 + 0.01 + 0.04) = 0.3
    predicted = torch.tensor([[0.3, 0.2], [0.4, 0.1], [0.0, 0.2]])[None]
    assert position_error(predicted, torch.zeros(1, 3, 2)).flatten().tolist() == pytest.approx([0.5, 0.3])


def test_every_scale_has_its_own_error():
    predicted, positions = drawn(2, 9, 4, 5, 6), drawn(2, 3, 4, 5, 6, seed=1)
    error = position_error(predicted, positions)
    assert error.shape == (2, 3, 4, 5, 6)
    for scale in range(3):
        expected = torch.linalg.vector_norm(predicted[:, 3 * scale : 3 * scale + 3] - positions, dim=1)
        torch.testing.assert_close(error[:, scale], expected)


def test_the_error_keeps_double_precision_and_its_smallest_value_is_epsilon():
    same = drawn(1, 3, 4)
    assert position_error(same, same, 1e-4).unique().tolist() == [1e-4]
    assert position_error(same, same).dtype == torch.float64
    assert not position_error(same, same).any()


def test_the_loss_is_the_mean_over_the_patches_that_count():
    predicted = torch.tensor([[[0.3, 0.0, 9.0], [0.4, 0.0, 9.0], [0.0, 0.1, 9.0]]])
    counts = torch.tensor([[[True, True, False]]])
    # distances 0.5 and 0.1, the third does not count: 0.3
    loss = PositionDistanceLoss(epsilon=0)(predicted, (torch.zeros(1, 3, 3), counts))
    assert loss.item() == pytest.approx(0.3)
    # squared: (0.25 + 0.01) / 2
    assert PositionDistanceLoss(epsilon=0, squared=True)(predicted, (torch.zeros(1, 3, 3), counts)).item() == pytest.approx(0.13)


def test_the_mean_is_over_all_patches_of_the_batch_not_over_its_volumes():
    predicted, positions = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    positions[0, 0], positions[1, 0] = 0.2, 0.6
    counts = torch.ones(2, 1, 4, dtype=torch.bool)
    counts[1, 0, 1:] = False
    # four patches at 0.2 and one at 0.6: 1.4 / 5
    assert PositionDistanceLoss(epsilon=0)(predicted, (positions, counts)).item() == pytest.approx(0.28)


def test_epsilon_adds_to_the_distance_as_one_more_coordinate():
    predicted, positions, counts = torch.tensor([[[0.3]] * 3]), torch.zeros(1, 3, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    assert PositionDistanceLoss(epsilon=0.1)(predicted, (positions, counts)).item() == pytest.approx((3 * 0.09 + 0.01) ** 0.5)


@pytest.mark.parametrize("squared", [False, True])
def test_scales_are_summed(squared):
    predicted, positions = drawn(2, 6, 3, 3, 3), drawn(2, 3, 3, 3, 3, seed=1)
    target = (positions, drawn(2, 1, 3, 3, 3, seed=2) > 0.5)
    loss = PositionDistanceLoss(squared=squared)
    both = loss(predicted[:, :3], target) + loss(predicted[:, 3:], target)
    assert loss(predicted, target).item() == pytest.approx(both.item())


def test_patches_that_do_not_count_have_neither_value_nor_gradient():
    predicted, positions = drawn(1, 3, 5).requires_grad_(), drawn(1, 3, 5, seed=1)
    counts = torch.tensor([[[True, False, True, False, True]]])
    loss = PositionDistanceLoss()(predicted, (positions, counts))
    loss.backward()
    assert torch.equal(predicted.grad.any(dim=1, keepdim=True), counts)
    away = positions.masked_fill(~counts, 100.0)
    assert PositionDistanceLoss()(predicted, (away, counts)).item() == loss.item()


@pytest.mark.parametrize("squared", [False, True])
def test_the_gradient_is_finite_where_the_prediction_is_right(squared):
    predicted = drawn(1, 3, 4, 4, 4, dtype=torch.float32).requires_grad_()
    target = (predicted.detach().clone(), torch.ones(1, 1, 4, 4, 4, dtype=torch.bool))
    loss = PositionDistanceLoss(squared=squared)(predicted, target)
    loss.backward()
    assert loss.item() == pytest.approx(1e-8 if squared else 1e-4)
    assert not predicted.grad.any()


def test_the_gradient_points_from_the_true_place_with_length_1_per_patch():
    predicted, positions = drawn(1, 3, 2, dtype=torch.float32).requires_grad_(), drawn(1, 3, 2, seed=1, dtype=torch.float32)
    PositionDistanceLoss(epsilon=0)(predicted, (positions, torch.ones(1, 1, 2))).backward()
    away = torch.nn.functional.normalize((predicted - positions).detach(), dim=1) / 2  # mean over two patches
    torch.testing.assert_close(predicted.grad, away)


@pytest.mark.parametrize("squared", [False, True])
def test_a_batch_without_patches_that_count_gives_0_with_a_gradient_of_0(squared):
    predicted = drawn(2, 3, 4).requires_grad_()
    loss = PositionDistanceLoss(squared=squared)(predicted, (drawn(2, 3, 4, seed=1), torch.zeros(2, 1, 4, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0
    assert not predicted.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_measured_in_single_precision(dtype):
    predicted, positions = drawn(1, 3, 50).to(dtype).requires_grad_(), drawn(1, 3, 50, seed=1, dtype=torch.float32)
    loss = PositionDistanceLoss()(predicted, (positions, torch.ones(1, 1, 50, dtype=torch.bool)))
    loss.backward()
    assert loss.dtype == torch.float32
    expected = torch.linalg.vector_norm(predicted.detach().double() - positions, dim=1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert predicted.grad.dtype == dtype
    assert bool(predicted.grad.isfinite().all())
