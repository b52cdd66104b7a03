import pytest
import torch

from common.losses.masked_mse import MaskedMSELoss


def test_value_by_hand():
    prediction = torch.tensor([[[[1.0, 5.0]], [[2.0, 5.0]]]])
    truth = torch.tensor([[[[4.0, 0.0]], [[2.0, 0.0]]]])
    mask = torch.tensor([[[[True, False]]]])
    # one pixel counts, in two channels: ((1 - 4)^2 + (2 - 2)^2) / 2 = 4.5
    assert float(MaskedMSELoss()(prediction, (truth, mask))) == 4.5


def test_a_full_mask_gives_torchs_mean_squared_error():
    prediction, truth = torch.randn(2, 3, 2, 5, 7)
    mask = torch.ones(3, 1, 5, 7, dtype=torch.bool)
    torch.testing.assert_close(MaskedMSELoss()(prediction, (truth, mask)), torch.nn.functional.mse_loss(prediction, truth))


def test_only_pixels_in_the_mask_count_whatever_the_sample():
    prediction, truth = torch.randn(2, 3, 2, 5, 7)
    mask = torch.rand(3, 1, 5, 7) < 0.3
    expected = torch.cat([((prediction - truth) ** 2)[b][:, mask[b, 0]].flatten() for b in range(3)]).mean()
    torch.testing.assert_close(MaskedMSELoss()(prediction, (truth, mask)), expected)


def test_an_empty_mask_gives_zero_with_zero_gradient():
    prediction = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = MaskedMSELoss()(prediction, (torch.randn(1, 2, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(prediction.grad, torch.zeros(1, 2, 4, 4))


def test_gradient_is_twice_the_error_over_the_count_and_zero_outside():
    prediction = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    truth, mask = torch.randn(2, 2, 3, 4, dtype=torch.float64), torch.rand(2, 1, 3, 4) < 0.5
    MaskedMSELoss()(prediction, (truth, mask)).backward()
    expected = 2 * (prediction.detach() - truth) * mask / (2 * mask.sum())
    torch.testing.assert_close(prediction.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_pixels_exactly(dtype):
    # 300 x 300 pixels are more than float16 can hold and more digits than bfloat16 has
    prediction, mask = torch.full((1, 1, 300, 300), 3.0, dtype=dtype), torch.ones(1, 1, 300, 300, dtype=torch.bool)
    assert float(MaskedMSELoss()(prediction, (torch.ones(1, 1, 300, 300), mask))) == 4.0
