from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensity

from common.transforms.slice_range import SliceRanged, slice_range


def test_every_slice_reaches_from_zero_to_one_as_monais_scaling_of_it_alone() -> None:
    volume = torch.rand(1, 5, 4, 3, generator=torch.manual_seed(0)) * 50 - 7
    scaled = slice_range(volume)
    for k in range(3):
        torch.testing.assert_close(scaled[..., k], ScaleIntensity()(volume[..., k]))


def test_a_constant_slice_becomes_zero_and_integers_are_taken() -> None:
    volume = torch.full((1, 2, 2, 2), 7, dtype=torch.int16)
    volume[0, 0, 0, 1] = 9
    assert slice_range(volume).tolist() == [[[[0, 1], [0, 0]], [[0, 0], [0, 0]]]]


def test_an_affine_change_of_a_volume_changes_nothing() -> None:
    volume = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(slice_range(3 * volume + 11), slice_range(volume), atol=1e-5, rtol=0)


def test_the_affine_of_the_image_stays() -> None:
    image = MetaTensor(torch.rand(1, 2, 3, 4), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    assert SliceRanged()({"image": image})["image"].affine.tolist() == image.affine.tolist()
