import json
import os

import pytest
import torch
from monai.inferers import SimpleInferer
from monai.transforms import VoteEnsemble
from torch import nn

from common.errors import UserError
from common.inferers.flip_averaging import FlipAveragingInferer
from common.inferers.member_voting import MemberInferer, VoteLesiond, majority, vote_share
from common.networks.zscore_rule import ZScoreRule


def votes(yes, of):
    """Probabilities of ``of`` members for one voxel, ``yes`` of them above one half."""
    return torch.tensor([0.9] * yes + [0.1] * (of - yes)).view(of, 1, 1, 1)


@pytest.mark.parametrize(
    ("yes", "of", "lesion"), [(4, 8, 1), (3, 8, 0), (5, 8, 1), (1, 2, 1), (1, 3, 0), (2, 3, 1), (0, 1, 0), (1, 1, 1), (0, 8, 0), (8, 8, 1)]
)
def test_at_least_half_of_the_members_make_a_lesion(yes, of, lesion):
    share = vote_share(votes(yes, of))
    assert share.item() == pytest.approx(yes / of)
    assert majority(share).item() == lesion


def test_monai_decides_a_tie_the_other_way():
    binary = (votes(4, 8) >= 0.5).float()
    assert VoteEnsemble()(binary).item() == 0
    assert majority(vote_share(votes(4, 8))).item() == 1
    for yes in (0, 3, 5, 8):  # everywhere else both agree
        assert VoteEnsemble()((votes(yes, 8) >= 0.5).float()).item() == majority(vote_share(votes(yes, 8))).item()


def test_a_member_votes_at_its_threshold_not_below():
    probabilities = torch.tensor([0.3, 0.29, 0.31]).view(3, 1)
    assert vote_share(probabilities, threshold=0.3).item() == pytest.approx(2 / 3)


def test_the_order_of_the_members_does_not_matter():
    probabilities = torch.rand(5, 4, 3, 2)
    assert torch.equal(vote_share(probabilities), vote_share(probabilities.flip(0)))


def test_mask_and_share_have_one_channel_and_their_types():
    share = vote_share(torch.rand(5, 4, 3, 2))
    assert share.shape == (1, 4, 3, 2)
    assert share.dtype == torch.float32
    assert majority(share).dtype == torch.uint8


@pytest.fixture
def ensemble(tmp_path):
    """Three members' weights with their record; ``model.pt`` is the second."""
    members = []
    for k in range(3):
        torch.manual_seed(k)
        members.append(nn.Conv2d(2, 1, 3, padding=1))
        torch.save(members[k].state_dict(), tmp_path / f"member_{k}.pt")
    torch.save(members[1].state_dict(), tmp_path / "model.pt")
    (tmp_path / "weights.json").write_text(json.dumps({"members": [f"member_{k}.pt" for k in range(3)]}))
    return tmp_path, members


def flips():
    return FlipAveragingInferer(SimpleInferer(), [0, 1])


def test_channels_are_the_members_run_by_hand(ensemble):
    folder, members = ensemble
    image = torch.randn(2, 2, 8, 6)
    found = MemberInferer(flips(), str(folder))(image, nn.Conv2d(2, 1, 3, padding=1))
    assert found.shape == (2, 3, 8, 6)
    for k, member in enumerate(members):
        assert torch.equal(found[:, k : k + 1], flips()(image, member))


@pytest.mark.parametrize("count", [2, 3])
def test_the_first_members_are_used_when_fewer_are_asked_for(ensemble, count):
    folder, members = ensemble
    image = torch.randn(1, 2, 8, 6)
    found = MemberInferer(flips(), str(folder), count)(image, nn.Conv2d(2, 1, 3, padding=1))
    assert torch.equal(found, torch.cat([flips()(image, member) for member in members[:count]], dim=1))


