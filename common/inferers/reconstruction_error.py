"""The error map of a network that reconstructs: how far each voxel lies from its reconstruction, filtered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import nn

from common.errors import UserError
from common.transforms.histogram_equalisation import HU_RANGE
from common.transforms.map_filters import FILTERS, filter_maps


class Reconstructor(Protocol):
    """What the inferer asks of a model."""

    network: nn.Module
    """Reconstructs equalised volumes ``(B, 1, *spatial)`` in [0, 1]."""

    def equalise(self, hu: torch.Tensor) -> torch.Tensor:
        """Map HU ``(B, 1, *spatial)`` to [0, 1]."""
        ...


class ReconstructionErrorInferer(Inferer):
    r"""Anomaly map :math:`E = \phi(|x - \hat x|)` of the noise-free image, 0 outside the head.

    Args:
        filter: :math:`\phi`, ``none``, ``median`` or ``erosion``; the paper takes the median for fractures and the erosion
            for haemorrhage.
        size: side of the filter's cube, odd, voxels; the paper's 5 on a grid of 1 mm.
        roi_size: window of a network that was trained on crops, voxels per axis; None reconstructs the volume at once.
        overlap: share of a window that the next one sees again, in [0, 1).
        sw_batch_size: windows per forward pass.

    Raises:
        UserError: another filter.

    Source: position regression, section 3.4 and appendix C; Kascenas et al. 2022 for the denoising autoencoder.
    """

    def __init__(
        self,
        filter: str = "none",
        size: int = 5,
        roi_size: Sequence[int] | int | None = None,
        overlap: float = 0.25,
        sw_batch_size: int = 1,
    ) -> None:
        super().__init__()
        if filter not in FILTERS:
            raise UserError(f"filter: got '{filter}', expected one of {FILTERS}.")
        self.filter, self.size = filter, size
        self.windows = None if roi_size is None else SlidingWindowInferer(roi_size, sw_batch_size, overlap, mode="gaussian")

    def __call__(self, inputs: torch.Tensor, network: Reconstructor, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """Error map of a batch.

        Args:
            inputs: ``(B, 1, X, Y, Z)`` HU, exactly -1024 outside the head.
            network: model with ``equalise`` and the inner ``network``.
            args: passed to the inner network.
            kwargs: passed to the inner network.

        Returns:
            ``(B, 1, X, Y, Z)`` float32, >= 0, in units of the equalised image (0 to 1).
        """
        image = network.equalise(inputs)
        if self.windows is None:
            reconstruction = network.network(image, *args, **kwargs)
        else:
            reconstruction = self.windows(image, network.network, *args, **kwargs)
        head = inputs > HU_RANGE[0]  # the lower end marks what is outside
        # what a network makes of the background is nobody's anomaly, and must not leak in or out by the filter
        error = (image.float() - reconstruction.float()).abs() * head
        return filter_maps(error, self.filter, self.size) * head
