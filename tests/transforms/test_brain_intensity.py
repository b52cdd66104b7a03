import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import UserError
from common.transforms.brain_intensity import BrainIntensityd, brain_intensity


def scan(seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = 500 * torch.rand(1, 7, 8, 9, generator=generator)
    brain = torch.zeros(1, 7, 8, 9, dtype=torch.uint8)
    brain[:, 1:6, 2:7, 2:8] = 1
    return image, brain


def test_values_lie_in_0_to_1_and_outside_is_exactly_0():
    image, brain = scan()
    scaled = brain_intensity(image, brain)
    assert scaled.dtype == torch.float32 and scaled.min() == 0 and scaled.max() == 1
    assert not scaled[brain == 0].any()


def test_the_unit_and_what_is_outside_do_not_matter():
    image, brain = scan()
    other = torch.where(brain > 0, image * 37, torch.tensor(1e6))
    torch.testing.assert_close(brain_intensity(other, brain), brain_intensity(image, brain))


def test_the_percentile_in_the_brain_becomes_1_by_hand():
    # 0, 1, ..., 100 in the brain: the 50th percentile is 50
    image = torch.arange(101.0).reshape(1, 101)
    scaled = brain_intensity(image, torch.ones_like(image), 50)
    assert scaled[0, 25] == 0.5 and scaled[0, 50] == 1 and scaled[0, 100] == 1
    image[0, 0] = -3
    assert brain_intensity(image, torch.ones_like(image), 100)[0, 0] == 0, "negative values are clipped"


def test_it_agrees_with_numpy():
    image, brain = scan(3)
    inside = brain.numpy() > 0
    expected = np.where(inside, np.clip(image.numpy() / np.percentile(image.numpy()[inside], 99.9), 0, 1), 0)
    np.testing.assert_allclose(brain_intensity(image, brain).numpy(), expected, rtol=1e-6)


def test_the_affine_stays_with_the_image():
    image, brain = scan()
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    case = {"id": "x", "image": MetaTensor(image, affine=affine, meta={"filename_or_obj": "a.nii"}), "brain": brain}
    result = BrainIntensityd()(case)["image"]
    assert torch.equal(result.affine.float(), affine) and result.meta["filename_or_obj"] == "a.nii"
    assert torch.equal(result.as_tensor(), brain_intensity(image, brain))


def test_mistakes_name_the_case():
    image, brain = scan()
    with pytest.raises(UserError, match="case x, 'image': the mask of the brain is empty"):
        BrainIntensityd()({"id": "x", "image": image, "brain": brain * 0})
    with pytest.raises(UserError, match=r"the 99\.9th percentile in the brain is 0; expected more than 0"):
        BrainIntensityd()({"id": "x", "image": image * 0, "brain": brain})
    with pytest.raises(UserError, match="upper: got 0; expected a percentile"):
        BrainIntensityd(upper=0)
