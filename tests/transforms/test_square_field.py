from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.errors import UserError
from common.transforms.square_field import SquareFieldd, square_shape


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((256, 256, 150), (0.9375, 0.9375, 1.2), (256, 256)),  # IXI is square
        ((218, 182, 182), (1.0, 1.0, 1.0), (218, 218)),
        ((100, 80, 9), (1.0, 2.0, 1.0), (160, 80)),  # 100 mm x 160 mm: 160 voxels of 1 mm
        ((384, 384, 5), (0.6667, 0.6667, 0.7), (384, 384)),
    ],
)
def test_the_smallest_square_in_mm_that_holds_all(shape: tuple[int, ...], spacing: tuple[float, ...], expected: tuple[int, int]) -> None:
    assert square_shape(shape, spacing) == expected


def test_padding_keeps_every_voxel_at_its_place_in_the_world() -> None:
    image = MetaTensor(torch.rand(1, 6, 4, 3) + 1, affine=torch.tensor([[0.0, 0, 1, 5], [-1, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]]))
    padded = SquareFieldd()({"image": image})["image"]
    assert padded.shape == (1, 6, 6, 3)
    inside = torch.nonzero(torch.Tensor(padded)[0])[0].double()
    world = padded.affine.double() @ torch.cat([inside, torch.ones(1).double()])
    torch.testing.assert_close(world, image.affine.double()[:, 3])
    assert torch.equal(torch.Tensor(padded)[0][torch.Tensor(padded)[0] > 0], torch.Tensor(image)[0].flatten())


def test_a_square_image_is_passed_on_and_one_without_affine_refused() -> None:
    image = MetaTensor(torch.rand(1, 4, 4, 2))
    assert SquareFieldd()({"image": image})["image"] is image
    with pytest.raises(UserError, match="case a: 'image' has no affine"):
        SquareFieldd()({"id": "a", "image": torch.rand(1, 4, 5, 2)})
