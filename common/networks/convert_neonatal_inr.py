"""Read a checkpoint of the released INR code: ``python -m common.networks.convert_neonatal_inr CHECKPOINT MODELS_DIR --latents YAML``.

MONAI converts checkpoints of its own generative models only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.networks.brain_inr import BrainINR
from common.networks.latent_table import GLOBAL
from common.networks.released_weights import Row, new_model_file, save_converted
from common.weights import read_weights

TABLE = "latent_embeddings.weight"
WIRE_MAPS = ("freqs", "scale")
"""The two linear maps of a released WIRE layer: of the cosine and of the Gaussian; ours holds both in one matrix, in this order."""
_COMMON = "common"  # their name of the global latent, row 0
_EXPECTED = f"expected a checkpoint of the released code (state_dict_net_*.pt with {TABLE}, layers.0.freqs.weight, ...)"


def released_settings(state: Mapping[str, torch.Tensor], activation: str | None = None, residual: str = "full") -> dict[str, Any]:
    """Arguments of :class:`BrainINR` that fit a released ``state_dict``.

    Args:
        state: of the released network.
        activation: "siren" or "relu", which look alike in a file; WIRE is recognised.
        residual: "full", "skip2" or "none"; it leaves no trace in a file.

    Raises:
        UserError: the file has no such layers, or layers that we do not have.
    """
    first, table = state.get("layers.0.freqs.weight", state.get("layers.0.linear.weight")), state.get(TABLE)
    if first is None or table is None:
        raise UserError(f"checkpoint: {_EXPECTED}.")
    if first.is_complex():
        raise UserError("checkpoint: it is of the complex WIRE; only the real one, which the paper uses, SIREN and ReLU can be read.")
    if "layers.0.linear.weight" in state and activation not in ("siren", "relu"):
        raise UserError("activation: SIREN and ReLU look alike in a checkpoint; say which with --activation siren or --activation relu.")
    dims = first.shape[1] - table.shape[1] - 1
    if dims not in (2, 3):
        raise UserError(f"checkpoint: its first layer has {first.shape[1]} inputs for latents of {table.shape[1]}; expected 3 or 4 more.")
    layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    kind = "wire" if "layers.0.freqs.weight" in state else str(activation)
    outputs = len(state.get(f"layers.{layers - 1}.{'freqs' if kind == 'wire' else 'linear'}.bias", ()))
    sizes = {"dims": dims, "latent_size": table.shape[1], "width": len(first), "layers": layers, "outputs": outputs}
    return {**sizes, "activation": kind, "head": kind, "residual": residual}


def released_names(network: BrainINR) -> dict[str, tuple[str, ...]]:
    """Names of our network's layers mapped to the released layers whose tensors they hold, one after the other."""
    ours = ["inr.first", *(f"inr.hidden.{n}" for n in range(len(network.inr.hidden))), "inr.head"]
    maps = WIRE_MAPS if network.inr.activation == "wire" else ("linear",)
    return {name: tuple(f"layers.{number}.{part}" for part in maps) for number, name in enumerate(ours)}


