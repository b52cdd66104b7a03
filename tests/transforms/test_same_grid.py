from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from common.errors import UserError
from common.transforms.load_case import LoadCased
from common.transforms.same_grid import LoadSameGridd, to_grid_of

SHAPE = (8, 7, 6)
AFFINE = np.array([[-1.0, 0, 0, 4], [0, -1.0, 0, 3], [0, 0, 2.0, -5], [0, 0, 0, 1]])
FINE = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])


def ramp(shape: tuple[int, ...], affine: np.ndarray, slope: tuple[float, ...] = (1.0, 2.0, 3.0)) -> np.ndarray:
    """A volume that is linear in the world, 100 + slope . mm, so that linear interpolation is exact wherever it reaches."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return (100 + world @ slope).astype(np.float32)


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return str(path)


def label(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 2:5, 2:4] = 2
    mask[3, 3, 2] = 4
    return mask


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    files = [write(tmp_path / f"{k}.nii", ramp(SHAPE, AFFINE) + k) for k in range(4)]
    return {"id": "c", "image": files, "label": write(tmp_path / "seg.nii", label())}


def test_files_of_one_grid_are_loaded_as_loadcased_does(case: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "brain_bundles"):
        ours = LoadSameGridd()(case)
    theirs = LoadCased(channels=4, label_values=(0, 1, 2, 4), brain_key=None)(case)
    for key in ("image", "label"):
        assert torch.equal(ours[key].as_tensor(), theirs[key].as_tensor()) and ours[key].dtype == theirs[key].dtype
        np.testing.assert_array_equal(ours[key].affine.numpy(), theirs[key].affine.numpy())
        assert ours[key].meta["filename_or_obj"] == theirs[key].meta["filename_or_obj"]
        assert ours[key].meta.keys() == theirs[key].meta.keys()
    assert not caplog.records


def test_loadcased_alone_refuses_files_on_different_grids(case: dict[str, Any], tmp_path: Path) -> None:
    case["image"][3] = write(tmp_path / "fine.nii", ramp((16, 14, 12), FINE), FINE)
    for transform in (LoadCased(channels=4), LoadSameGridd(resample=False)):
        with pytest.raises(UserError, match=r"fine\.nii: its grid differs from that of .*0\.nii: shape \(16, 14, 12\) against \(8, 7, 6\)"):
            transform(case)


def test_a_finer_grid_is_resampled_to_the_first_ones(case: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case["image"][3] = write(tmp_path / "fine.nii", ramp((16, 14, 12), FINE), FINE)
    with caplog.at_level(logging.INFO, "brain_bundles"):
        loaded = LoadSameGridd()(case)["image"]
    assert "RESAMPLED to the grid of the first file" in caplog.text and "fine.nii" in caplog.text
    assert loaded.shape == (4, *SHAPE) and loaded.dtype == torch.float32
    np.testing.assert_allclose(loaded[3].numpy(), ramp(SHAPE, AFFINE), atol=1e-3)
    np.testing.assert_array_equal(loaded.affine.numpy(), AFFINE)
    assert loaded.meta["filename_or_obj"] == case["image"][0]


def test_an_oblique_grid_agrees_with_scipy(tmp_path: Path) -> None:
    from scipy.spatial.transform import Rotation

    oblique = np.eye(4)
    oblique[:3, :3] = Rotation.from_euler("xyz", [9, -14, 25], degrees=True).as_matrix() @ np.diag([0.9, 1.2, 1.6])
    oblique[:3, 3] = np.array([0.5, 0.3, 0.2]) - oblique[:3, :3] @ [3.0, 2.5, 3.0]
    values = np.random.default_rng(0).uniform(1, 2, (7, 6, 7)).astype(np.float32)
    moving = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(oblique))
    fixed = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.from_numpy(AFFINE))
    index = np.linalg.inv(oblique) @ AFFINE
    points = index[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + index[:3, 3:]
    expected = map_coordinates(values, points, order=1, mode="grid-constant", cval=0).reshape(SHAPE)
    assert (expected == 0).any() and (expected > 0.5).any()
    np.testing.assert_allclose(to_grid_of(moving, fixed)[0].numpy(), expected, atol=1e-5)


def test_a_label_on_a_finer_grid_stays_whole_numbers(case: dict[str, Any], tmp_path: Path) -> None:
    shifted = FINE.copy()
    shifted[:3, 3] = AFFINE[:3, 3] - 0.25 * np.diag(AFFINE)[:3]  # blocks of 2 around the coarse voxels
    case["label"] = write(tmp_path / "fine.nii", np.kron(label(), np.ones((2, 2, 2), np.uint8)), shifted)
    loaded = LoadSameGridd()(case)["label"]
    assert loaded.dtype == torch.uint8
    np.testing.assert_array_equal(loaded.numpy()[0], label())


def test_heads_that_do_not_overlap_are_refused(case: dict[str, Any], tmp_path: Path) -> None:
    far = AFFINE.copy()
    far[0, 3] += 50
    case["image"][2] = write(tmp_path / "far.nii", ramp(SHAPE, AFFINE), far)
    with pytest.raises(UserError, match=r"far\.nii: its field of view does not cover that of .*0\.nii.*Register both files"):
        LoadSameGridd()(case)


def test_label_numbers_are_mapped_before_they_are_checked(case: dict[str, Any], tmp_path: Path) -> None:
    case["label"] = write(tmp_path / "l.nii", np.where(label() == 4, 3, label()).astype(np.uint8))
    with pytest.raises(UserError, match=r"l\.nii: label values 3 in 1 voxels"):
        LoadSameGridd()(case)
    np.testing.assert_array_equal(LoadSameGridd(label_map={"3": 4})(case)["label"].numpy()[0], label())
    np.testing.assert_array_equal(LoadSameGridd()({**case, "label_map": {"3": 4}})["label"].numpy()[0], label())
    swapped = LoadSameGridd(label_map={"3": 4})({**case, "label_map": {"2": 1, "1": 2}})["label"]
    np.testing.assert_array_equal(swapped.numpy()[0], np.where(label() == 2, 1, label()))


def test_a_wrong_number_of_inputs_and_an_absent_label_are_told(case: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"case c: 3 input channels .*; expected 4"):
        LoadSameGridd()({**case, "image": case["image"][:3]})
    with pytest.raises(UserError, match="case c: it has no 'image'"):
        LoadSameGridd()({"id": "c"})
    assert "label" not in LoadSameGridd()({**case, "label": None})
