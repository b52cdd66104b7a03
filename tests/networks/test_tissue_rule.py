import pytest
import torch

from common.errors import UserError
from common.networks.tissue_rule import TissueRule


def volume(values, shape=(2, 3, 4)):
    return torch.tensor(values, dtype=torch.float32).repeat_interleave(6).reshape(1, 1, *shape)


def test_each_voxel_gets_the_class_of_the_nearest_mean_and_zero_is_background():
    # inside: 1, 2, 6, mean 3 and SD sqrt(84 / 17) = 2.22: z = -0.90, -0.45, 1.35
    found = TissueRule([-1.0, 1.0, -0.5])(volume([0.0, 1.0, 2.0, 6.0]))
    assert found.shape == (1, 4, 2, 3, 4)
    assert found.argmax(dim=1).flatten()[::6].tolist() == [0, 1, 3, 2]


def test_gain_and_the_number_of_empty_voxels_do_not_matter():
    rule, image = TissueRule([-0.7, 0.2, 1.3]), torch.rand(1, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    one = rule(image).argmax(dim=1)
    assert torch.equal(rule(7.3 * image).argmax(dim=1), one)
    padded = torch.nn.functional.pad(image, (3, 0, 0, 2, 1, 1))
    assert torch.equal(rule(padded).argmax(dim=1)[:, 1:-1, :-2, 3:], one)


def test_volumes_of_a_batch_are_judged_each_by_itself_in_the_channel_asked_for():
    image = torch.rand(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    rule = TissueRule([-0.5, 0.5], channel=1)
    assert torch.equal(rule(image)[1], rule(image[1:])[0])
    assert torch.equal(rule(image), TissueRule([-0.5, 0.5])(image[:, 1:]))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_flat_volume_is_background_and_there_is_nothing_to_train(value):
    rule = TissueRule([0.0, 1.0])
    assert not rule(torch.full((1, 1, 2, 2, 2), value)).argmax(dim=1).any()
    assert not list(rule.parameters())


def test_no_means_are_refused():
    with pytest.raises(UserError, match="means: got none, expected one per class"):
        TissueRule([])
