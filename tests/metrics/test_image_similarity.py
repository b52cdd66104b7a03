"""Against MONAI's metrics, by hand, and what clipping and the mask do."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric

from common.errors import UserError
from common.metrics.image_similarity import WINDOW, gaussian_window, image_similarity

SHAPES = [(17, 23), (13, 16, 19)]


def images(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator)
    return (target + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1), target


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_image_metrics_are_those_of_monai(shape):
    prediction, target = images(shape)
    found = image_similarity(prediction, target)
    batch = prediction[None, None], target[None, None]
    assert found["ssim"] == pytest.approx(float(SSIMMetric(len(shape), data_range=1.0)(*batch)), abs=1e-5)
    assert found["psnr_db"] == pytest.approx(float(PSNRMetric(max_val=1.0)(*batch)), abs=1e-4)
    assert found["mae"] == pytest.approx(float((prediction - target).abs().mean()), abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_is_like_itself(shape):
    _, target = images(shape)
    found = image_similarity(target, target, torch.ones(shape))
    assert found["psnr_db"] == found["psnr_brain_db"] == math.inf
    assert found["ssim"] == pytest.approx(1) and found["ssim_brain"] == pytest.approx(1)
    assert found["mae"] == found["mae_brain"] == 0


def test_a_constant_error_by_hand():
    target = np.full((12, 12), 0.5)
    found = image_similarity(target + 0.1, target)
    # mse 0.01 is 20 dB; without variance SSIM is its first factor, (2 * 0.6 * 0.5 + 1e-4) / (0.36 + 0.25 + 1e-4)
    assert found["psnr_db"] == pytest.approx(20, abs=1e-4) and found["mae"] == pytest.approx(0.1, abs=1e-6)
    assert found["ssim"] == pytest.approx(0.6001 / 0.6101, abs=1e-3)


def test_predictions_are_clipped_first():
    _, target = images((16, 16))
    target = target.round()
    assert image_similarity(3 * target - 1, target)["mae"] == 0


def test_the_brains_metrics_do_not_see_an_error_outside_of_it():
    _, target = images((24, 24))
    brain = torch.zeros(24, 24, dtype=torch.uint8)
    brain[9:13, 9:13] = 1
    wrong = target.clone()
    wrong[20:, 20:] = 1 - wrong[20:, 20:]
    found = image_similarity(wrong, target, brain)
    assert found["mae"] > 0 and found["ssim"] < 1
    assert found["mae_brain"] == 0 and found["psnr_brain_db"] == math.inf and found["ssim_brain"] == pytest.approx(1)


def test_a_mask_of_every_voxel_measures_the_whole_image():
    prediction, target = images((16, 18))
    found = image_similarity(prediction, target, torch.ones(16, 18))
    assert found["mae_brain"] == pytest.approx(found["mae"])
    assert found["psnr_brain_db"] == pytest.approx(found["psnr_db"]) and found["ssim_brain"] == pytest.approx(found["ssim"])


def test_black_around_the_brain_lifts_every_metric_of_the_whole_image_and_none_of_the_brain():
    prediction, target = images((20, 20))
    brain = torch.ones(20, 20)
    small, large = (image_similarity(*(torch.nn.functional.pad(x, [pad] * 4) for x in (prediction, target, brain))) for pad in (6, 12))
    assert large["psnr_db"] > small["psnr_db"] and large["ssim"] > small["ssim"] and large["mae"] < small["mae"]
    assert large["mae_brain"] == pytest.approx(small["mae_brain"]) and large["ssim_brain"] == pytest.approx(small["ssim_brain"], abs=1e-5)


def test_the_window_keeps_a_constant_and_shortens_each_side():
    assert torch.allclose(gaussian_window(torch.full((12, 15), 0.7)), torch.full((2, 5), 0.7))


@pytest.mark.parametrize(
    ("prediction", "target", "brain", "text"),
    [
        (np.zeros((12, 12)), np.zeros((12, 13)), None, r"got shapes \(12, 12\) and \(12, 13\), expected one shape"),
        (np.zeros((12, WINDOW - 1)), np.zeros((12, WINDOW - 1)), None, "sides of at least 11 voxels, the window of SSIM"),
        (np.zeros((1, 12, 12, 12)), np.zeros((1, 12, 12, 12)), None, r"expected one shape \(X, Y\) or \(X, Y, Z\)"),
        (np.full((12, 12), np.nan), np.zeros((12, 12)), None, "prediction: 144 of 144 voxels are NaN or infinite. Did the fit"),
        (np.zeros((12, 12)), np.zeros((12, 12)), np.zeros((12, 12)), r"brain: got 0 voxels in shape \(12, 12\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(prediction, target, brain, text):
    with pytest.raises(UserError, match=text):
        image_similarity(prediction, target, brain)
