"""The second stage of the encoder: learn to guess, from an image, the latent that the coordinate network has learned for it.

MONAI's trainers know images and labels; here the label is a row of the trained network itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer

from common import flag
from common.inferers.voxel_sampling import VoxelBank, identity
from common.networks.brain_inr import BrainINR
from common.networks.latent_table import FLIP, LatentTable

Prepared = tuple[torch.Tensor, torch.Tensor, tuple[()], dict[str, Any]]


class LatentImages:
    """``prepare_batch``: whole images of a bank, some mirrored, and the latents of their identities.

    Args:
        bank: the training scans.
        latents: the trained table.
        flip_prob: probability of the mirrored image.
        shared: SSL, one latent per subject.

    Source: thesis, Sec. 9.1 (future work); ours.
    """

    def __init__(self, bank: VoxelBank, latents: LatentTable, flip_prob: float = 0.5, shared: bool = True) -> None:
        self.bank, self.latents, self.flip_prob, self.shared = bank, latents, flip_prob, flag(shared, "ssl")

    def __call__(self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Images ``(B, 1, *grid)`` and latents ``(B, L)`` of the scans ``index`` ``(B,)``."""
        every, images, names = torch.arange(self.bank.voxels), [], []
        for number in torch.as_tensor(batch["index"]).reshape(-1).tolist():
            scan, mirrored = self.bank.scans[number], bool(torch.rand(()) < self.flip_prob)
            image = scan.values(every.to(scan.image.device))[:, 0].reshape(1, *self.bank.grid)
            images.append((image.flip(1) if mirrored else image).to(device))
            names.append(identity({"subject": scan.subject, "id": scan.id}, self.shared) + FLIP * mirrored)
        table = self.latents.weight.detach()
        return torch.stack(images), table[self.latents.rows(names).to(table.device)].to(device), (), {}


class LatentGuess(Inferer):
    """What the encoder of a network says of images ``(B, 1, *grid)``: ``(B, L)``."""

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Guess the latents; ``network`` is the whole ``BrainINR``."""
        whole: BrainINR = network
        return whole.first_latent(inputs)
