import pytest
import torch

from common.errors import UserError
from common.transforms.local_masking import (
    RandChannelMask,
    RandTokenMask,
    channel_mask,
    choose_hidden,
    hidden_count,
    hide_channels,
    hide_tokens,
    token_mask,
)


def seeded(mask, seed=0):
    mask.set_random_state(seed)
    return mask


def test_counts_by_hand():
    # 0.6 * 48 = 28.8 -> 29 (the released code: 28); 0.4 * 48 = 19.2 -> 19; 0.5 * 5 = 2.5 -> 2, a half to the even number
    assert [hidden_count(48, 0.6), hidden_count(48, 0.4), hidden_count(5, 0.5), hidden_count(7, 0), hidden_count(7, 1)] == [29, 19, 2, 0, 7]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_its_range_is_an_error(ratio):
    for make in (RandChannelMask, RandTokenMask):
        with pytest.raises(UserError, match=r"ratio: got .*, expected a share in \[0, 1\] \(0 hides nothing\)"):
            make(ratio)


def test_the_lowest_scores_are_hidden():
    scores = torch.tensor([[0.3, 0.1, 0.9, 0.2], [0.8, 0.7, 0.6, 0.5]])
    assert choose_hidden(scores, 0.5).tolist() == [[False, True, False, True], [False, False, True, True]]


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.6, 1.0])
def test_every_sample_hides_exactly_the_rounded_share_of_channels(ratio):
    mask = channel_mask(torch.rand(5, 12), ratio)
    assert mask.shape == (5, 12, 1, 1, 1)
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).flatten().tolist() == [round(12 * ratio)] * 5


def test_a_larger_ratio_hides_what_a_smaller_one_hides_and_more():
    scores = torch.rand(3, 24)
    small, large = channel_mask(scores, 0.3), channel_mask(scores, 0.7)
    assert torch.all(large | ~small)


def test_a_hidden_channel_is_zero_at_all_tokens_and_others_are_untouched():
    embedding = torch.randn(3, 12, 2, 3, 4) + 10
    mask = seeded(RandChannelMask(0.6, 12))(embedding)
    hidden = hide_channels(embedding, mask)
    zero = (hidden == 0).flatten(2)
    assert torch.equal(zero.all(dim=2), mask.flatten(1))
    assert torch.equal(zero.any(dim=2), mask.flatten(1)), "no token of another channel was hidden"
    kept = ~mask.expand_as(embedding)
    assert torch.equal(hidden[kept], embedding[kept])


def test_rescaling_by_hand_and_it_keeps_the_mean_over_masks():
    mask = torch.tensor([True, True, True, False]).reshape(1, 4, 1, 1, 1)
    # one of four channels is kept: factor 1 / (1 - 3/4) = 4
    assert hide_channels(torch.full((1, 4, 1, 1, 1), 2.0), mask, rescale=True).flatten().tolist() == [0, 0, 0, 8]
    ones = torch.ones(4000, 10, 1, 1, 1)
    found = hide_channels(ones, seeded(RandChannelMask(0.6, 10))(ones), rescale=True)
    torch.testing.assert_close(found.mean(dim=0).flatten(), torch.ones(10), atol=0.1, rtol=0)  # standard error 1.22 / sqrt(4000) = 0.019


def test_all_channels_hidden_is_zero_and_none_hidden_the_identity_with_or_without_rescaling():
    embedding = torch.randn(2, 6, 2, 2, 2)
    for rescale in (False, True):
        everything, nothing = torch.ones(2, 6, 1, 1, 1).bool(), torch.zeros(2, 6, 1, 1, 1).bool()
        assert not hide_channels(embedding, everything, rescale).any()
        assert torch.equal(hide_channels(embedding, nothing, rescale), embedding)


def test_the_gradient_flows_through_kept_channels_only():
    embedding, mask = torch.randn(2, 6, 1, 2, 3, requires_grad=True), channel_mask(torch.rand(2, 6), 0.5)
    hide_channels(embedding, mask).sum().backward()
    assert torch.equal(embedding.grad, (~mask).float().expand_as(embedding))


