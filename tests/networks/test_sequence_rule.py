"""The rule on one sequence."""

import torch

from common.networks.sequence_rule import SequenceRule


def test_what_is_bright_in_the_brain_is_marked_and_nothing_else():
    image = -torch.ones(1, 4, 1, 1, 12)
    image[:, :, ..., :10] = 0.0
    image[:, 3, ..., 9] = 1.0  # mean 0.1, SD 0.316: z = 2.85
    marked = SequenceRule(2.0)(image) > 0
    assert marked.shape == (1, 1, 1, 1, 12)
    assert marked.flatten().nonzero().flatten().tolist() == [9]
    assert not (SequenceRule(3.0)(image) > 0).any()


def test_each_volume_has_its_own_scale_and_an_empty_one_has_no_tumour():
    one = torch.rand(1, 4, 6, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.5
    both = SequenceRule(1.0)(torch.cat([one, 0.5 * one, -torch.ones_like(one)])) > 0
    assert torch.equal(both[0], both[1]) and both[0].any()
    assert not both[2].any()
