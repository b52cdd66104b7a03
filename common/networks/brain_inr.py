"""The trained whole: a coordinate network, the latents of its training identities, and an encoder that may guess a latent.

MONAI has no network whose weights partly belong to subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.networks.latent_encoder import LatentEncoder
from common.networks.latent_table import LatentTable
from common.networks.wire_inr import WireINR


class BrainINR(nn.Module):
    """Brains at any age: :class:`~common.networks.wire_inr.WireINR` with a :class:`~common.networks.latent_table.LatentTable`.

    Args:
        identities: names of the latents that are trained; empty for inference, which takes those of the weights' file.
        latent_size: numbers in a latent.
        learned_global: see ``LatentTable``.
        max_norm: see ``LatentTable``.
        ages: see ``LatentTable``; with one latent per scan, latents are then moved along their regression on age.
        encoder_channels: channels of an encoder that guesses a latent from an image; empty leaves it out.
        settings: all other arguments of ``WireINR``: ``dims``, ``width``, ``layers``, ``activation``, ...

    Source: Neonatal INR, Sec. 2. Deviation: the encoder is the thesis' future work (Sec. 9.1), as is the regression on age.
    """

    def __init__(
        self,
        identities: Sequence[str] = (),
        latent_size: int = 128,
        learned_global: bool = False,
        max_norm: float | None = 1.0,
        ages: Sequence[float] | None = None,
        encoder_channels: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        super().__init__()
        self.inr = WireINR(latent_size=latent_size, **settings)
        self.latents = LatentTable(identities, latent_size, learned_global, max_norm, ages)
        self.encoder = LatentEncoder(self.inr.dims, latent_size, encoder_channels) if encoder_channels else None

    def forward(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Intensities (and label logits) ``(B, N, outputs)`` at points ``(B, N, 1 + dims)`` of the identities in rows ``(B,)``."""
        return self.inr(points, self.latents(rows))

    def first_latent(self, images: torch.Tensor) -> torch.Tensor:
        """Where a fit of images ``(B, 1, *grid)`` starts, ``(B, latent_size)``: what the encoder says, zero without one."""
        if self.encoder is None:
            return images.new_zeros(len(images), self.latents.size, dtype=self.latents.weight.dtype)
        return self.encoder(images)

    def latent_at(self, latents: torch.Tensor, ages: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Latents moved from one age to another along the regression on age.

        Adding a map of age while training would change nothing, since age and latent enter the same linear layer; only latents that
        were trained per scan, and so hold some of the age, are moved. Zero slope (latents per subject, or no ages) leaves them alone.

        Args:
            latents: of scans, ``(B, latent_size)``.
            ages: of these scans in the network's unit (weeks / 100), ``(B,)``.
            targets: ages to predict, ``(B,)``, same unit.

        Returns:
            ``(B, latent_size)``.
        """
        return latents + (targets - ages)[:, None].to(latents) * self.latents.slope().to(latents)

    def parameter_groups(self, latent_lr: float | None = None) -> list[dict[str, Any]]:
        """Groups for :class:`~common.networks.lazy_rows.LazyRowAdamW`: the network, and the table whose unused rows rest.

        The encoder is not among them; it learns from the finished latents.

        Args:
            latent_lr: step size of the latents; None takes the network's. Under the released code's dense AdamW the second moment of a
                row is diluted by the steps that do not use it, so that each use moves it further than the step size, by about the
                square root of the number of identities; a lazy row moves by the step size itself.
        """
        table = {"params": [self.latents.weight], "lazy_rows": True} | ({} if latent_lr is None else {"lr": latent_lr})
        return [{"params": list(self.inr.parameters())}, table]
