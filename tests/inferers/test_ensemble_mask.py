import pytest
import torch
from monai.transforms import RemoveSmallObjects

from common.errors import UserError
from common.inferers.ensemble_mask import EnsembleMaskd, largest_class, without_small_components


def volume(*values):
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_one_class_is_where_the_mean_exceeds_a_half():
    assert largest_class(volume(-0.1, 0.2, 0.5, 0.50001, 1.1)).flatten().tolist() == [0, 0, 0, 1, 1]


def test_background_is_what_the_classes_leave_over():
    means = torch.stack([volume(0.4, 0.1, 0.2, 0.0)[0], volume(0.3, 0.1, 0.5, 0.0)[0]])
    # background 0.3, 0.8, 0.3, 1: a tumour of uncertain class is not background
    assert largest_class(means).flatten().tolist() == [1, 0, 2, 0]


def test_mask_mean_variance_and_samples_are_taken_apart():
    stacked = torch.cat([volume(0.6, -0.1), volume(0.24, 0.0), volume(1.0, 0.0), volume(0.2, -0.2)])
    case = EnsembleMaskd("pred")({"pred": stacked, "id": "a"})
    assert case["pred"].flatten().tolist() == [1, 0]
    assert case["pred"].dtype == torch.uint8
    assert case["mean"].flatten().tolist() == pytest.approx([0.6, 0.0])
    assert case["variance"].flatten().tolist() == pytest.approx([0.24, 0.0])
    assert case["samples"].shape == (2, 1, 2, 1, 1)
    assert case["samples"][1].flatten().tolist() == pytest.approx([0.2, -0.2])
    assert case["id"] == "a"
    assert "samples" not in EnsembleMaskd("pred")({"pred": stacked[:2]})


def test_classes_get_their_label_numbers():
    means = torch.cat([volume(0.9, 0.0, 0.1, 0.0), volume(0.0, 0.8, 0.1, 0.0), volume(0.0, 0.0, 0.6, 0.1)])
    case = EnsembleMaskd("pred", labels=(1, 2, 4))({"pred": torch.cat([means, torch.zeros(3, 4, 1, 1)])})
    assert case["pred"].flatten().tolist() == [1, 2, 4, 0]
    assert case["mean"].shape == (3, 4, 1, 1)


def specks():
    """A cube of 27 voxels with one more at its corner, and one voxel alone."""
    mask = torch.zeros(1, 9, 8, 7, dtype=torch.uint8)
    mask[0, :3, :3, :3] = 1
    mask[0, 3, 3, 3] = 2
    mask[0, 8, 7, 6] = 1
    return mask


def test_small_components_go_and_those_of_the_given_size_stay():
    mask = specks()
    for voxels, left in ((0, 29), (1, 29), (2, 28), (28, 28), (29, 0)):
        assert int((without_small_components(mask, voxels) > 0).sum()) == left, voxels
    assert set(without_small_components(mask, 2).unique().tolist()) == {0, 1, 2}, "labels stay"
    assert torch.equal(without_small_components(torch.zeros_like(mask), 5), torch.zeros_like(mask))


def test_it_agrees_with_monai_between_the_sizes():
    pytest.importorskip("skimage")
    mask = (specks() > 0).float()
    assert torch.equal(without_small_components(mask, 10), RemoveSmallObjects(min_size=10, connectivity=3)(mask))


def test_the_transform_removes_specks_if_asked():
    mask = (specks() > 0).float()
    case = EnsembleMaskd("pred", min_voxels=5)({"pred": torch.cat([mask, torch.zeros_like(mask)])})
    assert int(case["pred"].sum()) == 28
    assert int((case["mean"] > 0.5).sum()) == 29, "the mean is left as it is"


def test_labels_that_do_not_fit_are_told():
    with pytest.raises(UserError, match=r"labels: got \(1, 2, 4\), but the ensemble has 2 channels; expected 6"):
        EnsembleMaskd("pred", labels=(1, 2, 4))({"pred": torch.zeros(2, 1, 1, 1)})
