import logging

import pytest
import torch

from common.networks.denoising import DenoisingNetwork
from common.networks.ternausnet import TernausNet


@pytest.fixture
def body():
    torch.manual_seed(0)
    return TernausNet(width=1 / 8)


def step(network):
    """One optimiser step on noise; returns the names of the parameters it moved."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.Adam(list(network.trained()), lr=1e-2)
    network(torch.randn(2, 2, 64, 32)).square().mean().backward()
    optimizer.step()
    return {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}


def test_it_holds_the_very_encoder_and_decoder_of_the_body(body):
    network = DenoisingNetwork(body, image_channels=2)
    assert network.encoder is body.encoder
    assert network.decoder is body.decoder
    assert not {id(p) for p in network.head.parameters()} & {id(p) for p in body.parameters()}


def test_training_it_trains_the_body_but_not_the_bodys_head(body):
    before = {name: p.detach().clone() for name, p in body.named_parameters()}
    step(DenoisingNetwork(body, image_channels=2))
    moved = {name.split(".")[0] for name, p in body.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"encoder", "decoder"}


@pytest.mark.parametrize(("channels", "hidden"), [(1, None), (2, None), (3, 16)])
def test_it_predicts_one_noise_per_image_channel(channels, hidden):
    body = TernausNet(in_channels=channels, width=1 / 16)
    noised = torch.randn(2, channels, 32, 64)
    assert DenoisingNetwork(body, channels, hidden=hidden)(noised).shape == noised.shape


def test_a_frozen_encoder_gets_no_gradient_and_stays_bit_equal(body):
    network = DenoisingNetwork(body, 2, freeze_encoder=True)
    moved = step(network)
    assert all(p.grad is None for p in network.encoder.parameters())
    assert {name.split(".")[0] for name in moved} == {"decoder", "head"}


def test_an_encoder_that_is_not_frozen_moves_in_every_layer(body):
    network = DenoisingNetwork(body, 2)
    moved = step(network)
    assert {name for name, _ in network.named_parameters() if name.startswith("encoder.") and name.endswith("weight")} <= moved


def test_freezing_changes_no_prediction(body):
    noised = torch.randn(1, 2, 32, 32)
    free = DenoisingNetwork(body, 2)
    frozen = DenoisingNetwork(body, 2, freeze_encoder=True)
    frozen.head.load_state_dict(free.head.state_dict())
    assert torch.equal(free(noised), frozen(noised))


def test_freezing_lasts_for_pre_training_only(body):
    step(DenoisingNetwork(body, 2, freeze_encoder=True))
    body(torch.randn(1, 2, 32, 32)).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in body.parameters())


def test_trained_parameters_are_all_but_the_frozen_ones(body):
    everything = {id(p) for p in DenoisingNetwork(body, 2).trained()}
    frozen = {id(p) for p in DenoisingNetwork(body, 2, freeze_encoder="true").trained()}
    encoder = {id(p) for p in body.encoder.parameters()}
    assert encoder <= everything
    assert not encoder & frozen
    assert {id(p) for p in body.decoder.parameters()} <= frozen


def test_a_random_encoder_is_not_frozen_and_says_so(body, caplog):
    with caplog.at_level(logging.WARNING, logger="brain_bundles"):
        network = DenoisingNetwork(body, 2, freeze_encoder=True, encoder_is_trained=False)
    assert "freeze_encoder: the encoder has no weights yet, so pre-training trains it too." in caplog.text
    assert any(name.startswith("encoder.") for name in step(network))


def test_nothing_is_said_where_nothing_is_frozen(body, caplog):
    DenoisingNetwork(body, 2, freeze_encoder=False, encoder_is_trained=False)
    DenoisingNetwork(body, 2, freeze_encoder=True, encoder_is_trained=True)
    assert caplog.text == ""


def test_a_reset_draws_the_head_alone(body):
    network = DenoisingNetwork(body, 2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network.reset_parameters()
    assert {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])} == {"head"}
