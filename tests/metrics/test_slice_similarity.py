"""Slices against their originals: hand values, a loop over slices, MONAI's SSIM, and what an equal slice does to a mean."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import SSIMMetric

from common.errors import UserError
from common.metrics.image_similarity import image_similarity
from common.metrics.slice_similarity import changed_mse, mean_psnr, slice_similarity

TARGET = torch.rand((3, 1, 21, 17), generator=torch.Generator().manual_seed(0))
NOISY = (TARGET + 0.1 * torch.randn(TARGET.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def test_a_constant_shift_has_the_values_of_the_formulas() -> None:
    found = slice_similarity(torch.full((2, 1, 16, 12), 0.6), torch.full((2, 1, 16, 12), 0.5))
    # (0.1)^2; flat slices: SSIM = (2 * 0.6 * 0.5 + 1e-4) / (0.36 + 0.25 + 1e-4); 20 dB
    assert found["mse"].tolist() == pytest.approx([0.01, 0.01])
    assert found["dssim"].tolist() == pytest.approx([(1 - 0.6001 / 0.6101) / 2] * 2, rel=1e-6)
    assert found["psnr_db"].tolist() == pytest.approx([20, 20])


def test_a_batch_has_the_numbers_of_its_slices_one_by_one() -> None:
    found = slice_similarity(NOISY, TARGET)
    for index in range(3):
        alone = image_similarity(NOISY[index, 0], TARGET[index, 0])
        assert float(found["mse"][index]) == pytest.approx(float((NOISY[index] - TARGET[index]).double().square().mean()), rel=1e-6)
        assert float(found["dssim"][index]) == pytest.approx((1 - alone["ssim"]) / 2, abs=1e-6)
        assert float(found["psnr_db"][index]) == pytest.approx(alone["psnr_db"], rel=1e-6)


def test_dssim_agrees_with_monai() -> None:
    theirs = (1 - SSIMMetric(2, data_range=1.0)(NOISY, TARGET)[:, 0].double()) / 2
    assert slice_similarity(NOISY, TARGET)["dssim"].tolist() == pytest.approx(theirs.tolist(), abs=1e-5)


def test_an_equal_slice_has_no_error_and_spoils_no_mean() -> None:
    found = slice_similarity(torch.cat([TARGET[:1], NOISY[1:]]), TARGET)
    assert (float(found["mse"][0]), float(found["dssim"][0]), float(found["psnr_db"][0])) == (0, 0, math.inf)
    finite = found["psnr_db"].tolist()
    assert mean_psnr(finite) == pytest.approx(sum(finite[1:]) / 2)
    assert mean_psnr([math.inf, math.inf]) == math.inf and math.isnan(mean_psnr([])) and mean_psnr([math.nan, 3.0]) == 3


def test_predictions_are_clipped_and_of_any_float_type() -> None:
    found = slice_similarity((TARGET > 0.5).half() * 9 - 4, (TARGET > 0.5).float())
    assert found["mse"].tolist() == [0, 0, 0] and found["mse"].dtype == torch.float64


def test_only_what_was_changed_counts_in_its_error() -> None:
    corrupted, restored = TARGET.clone(), TARGET.clone()
    corrupted[0, 0, 2:4, 3:6] = 0
    restored[0, 0, 2:4, 3:6] = TARGET[0, 0, 2:4, 3:6] * 0.5
    restored[:, :, 20] = 0
    expected = float((TARGET[0, 0, 2:4, 3:6] / 2).double().square().mean())
    found = changed_mse(restored, corrupted, TARGET)
    assert float(found[0]) == pytest.approx(expected, rel=1e-5) and torch.isnan(found[1:]).all()


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match=r"got shapes \(3, 1, 21, 17\) and \(2, 1, 21, 17\), expected slices \(B, 1, H, W\)"):
        slice_similarity(TARGET, TARGET[:2])
    with pytest.raises(UserError, match="at least 11 pixels, the window of SSIM"):
        slice_similarity(TARGET[..., :9], TARGET[..., :9])
    with pytest.raises(UserError, match=r"prediction: 1 of 1071 pixels are NaN or infinite\. Did the training diverge"):
        slice_similarity(TARGET.flatten().index_fill(0, torch.tensor([5]), math.nan).view_as(TARGET), TARGET)
