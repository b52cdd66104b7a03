import pytest
import torch

from common.networks.brain_inr import BrainINR
from common.networks.latent_table import GLOBAL, without_subjects
from common.training import reset_weights
from common.weights import load_weights

SMALL = {"latent_size": 5, "width": 6, "layers": 3}


def trained(names=("a", "b"), **settings):
    torch.manual_seed(0)
    network = BrainINR(names, **(SMALL | settings))
    torch.nn.init.uniform_(network.latents.weight.data[1:], -0.5, 0.5)
    return network


def points(count=4, dims=3):
    return torch.rand((2, count, 1 + dims), generator=torch.Generator().manual_seed(1)) - 0.5


def test_it_computes_the_coordinate_network_at_the_latents_of_its_rows():
    network = trained()
    rows = network.latents.rows(["b", GLOBAL])
    expected = network.inr(points(), torch.stack([network.latents.weight[2], torch.zeros(5)]))
    torch.testing.assert_close(network(points(), rows), expected)


def test_only_the_latents_of_the_batch_get_a_gradient():
    network = trained(("a", "b", "c"))
    network(points(), network.latents.rows(["a", "c"])).sum().backward()
    assert (network.latents.weight.grad.abs().sum(1) > 0).tolist() == [False, True, False, True]


@pytest.mark.parametrize("dims", [2, 3])
def test_settings_reach_the_coordinate_network(dims):
    network = trained(dims=dims, label_classes=2)
    assert network(points(dims=dims), network.latents.rows(["a", "b"])).shape == (2, 4, 3)


def test_a_file_of_weights_is_all_that_inference_needs(tmp_path):
    network, empty = trained(encoder_channels=(2, 3)), BrainINR(**SMALL, encoder_channels=(2, 3))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    load_weights(empty, tmp_path / "model.pt")
    rows = empty.latents.rows(["b", "a"])
    assert torch.equal(empty(points(), rows), network(points(), rows))


def test_weights_without_subjects_load_and_still_know_the_mean(tmp_path):
    network, empty = trained(), BrainINR(**SMALL)
    torch.save(without_subjects(network.state_dict()), tmp_path / "model.pt")
    load_weights(empty, tmp_path / "model.pt")
    assert empty.latents.names == (GLOBAL,)
    torch.testing.assert_close(empty.latents.mean(), network.latents.mean())
    latent = torch.rand(2, 5)
    assert torch.equal(empty.inr(points(), latent), network.inr(points(), latent))


def test_a_fit_starts_at_zero_without_an_encoder_and_with_an_untrained_one():
    images = torch.rand(2, 1, 9, 8, 7)
    assert torch.equal(trained().first_latent(images), torch.zeros(2, 5))
    network = trained(encoder_channels=(2, 3))
    assert torch.equal(network.first_latent(images), torch.zeros(2, 5))
    torch.nn.init.constant_(network.encoder.head.bias, 0.25)
    assert torch.equal(network.first_latent(images), torch.full((2, 5), 0.25))


def test_latents_per_scan_move_along_their_regression_on_age():
    network = trained(ages=[0.3, 0.4])
    rows = network.latents.weight.detach()[1:]
    moved = network.latent_at(rows, torch.tensor([0.3, 0.4]), torch.tensor([0.4, 0.4]))
    torch.testing.assert_close(moved, rows[[1, 1]])  # two scans: the line goes through both


def test_latents_per_subject_are_the_same_at_all_ages():
    network = trained()
    latents = network.latents.weight.detach()[1:]
    assert torch.equal(network.latent_at(latents, torch.tensor([0.3, 0.4]), torch.tensor([0.4, 0.2])), latents)


def test_its_groups_hold_every_parameter_but_the_encoders_and_only_the_table_is_lazy():
    network = trained(encoder_channels=(2,))
    dense, lazy = network.parameter_groups()
    assert lazy["params"] == [network.latents.weight] and lazy["lazy_rows"] and "lazy_rows" not in dense
    assert "lr" not in lazy and network.parameter_groups(1e-3)[1]["lr"] == 1e-3
    held = {id(p) for group in (dense, lazy) for p in group["params"]}
    assert held == {id(p) for name, p in network.named_parameters() if not name.startswith("encoder")}


def test_a_new_member_of_an_ensemble_begins_with_other_weights_and_zero_latents():
    network = trained(encoder_channels=(2,))
    before = network.inr.first.weight.clone()
    torch.nn.init.ones_(network.encoder.head.weight)
    reset_weights(network)
    assert not torch.equal(network.inr.first.weight, before)
    assert network.latents.weight.abs().sum() == 0 and network.encoder.head.weight.abs().sum() == 0
