import pytest
import torch
from monai.data import MetaTensor

from common.errors import UserError
from common.transforms.central_slice import CentralSliced, central_index
from common.transforms.to_source_grid import to_source_grid


def case(low=2, high=7):
    brain = torch.zeros(1, 4, 5, 12, dtype=torch.uint8)
    brain[:, 1:3, 1:4, low:high] = 1
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, 6.0, 7.0])
    image = MetaTensor(torch.rand(1, 4, 5, 12), affine=affine, meta={"source_shape": (4, 5, 12)})
    return {"id": "x", "image": image, "brain": MetaTensor(brain, affine=affine), "spacing_mm": 3.0}


def test_the_middle_of_the_mask_by_hand():
    assert central_index(case(2, 7)["brain"]) == 4  # slices 2, ..., 6
    heavy = case(2, 7)["brain"].clone()
    heavy[:, :, :, 11] = 1  # 20 voxels at 11 beside 6 each at 2 to 6: (6 * 20 + 20 * 11) / 50 = 6.8
    assert central_index(heavy) == 7


def test_slices_of_all_maps_are_of_one_place():
    before = case()
    after = CentralSliced()(before)
    assert after["slice_index"] == 4 and "label" not in after
    assert after["image"].shape == (1, 4, 5) and torch.equal(after["image"].as_tensor(), before["image"].as_tensor()[..., 4])
    assert after["brain"].dtype == torch.uint8 and torch.equal(after["brain"].as_tensor(), before["brain"].as_tensor()[..., 4])
    assert before["image"].shape == (1, 4, 5, 12)


def test_the_affine_puts_the_slice_back_where_it_was_cut():
    before = case()
    after = CentralSliced()(before)["image"]
    assert after.affine[:3, 3].tolist() == [5, 6, 7 + 4 * 3] and after.meta["source_shape"] == (4, 5, 12)
    back = to_source_grid(after.as_tensor()[..., None], after.affine, before["image"].affine, (4, 5, 12))
    torch.testing.assert_close(back.as_tensor()[..., 4], before["image"].as_tensor()[..., 4])
    assert not back[..., :4].any() and not back[..., 5:].any()


def test_an_offset_is_in_mm_and_may_not_leave_the_volume():
    assert CentralSliced(offset_mm=-6.0)(case())["slice_index"] == 2
    with pytest.raises(UserError, match="case x: offset_mm 40 leads to slice 17 of 12"):
        CentralSliced(offset_mm=40)(case())
    with pytest.raises(UserError, match="case x: the mask of the brain is empty"):
        CentralSliced()(case(3, 3))
