"""The brain of a skull-stripped image."""

import pytest
import torch
from monai.data import MetaTensor

from common.errors import UserError
from common.transforms.brain_mask import BrainMaskd


def test_the_brain_is_where_any_channel_is_not_0_on_the_grid_of_the_image():
    image = torch.zeros(2, 2, 2, 3)
    image[0, 0, 0, 0], image[1, 1, 1, 2] = 3.0, -1.0
    affine = torch.diag(torch.tensor([-1.0, -1, 2, 1], dtype=torch.float64))
    brain = BrainMaskd()({"image": MetaTensor(image, affine=affine)})["brain"]
    assert brain.dtype == torch.uint8 and brain.shape == (1, 2, 2, 3)
    assert brain.as_tensor().nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 1, 2]]
    assert torch.equal(brain.affine, affine)


def test_an_image_without_brain_is_refused_by_its_case():
    with pytest.raises(UserError, match="case k: every voxel of the image is 0"):
        BrainMaskd()({"id": "k", "image": MetaTensor(torch.zeros(1, 2, 2, 2))})
