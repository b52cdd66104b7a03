"""Mixed precision on a CPU: MONAI's evaluators enter ``torch.autocast("cuda")`` whatever their device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer


class BFloat16OnCPU(Inferer):
    """Run an inferer with matrix products and convolutions in bfloat16 where the inputs lie on a CPU; on a GPU as it is.

    A CPU without bfloat16 units rounds likewise and saves no time.

    Args:
        inferer: any; its result comes back in float32.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Result of the inferer, ``(B, K, *spatial)`` float32 on a CPU."""
        if inputs.device.type != "cpu":
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inferer(inputs, network, *args, **kwargs).float()
