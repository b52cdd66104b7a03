"""Maps of several channels as files."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.transforms.save_channels import SaveChannelsd


@pytest.fixture
def case(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.diag([-1.0, -1, 2, 1])), tmp_path / "a_t1.nii.gz")
    return {"id": "a", "image": MetaTensor(torch.zeros(1, 2, 3, 4), meta={"filename_or_obj": str(tmp_path / "a_t1.nii.gz")})}


def files(folder):
    return sorted(path.name for path in folder.glob("*.nii.gz"))


def test_one_channel_has_no_name_and_several_have_theirs(case, tmp_path):
    maps = torch.rand(2, 2, 3, 4)
    SaveChannelsd("mean", tmp_path / "one", names=[1])({**case, "mean": maps[:1]})
    SaveChannelsd("mean", tmp_path / "two", names=[1, 4])({**case, "mean": maps})
    assert files(tmp_path / "one") == ["a_mean.nii.gz"]
    assert files(tmp_path / "two") == ["a_mean_1.nii.gz", "a_mean_4.nii.gz"]
    written = nibabel.load(tmp_path / "two" / "a_mean_4.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), maps[1].numpy())
    np.testing.assert_array_equal(written.affine, np.diag([-1.0, -1, 2, 1]))


def test_samples_are_numbered_and_absent_keys_left_out(case, tmp_path):
    SaveChannelsd("samples", tmp_path / "out", names=["x", "y"])({**case, "samples": torch.rand(2, 2, 2, 3, 4)})
    assert files(tmp_path / "out") == [f"a_samples_{n}_{name}.nii.gz" for n in (1, 2) for name in "xy"]
    assert SaveChannelsd("samples", tmp_path / "none")(case) == case and not (tmp_path / "none").exists()
