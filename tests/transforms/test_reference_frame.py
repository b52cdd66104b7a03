"""The reference: straight, in the middle, and of a head of middling size."""

import nibabel as nib
import numpy as np
import pytest

from common.data.head_ct import HeadCT
from common.errors import UserError
from common.transforms.head_masks import foreground_mask
from common.transforms.head_volume import prepare_head
from common.transforms.reference_frame import choose_reference, cube_affine, make_reference, straight_pose


def test_the_cube_is_centred_at_every_size():
    for n, spacing in ((256, 1.0), (128, 2.0), (32, 8.0)):
        affine = cube_affine(n, spacing)
        corners = affine @ np.array([[0, 0, 0, 1], [n - 1, n - 1, n - 1, 1]]).T
        assert np.allclose(corners[:3, 0], -corners[:3, 1])
        assert affine[0, 0] * n == 256


def test_a_tilted_head_is_made_straight(phantom, rigid):
    pose = rigid(0, 7, 9, (15, -20, 30))
    hu, affine = phantom((4, 4, 4), pose)
    normal = straight_pose(prepare_head(hu, affine, 4.0))[:3, 0]
    assert np.rad2deg(np.arccos(normal @ pose[:3, 0])) < 2.0  # the phantom's blobs are not symmetric
    reference = make_reference(HeadCT(hu, affine, ()), 8.0)
    mask = reference.volume > -300
    where = np.argwhere(mask) @ reference.affine[:3, :3].T + reference.affine[:3, 3]
    assert abs(where[:, 0].mean()) < 3
    assert where[:, 2].max() == pytest.approx(80, abs=8)  # vertex 80 mm above the middle
    assert abs(where[:, 1].min() + where[:, 1].max()) < 30  # a nose


def test_outside_of_the_head_there_is_nothing(phantom):
    reference = make_reference(HeadCT(*phantom(), ()), 8.0)
    assert reference.volume.shape == (32, 32, 32)
    assert reference.volume.dtype == np.int16
    head = foreground_mask(reference.volume.astype(np.float32), 8.0)
    assert (reference.volume[~head] == -1024).mean() > 0.99
    assert reference.reference() is reference


@pytest.fixture
def cases(phantom, tmp_path):
    found = []
    for index, size in enumerate((1.0, 0.9, 0.95)):
        hu, affine = phantom((8, 8, 8), size=size)
        nib.save(nib.Nifti1Image(hu, affine), tmp_path / f"{index}.nii")
        found.append({"id": f"case{index}", "image": [str(tmp_path / f"{index}.nii")]})
    return found


def test_the_head_of_median_volume_is_chosen(cases, phantom):
    assert np.array_equal(choose_reference(cases).hu, phantom((8, 8, 8), size=0.95)[0])


def test_a_case_can_be_named_by_id_and_by_file(cases):
    by_id, by_file = choose_reference(cases, "case1"), choose_reference([], cases[1]["image"][0])
    assert np.array_equal(by_id.hu, by_file.hu)


def test_a_case_that_cannot_be_read_is_passed_over(cases, tmp_path):
    broken = {"id": "broken", "image": [str(tmp_path / "none.nii")]}
    assert choose_reference([broken, cases[0]]).hu.shape == (32, 32, 32)
    with pytest.raises(UserError, match=r"none of the training cases looked at holds a head that can be read. broken: .*no such file"):
        choose_reference([broken])


def test_mistakes_are_named(cases, phantom):
    with pytest.raises(UserError, match="got no training cases; give at least one, or name a file"):
        choose_reference([])
    with pytest.raises(UserError, match="'nobody' is neither a training case nor a file; cases are case0, case1, case2"):
        choose_reference(cases, "nobody")
    with pytest.raises(UserError, match="no head found in the volume"):
        make_reference(HeadCT(np.full((40, 40, 40), -1000, np.float32), np.diag([4.0, 4, 4, 1]), ()), 8.0)
    assert phantom is not None
