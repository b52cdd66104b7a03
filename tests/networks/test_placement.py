"""Where a network goes; two GPUs are not at hand, so spreading is tested by what is asked of the network."""

import logging

import pytest
import torch
from torch import nn

from common.networks.diffusion_unet import DiffusionUNet
from common.networks.placement import placed

SMALL = {"in_channels": 2, "base_channels": 2, "multipliers": (1, 1), "blocks_per_level": 1}


def test_a_network_is_moved_and_stays_the_same_object():
    network = nn.Linear(2, 2)
    assert placed(network, "cpu") is network


def test_without_a_second_gpu_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING, logger="brain_bundles"):
        placed(DiffusionUNet(**SMALL), "cpu", spread="true")
    assert "no second GPU" in caplog.text


@pytest.mark.parametrize(("device", "expected"), [("cuda", [0, 1]), ("cuda:1", [1, 0])])
def test_a_diffusion_network_is_split_over_the_device_and_the_next(monkeypatch, device, expected):
    network, asked = DiffusionUNet(**SMALL), []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(DiffusionUNet, "split", lambda self, devices: asked.extend(devices) or self)
    assert placed(network, device, spread=True) is network
    assert asked == [torch.device("cuda", index) for index in expected]
