"""Read a checkpoint of the released DAE code: ``python -m common.networks.convert_disruptive_autoencoder CHECKPOINT MODELS_DIR``.

MONAI's ``filter_swinunetr`` maps the same names, but leaves out the stem, the MLPs (whose names differ), the decoder and the mask token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.networks.released_weights import Row, new_model_file, save_converted
from common.networks.transfer_record import STEM_LAYERS, bare_state, swin_facts, write_transfer
from common.weights import read_weights

NORMALISATION: dict[str, dict[str, Any]] = {
    "ct": {"kind": "range", "low": -1000, "high": 1000},
    **{contrast: {"kind": "zscore"} for contrast in ("t1", "t1ce", "t2", "flair")},
}
"""Of the released pre-training: HU to [0, 1] clipped; z-score over non-zero voxels."""
SCRAMBLE = (
    "the released pre-training took the tokens' axes for one another (depth for channels) before the first stage, and no network of ours"
    " does: its numbers cannot be expected from these weights"
)
MERGING = (
    "the released code merges neighbours (1,0,1) in the fifth place and (0,1,0) and (0,0,1) twice, where MONAI now merges each of the eight"
    " once: the fifth to seventh part of every downsample.reduction meets other neighbours here"
)
_UNUSED = re.compile(r"encoder\.(norm|layers|head)\.")  # of the released encoder, without a part in the reconstruction
_SHOWN = 4  # names in an error


def our_name(name: str, pretrained: bool) -> str | None:
    """Name in our network of a tensor of the released one; None for what the reconstruction does not use.

    Args:
        name: without the prefix ``module.``.
        pretrained: of a pre-training, whose encoder is called ``encoder`` and whose output restores the image; else of a fine-tuning,
            which has MONAI's names.

    Source: Project-MONAI/research-contributions, DAE: ``SimMIMSkip`` and ``SwinTransformerSkipForSimMIM`` (pre-training), ``load_from`` of
        ``swin_unetr_og.py`` (fine-tuning).
    """
    if _UNUSED.match(name):
        return None
    name = re.sub(r"^encoder\.(layers[1-4])\.0(?:\.0)?\.", r"swinViT.\1.0.", name)
    name = re.sub(r"^encoder\.patch_embed\.", "swinViT.patch_embed.", name)
    name = re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name)
    if pretrained:
        name = re.sub(r"^out\.", "pretext.image.", name)
    return "mask_token" if name == "encoder.mask_token" else name


def released_settings(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Arguments of :class:`DisruptiveSwinUNETR` that fit a released ``state_dict``.

    A pre-training's output layer restores the image, so that the logits of the network it becomes are fresh: one per voxel.

    Raises:
        UserError: the file is of another network.
    """
    pretrained = _is_pretrained(state)
    named = {our_name(name, pretrained) or "": value for name, value in state.items()}
    try:
        facts = swin_facts(named)
    except UserError as error:
        raise UserError(f"checkpoint: {error} Expected the released DAE code's pre-training or fine-tuning (swin_skip, swin).") from error
    if facts["window_size"] is None:
        raise UserError("checkpoint: its attention windows are no cubes; expected those of the released DAE code.")
    settings = {key: facts[key] for key in ("in_channels", "feature_size", "depths", "num_heads", "window_size", "stem")}
    form = {"out_channels": 1, "skip": "open", "heads": ["image"]} if pretrained else {"out_channels": facts["out_channels"], "heads": []}
    return settings | form


def convert_disruptive_autoencoder(state: Mapping[str, torch.Tensor], network: DisruptiveSwinUNETR) -> list[Row]:
    """Fill our network with the weights of the released code.

    Args:
        state: ``state_dict`` of the released network, without prefix; see :func:`bare_state`.
        network: of the same form; :func:`released_settings` tells it.

    Returns:
        One row per tensor of the checkpoint.

    Raises:
        UserError: names or shapes that do not fit, which are listed. The network then stays as it was.
    """
    pretrained, target = _is_pretrained(state), network.state_dict()
    fresh = {name for name in target if pretrained and name.startswith("out.")}
    rows, filled, unknown, wrong = [], {}, [], []
    for key, value in state.items():
        name = our_name(key, pretrained)
        if name is None:
            rows.append(Row(key, "", "skipped: no part in the reconstruction"))
            continue
        value = value.flatten() if name == "mask_token" else value
        if name not in target:
            unknown.append(key)
        elif value.shape != target[name].shape:
            wrong.append(f"{key} {tuple(value.shape)} for {tuple(target[name].shape)}")
        else:
            rows.append(Row(key, name, "transferred"))
            filled[name] = value
    faults = {"unknown": unknown, "missing": sorted(set(target) - set(filled) - fresh), "of another shape": wrong}
    found = [
        f"{len(keys)} {fault} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})" for fault, keys in faults.items() if keys
    ]
    if found:
        raise UserError(
            f"checkpoint: tensors {'; '.join(found)}. Expected the released DAE code's pre-training with skips (swin_skip) or fine-tuning"
            " (swin), and a network of the same channels, feature size and stem."
        )
    network.load_state_dict(filled, strict=False)
    return rows


def convert_file(checkpoint: str, models_dir: str) -> None:
    """Write ``model.pt`` and its records from a released checkpoint, print what became of each tensor, and warn of what it is worth.

    Args:
        checkpoint: file of the released code, e.g. ``ckpt_best.pth``.
        models_dir: folder for the result; it must hold no weights yet.

    Raises:
        UserError: see :func:`convert_disruptive_autoencoder`; or there are weights already.
    """
    target = new_model_file(models_dir)
    if not Path(checkpoint).is_file():
        raise UserError(f"checkpoint: no file {checkpoint}; expected a checkpoint of the released DAE code.")
    state = bare_state(read_weights(checkpoint))
    settings = released_settings(state)
    network = DisruptiveSwinUNETR(**settings)
    rows = convert_disruptive_autoencoder(state, network)
    notes = [SCRAMBLE, MERGING] if _is_pretrained(state) else [MERGING]
    for note in notes:
        logging.getLogger("brain_bundles").warning("%s: %s.", checkpoint, note)
    if _is_pretrained(state):
        write_transfer(models_dir, network, (96, 96, 96), NORMALISATION, notes=notes)
    save_converted(target, network, rows, "disruptive_autoencoder", checkpoint, settings=settings, notes=notes)


def _is_pretrained(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a released ``state_dict`` is of a pre-training."""
    return any(f"encoder.{name.removeprefix('swinViT.')}" in state for name in STEM_LAYERS.values())


if __name__ == "__main__":
    from common.command_line import run_command

    run_command(convert_file, "python -m common.networks.convert_disruptive_autoencoder")
