"""What a fine-tuning has to know of pre-trained weights: ``transfer.json`` beside them, and what the weights tell of their network.

MONAI's ``metadata.json`` describes a bundle, not the images that one file of weights was trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import write_json
from common.errors import UserError

TRANSFER = "transfer.json"
STEM_LAYERS = {"conv": "swinViT.patch_embed.proj.weight", "block": "swinViT.patch_embed.proj.conv1.conv.weight"}
"""Stem -> its first convolution."""
BODY = ("in_channels", "feature_size", "stem", "window_size", "depths", "num_heads")
"""Facts that the weights tell themselves."""
_TABLE = re.compile(r"swinViT\.layers(\d)\.0\.blocks\.(\d+)\.attn\.relative_position_bias_table$")


def bare_state(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The ``state_dict`` inside a checkpoint (under ``model`` or ``state_dict``, or bare), without the prefix ``module.``.

    Raises:
        UserError: it holds something other than tensors.
    """
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    wrong = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if wrong or not content:
        raise UserError(
            f"weights: found {', '.join(wrong[:4]) or 'nothing'}; expected a state_dict, bare or under 'model' or 'state_dict'."
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def swin_facts(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What a Swin UNETR's weights tell of their network.

    Args:
        state: its ``state_dict``.

    Returns:
        ``in_channels``, ``out_channels`` (None without an output layer), ``feature_size``, ``stem`` ("conv" or "block"), ``window_size``
        in tokens (None where it is not a cube), ``depths``, ``num_heads``.

    Raises:
        UserError: the weights are of another network.
    """
    stems = [stem for stem, name in STEM_LAYERS.items() if name in state and state[name].ndim == 5]
    tables = {(int(found[1]), int(found[2])): state[found[0]] for found in map(_TABLE.match, state) if found}
    if not stems or not tables:
        raise UserError(f"weights: expected those of a 3D Swin UNETR ({STEM_LAYERS['conv']}, ...), found {', '.join(list(state)[:3])}, ...")
    first, out = state[STEM_LAYERS[stems[0]]], state.get("out.conv.conv.weight")
    stages = sorted({stage for stage, _ in tables})
    reach = round(len(tables[stages[0], 0]) ** (1 / 3))  # a table has (2 w - 1)^3 rows
    return {
        "in_channels": first.shape[1],
        "out_channels": None if out is None else len(out),
        "feature_size": len(first),
        "stem": stems[0],
        "window_size": (reach + 1) // 2 if reach**3 == len(tables[stages[0], 0]) else None,
        "depths": [sum(stage == number for stage, _ in tables) for number in stages],
        "num_heads": [tables[number, 0].shape[1] for number in stages],
    }


def write_transfer(
    models_dir: str | Path,
    network: nn.Module,
    patch_size: Sequence[int],
    normalisation: Mapping[str, Any],
    spacing_mm: Sequence[float] | None = None,
    disruptions: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = ("image", "embedding"),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``transfer.json`` beside the weights.

    Args:
        models_dir: folder of ``model.pt``.
        network: as trained, ours or MONAI's; its channels, feature size, stem, window, depths, heads, and (ours) what became of the skip at
            full resolution and which tensors the pre-training left as they were drawn, are taken from it.
        patch_size: sides of the training crops, voxels.
        normalisation: modality -> how its intensities were scaled.
        spacing_mm: voxel size the images were resampled to; None where they were not.
        disruptions: name -> strength.
        tasks: of the pre-training.
        notes: what else a reader should know, e.g. that the images were simulated.

    Returns:
        The file.
    """
    facts, skip, untrained = swin_facts(network.state_dict()), getattr(network, "skip", None), getattr(network, "untrained", None)
    images = {"patch_size": list(patch_size), "spacing_mm": None if spacing_mm is None else list(spacing_mm)}
    training = {"normalisation": dict(normalisation), "disruptions": dict(disruptions or {}), "tasks": list(tasks), "skip": skip}
    rest = {"untrained": list(untrained(tasks)) if untrained else [], "notes": list(notes)}
    return write_json(Path(models_dir) / TRANSFER, {key: facts[key] for key in BODY} | images | training | rest)


def read_transfer(path: str | Path, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The record beside a file of weights; empty when there is none.

    Args:
        path: file of the weights.
        state: the weights in it.

    Raises:
        UserError: the record cannot be read, or is not of these weights.
    """
    file = Path(path).with_name(TRANSFER)
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read as JSON ({error}); remove it, or write it anew.") from error
    if not isinstance(record, dict):
        raise UserError(f"{file} holds a {type(record).__name__}; expected an object with {', '.join(BODY)}, ...")
    facts = swin_facts(state)
    wrong = [f"{key} is {record[key]} in it and {facts[key]} in the weights" for key in BODY if key in record and record[key] != facts[key]]
    if wrong:
        raise UserError(f"{file} is not of {Path(path).name}: {'; '.join(wrong)}. Remove the one that is out of date.")
    return record


def differences(record: Mapping[str, Any], expected: Mapping[str, Any], inside: str = "") -> list[str]:
    """What a record says otherwise than a training expects, in words; a line per entry, or per row of a table.

    Args:
        record: of the pre-training.
        expected: entries of this training, nested as the record's; what it does not name is not compared.
        inside: name of the entry that both are values of, with a dot.
    """
    found = []
    for key, value in expected.items():
        name, there = f"{inside}{key}", record.get(key)
        if key not in record:
            found.append(f"{name}: the pre-training had none")
        elif isinstance(value, Mapping) and isinstance(there, Mapping):
            if any(isinstance(entry, Mapping) for entry in value.values()):
                found += differences(there, value, f"{name}.")
            elif differing := [entry for entry in value if json.loads(json.dumps(value[entry])) != there.get(entry)]:
                found.append(f"{name}: {_in_words(there, differing)} in the pre-training, {_in_words(value, differing)} here")
        elif json.loads(json.dumps(value)) != there:
            found.append(f"{name}: {there} in the pre-training, {value} here")
    return found


def _in_words(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return " ".join(f"{key} {row.get(key, 'none')}" for key in keys)
