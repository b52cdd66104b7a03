"""Labels and uncertainty of probabilities: argmax and entropy by hand, smoothing, and the way back to the grid of the file."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, CropForeground, Orientation, Spacing

from common.errors import UserError
from common.transforms.label_cleanup import smooth_labels
from common.transforms.probability_label import ProbabilityToLabeld, label_of, source_grid

SHAPE = (6, 5, 7)


def shares(seed=0, classes=4, shape=SHAPE):
    torch.manual_seed(seed)
    return torch.softmax(2 * torch.randn(classes, *shape), dim=0)


@given(st.integers(0, 1000), st.integers(2, 6))
@settings(deadline=None, max_examples=10)
def test_it_is_argmax_maximum_and_entropy_of_all_channels_at_once(seed, classes):
    values = shares(seed, classes)
    label, top, entropy = label_of(iter(values), classes)
    assert torch.equal(label.long(), values.argmax(dim=0)) and torch.equal(top, values.amax(dim=0))
    torch.testing.assert_close(entropy, torch.distributions.Categorical(values.movedim(0, -1)).entropy() / math.log(classes))


def test_by_hand():
    # voxels: certain of class 2, both alike (the lower wins), all alike
    values = torch.tensor([[0, 0.5, 1 / 3], [0, 0.5, 1 / 3], [1, 0, 1 / 3]]).view(3, 1, 1, 3)
    case = ProbabilityToLabeld()({"pred": values, "id": "kept"})
    assert case["pred"].flatten().tolist() == [2, 0, 0] and case["pred"].dtype == torch.uint8 and case["pred"].shape == (1, 1, 1, 3)
    assert case["probability"].flatten().tolist() == pytest.approx([1, 0.5, 1 / 3])
    # entropy: 0; ln 2 / ln 3; 1
    assert case["entropy"].flatten().tolist() == pytest.approx([0, math.log(2) / math.log(3), 1])
    assert case["id"] == "kept" and case["entropy"].dtype == torch.float32


def test_rounding_outside_of_0_and_1_gives_no_nan():
    values = torch.tensor([-1e-7, 1 + 1e-6]).view(2, 1, 1, 1)
    case = ProbabilityToLabeld()({"pred": values})
    assert case["entropy"].item() == 0 and case["probability"].item() == 1


def test_one_hot_probabilities_are_smoothed_as_their_labels_are():
    affine = torch.diag(torch.tensor([1.0, 2, 0.5, 1], dtype=torch.float64))
    labels = torch.from_numpy(np.kron(np.random.default_rng(0).integers(0, 3, (5, 4, 4)), np.ones((4, 3, 5)))).long()[None]
    values = torch.nn.functional.one_hot(labels[0], 3).movedim(-1, 0).float()
    found = ProbabilityToLabeld(sigma_mm=1.0)({"pred": MetaTensor(values, affine=affine)})
    expected = smooth_labels(labels, (1, 2, 0.5), 1.0)
    assert (found["pred"].as_tensor() != expected).float().mean() < 1e-3 and (found["pred"].as_tensor() != labels).any()
    assert found["probability"].max() == pytest.approx(1, abs=1e-5) and torch.equal(found["pred"].affine, affine)
    plain = ProbabilityToLabeld(sigma_mm=1.0)({"pred": values, "image": MetaTensor(values[:1], affine=affine)})
    assert torch.equal(plain["pred"].as_tensor(), found["pred"].as_tensor())


def test_a_class_that_smoothing_would_take_away_keeps_its_voxels():
    values = torch.zeros(3, 9, 9, 9)
    values[0] = 1
    values[:, 4, 4, 4] = torch.tensor([0.0, 0, 1])
    found = ProbabilityToLabeld(sigma_mm=3.0)({"pred": MetaTensor(values)})["pred"]
    assert int(found[0, 4, 4, 4]) == 2 and int((found != 0).sum()) == 1


def an_image(shape=(30, 24, 28)):
    """A loaded CT: axes turned, anisotropic, with its grid in the meta as loaders leave it."""
    affine = torch.tensor([[-1.0, 0, 0, 40], [0, -2.0, 0, 50], [0, 0, 1.5, -10], [0, 0, 0, 1]], dtype=torch.float64)
    image = torch.zeros(1, *shape)
    image[0, 4:26, 3:21, 5:24] = 1
    meta = {"original_affine": affine.numpy().copy(), "spatial_shape": np.array(shape), "filename_or_obj": "a.nii.gz"}
    return MetaTensor(image, affine=affine, meta=meta)


def test_labels_come_back_to_the_grid_of_the_file():
    image = an_image()
    truth = torch.zeros(image.shape[1:], dtype=torch.long)
    truth[8:20, 6:14, 8:20], truth[20:24, 6:14, 8:20] = 1, 2
    prepare = Compose([Orientation("RAS", labels=None), Spacing((1.0, 1.0, 1.0))])
    one_hot = torch.nn.functional.one_hot(truth, 3).movedim(-1, 0).float()
    values, prepared = prepare(MetaTensor(one_hot, meta=dict(image.meta), affine=image.affine)), prepare(image)
    crop = CropForeground()
    case = {"pred": crop.crop_pad(values, *crop.compute_bounding_box(prepared)).as_tensor(), "image": crop(prepared)}
    found = ProbabilityToLabeld(source_key="image")(case)
    assert found["pred"].shape == (1, *truth.shape) and torch.equal(found["pred"].affine, image.affine)
    assert found["pred"].meta["filename_or_obj"] == "a.nii.gz"
    assert (found["pred"][0].as_tensor() != truth).float().mean() < 0.005
    assert set(torch.unique(found["pred"].as_tensor()).tolist()) == {0, 1, 2}
    # outside the crop background is certain
    assert (found["probability"][0, 0, 0, 0], found["entropy"][0, 0, 0, 0]) == (1, 0)


def test_on_the_files_own_grid_nothing_is_resampled():
    image, values = an_image((4, 5, 6)), shares(shape=(4, 5, 6))
    found = ProbabilityToLabeld(source_key="image")({"pred": values, "image": image})
    assert torch.equal(found["probability"].as_tensor()[0], values.amax(dim=0)) and torch.equal(found["pred"].affine, image.affine)


def test_the_grid_that_a_later_step_noted_comes_before_the_loaders():
    image = an_image()
    image.meta |= {"source_affine": np.eye(4).tolist(), "source_shape": [3, 4, 5]}
    affine, shape = source_grid(image, "image")
    assert torch.equal(affine, torch.eye(4, dtype=torch.float64)) and shape == [3, 4, 5]


def test_mistakes_are_told():
    with pytest.raises(UserError, match=r"pred: got shape \(1, 6, 5, 7\), expected probabilities \(K, X, Y, Z\) of 2 to 256 classes"):
        ProbabilityToLabeld()({"pred": shares()[:1]})
    with pytest.raises(UserError, match="source_key: 'image' does not say which grid its file has"):
        ProbabilityToLabeld(source_key="image")({"pred": MetaTensor(shares()), "image": shares()})
    with pytest.raises(UserError, match="pred: its place is not known"):
        ProbabilityToLabeld(source_key="label")({"pred": shares(), "label": an_image()})
    with pytest.raises(UserError, match="pred: its spacing is not known"):
        ProbabilityToLabeld(sigma_mm=1.0)({"pred": shares()})
