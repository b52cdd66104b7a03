"""Images and the latents that they were learned with, for the encoder."""

from __future__ import annotations

from typing import Any

import torch

from common.inferers.latent_regression import LatentGuess, LatentImages
from common.inferers.voxel_sampling import VoxelBank, identities
from common.networks.brain_inr import BrainINR

SCANS: list[dict[str, Any]] = [
    {"id": f"s{k}_1", "subject": f"s{k}", "age": 30.0 + k, "image": torch.rand(1, 4, 6), "brain": torch.ones(1, 4, 6)} for k in range(2)
]


def made() -> tuple[VoxelBank, BrainINR]:
    torch.manual_seed(0)
    network = BrainINR(identities(SCANS), dims=2, latent_size=3, width=4, layers=3, encoder_channels=(2,))
    network.latents.weight.data.normal_()
    return VoxelBank(SCANS), network


def test_an_image_comes_whole_with_its_latent() -> None:
    bank, network = made()
    images, latents, _, _ = LatentImages(bank, network.latents, flip_prob=0.0)({"index": torch.tensor([1, 0])})
    torch.testing.assert_close(images, torch.stack([SCANS[1]["image"], SCANS[0]["image"]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents, network.latents.weight[network.latents.rows(["s1", "s0"])].detach())


def test_a_mirrored_image_comes_with_the_latent_of_the_mirror() -> None:
    bank, network = made()
    images, latents, _, _ = LatentImages(bank, network.latents, flip_prob=1.0)({"index": torch.tensor([0])})
    torch.testing.assert_close(images[0], SCANS[0]["image"].flip(1), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents, network.latents.weight[network.latents.rows(["s0#flip"])].detach())


def test_the_guess_is_the_encoders_and_lets_gradients_through() -> None:
    bank, network = made()
    images, latents, _, _ = LatentImages(bank, network.latents)({"index": torch.tensor([0, 1])})
    (LatentGuess()(images, network) - latents).square().mean().backward()
    assert network.encoder is not None and bool(network.encoder.head.weight.grad.any())
    assert network.latents.weight.grad is None, "the latents are what is learned from, not what learns"
