"""A finished pre-training from its folder: the network, and the step with its disruptions, as ``transfer.json`` records them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.modalities import Modality, noise_scales
from common.errors import UserError
from common.inferers.disruptive_pretraining import DisruptivePretraining
from common.networks.disruptive_swin_unetr import HEADS, DisruptiveSwinUNETR
from common.networks.transfer_record import TRANSFER, read_transfer, swin_facts
from common.transforms.disruptions import RandDisruption
from common.transforms.local_masking import RandChannelMask, RandTokenMask
from common.transforms.pretext_views import RandCutOut
from common.weights import read_weights


def load_run(folder: str | Path, table: Mapping[str, Modality], seed: int = 0) -> tuple[DisruptiveSwinUNETR, DisruptivePretraining, dict]:
    """Network, step and record of a finished pre-training.

    Args:
        folder: with ``model.pt`` and ``transfer.json``.
        table: of modalities, for their factors of noise.
        seed: of the step's draws.

    Raises:
        UserError: no weights, no record, or a network that restores no image.
    """
    file = Path(folder).expanduser() / "model.pt"
    if not file.is_file():
        raise UserError(f"runs: there is no {file}; give folders of pre-trainings (with model.pt and {TRANSFER}).")
    state = read_weights(file)
    record, facts = read_transfer(file, state), swin_facts(state)
    heads = [head for head in HEADS if any(name.startswith(f"pretext.{head}.") for name in state)]
    if not record or "image" not in heads:
        lack = f"no {TRANSFER} beside it" if not record else "its network restores no image"
        raise UserError(f"runs: {file} cannot be shown: {lack}; expected the folder of a pre-training by reconstruction.")
    if facts["in_channels"] != 1:
        raise UserError(f"runs: {file} has {facts['in_channels']} input channels; the figure knows images of one.")
    given = record["disruptions"]
    rescale = bool(given.get("rescale", False))
    keys = ("in_channels", "out_channels", "feature_size", "depths", "num_heads", "window_size", "stem")
    network = DisruptiveSwinUNETR(**{key: facts[key] for key in keys}, skip=record["skip"] or "drop", heads=heads, rescale=rescale)
    network.load_state_dict(state)
    return network.eval(), step_of(given, facts["feature_size"], noise_scales(table), seed), record


def step_of(disruptions: Mapping[str, Any], channels: int, scales: Sequence[float], seed: int) -> DisruptivePretraining:
    """The pre-training step that a record of disruptions describes, with fixed draws.

    Args:
        disruptions: names as the top of ``pretrain.json``; those left out are off.
        channels: of the embedding.
        scales: factor of noise of each modality.
        seed: of the draws.
    """
    given = {"noise_strength": 0.0, "downsampling": 1, "mask_ratio": 0.0, "token_ratio": 0.0, "cut_out": 0.0, **disruptions}
    noise = {"strength": "noise_strength", "strength_is": "noise_is", "mean": "noise_mean"}
    blur = {"factor": "downsampling", "mode": "downsampling_mode", "order": "disruption_order"}
    boxes = {"share": "cut_out", "smallest": "cut_out_smallest", "largest": "cut_out_largest", "fill": "cut_out_fill"}
    return DisruptivePretraining(
        disruption=RandDisruption(**_named(given, noise | blur), scales=scales),
        channels=RandChannelMask(channels=channels, **_named(given, {"ratio": "mask_ratio", "per_sample": "mask_per_sample"})),
        tokens=RandTokenMask(**_named(given, {"ratio": "token_ratio", "block": "token_block"})),
        cut_out=RandCutOut(**_named(given, boxes)),
        fixed_seed=seed,
    )


def _named(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Arguments whose entries are given."""
    return {argument: given[name] for argument, name in names.items() if name in given}
