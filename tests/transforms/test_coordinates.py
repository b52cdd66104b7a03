import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AddCoordinateChannelsd

from common.errors import UserError
from common.transforms.coordinates import AddCoordinatesd, coordinate_channels, voxel_coordinates
from common.transforms.position_crops import lattice

SHAPE = (9, 6, 11)


def test_a_crops_channels_are_the_cut_of_the_whole_volumes():
    whole = coordinate_channels(SHAPE, (0, 0, 0), SHAPE)
    for start, sides in (((0, 0, 0), (4, 2, 5)), ((5, 4, 6), (4, 2, 5)), ((2, 1, 3), (1, 5, 8))):
        box = [slice(a, a + n) for a, n in zip(start, sides, strict=True)]
        assert torch.equal(coordinate_channels(SHAPE, start, sides), whole[:, box[0], box[1], box[2]])


def test_each_channel_runs_from_minus_1_to_1_along_its_own_axis():
    channels = coordinate_channels(SHAPE, (0, 0, 0), SHAPE)
    assert channels.shape == (3, *SHAPE) and channels.dtype == torch.float32
    for axis, side in enumerate(SHAPE):
        along = channels[axis].movedim(axis, 0)
        assert torch.equal(along, torch.linspace(-1, 1, side).view(-1, 1, 1).expand_as(along))


def test_values_by_hand():
    # 5 voxels: -1, -0.5, 0, 0.5, 1; the crop starts at the third
    channels = coordinate_channels((5, 3, 3), (2, 0, 1), (2, 1, 2))
    assert channels[0].flatten().tolist() == [0, 0, 0.5, 0.5]
    assert channels[1].flatten().tolist() == [-1] * 4
    assert channels[2].flatten().tolist() == [0, 1, 0, 1]


def test_they_are_the_lattice_of_position_regression_from_minus_1_to_1():
    expected = 2 * lattice((2, 1, 3), (4, 3, 5), 1, SHAPE) - 1
    torch.testing.assert_close(coordinate_channels(SHAPE, (2, 1, 3), (4, 3, 5)).double(), expected, atol=1e-6, rtol=0)


def test_monais_channels_have_half_the_range_and_start_anew_in_a_patch():
    image = torch.zeros(1, *SHAPE)
    theirs = AddCoordinateChannelsd("image", (0, 1, 2))({"image": image})["image"][1:]
    ours = AddCoordinatesd("image", None)({"image": image})["image"][1:]
    torch.testing.assert_close(2 * theirs, ours, atol=1e-6, rtol=0)
    patch = {"image": torch.zeros(1, 4, 3, 5), "patch_start": (5, 3, 6), "padded_shape": SHAPE}
    assert AddCoordinateChannelsd("image", (0, 1, 2))(patch)["image"][1:].min() == -0.5
    assert AddCoordinatesd()(patch)["coordinates"].min() > -0.01


def test_the_channels_go_to_their_own_key_or_behind_the_image():
    image = MetaTensor(torch.rand(4, 3, 4, 5), meta={"filename_or_obj": "a.nii"})
    case = {"image": image, "patch_start": torch.tensor([1, 0, 2]), "padded_shape": torch.tensor([8, 4, 9])}
    apart = AddCoordinatesd()(case)
    assert apart["image"] is image
    assert torch.equal(apart["coordinates"], coordinate_channels((8, 4, 9), (1, 0, 2), (3, 4, 5)))
    joined = AddCoordinatesd(coordinates_key=None)(case)["image"]
    assert torch.equal(joined.as_tensor(), torch.cat([image.as_tensor(), apart["coordinates"]]))
    assert joined.meta["filename_or_obj"] == "a.nii" and "coordinates" not in case


def test_an_axis_of_one_voxel_is_at_minus_1():
    assert coordinate_channels((1, 2, 2), (0, 0, 0), (1, 1, 1))[0].item() == -1  # as torch.linspace


@pytest.mark.parametrize(("start", "sides"), [((-1, 0, 0), (2, 2, 2)), ((6, 0, 0), (4, 2, 2)), ((0, 0, 0), (2, 2, 12))])
def test_a_crop_that_hangs_over_is_refused(start, sides):
    with pytest.raises(UserError, match=r"crop: got start .* and sides .*; expected a box inside the padded volume \(9, 6, 11\)"):
        coordinate_channels(SHAPE, start, sides)


def test_one_key_cannot_take_the_channels_of_two_images():
    with pytest.raises(UserError, match="coordinates_key: got 'coordinates' for 2 images"):
        AddCoordinatesd(("image", "other"))


# ------------------------------------------------------------------------------------------------------- single voxels


def test_voxel_coordinates_by_hand():
    # sides 4, 6, 8: (i - n / 2) / 8
    index = torch.tensor([[0, 0, 0], [2, 3, 4], [3, 5, 7]])
    expected = torch.tensor([[-0.25, -0.375, -0.5], [0, 0, 0], [0.125, 0.25, 0.375]])
    got = voxel_coordinates(index, (4, 6, 8))
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert torch.equal(voxel_coordinates(index[:, 1:], (6, 8)), expected[:, 1:]), "the axes in a slice keep their unit"


def test_one_voxel_is_one_step_along_every_axis():
    whole = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"), dim=-1)
    points = voxel_coordinates(whole, SHAPE)
    assert points.shape == (*SHAPE, 3) and points.min() == -0.5 and points.max() < 0.5
    for axis in range(3):
        step = points.narrow(axis, 1, SHAPE[axis] - 1) - points.narrow(axis, 0, SHAPE[axis] - 1)
        assert torch.allclose(step[..., axis], torch.tensor(1 / max(SHAPE)), atol=1e-6)


def test_an_index_of_other_dimension_than_the_grid_is_refused():
    with pytest.raises(UserError, match=r"index: got 2 numbers per voxel for the grid \(9, 6, 11\); expected 3"):
        voxel_coordinates(torch.zeros(5, 2, dtype=torch.long), SHAPE)
