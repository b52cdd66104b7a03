"""Intensity and label of single voxels."""

from __future__ import annotations

import math

import pytest
import torch

from common.losses.intensity_and_label import IntensityAndLabelLoss


def test_by_hand() -> None:
    # one voxel: (0.5 - 0.1)^2 = 0.16; logits (0, ln 3), label 1: -ln(3 / 4)
    outputs, values = torch.tensor([[[0.5, 0.0, math.log(3)]]]), torch.tensor([[[0.1, 1.0]]])
    assert float(IntensityAndLabelLoss(weight=2.0)(outputs, values)) == pytest.approx(0.16 + 2 * math.log(4 / 3), rel=1e-5)


def test_without_weight_it_is_the_squared_error() -> None:
    outputs, values = torch.rand(2, 5, 4), torch.cat([torch.rand(2, 5, 1), torch.randint(3, (2, 5, 1)).float()], dim=2)
    expected = (outputs[..., 0] - values[..., 0]).square().mean()
    torch.testing.assert_close(IntensityAndLabelLoss(weight=0.0)(outputs, values), expected)
