"""The weighted sum, and the three losses that LADP puts into it: what the config asks of MONAI is what Eq. 7 means."""

import math

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from torch import nn

from common.errors import UserError
from common.losses.weighted_sum import WeightedSumLoss

ALPHA, GAMMA, SMOOTH = 0.8, 2.0, 0.1


def paper_losses():
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    return [nn.BCEWithLogitsLoss(), dice, FocalLoss(alpha=ALPHA, gamma=GAMMA)]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 4, 5, generator=generator) * 2
    return logits, (torch.rand(3, 1, 4, 5, generator=generator) < 0.3).float()


def focal_pixel_by_pixel(logits, target):
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        p_true, alpha_true = (p, ALPHA) if y == 1 else (1 - p, 1 - ALPHA)
        total += -alpha_true * (1 - p_true) ** GAMMA * math.log(p_true)
    return total / logits.numel()


def test_sum_equals_its_parts(batch):
    losses = paper_losses()
    expected = losses[0](*batch) + losses[1](*batch) + 3 * losses[2](*batch)
    torch.testing.assert_close(WeightedSumLoss(losses, [1.0, 1.0, 3.0])(*batch), expected)


def test_it_is_linear_in_the_weights(batch):
    once, twice = (WeightedSumLoss(paper_losses(), weights)(*batch) for weights in ([1, 2, 3], [2, 4, 6]))
    torch.testing.assert_close(twice, 2 * once)


def test_a_weight_of_zero_leaves_a_loss_out(batch):
    losses = paper_losses()
    torch.testing.assert_close(WeightedSumLoss(losses, [0, 1, 0])(*batch), losses[1](*batch))


def test_gradient_is_the_sum_of_the_parts_gradients(batch):
    logits, target = batch
    gradients = []
    for weights in ([1, 1, 3], [1, 0, 0], [0, 1, 0], [0, 0, 3]):
        z = logits.clone().requires_grad_()
        WeightedSumLoss(paper_losses(), weights)(z, target).backward()
        gradients.append(z.grad)
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2] + gradients[3])


def test_labels_of_integers_are_taken_as_they_come(batch):
    logits, target = batch
    loss = WeightedSumLoss(paper_losses(), [1, 1, 3])
    torch.testing.assert_close(loss(logits, target.to(torch.uint8)), loss(logits, target))


def test_focal_loss_weighs_every_pixel_by_itself(batch):
    logits, target = batch
    assert FocalLoss(alpha=ALPHA, gamma=GAMMA)(logits, target).item() == pytest.approx(focal_pixel_by_pixel(logits, target), rel=1e-5)


def test_dice_smoothing_by_hand_over_the_whole_batch(batch):
    logits, target = batch
    p = torch.sigmoid(logits)
    # 1 - (2 sum(p y) + 0.1) / (sum(p) + sum(y) + 0.1), all samples in one sum
    expected = 1 - (2 * (p * target).sum() + SMOOTH) / (p.sum() + target.sum() + SMOOTH)
    torch.testing.assert_close(paper_losses()[1](logits, target), expected)


def test_dice_of_an_empty_slice_that_is_found_empty_is_no_loss():
    logits = torch.full((1, 1, 4, 4), -40.0)
    assert float(paper_losses()[1](logits, torch.zeros(1, 1, 4, 4))) == pytest.approx(0.0, abs=1e-6)


def test_logits_far_from_zero_give_finite_loss_and_gradient():
    logits = torch.tensor([[[[-200.0, 200.0]]]], requires_grad=True)
    loss = WeightedSumLoss(paper_losses(), [1, 1, 3])(logits, torch.tensor([[[[1.0, 0.0]]]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow_on_a_large_batch(dtype):
    logits = torch.full((1, 1, 300, 300), 2.0)
    target = torch.ones(1, 1, 300, 300)
    loss = WeightedSumLoss(paper_losses(), [1, 1, 3])
    torch.testing.assert_close(loss(logits.to(dtype), target), loss(logits, target))


def test_unequal_numbers_of_losses_and_weights_are_an_error():
    with pytest.raises(UserError, match="weights: got 2 for 3 losses, expected one per loss"):
        WeightedSumLoss(paper_losses(), [1.0, 1.0])
