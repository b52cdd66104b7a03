"""Back to the axes of the file."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd

from common.errors import UserError
from common.transforms.to_source_axes import ToSourceAxesd


@pytest.mark.parametrize("axes", [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 0, 2), (-1, -1, 1))])
def test_turning_back_undoes_the_orientation(axes):
    order, signs = axes
    affine = np.zeros((4, 4))
    affine[list(order), [0, 1, 2]] = np.array(signs) * [1.0, 2.0, 3.0]
    affine[3, 3] = 1
    volume = MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4), affine=affine)
    case = {"image": volume, "brain": volume}
    turned = Orientationd("image", axcodes="LPS", labels=None)(case)
    back = ToSourceAxesd("pred")({**turned, "pred": turned["image"].as_tensor()})["pred"]
    assert torch.equal(back.as_tensor(), volume.as_tensor())
    np.testing.assert_allclose(back.affine.numpy(), affine)


def test_without_an_affine_the_axes_are_not_known():
    with pytest.raises(UserError, match="'image' and 'brain' must be MetaTensor"):
        ToSourceAxesd("pred")({"image": torch.zeros(1, 2, 2, 2), "brain": torch.zeros(1, 2, 2, 2), "pred": torch.zeros(1, 2, 2, 2)})
