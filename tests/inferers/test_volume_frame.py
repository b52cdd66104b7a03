"""Where a volume lies in the cube, by hand and by laws: what is embedded comes back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.inferers.volume_frame import VolumeFrame
from common.transforms.coordinates import coordinate_channels

SIDES = st.tuples(*[st.integers(1, 11)] * 3)


def test_a_brats_volume_lies_where_the_paper_puts_it():
    window = VolumeFrame(256, 64).window((240, 240, 155))
    assert window.sides == window.cube == (256, 256, 256)
    assert window.start == (0, 0, 0)
    assert window.before == (8, 8, 50)  # and 51 behind: 256 - 155 - 50


def test_a_tight_window_is_the_next_multiple_and_keeps_the_coordinates_of_the_cube():
    frame = VolumeFrame(256, 64, tight="true")
    window = frame.window((240, 240, 155))
    assert window.sides == (256, 256, 192)
    assert window.start == (0, 0, 32)  # the volume begins at 50 of the cube, 18 behind the window's start
    assert window.before == (8, 8, 18)  # (192 - 155) // 2
    assert torch.equal(frame.coordinates((240, 240, 155))[2, 0, 0], torch.linspace(-1, 1, 256)[32:224])


def test_a_volume_larger_than_the_cube_has_a_cube_of_its_own():
    assert VolumeFrame(8, 4).window((9, 8, 3)).cube == (12, 8, 8)


@given(SIDES, st.booleans(), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=60)
def test_the_window_holds_the_volume_and_lies_in_the_cube(shape, tight, reduce, multiple):
    frame = VolumeFrame((8, 9, 10), multiple, tight, reduce)
    window = frame.window(shape)
    image = torch.rand(2, *shape) + 1
    embedded = frame.embed(image)
    assert frame.coordinates(shape).shape[1:] == embedded.shape[1:]
    for axis in range(3):
        assert window.sides[axis] % (multiple * reduce) == 0
        assert embedded.shape[axis + 1] == window.sides[axis] // reduce
        assert 0 <= window.before[axis] <= window.sides[axis] - shape[axis]
        assert 0 <= window.start[axis] <= window.cube[axis] - window.sides[axis]
    assert embedded.double().sum().item() * reduce**3 == pytest.approx(image.double().sum().item(), rel=1e-5), "nothing is lost"
    if reduce == 1:
        assert torch.equal(frame.restore(embedded, shape), image)
        places = [torch.linspace(-1, 1, side)[a + b] for side, a, b in zip(window.cube, window.start, window.before, strict=True)]
        first = frame.restore(frame.coordinates(shape), shape)[:, 0, 0, 0]
        assert first.tolist() == pytest.approx([float(p) for p in places])
    else:
        assert frame.restore(embedded, shape).shape == image.shape


def test_tight_or_not_a_voxel_has_the_same_coordinates():
    shape = (5, 4, 7)
    whole, tight = (VolumeFrame(16, 4, tight) for tight in (False, True))
    assert torch.equal(*(frame.restore(frame.coordinates(shape), shape) for frame in (whole, tight)))


def test_half_resolution_averages_and_interpolates_back():
    frame = VolumeFrame(8, 2, reduce=2)
    image = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 8, 8)
    small = frame.embed(image)
    assert small[0, :, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert torch.equal(frame.coordinates((8, 8, 8)), coordinate_channels((4, 4, 4), (0, 0, 0), (4, 4, 4)))
    assert torch.allclose(frame.restore(small, (8, 8, 8))[0, 1:-1], image[0, 1:-1]), "linear values survive but at the ends"


def test_the_padding_is_background():
    embedded = VolumeFrame(4, 4).embed(torch.ones(1, 2, 2, 1))
    assert embedded.sum() == 4
    assert embedded[0, 1:3, 1:3, 1].sum() == 4  # (4 - 1) // 2 = 1 in front


def test_a_mistake_is_told():
    with pytest.raises(UserError, match="got padded_size 256, multiple 0, reduce 1"):
        VolumeFrame(256, 0)
