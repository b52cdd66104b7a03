"""Maps on the cube come back to the source grid where they belong."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import UserError
from common.transforms import to_source_grid as module
from common.transforms.reference_frame import cube_affine
from common.transforms.to_source_grid import ToSourceGridd, to_source_grid


def smooth(points):
    return np.sin(points[..., 0] / 30) + np.cos(points[..., 1] / 40) * np.sin(points[..., 2] / 35) + 2


def at(shape, affine):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.fixture
def grids(rigid):
    """Cube and an oblique, left-handed, anisotropic source grid inside it, in one world."""
    cube = rigid(7, -11, 20, (3, -8, 15)) @ cube_affine(64, 4.0)
    source = rigid(-15, 9, 12, (10, 5, 0)) @ np.diag([-2.0, 1.5, 5.0, 1.0])
    source[:3, 3] += source[:3, :3] @ [-29.5, -39.5, -11.5]
    return cube, source, (60, 80, 24)


@pytest.mark.parametrize("slab", [10**9, 60 * 80 * 5])
def test_a_smooth_function_survives_up_to_interpolation(grids, slab, monkeypatch):
    monkeypatch.setattr(module, "SLAB_VOXELS", slab)
    cube, source, shape = grids
    values = torch.from_numpy(smooth(at((64,) * 3, cube)))[None]
    result = to_source_grid(values, cube, source, shape)
    assert result.shape == (1, *shape)
    assert result.dtype == torch.float32
    # linear interpolation: h^2 / 8 times the sum of second derivatives, 16 / 8 (1/900 + 1/1600 + 1/1225)
    assert np.abs(result[0].numpy() - smooth(at(shape, source))).max() < 0.0052
    assert np.allclose(result.affine, source)


def test_outside_of_the_cube_is_zero(grids):
    cube, source, shape = grids
    far = source.copy()
    far[:3, 3] += 1000
    assert not to_source_grid(torch.ones(1, 64, 64, 64), cube, far, shape).any()


def test_an_aligned_grid_takes_the_voxels_as_they_are():
    values = torch.rand(1, 6, 7, 8)
    affine = np.diag([2.0, 2, 2, 1])
    part = affine.copy()
    part[:3, 3] = [2, 4, 6]
    assert torch.allclose(to_source_grid(values, affine, part, (3, 4, 5)).as_tensor(), values[:, 1:4, 2:6, 3:8], atol=1e-5)


def case(grids, **items):
    cube, source, shape = grids
    meta = {"source_affine": torch.from_numpy(source), "source_shape": torch.tensor(shape), "filename_or_obj": "ct.nii"}
    return {"image": MetaTensor(torch.zeros(1, 64, 64, 64), affine=torch.from_numpy(cube), meta=meta), **items}


def test_maps_that_are_there_are_brought_back_and_others_left(grids):
    result = ToSourceGridd()(case(grids, error=torch.ones(1, 64, 64, 64)))
    assert result["error"].shape == (1, *grids[2])
    assert result["error"].meta["filename_or_obj"] == "ct.nii"
    assert float(result["error"][0, 30, 40, 12]) == pytest.approx(1, abs=1e-5)
    assert "zmap" not in result
    assert result["image"].shape == (1, 64, 64, 64)


def test_mistakes_are_named(grids):
    with pytest.raises(UserError, match="error: neither this map nor 'image' says which file it came from"):
        ToSourceGridd()({"error": torch.ones(1, 8, 8, 8)})
    with pytest.raises(UserError, match=r"error: shape \(1, 8, 8, 8\), expected the cube's \(64, 64, 64\); give maps at full size"):
        ToSourceGridd()(case(grids, error=torch.ones(1, 8, 8, 8)))
