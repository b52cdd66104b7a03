"""Read a checkpoint of the released LADP code into our network: ``python -m common.networks.convert CHECKPOINT MODELS_DIR``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.networks.released_weights import Row, new_model_file, save_converted
from common.networks.standardized import Standardized
from common.networks.ternausnet import TernausNet
from common.weights import read_weights

# Normalisation constants of the released code (ADC in 1e-6 mm2/s, Z_ADC); methods of the code, not of the paper.
RELEASED_MEAN = (1350.2495, 0.34669298)
RELEASED_STD = (428.13467, 2.487756)


def released_names(network: TernausNet) -> dict[str, str]:
    """Names of the released wrapper's modules (UNet16 inside ``encoder``) mapped to the modules of our network."""
    names: dict[str, str] = {}
    torchvision_index = 0
    for s, stage in enumerate(network.encoder.stages):
        for c in range(sum(isinstance(layer, nn.Conv2d) for layer in stage.modules())):
            names[f"encoder.encoder.{torchvision_index}"] = f"encoder.stages.{s}.{2 * c}"
            torchvision_index += 2
        torchvision_index += 1  # the pooling layer
    for index, step in enumerate(("center", "dec5", "dec4", "dec3", "dec2")):
        # Upsample, Conv, ReLU, Conv, ReLU here; Interpolate, ConvRelu, ConvRelu there
        names[f"encoder.{step}.block.1.conv"] = f"decoder.steps.{index}.1"
        names[f"encoder.{step}.block.2.conv"] = f"decoder.steps.{index}.3"
    names["encoder.dec1.conv"] = "decoder.last.0"
    names.update({"encoder.final": "head.0", "hidden_layer": "head.2", "output_layer": "head.4"})
    return names


def _merge_input_channels(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Released inputs are [ADC, Z, Z]; with two inputs the two Z filters add up, which is exact."""
    if in_channels == 2 and weight.shape[1] == 3:
        return torch.stack([weight[:, 0], weight[:, 1] + weight[:, 2]], dim=1)
    return weight


def convert_ladp_checkpoint(source: str | Path | Mapping[str, torch.Tensor], network: Standardized) -> list[Row]:
    """Fill our network (``encoder: vgg16, hidden: 64``) with the weights of the released LADP code.

    The network's normalisation constants become those of the released code, whose weights need them.

    Args:
        source: the checkpoint file (read with ``weights_only``), or its ``state_dict``.
        network: ``Standardized`` around a ``TernausNet`` with 2 or 3 inputs.

    Returns:
        One row per tensor of the checkpoint: transferred, or skipped and why.

    Raises:
        UserError: no such file, the network is not of that form, or tensors of ours stay without a value.
    """
    body = network.network
    if not isinstance(body, TernausNet) or len(body.head) != 5 or len(body.encoder.convolutions()) != 13:
        raise UserError("network: a released LADP checkpoint needs TernausNet with encoder 'vgg16' and hidden 64.")
    if not isinstance(source, Mapping) and not Path(source).is_file():
        raise UserError(f"checkpoint: no file {source}; expected a checkpoint of the released LADP code.")
    state = source if isinstance(source, Mapping) else read_weights(source)
    names, target, rows = released_names(body), body.state_dict(), []
    filled: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module not in names:
            shared = module.startswith("encoder.conv")
            rows.append(Row(key, "", "skipped: the same tensor under a second name" if shared else "skipped: not a layer of LADP"))
            continue
        name = f"{names[module]}.{kind}"
        merged = _merge_input_channels(value, target[name].shape[1]) if kind == "weight" and module == "encoder.encoder.0" else value
        if merged.shape != target[name].shape:
            rows.append(Row(key, name, f"skipped: shape {tuple(merged.shape)}, expected {tuple(target[name].shape)}"))
            continue
        filled[name] = merged
        rows.append(Row(key, name, "transferred" if merged is value else "transferred: the two Z_ADC inputs added up"))
    missing = sorted(set(target) - set(filled))
    if missing:
        raise UserError(f"checkpoint: {len(missing)} tensors have no source, first {missing[:3]}; is it a released LADP checkpoint?")
    body.load_state_dict(filled)  # only now, so that a mistake leaves the network as it was
    network.mean.copy_(torch.tensor(RELEASED_MEAN + RELEASED_MEAN[1:] * (len(network.mean) - 2)))
    network.std.copy_(torch.tensor(RELEASED_STD + RELEASED_STD[1:] * (len(network.std) - 2)))
    return rows


def convert_file(checkpoint: str, models_dir: str, width: float = 1.0) -> None:
    """Write ``model.pt`` and its record from a released checkpoint, and print what became of each tensor.

    Args:
        checkpoint: file of the released LADP code.
        models_dir: folder for the result; it must hold no weights yet.
        width: factor on the channels, 1 in the released network.

    Raises:
        UserError: see :func:`convert_ladp_checkpoint`; or there are weights already.
    """
    target = new_model_file(models_dir)
    settings = {"image_size": 256, "encoder": "vgg16", "width": width, "hidden": 64, "background": -6.0}
    network = Standardized(TernausNet(2, encoder="vgg16", width=width, hidden=64), channels=2)
    save_converted(target, network, convert_ladp_checkpoint(checkpoint, network), "ladp", checkpoint, settings=settings)


if __name__ == "__main__":
    from common.command_line import run_command

    run_command(convert_file, "python -m common.networks.convert")
