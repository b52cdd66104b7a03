"""Anomaly maps and the rule of intensity: identities, hand values, masks, and independence of what lies outside the brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from common.errors import UserError
from common.inferers.residual_map import (
    KINDS,
    IntensityRuleInferer,
    ResidualMap,
    ResidualMapd,
    equalised_intensity,
    eroded_brain,
    residual,
)
from common.metrics.image_similarity import ssim_map

IMAGE = torch.rand((1, 16, 14, 7), generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
BRAIN = torch.zeros_like(IMAGE)
BRAIN[:, 2:13, 2:12, 1:6] = 1


def test_a_perfect_restoration_has_an_empty_map_of_each_kind() -> None:
    for kind in KINDS:
        found = residual(IMAGE, IMAGE, kind)
        assert found.shape == IMAGE.shape and found.abs().max() < 1e-6


def test_kinds_are_those_of_their_formulas() -> None:
    restored = IMAGE.clone()
    restored[0, 4, 4, 3], restored[0, 5, 5, 3] = IMAGE[0, 4, 4, 3] - 0.2, IMAGE[0, 5, 5, 3] + 0.1
    expected = {"absolute": (0.2, 0.1), "squared": (0.04, 0.01), "signed": (0.2, -0.1), "bright": (0.2, 0), "dark": (0, 0.1)}
    for kind, (first, second) in expected.items():
        found = residual(IMAGE, restored, kind)
        assert (float(found[0, 4, 4, 3]), float(found[0, 5, 5, 3])) == pytest.approx((first, second), abs=1e-6)
        assert int((found.abs() > 1e-6).sum()) <= 2


def test_the_dssim_map_is_that_of_each_slice() -> None:
    restored = IMAGE.flip(1)
    found = residual(IMAGE, restored, "dssim")
    for n in range(7):
        one = (1 - ssim_map(IMAGE[0, ..., n].double(), restored[0, ..., n].double())) / 2
        torch.testing.assert_close(found[0, 5:-5, 5:-5, n].double(), one, atol=1e-6, rtol=0)
    assert not found[:, :5].any() and not found[:, :, -5:].any()


def test_erosion_agrees_with_scipy() -> None:
    theirs = ndimage.binary_erosion(BRAIN[0].numpy() > 0, np.ones((5, 5, 5)))
    assert np.array_equal(eroded_brain(BRAIN, 2)[0].numpy(), theirs)
    assert torch.equal(eroded_brain(BRAIN, 0), BRAIN > 0)
    full = eroded_brain(torch.ones(1, 5, 5, 5), 1)
    assert int(full.sum()) == 27, "the outside of the volume counts as out"


def test_nothing_outside_the_brain_reaches_the_map() -> None:
    restored = (IMAGE + 0.1).clamp(0, 1)
    other = torch.where(BRAIN > 0, restored, torch.ones(1))
    maps = [ResidualMap("absolute", "median", 3, 1)(IMAGE, made, BRAIN) for made in (restored, other)]
    assert torch.equal(*maps) and not maps[0][eroded_brain(BRAIN, 1).logical_not()].any() and maps[0].max() > 0.05


def test_the_transform_keeps_place_and_history_and_finds_the_brain_by_itself() -> None:
    image = MetaTensor(torch.where(BRAIN > 0, IMAGE, torch.zeros(1)), affine=torch.diag(torch.tensor([2.0, 2, 1.2, 1])))
    restored = (image + 0.1).as_tensor()
    found = ResidualMapd(residual=ResidualMap("absolute", "none", 1, 0))({"image": image, "pred": restored})
    assert found["residual"].affine[0, 0] == 2 and found["pred"] is restored
    torch.testing.assert_close(found["residual"].as_tensor(), 0.1 * BRAIN)


def test_ranks_in_the_brain_make_the_rule_of_intensity() -> None:
    image = torch.arange(8.0).reshape(1, 2, 2, 2) ** 3
    brain = torch.ones(1, 2, 2, 2)
    brain[0, 1, 1] = 0
    bright = equalised_intensity(image, brain, "bright").flatten().tolist()
    # six voxels: ranks (k + 1/2) / 6
    assert bright == pytest.approx([(k + 0.5) / 6 for k in range(6)] + [0, 0])
    both = equalised_intensity(image, brain, "both").flatten().tolist()
    assert both == pytest.approx([5 / 6, 3 / 6, 1 / 6, 1 / 6, 3 / 6, 5 / 6, 0, 0])
    dark = equalised_intensity(image, brain, "dark").flatten().tolist()
    assert dark[:6] == pytest.approx([1 - value for value in bright[:6]])


def test_the_rule_does_not_depend_on_units_nor_on_the_outside() -> None:
    first = equalised_intensity(IMAGE, BRAIN)
    other = torch.where(BRAIN > 0, 1000 * IMAGE**3 + 5, torch.full((1,), -7.0))
    torch.testing.assert_close(equalised_intensity(other, BRAIN), first)


def test_the_rule_runs_as_an_inferer_without_a_network() -> None:
    batch = torch.stack([IMAGE, IMAGE * BRAIN])
    found = IntensityRuleInferer("dark")(MetaTensor(batch))
    assert found.shape == batch.shape and torch.equal(found[1], equalised_intensity(IMAGE, BRAIN, "dark"))


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="kind, filter, size, rim: got abs, median, 3, 2; expected one of"):
        ResidualMap("abs")
    with pytest.raises(UserError, match="expected image and restoration"):
        residual(IMAGE, IMAGE[:, :3])
    with pytest.raises(UserError, match="rule: got 'white'"):
        equalised_intensity(IMAGE, BRAIN, "white")
    with pytest.raises(UserError, match="the mask is empty"):
        equalised_intensity(IMAGE, torch.zeros_like(BRAIN))
    with pytest.raises(UserError, match="has none left without a rim of 3; look at it, or give 0"):
        eroded_brain(BRAIN, 3)
