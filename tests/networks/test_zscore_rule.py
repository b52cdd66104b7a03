import pytest
import torch

from common.networks.zscore_rule import ZScoreRule


def test_lesion_is_strictly_below_the_threshold():
    image = torch.tensor([[[[900.0, 900.0, 900.0]], [[-2.1, -2.0, 1.0]]]])
    assert (ZScoreRule()(image) > 0).flatten().tolist() == [True, False, False]


def test_logits_are_certain_either_way():
    assert set(ZScoreRule()(torch.linspace(-4, 4, 70).view(1, 2, 5, 7) - 3).flatten().tolist()) == {20.0, -20.0}


def test_threshold_and_channel_are_settings():
    image = torch.tensor([[[[-3.0]], [[0.0]], [[-1.5]]]])
    assert float(ZScoreRule(threshold=-1.0, channel=2)(image)) == 20.0
    assert float(ZScoreRule(threshold=-2.0, channel=2)(image)) == -20.0


@pytest.mark.parametrize("shape", [(2, 2, 4, 6), (1, 3, 4, 6, 5)])
def test_slices_and_volumes_work_alike(shape):
    assert ZScoreRule()(torch.randn(shape)).shape == (shape[0], 1, *shape[2:])


def test_there_is_nothing_to_train():
    assert list(ZScoreRule().parameters()) == []
    assert ZScoreRule().state_dict() == {}
