"""Mean softmax: against sums by hand over members, flips and windows, one network in memory, and errors before the first case."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from common.errors import UserError
from common.inferers.probability_ensemble import ProbabilityEnsembleInferer, SoftmaxFlipInferer, softmax_

SHAPE = (1, 2, 8, 6, 7)


def a_network(seed=0):
    """Three classes; it does not commute with flips."""
    torch.manual_seed(seed)
    return nn.Conv3d(2, 3, (3, 1, 3), padding=(1, 0, 1))


def windows(mode="constant", **options):
    return SlidingWindowInferer(roi_size=(4, 4, 4), sw_batch_size=2, overlap=0.5, mode=mode, **options)


@pytest.fixture
def two_rounds(tmp_path):
    """Two rounds of two folds each; ``model.pt`` is the second fold."""
    networks = []
    for turn in range(2):
        folder = tmp_path / f"round_{turn}"
        folder.mkdir()
        own = [a_network(10 * turn + fold) for fold in range(2)]
        for fold, network in enumerate(own):
            torch.save(network.state_dict(), folder / f"fold_{fold}.pt")
        torch.save(own[1].state_dict(), folder / "model.pt")
        (folder / "weights.json").write_text(json.dumps({"members": ["fold_0.pt", "fold_1.pt"]}))
        networks.append(own)
    return [str(tmp_path / f"round_{turn}") for turn in range(2)], networks


@given(st.floats(-200, 200), st.integers(1, 5))
@settings(deadline=None, max_examples=10)
def test_softmax_in_place_is_softmax_also_of_large_numbers(offset, classes):
    logits = torch.randn(2, classes, 3, 4, 2) * 5 + offset
    expected = torch.softmax(logits, dim=1)
    assert softmax_(logits) is logits
    torch.testing.assert_close(logits, expected)


def test_without_flips_and_members_it_is_the_networks_softmax():
    image, network = torch.randn(SHAPE), a_network()
    before = network(image)
    found = ProbabilityEnsembleInferer(SimpleInferer())(image, network)
    torch.testing.assert_close(found, torch.softmax(before, dim=1))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("dims", [(2,), (4,), (2, 3, 4)])
def test_a_flipped_image_has_the_flipped_probabilities(dims):
    image, network = torch.randn(SHAPE), a_network()
    averaged = ProbabilityEnsembleInferer(SimpleInferer(), [0, 1, 2])
    torch.testing.assert_close(averaged(image.flip(dims), network), averaged(image, network).flip(dims))
    plain = ProbabilityEnsembleInferer(SimpleInferer())
    assert not torch.allclose(plain(image.flip(dims), network), plain(image, network).flip(dims))


def test_flips_average_softmax_over_all_subsets_of_the_axes():
    image, network = torch.randn(SHAPE), a_network()
    four = [torch.softmax(network(image.flip(dims)), dim=1).flip(dims) for dims in ([], [2], [4], [2, 4])]
    torch.testing.assert_close(SoftmaxFlipInferer(SimpleInferer(), [0, 2])(image, network), torch.stack(four).mean(dim=0))


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_the_whole_ensemble_is_the_mean_over_rounds_folds_and_flips_of_sliding_windows(two_rounds, mode):
    folders, networks = two_rounds
    image = torch.randn(SHAPE)
    parts = []
    for network in [network for own in networks for network in own]:
        for dims in ([], [3]):
            logits = windows(mode)(image.flip(dims), network)
            parts.append(torch.softmax(logits, dim=1).flip(dims))
    found = ProbabilityEnsembleInferer(windows(mode), [1], folders)(image, a_network(99))
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 8, 6, 7))


def test_windows_are_blended_as_logits_or_as_probabilities():
    image, network = torch.randn(SHAPE), a_network()
    logits = SoftmaxFlipInferer(windows(), [])(image, network)
    shares = SoftmaxFlipInferer(windows(), [], "probabilities")(image, network)
    expected = windows()(image, lambda x: torch.softmax(network(x), dim=1))
    torch.testing.assert_close(shares, expected)
    assert not torch.allclose(logits, shares, atol=1e-3)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, 8, 6, 7))


def test_one_folder_and_fewer_members_are_taken_as_elsewhere(two_rounds):
    folders, networks = two_rounds
    image = torch.randn(SHAPE)
    for members, expected in ((1, networks[0][1:]), (2, networks[0]), (None, networks[0])):
        found = ProbabilityEnsembleInferer(SimpleInferer(), [], folders[0], members)(image, a_network(99))
        torch.testing.assert_close(found, torch.stack([torch.softmax(own(image), dim=1) for own in expected]).mean(dim=0))


def test_one_copy_of_the_network_is_held_and_the_given_one_stays_as_it_is(two_rounds):
    folders, _ = two_rounds
    network, image = a_network(99).train(), torch.randn(SHAPE)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    ensemble = ProbabilityEnsembleInferer(SimpleInferer(), [], folders)
    ensemble.load(network)
    assert torch.equal(ensemble(image, network), ensemble(image, network)), "the second case begins with the first member"
    assert len(ensemble.copies) == 1 and len(ensemble.files) == 4 and not ensemble.copies[0].training
    assert network.training and all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_single_member_is_read_once(two_rounds, tmp_path):
    folders, _ = two_rounds
    ensemble, image, network = ProbabilityEnsembleInferer(SimpleInferer(), [], folders[0], 1), torch.randn(SHAPE), a_network(99)
    first = ensemble(image, network)
    for path in (tmp_path / "round_0").glob("*.pt"):
        path.unlink()
    assert torch.equal(ensemble(image, network), first)


@pytest.mark.parametrize("rule", [lambda x: x, lambda x: x[:, :2]])
def test_an_image_that_a_rule_passes_on_is_not_written_to(rule):
    image = torch.randn(1, 3, 4, 5, 6)
    before = image.clone()
    found = ProbabilityEnsembleInferer(SimpleInferer(), [0])(image, rule)
    assert torch.equal(image, before)
    torch.testing.assert_close(found, torch.softmax(rule(before), dim=1))


def test_half_precision_logits_give_float_probabilities_on_the_device_of_the_windows():
    network = a_network()
    found = ProbabilityEnsembleInferer(windows(device="cpu"), [0])(torch.randn(SHAPE), lambda x: network(x).to(torch.bfloat16))
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 8, 6, 7))


def test_a_rule_without_parameters_needs_no_weights(tmp_path):
    image, rule = torch.randn(SHAPE), nn.Softshrink()
    found = ProbabilityEnsembleInferer(SimpleInferer(), [0], str(tmp_path))(image, rule)
    torch.testing.assert_close(found, torch.softmax(rule(image), dim=1))


def test_mistakes_are_told_before_the_first_case(two_rounds, tmp_path):
    folders, _ = two_rounds
    with pytest.raises(UserError, match=r"There are no weights at .*nowhere"):
        ProbabilityEnsembleInferer(SimpleInferer(), [], [folders[0], str(tmp_path / "nowhere")]).load(a_network())
    with pytest.raises(UserError, match="holds 2; train more"):
        ProbabilityEnsembleInferer(SimpleInferer(), [], folders, 5).load(a_network())
    with pytest.raises(UserError, match="was trained with another network"):
        ProbabilityEnsembleInferer(SimpleInferer(), [], folders).load(nn.Conv3d(2, 4, 3))
    with pytest.raises(UserError, match="blend: got 'mean', expected one of"):
        SoftmaxFlipInferer(SimpleInferer(), [], "mean")
