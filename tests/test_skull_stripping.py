"""The brain of a scan: given, stripped already, or by a tool that may be absent."""

import sys
from types import ModuleType

import nibabel
import numpy as np
import pytest

from common.errors import UserError
from common.skull_stripping import find_brain, is_stripped
from common.transforms.save_like_source import save_volume

AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])


@pytest.fixture
def head():
    """A ball of brain in a ball of head in air with noise, at 4 mm."""
    distance = np.linalg.norm(np.indices((50, 50, 50)) - 24.5, axis=0) * 4
    air = np.random.default_rng(0).uniform(1, 5, distance.shape)
    return np.where(distance < 65, 100.0, np.where(distance < 90, 60.0, air)), distance < 65


def test_a_stripped_scan_is_its_own_mask_with_its_holes_filled(head):
    image, brain = head
    stripped = np.where(brain, image, 0)
    stripped[25, 25, 25] = 0
    found = find_brain(stripped, AFFINE, "t1.nii")
    np.testing.assert_array_equal(found.mask, brain)
    assert found.how == "stripped already: voxels that are not 0" and not found.warning
    assert is_stripped(stripped, AFFINE) and not is_stripped(image, AFFINE)


def test_a_scan_with_skull_and_no_mask_names_every_cure(head):
    with pytest.raises(UserError) as caught:
        find_brain(head[0], AFFINE, "t1.nii")
    for part in ("t1.nii: not stripped of its skull (100 %", "--brain FILE", "hd-bet", "brain-bundles[clinical]", "--strip rough"):
        assert part in str(caught.value)


def test_a_given_mask_may_lie_on_another_grid(head, tmp_path):
    image, brain = head
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = AFFINE[:3, :3] @ np.full(3, -0.25)
    file = save_volume(brain.repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(np.uint8), fine, tmp_path / "mask.nii.gz", np.uint8)
    found = find_brain(image, AFFINE, "t1.nii", mask=file)
    np.testing.assert_array_equal(found.mask, brain)
    assert found.how == f"given mask {file}"


def test_an_empty_mask_and_an_unknown_method_are_named(head, tmp_path):
    file = save_volume(np.zeros((3, 3, 3), np.uint8), AFFINE, tmp_path / "mask.nii.gz", np.uint8)
    with pytest.raises(UserError, match=r"t1.nii: the mask of the brain is empty"):
        find_brain(head[0], AFFINE, "t1.nii", mask=file)
    with pytest.raises(UserError, match="--strip: got 'bet', expected one of auto, hd-bet"):
        find_brain(head[0], AFFINE, "t1.nii", "bet")


def test_not_stripping_and_stripping_roughly_are_loud(head):
    found = find_brain(head[0], AFFINE, "t1.nii", "none")
    assert found.mask.all() and "was not stripped" in found.warning


def test_without_brainles_the_error_says_how_to_get_it(head, monkeypatch):
    monkeypatch.setitem(sys.modules, "brainles_preprocessing", None)
    with pytest.raises(
        UserError, match=r"--strip hd-bet: needs brainles-preprocessing, which is not installed here .*brain-bundles\[clinical\]"
    ):
        find_brain(head[0], AFFINE, "t1.nii", "hd-bet")


@pytest.fixture
def brainles(monkeypatch):
    """The package's extractors as far as they are called: 0.6.14's names and arguments."""
    calls = []

    class HDBetExtractor:
        def extract(self, input_image_path, masked_image_path, brain_mask_path, mode="accurate", device=0, do_tta=True, **kwargs):
            calls.append({"mode": mode, "device": device, "do_tta": do_tta, **kwargs})
            image = nibabel.load(input_image_path)
            values = np.asarray(image.dataobj)
            if values.max() < 90:
                raise RuntimeError("no network")
            nibabel.save(nibabel.Nifti1Image((values > 90).astype(np.uint8), image.affine), brain_mask_path)

    inner = ModuleType("brainles_preprocessing.brain_extraction")
    inner.HDBetExtractor = HDBetExtractor
    package = ModuleType("brainles_preprocessing")
    package.brain_extraction = inner
    monkeypatch.setitem(sys.modules, "brainles_preprocessing", package)
    monkeypatch.setitem(sys.modules, "brainles_preprocessing.brain_extraction", inner)
    return calls


def test_hd_bet_gets_the_scan_and_its_mask_comes_back(head, brainles):
    found = find_brain(head[0], AFFINE, "t1.nii", "hd-bet", device="cpu")
    np.testing.assert_array_equal(found.mask, head[1])
    assert brainles == [{"mode": "fast", "device": "cpu", "do_tta": False}]
    find_brain(head[0], AFFINE, "t1.nii", "hd-bet", device="cuda")
    assert brainles[-1] == {"mode": "accurate", "device": 0, "do_tta": True}


def test_synthstrip_needs_its_own_extra(head, brainles):
    with pytest.raises(UserError, match=r"brainles-preprocessing\[synthstrip\]"):
        find_brain(head[0], AFFINE, "t1.nii", "synthstrip")


def test_a_tool_that_fails_is_no_traceback(head, brainles):
    with pytest.raises(UserError, match=r"--strip hd-bet: brainles-preprocessing failed \(RuntimeError: no network\)"):
        find_brain(np.minimum(head[0], 80), AFFINE, "t1.nii", "hd-bet", device="cpu")
