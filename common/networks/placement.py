"""Put a network on its device, or spread it over two; torch's and MONAI's parallel wrappers copy networks, none parts its activations."""

from __future__ import annotations

import logging

import torch
from torch import nn

from common import flag
from common.networks.diffusion_unet import DiffusionUNet


def placed(network: nn.Module, device: torch.device | str, spread: bool = False) -> nn.Module:
    """Move a network.

    Args:
        network: any; a ``DiffusionUNet`` can be spread.
        device: the device, and the first of two.
        spread: put the decoder's levels of high resolution on a second GPU, where there is one; else the log says that there is none.

    Returns:
        The network itself.

    Source: PatchDDM, Sec. 2.3: FullRes is split over two GPUs.
    """
    first = torch.device(device)
    if not flag(spread, "spread") or not isinstance(network, DiffusionUNet):
        return network.to(first)
    if first.type != "cuda" or torch.cuda.device_count() < 2:
        logging.getLogger("brain_bundles").warning("spread: there is no second GPU here, so the whole network goes to %s.", first)
        return network.to(first)
    index = first.index or 0
    return network.split([torch.device("cuda", index), torch.device("cuda", (index + 1) % torch.cuda.device_count())])