def test_one_member_is_the_best_by_validation(ensemble):
    folder, members = ensemble
    image = torch.randn(1, 2, 8, 6)
    assert torch.equal(MemberInferer(flips(), str(folder), 1)(image, nn.Conv2d(2, 1, 3, padding=1)), flips()(image, members[1]))


def test_without_a_folder_the_given_network_is_the_only_member(ensemble):
    _, members = ensemble
    image = torch.randn(1, 2, 8, 6)
    assert torch.equal(MemberInferer(flips())(image, members[2]), flips()(image, members[2]))


def test_weights_are_read_at_the_first_call_and_only_then(ensemble):
    folder, _ = ensemble
    inferer, image, network = MemberInferer(flips(), str(folder)), torch.randn(1, 2, 8, 6), nn.Conv2d(2, 1, 3, padding=1)
    first = inferer(image, network)
    for path in folder.glob("*.pt"):
        path.unlink()
    assert torch.equal(inferer(image, network), first)
    MemberInferer(flips(), str(folder / "nowhere"))  # a config can be parsed before there are weights


def test_weights_of_a_later_training_are_read_again(ensemble):
    # a server keeps the inferer while MONAI Label trains
    folder, _ = ensemble
    inferer, image, network = MemberInferer(flips(), str(folder)), torch.randn(1, 2, 8, 6), nn.Conv2d(2, 1, 3, padding=1)
    first = inferer(image, network)
    later = {key: value + 1 for key, value in torch.load(folder / "member_1.pt", weights_only=True).items()}
    torch.save(later, folder / "member_1.pt")
    os.utime(folder / "member_1.pt", ns=(0, 1))  # the clock of a file system may be coarse
    second = inferer(image, network)
    assert torch.equal(first[:, [0, 2]], second[:, [0, 2]]) and not torch.equal(first[:, 1], second[:, 1])
    assert len(inferer.copies) == 3


def test_members_do_not_train(ensemble):
    folder, _ = ensemble
    inferer = MemberInferer(flips(), str(folder))
    inferer(torch.randn(1, 2, 8, 6), nn.Conv2d(2, 1, 3, padding=1).train())
    assert not any(member.training for member in inferer.copies)


def test_a_rule_without_parameters_needs_no_weights(tmp_path):
    image = torch.randn(1, 2, 4, 4)
    assert torch.equal(MemberInferer(flips(), str(tmp_path))(image, ZScoreRule()), flips()(image, ZScoreRule()))


def test_more_members_than_were_trained_are_an_error(ensemble):
    folder, _ = ensemble
    with pytest.raises(UserError, match=r"vote_members: got 4, but .* holds 3; train more \(--members\) or ask for fewer"):
        MemberInferer(flips(), str(folder), 4)(torch.randn(1, 2, 8, 6), nn.Conv2d(2, 1, 3, padding=1))


def test_voting_gives_mask_share_and_mean_probability():
    # voxels: all vote, a tie, none
    pred = torch.tensor([[0.9, 0.6, 0.1], [0.8, 0.2, 0.3]]).view(2, 1, 1, 3)
    case = VoteLesiond()({"pred": pred, "brain": torch.ones(1, 1, 1, 3, dtype=torch.bool), "id": "kept"})
    assert case["pred"].flatten().tolist() == [1, 1, 0]
    assert case["pred"].dtype == torch.uint8
    assert case["vote_share"].flatten().tolist() == [1.0, 0.5, 0.0]
    assert case["probability"].flatten().tolist() == pytest.approx([0.85, 0.4, 0.2])
    assert case["id"] == "kept"


def test_nothing_outside_the_brain_is_lesion():
    brain = torch.rand(1, 5, 4, 3) < 0.5
    case = VoteLesiond()({"pred": torch.ones(3, 5, 4, 3), "brain": brain})
    assert torch.equal(case["pred"].bool(), brain)
    assert torch.equal(case["vote_share"] > 0, brain)
    assert torch.equal(case["probability"] > 0, brain)
