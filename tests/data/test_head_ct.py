from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.head_ct import read_head_ct, sheared_axis, straighten
from common.errors import UserError
from tests.data.ct_on_disk import head_like, straight, tilted, write_series

HEIGHTS = np.arange(26) * 5.0


def head(shape: tuple[int, int, int] = (60, 64, 26)) -> np.ndarray:
    volume = np.full(shape, -1000, np.float32)
    volume[10:-10, 10:-10, 2:-2] = 1200
    volume[14:-14, 14:-14, 4:-4] = 35
    return volume


def save(path: Path, volume: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2, 5, 1]) if affine is None else affine), path)
    return path


def test_a_file_is_read_as_it_is_and_clipped_to_12_bits(tmp_path: Path) -> None:
    volume = head()
    volume[0, 0, 0], volume[1, 0, 0] = -3024, 9000
    scan = read_head_ct(save(tmp_path / "a.nii.gz", volume))
    np.testing.assert_array_equal(scan.hu, np.clip(volume, -1024, 3071))
    np.testing.assert_array_equal(scan.affine, np.diag([2.0, 2, 5, 1]))
    assert (scan.hu.dtype, scan.affine.dtype, scan.notes) == (np.float32, np.float64, ())


def test_dicom_folder_one_of_its_files_and_nifti_give_the_same(tmp_path: Path) -> None:
    slices = [np.pad(pixels, 20, constant_values=-1000) for pixels in head_like()]
    folder = write_series(tmp_path / "s", slices, straight(HEIGHTS))
    scan = read_head_ct(folder)
    save(tmp_path / "b.nii", scan.hu, scan.affine)
    for other in (read_head_ct(folder / "CT000003.dcm"), read_head_ct(tmp_path / "b.nii")):
        np.testing.assert_array_equal(other.hu, scan.hu)
        np.testing.assert_allclose(other.affine, scan.affine, atol=1e-6)


def test_tilt_in_a_nifti_affine_is_removed_as_from_the_dicom_series(tmp_path: Path) -> None:
    positions, axes = tilted(HEIGHTS, 15)
    slices = [np.pad(pixels, 20, constant_values=-1000) for pixels in head_like()]
    scan = read_head_ct(write_series(tmp_path / "s", slices, positions, axes))
    sheared = np.eye(4)  # LPS
    sheared[:3, :3] = np.column_stack([2 * np.array(axes[0]), 2 * np.array(axes[1]), np.subtract(positions[1], positions[0])])
    sheared[:3, 3] = positions[0]
    file = save(tmp_path / "b.nii.gz", np.stack(slices, -1).astype(np.float32), np.diag([-1, -1, 1, 1]) @ sheared)
    other = read_head_ct(file)
    np.testing.assert_allclose(other.hu, scan.hu, atol=0.01)
    np.testing.assert_allclose(other.affine, scan.affine, atol=1e-3)
    assert other.notes == scan.notes == ("gantry tilt of 15.0 degrees removed by shifting the slices in their planes",)
    assert sheared_axis(other.affine) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shear_along_any_axis_of_any_handedness_is_removed(axis: int) -> None:
    rotation = np.linalg.qr(np.random.RandomState(1).normal(size=(3, 3)))[0] * [1, -1, 1]
    pixel = np.array([2.0, 2.0, 2.0])
    pixel[axis] = 3.5
    steps = rotation * pixel
    other = (axis + 1) % 3
    steps[:, axis] += 0.3 * np.linalg.norm(steps[:, axis]) * rotation[:, other]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, [4, 5, -6]
    assert sheared_axis(affine) == axis

    def ramp(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.tensordot([1, -2, 3], (matrix[:3, :3] @ np.indices(shape).reshape(3, -1) + matrix[:3, 3:]).reshape(3, *shape), 1)

    volume, even, notes = straighten(ramp(affine, (9, 10, 11)).astype(np.float32), affine, "x.nii")
    assert sheared_axis(even) is None
    assert np.sign(np.linalg.det(even)) == np.sign(np.linalg.det(affine))
    error = np.abs(volume - ramp(even, volume.shape))
    assert (error < 1e-3).sum() > 0.6 * 9 * 10 * 11
    assert "gantry tilt" in notes[0]


def test_an_affine_sheared_everywhere_or_singular_is_refused(tmp_path: Path) -> None:
    affine = np.array([[2, 0.5, 0.5, 0], [0, 2, 0.7, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    with pytest.raises(UserError, match=r"a\.nii: sheared along more than one axis, expected right angles or a gantry tilt"):
        read_head_ct(save(tmp_path / "a.nii", head(), affine))
    with pytest.raises(UserError, match=r"b\.nii: its affine is not invertible"):
        straighten(head(), np.diag([1.0, 1, 0, 1]), "b.nii")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda hu: np.clip((hu + 100) / 200, 0, 1) * 255,
            r"values from 0 to 255, which are not Hounsfield units.*windowed or scaled picture",
        ),
        (lambda hu: hu + 1024, r"values from 24 to 2224, .*without their intercept\? Subtract 1024"),
        (lambda hu: np.clip(hu, -100, 200), r"values from -100 to 200, .*expected air below -300 and bone above 300\. clipped to a window"),
        (lambda hu: np.where(hu == 35, np.nan, hu), "voxels are NaN or infinite"),
        (lambda hu: hu[..., :10], r"covers 120 x 128 x 50 mm, expected at least 100 mm along every axis"),
        (lambda hu: np.stack([hu, hu], -1), "2 volumes in one file, expected one 3D head CT"),
    ],
)
def test_volumes_that_are_no_head_ct_in_hu_are_refused(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_head_ct(save(tmp_path / "a.nii.gz", change(head()).astype(np.float32)))  # type: ignore[operator]
    with pytest.raises(UserError, match="no such file"):
        read_head_ct(tmp_path / "gone.nii")