def convert_neonatal_inr(state: Mapping[str, torch.Tensor], network: BrainINR, rows: Mapping[str, int] | None = None) -> list[Row]:
    """Fill our network with the weights of the released code.

    Args:
        state: ``state_dict`` of the released network.
        network: of the same form, see :func:`released_settings`; its identities are those of ``rows``.
        rows: row of every name in their table, e.g. ``{"common": 0, "CC00050XX01": 1, "CC00050XX01#flip": 2}``; None drops the latents,
            which are nobody's without their names.

    Returns:
        One row per tensor of the checkpoint.

    Raises:
        UserError: names or shapes that do not fit, which are listed. The network then stays as it was.

    Source: names of FlorentinBieder/Neonatal-Development-INR (nn/network.py); those inside a layer as in the activation module of
    NILOIDE/Implicit_segmentation, from which its classes descend.
    """
    taken = {source: name for name, sources in released_names(network).items() for source in sources}
    faults = [key for key in state if key != TABLE and key.rpartition(".")[0] not in taken]
    faults += [f"no {source}.{kind}" for source in taken for kind in ("weight", "bias") if f"{source}.{kind}" not in state]
    if faults or TABLE not in state:
        raise UserError(f"checkpoint: {', '.join(faults[:4]) or 'no ' + TABLE}; {_EXPECTED}, without encoding.")
    target = dict(network.state_dict())
    for name, sources in released_names(network).items():
        for kind in ("weight", "bias"):
            joined = torch.cat([state[f"{source}.{kind}"] for source in sources])
            if joined.shape != target[f"{name}.{kind}"].shape:
                raise UserError(
                    f"checkpoint: {name}.{kind} is {tuple(joined.shape)}, the network's {tuple(target[f'{name}.{kind}'].shape)}."
                )
            target[f"{name}.{kind}"] = joined
    named = _identities(rows, len(state[TABLE]))
    places = [0, *(named[name] for name in network.latents.names[1:])] if rows is not None else [0]
    target["latents.weight"] = state[TABLE][places]
    network.load_state_dict(target)
    outcome = f"transferred: {len(places)} of {len(state[TABLE])} latents" + ("" if rows is not None else ", since no names were given")
    kinds = {key: key.rpartition(".") for key in state}
    return [
        Row(key, "latents.weight", outcome) if key == TABLE else Row(key, f"{taken[layer]}.{kind}", "transferred")
        for key, (layer, _, kind) in kinds.items()
    ]


def convert_file(
    checkpoint: str, models_dir: str, latents: str | None = None, activation: str | None = None, residual: str = "full"
) -> None:
    """Write ``model.pt`` and its record from a released checkpoint, and print what became of each tensor.

    Args:
        checkpoint: ``state_dict_net_<epoch>.pt`` of the released code.
        models_dir: folder for the result; it must hold no weights yet.
        latents: ``latent_dict_<epoch>.yaml`` beside it, which names the rows of the latents; without it only the network is kept.
        activation: "siren" or "relu" where the network is not WIRE.
        residual: "full", "skip2" or "none", as in its ``config.yaml`` (``mlp_type``).

    Raises:
        UserError: see :func:`convert_neonatal_inr`; or there are weights already.
    """
    target = new_model_file(models_dir)
    state = {re.sub(r"^module\.", "", key): value for key, value in read_weights(_existing(checkpoint)).items()}
    settings, rows = released_settings(state, activation, residual), None if latents is None else _read_rows(latents)
    network = BrainINR([] if rows is None else list(_identities(rows, len(state[TABLE]))), **settings)
    save_converted(target, network, convert_neonatal_inr(state, network, rows), "neonatal_inr", checkpoint, settings=settings)


def _identities(rows: Mapping[str, int] | None, count: int) -> dict[str, int]:
    named = {name: row for name, row in (rows or {}).items() if name not in (_COMMON, GLOBAL)}
    wrong = [f"{name}: {row}" for name, row in named.items() if not 0 < row < count]
    if wrong:
        raise UserError(f"latents: {', '.join(wrong[:4])}; expected rows between 1 and {count - 1}, as the checkpoint has them.")
    return named


def _read_rows(path: str) -> dict[str, int]:
    import yaml

    try:
        named = yaml.safe_load(_existing(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"latents: {path} cannot be read as YAML ({type(error).__name__}); expected lines of 'name: row'.") from error
    if not isinstance(named, dict) or not all(isinstance(row, int) for row in named.values()):
        raise UserError(f"latents: {path} holds something else; expected lines of 'name: row' (latent_dict_<epoch>.yaml).")
    return {str(name): row for name, row in named.items()}


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}; {_EXPECTED} and its latent_dict_*.yaml.")
    return Path(path)


if __name__ == "__main__":
    from common.command_line import run_command

    run_command(convert_file, "python -m common.networks.convert_neonatal_inr")