def test_samples_differ_and_one_subset_for_the_batch_is_an_option():
    batch = torch.zeros(8, 1, 4, 4, 4)
    drawn = seeded(RandChannelMask(0.5, 48))(batch)
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == 8
    shared = seeded(RandChannelMask(0.5, 48, per_sample="false"))(batch)
    assert all(torch.equal(row, shared[0]) for row in shared)
    assert shared.shape == drawn.shape


def test_every_channel_is_hidden_equally_often():
    mask = seeded(RandChannelMask(0.6, 10))(torch.zeros(4000, 1))
    torch.testing.assert_close(mask.float().mean(dim=0).flatten(), torch.full((10,), 0.6), atol=0.035, rtol=0)  # standard error 0.0077


def test_token_blocks_by_hand():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.6]]).reshape(1, 1, 3, 2, 1)
    # two of six blocks: those of 0.1 and 0.2; blocks of 2 tokens, cut at 5 along the first axis and at 1 along the last
    mask = token_mask(scores, 1 / 3, (5, 4, 1), 2)
    expected = torch.zeros(1, 1, 5, 4, 1).bool()
    expected[0, 0, 0:2, 2:4] = True
    expected[0, 0, 2:4, 0:2] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(("shape", "hidden"), [((96, 96, 96), 130), ((64, 32, 48), 14)])
def test_token_masks_hide_whole_blocks_of_16_voxels_on_unequal_axes(shape, hidden):
    # 6^3 = 216 blocks: 129.6 -> 130; 4 * 2 * 3 = 24 blocks: 14.4 -> 14
    mask = seeded(RandTokenMask(0.6))(torch.zeros(2, 1, 1, 1, 1).expand(-1, -1, *shape))
    assert mask.shape == (2, 1, *(side // 2 for side in shape))
    blocks = mask[:, :, ::8, ::8, ::8]
    again = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    assert torch.equal(mask, again)
    assert blocks.flatten(1).sum(dim=1).tolist() == [hidden] * 2
    assert not torch.equal(mask[0], mask[1])


def test_hidden_tokens_become_the_learned_vector_and_only_it_gets_their_gradient():
    embedding, token = torch.randn(2, 3, 4, 2, 2, requires_grad=True), torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    mask = torch.zeros(2, 1, 4, 2, 2).bool()
    mask[0, 0, 1] = True  # 4 tokens of the first sample
    found = hide_tokens(embedding, mask, token)
    assert found[0, :, 1].flatten(1).T.tolist() == [[1.0, 2.0, 3.0]] * 4
    assert torch.equal(found[1], embedding[1])
    found.sum().backward()
    assert token.grad.tolist() == [4.0] * 3
    assert torch.equal(embedding.grad == 0, mask.expand_as(embedding))


@pytest.mark.parametrize("make", [lambda ratio: RandChannelMask(ratio, 12), lambda ratio: RandTokenMask(ratio, 4)])
def test_same_seed_same_draw_the_next_differs_and_ratio_zero_is_no_mask(make):
    image = torch.zeros(2, 1, 16, 8, 8)
    drawer = seeded(make(0.5), 3)
    first, second = drawer(image), drawer(image)
    assert torch.equal(first, seeded(make(0.5), 3)(image))
    assert not torch.equal(first, second)
    assert make(0)(image) is None


def test_the_draw_leaves_torchs_generator_alone():
    state = torch.get_rng_state()
    RandChannelMask()(torch.zeros(2, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_and_sides_that_are_no_whole_tokens_are_errors():
    with pytest.raises(UserError, match="block: got 15 voxels, expected a multiple of the token's side, 2 voxels"):
        RandTokenMask(0.6, 15)
    with pytest.raises(UserError, match=r"image: got sides \(8, 9, 8\), expected multiples of the token's side, 2 voxels"):
        RandTokenMask()(torch.zeros(1, 1, 8, 9, 8))
