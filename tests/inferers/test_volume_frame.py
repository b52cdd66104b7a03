"""Where a volume lies in the cube, by hand and by laws: what is embedded comes back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.inferers.volume_frame import VolumeFrame
from common.transforms.coordinates import coordinate_channels

SIDES = st.tuples(*[st.integers(1, 11)] * 3)


def a_volume(shape, low=(0, 0, 0), high=None):
    """Ones in a box, 0 around it."""
    image = torch.zeros(1, *shape)
    box = [slice(a, b) for a, b in zip(low, high or shape, strict=True)]
    image[:, box[0], box[1], box[2]] = 1
    return image


def test_a_brats_volume_lies_where_the_paper_puts_it():
    window = VolumeFrame(256, 64).window(a_volume((240, 240, 155)))
    assert window.sides == window.cube == (256, 256, 256)
    assert window.start == (0, 0, 0)
    assert window.offset == (-8, -8, -50)  # and 51 behind: 256 - 155 - 50


def test_a_tight_window_holds_the_brain_and_keeps_the_coordinates_of_the_cube():
    frame = VolumeFrame(256, 64, tight="true")
    image = a_volume((240, 240, 155), (52, 33, 2), (188, 210, 145))
    window = frame.window(image)
    assert window.sides == (192, 192, 192)  # 136, 177 and 143 voxels
    # in the cube the brain begins at 60, 41 and 52; half of what is more lies in front: 28, 7 and 24
    assert window.start == (32, 34, 28)
    assert window.offset == (24, 26, -22)
    assert torch.equal(frame.coordinates(window)[2, 0, 0], torch.linspace(-1, 1, 256)[28:220])
    assert frame.window(image, whole=True) == VolumeFrame(256, 64).window(image)


def test_a_tight_window_of_an_empty_volume_is_the_whole_one():
    assert VolumeFrame(16, 4, tight=True).window(torch.zeros(1, 5, 6, 7)).sides == (16, 16, 16)


def test_a_volume_larger_than_the_cube_has_a_cube_of_its_own():
    assert VolumeFrame(8, 4).window(a_volume((9, 8, 3))).cube == (12, 8, 8)


@given(SIDES, st.data(), st.booleans(), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=60)
def test_the_window_holds_the_brain_and_lies_in_the_cube(shape, data, tight, reduce, multiple):
    frame = VolumeFrame((8, 9, 10), multiple, tight, reduce)
    low = [data.draw(st.integers(0, side - 1)) for side in shape]
    high = [data.draw(st.integers(a + 1, side)) for a, side in zip(low, shape, strict=True)]
    image = a_volume(shape, low, high) * (1 + torch.rand(2, *shape))
    window = frame.window(image)
    embedded = frame.embed(image, window)
    assert frame.coordinates(window).shape[1:] == embedded.shape[1:]
    for axis in range(3):
        assert window.sides[axis] % (multiple * reduce) == 0
        assert embedded.shape[axis + 1] == window.sides[axis] // reduce
        assert 0 <= window.start[axis] <= window.cube[axis] - window.sides[axis]
        assert window.start[axis] % reduce == 0, "the same blocks in every window"
    assert embedded.double().sum().item() * reduce**3 == pytest.approx(image.double().sum().item(), rel=1e-5), "nothing is lost"
    assert frame.restore(embedded, window, shape).shape == image.shape
    if reduce == 1:
        assert torch.equal(frame.restore(embedded, window, shape), image)


@given(SIDES)
@settings(deadline=None, max_examples=20)
def test_tight_or_not_a_voxel_has_the_same_coordinates(shape):
    image = a_volume(shape)
    frames = [VolumeFrame(16, 4, tight) for tight in (False, True)]
    windows = [frame.window(image) for frame in frames]
    one, other = (frame.restore(frame.coordinates(window), window, shape) for frame, window in zip(frames, windows, strict=True))
    assert torch.equal(one, other)


def test_half_resolution_averages_and_interpolates_back():
    frame = VolumeFrame(8, 2, reduce=2)
    image = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 8, 8)
    window = frame.window(image)
    small = frame.embed(image, window)
    assert small[0, :, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert torch.equal(frame.coordinates(window), coordinate_channels((4, 4, 4), (0, 0, 0), (4, 4, 4)))
    assert torch.allclose(frame.restore(small, window, (8, 8, 8))[0, 1:-1], image[0, 1:-1]), "linear values survive but at the ends"


def test_the_padding_is_background():
    image, frame = torch.ones(1, 2, 2, 1), VolumeFrame(4, 4)
    embedded = frame.embed(image, frame.window(image))
    assert embedded.sum() == 4
    assert embedded[0, 1:3, 1:3, 1].sum() == 4  # (4 - 1) // 2 = 1 in front


def test_a_mistake_is_told():
    with pytest.raises(UserError, match="got padded_size 256, multiple 0, reduce 1"):
        VolumeFrame(256, 0)
