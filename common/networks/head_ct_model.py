"""A network with all that was learned from the training heads beside its weights: reference, equalisation, calibration.

They are buffers, so ``model.pt`` (a bare ``state_dict``) holds them and inference cannot use others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.transforms.head_masks import STRUCTURES
from common.transforms.histogram_equalisation import count_intensities, equalise, fit_equalisation
from common.transforms.reference_frame import ReferenceFrame

CUBE_MM = 256.0
QUANTILES = 101
MAPS = ("error", "zmap")
"""Maps in the order of ``healthy_quantiles``."""


class HeadCTModel(nn.Module):
    """Equalise HU, then call the network.

    Args:
        network: called with ``(B, 1, *spatial)`` float in [0, 1], background 0.
        registration_spacing_mm: voxel size of the reference that new heads are registered to; 256 mm along each axis.
        bins: of the histogram equalisation, over -1024 to 3071 HU.
        maps: error maps per volume (scales of the network).
        calibration_side: voxels per side of the calibration's mean and SD maps; the maps are smooth, so they are kept coarse.

    Buffers: ``reference_hu`` int16, ``levels`` of the equalisation, ``calibration_mean`` and ``calibration_sd`` ``(maps, n, n, n)`` of
    the error of healthy validation heads (SD 0: not calibrated), ``healthy_quantiles`` ``(2, 3, 101)`` of their scores by map
    (error, zmap) and structure (left, right, skull).
    """

    reference_hu: torch.Tensor
    levels: torch.Tensor
    calibration_mean: torch.Tensor
    calibration_sd: torch.Tensor
    healthy_quantiles: torch.Tensor

    def __init__(
        self, network: nn.Module, registration_spacing_mm: float = 2.0, bins: int = 1024, maps: int = 1, calibration_side: int = 64
    ) -> None:
        super().__init__()
        self.network, self.registration_spacing_mm = network, float(registration_spacing_mm)
        side = round(CUBE_MM / registration_spacing_mm)
        self.register_buffer("reference_hu", torch.zeros(side, side, side, dtype=torch.int16))
        self.register_buffer("levels", torch.zeros(bins + 1))
        self.register_buffer("calibration_mean", torch.zeros(maps, *[calibration_side] * 3))
        self.register_buffer("calibration_sd", torch.zeros(maps, *[calibration_side] * 3))
        self.register_buffer("healthy_quantiles", torch.zeros(len(MAPS), len(STRUCTURES), QUANTILES))

    def equalise(self, hu: torch.Tensor) -> torch.Tensor:
        """Intensities in [0, 1] of HU, any shape."""
        return equalise(hu, self.levels)

    def forward(self, hu: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the network for HU ``(B, 1, *spatial)``; further arguments go to the network."""
        return self.network(self.equalise(hu), *args, **kwargs)

    def reference(self) -> ReferenceFrame:
        """The head that others are registered to.

        Raises:
            UserError: none was set: the weights were not loaded, or come from elsewhere.
        """
        if not bool(self.reference_hu.any()):
            raise UserError("The weights hold no reference head: load trained weights (--ckpt_dir), or train first (train.json).")
        return ReferenceFrame(self.reference_hu.cpu().numpy(), self.registration_spacing_mm)

    def set_reference(self, frame: ReferenceFrame) -> None:
        """Take the reference of the training heads.

        Raises:
            UserError: it lies on another grid.
        """
        if tuple(frame.volume.shape) != tuple(self.reference_hu.shape) or frame.spacing_mm != self.registration_spacing_mm:
            got, want = (tuple(frame.volume.shape), frame.spacing_mm), (tuple(self.reference_hu.shape), self.registration_spacing_mm)
            raise UserError(f"reference: got shape and spacing {got}, expected {want}.")
        self.reference_hu.copy_(torch.from_numpy(np.ascontiguousarray(frame.volume)))

    def fit_equalisation(self, volumes: Iterable[torch.Tensor], contrast_limit_per_hu: float | None = None) -> None:
        """Fit the intensity map on the prepared training volumes; see :func:`common.transforms.histogram_equalisation.fit_equalisation`."""
        self.levels.copy_(fit_equalisation(count_intensities(volumes, len(self.levels) - 1), contrast_limit_per_hu))

    @property
    def calibrated(self) -> bool:
        """Whether mean and SD of healthy errors are known."""
        return bool((self.calibration_sd > 0).all())
