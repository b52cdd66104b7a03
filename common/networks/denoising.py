"""The pre-training network: encoder and decoder of a segmentation network, with a head of its own that predicts noise."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import nn

from common import flag
from common.networks.ternausnet import initialise, prediction_head


class DenoisingNetwork(nn.Module):
    """Predict the noise of each image channel with the body of a segmentation network.

    It holds the same encoder and decoder objects as the segmentation network, so that pre-training needs no copying of
    weights; only the head is its own, with one output per image channel.

    Args:
        body: network with parts ``encoder`` and ``decoder`` (``decoder.out_channels``), e.g. ``TernausNet``.
        image_channels: channels of the image, hence of the noise.
        freeze_encoder: leave the encoder as it is; it then runs without a graph.
        encoder_is_trained: whether the encoder has weights worth keeping. A random encoder is not frozen, with a warning.
        hidden: extra 1x1 layers in the head, as in ``TernausNet``.

    Source: LADP, Eq. 6. Deviation: the released code regresses all channels with one output by broadcasting.
    """

    def __init__(
        self, body: nn.Module, image_channels: int, freeze_encoder: bool = False, encoder_is_trained: bool = True, hidden: int | None = None
    ) -> None:
        super().__init__()
        self.encoder: nn.Module = body.encoder  # type: ignore[assignment]
        self.decoder: nn.Module = body.decoder  # type: ignore[assignment]
        self.head = prediction_head(int(self.decoder.out_channels), image_channels, hidden)  # type: ignore[arg-type]
        self.freeze_encoder = flag(freeze_encoder, "freeze_encoder")
        if self.freeze_encoder and not encoder_is_trained:
            logging.getLogger("brain_bundles").warning("freeze_encoder: the encoder has no weights yet, so pre-training trains it too.")
            self.freeze_encoder = False

    def reset_parameters(self) -> None:
        """Draw the head anew; the body belongs to the segmentation network."""
        initialise(self.head)

    def trained(self) -> Iterator[nn.Parameter]:
        """Parameters that pre-training changes: decoder and head, and the encoder unless it is frozen."""
        if not self.freeze_encoder:
            yield from self.encoder.parameters()
        yield from self.decoder.parameters()
        yield from self.head.parameters()

    def forward(self, noised: torch.Tensor) -> torch.Tensor:
        """Predicted noise, ``(B, image_channels, H, W)``, of normalised noised images of the same shape."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            features = self.encoder(noised)
        return self.head(self.decoder(features))
