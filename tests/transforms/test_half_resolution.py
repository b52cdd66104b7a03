"""HalfRes needs no transform of ours: these are the laws of MONAI's ``DivisiblePadd`` and ``Zoomd`` that the variant relies on."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, DivisiblePadd, Zoomd
from torch.nn.functional import avg_pool3d, pad

from common.transforms.patch_sampling import RandPatchd, padding_before

GRID = torch.tensor([[-1.0, 0, 0, 4], [0, -2, 0, 7], [0, 0, 3, -5], [0, 0, 0, 1]], dtype=torch.float64)


@pytest.fixture
def halve():
    return Compose(
        [
            DivisiblePadd(("image", "label"), 2, method="end"),
            Zoomd(("image", "label"), 0.5, mode="area", keep_size=False),
            AsDiscreted("label", threshold=0.5),
        ]
    )


def a_case(sides=(8, 6, 5)):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, *sides, generator=generator) > 0.5).to(torch.uint8)
    return {"image": MetaTensor(torch.rand(4, *sides, generator=generator), affine=GRID), "label": MetaTensor(mask, affine=GRID)}


def test_images_are_averaged_over_blocks_and_labels_take_the_majority(halve):
    case = a_case()
    half = halve(case)
    assert torch.equal(half["image"].as_tensor(), avg_pool3d(pad(case["image"].as_tensor(), (0, 1)), 2))
    share = avg_pool3d(pad(case["label"].as_tensor().float(), (0, 1)), 2)
    assert torch.equal(half["label"].as_tensor(), (share >= 0.5).float())
    assert (share == 0.5).any(), "half of a block counts as tumour"


def test_the_affine_puts_a_voxel_in_the_middle_of_its_block(halve):
    half = halve(a_case())
    for key in ("image", "label"):
        first = half[key].affine.numpy() @ [0, 0, 0, 1]
        np.testing.assert_allclose(first, GRID.numpy() @ [0.5, 0.5, 0.5, 1])
        np.testing.assert_allclose(half[key].affine.numpy()[:3, :3], 2 * GRID.numpy()[:3, :3])


def test_padding_after_halving_is_the_half_of_padding_before(halve):
    # as for 240 x 240 x 155: 8, 8, 50 voxels before in 256 and 4, 4, 25 in 128
    assert padding_before((120, 120, 78), (128,) * 3) == [4, 4, 25]
    case = a_case((12, 8, 5))  # in 16 x 16 x 14: 2, 4 and 4 before, 5 behind along z
    whole = pad(case["image"].as_tensor(), (4, 5, 4, 4, 2, 2))
    patch = RandPatchd("image", (8, 8, 7), (8, 8, 7))({"image": halve(case)["image"]})["image"]
    assert torch.equal(patch, avg_pool3d(whole, 2))
