"""Read a checkpoint of the released PatchDDM code: ``python -m common.networks.convert_guided_diffusion CHECKPOINT MODELS_DIR``.

MONAI converts checkpoints of its own generative models only. The names are those of openai/guided-diffusion, of which that code descends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.networks.diffusion_unet import DiffusionUNet
from common.networks.released_weights import Row, new_model_file, save_converted
from common.weights import read_weights

# layers of a residual block there and here
BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "embed",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "shortcut",
}
_SHOWN = 4  # names in an error


def released_names(network: DiffusionUNet) -> dict[str, str]:
    """Names of the released network's layers mapped to those of ours."""
    names = {"time_embed.0": "time.0", "time_embed.2": "time.2", "out.0": "norm", "out.2": "head"}
    blocks = {f"middle_block.{n}": f"middle.{n}" for n in range(len(network.middle))}
    level: Any
    index = 0
    for number, level in enumerate(network.encoder):
        names[f"input_blocks.{index}.0" + (".op" if number else "")] = f"encoder.{number}.change"
        for n in range(len(level.blocks)):
            blocks[f"input_blocks.{index + 1 + n}.0"] = f"encoder.{number}.blocks.{n}"
        index += 1 + len(level.blocks)
    index = 0
    for number, level in reversed(list(enumerate(network.decoder))):
        for n in range(len(level.blocks)):
            blocks[f"output_blocks.{index + n}.0"] = f"decoder.{number}.blocks.{n}"
        index += len(level.blocks)
        if number:
            names[f"output_blocks.{index - 1}.1.conv"] = f"decoder.{number}.change.1"
    return names | {f"{theirs}.{a}": f"{ours}.{b}" for theirs, ours in blocks.items() for a, b in BLOCK.items()}


def released_settings(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Arguments of :class:`DiffusionUNet` that fit a released ``state_dict``.

    The number of groups cannot be told from weights; it is the number of base channels, as in the paper.

    Raises:
        UserError: the file has no such layers, or the network changes its resolution in another way.
    """
    state = _without_prefix(state)
    first, last = state.get("input_blocks.0.0.weight"), state.get("out.2.weight")
    if first is None or last is None or first.ndim != 5:
        raise UserError("checkpoint: expected the 3D U-Net of the released PatchDDM code (input_blocks.0.0.weight, ..., out.2.weight).")
    base, levels = len(first), [[]]  # type: tuple[int, list[list[int]]]
    for index in range(1, 1 + max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))):
        weight = state.get(f"input_blocks.{index}.0.in_layers.2.weight")
        if weight is not None:
            levels[-1].append(len(weight))
        else:
            levels.append([])
    multipliers, counts = [(blocks or [0])[-1] // base for blocks in levels], {len(blocks) for blocks in levels}
    if len(counts) != 1 or 0 in multipliers:
        raise UserError("checkpoint: its levels differ in their number of blocks; expected those of the released PatchDDM code.")
    joined = state.get("output_blocks.0.0.in_layers.0.weight")
    average = joined is not None and len(joined) == levels[-1][-1]
    return {
        "in_channels": first.shape[1],
        "out_channels": len(last),
        "base_channels": base,
        "multipliers": multipliers,
        "blocks_per_level": counts.pop(),
        "skip": "average" if average else "concatenate",
    }


def convert_guided_diffusion(source: str | Path | Mapping[str, torch.Tensor], network: DiffusionUNet) -> list[Row]:
    """Fill our network with the weights of the released code.

    Args:
        source: the checkpoint file (read with ``weights_only``), or its ``state_dict``; the prefix ``module.`` is dropped.
        network: of the same form; :func:`released_settings` tells it.

    Returns:
        One row per tensor, all transferred.

    Raises:
        UserError: no such file, or names or shapes that do not fit, which are listed. The network then stays as it was.

    Source: names of FlorentinBieder/PatchDDM-3D (guided_diffusion/unet.py), run without attention and with ``additive_skips``.
    """
    state = _without_prefix(_read(source))
    names, target = released_names(network), network.state_dict()
    rows, unknown, wrong = [], [], []
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        name = f"{names.get(layer)}.{kind}"
        if name not in target:
            unknown.append(key)
        elif value.shape != target[name].shape:
            wrong.append(f"{key} {tuple(value.shape)} for {tuple(target[name].shape)}")
        else:
            rows.append(Row(key, name, "transferred"))
    back = {f"{ours}.{kind}": f"{theirs}.{kind}" for theirs, ours in names.items() for kind in ("weight", "bias")}
    missing = sorted(back[name] for name in target if back[name] not in state)
    faults = {"unknown": unknown, "missing": missing, "of another shape": wrong}
    found = [
        f"{len(keys)} {fault} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})" for fault, keys in faults.items() if keys
    ]
    if found:
        raise UserError(
            f"checkpoint: tensors {'; '.join(found)}. Expected a checkpoint of the released PatchDDM code without attention,"
            " and a network of the same channels, levels and skips."
        )
    network.load_state_dict({row.target: state[row.source] for row in rows})
    return rows


def convert_file(checkpoint: str, models_dir: str) -> None:
    """Write ``model.pt`` and its record from a released checkpoint, and print what became of each tensor.

    Args:
        checkpoint: file of the released code, e.g. ``savedmodel003000.pt``.
        models_dir: folder for the result; it must hold no weights yet.

    Raises:
        UserError: see :func:`convert_guided_diffusion`; or there are weights already.
    """
    target = new_model_file(models_dir)
    state = _read(checkpoint)
    settings = released_settings(state)
    network = DiffusionUNet(**settings)
    save_converted(target, network, convert_guided_diffusion(state, network), "patchddm", checkpoint, settings=settings)


def _read(source: str | Path | Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    if isinstance(source, Mapping):
        return source
    if not Path(source).is_file():
        raise UserError(f"checkpoint: no file {source}; expected a checkpoint of the released PatchDDM code.")
    return read_weights(source)


def _without_prefix(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {re.sub(r"^module\.", "", key): value for key, value in state.items()}


if __name__ == "__main__":
    from common.command_line import run_command

    run_command(convert_file, "python -m common.networks.convert_guided_diffusion")
