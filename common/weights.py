"""Weight files: ``model.pt``, the members of an ensemble, and the record beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.weight_shards import read_shards, shard_files

RECORD = "weights.json"
SIMULATED = "*** trained on SIMULATED data: a demonstration, not a result ***"
NOT_VERIFIED = "Research only: nobody has verified these weights on data such as yours. Never for diagnosis."
_CURE = "Copy it again together with the weights it belongs to, or train them again."


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a ``state_dict`` from a file or its parts, with ``weights_only``, on the CPU.

    Raises:
        UserError: the file is no ``state_dict`` saved by torch, or damaged. A missing file is the caller's to explain.
    """
    return read_shards(path)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a bare ``state_dict`` (``weights_only``) into a network.

    Args:
        network: e.g. ``Standardized``.
        path: ``model.pt`` or a member's file.

    Raises:
        UserError: no such file, unreadable, or trained with another network.
    """
    if not shard_files(path):
        raise UserError(f"There are no weights at {path}: train first (train.json), or give their folder (--ckpt_dir).")
    state = read_weights(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = str(error).splitlines()
        settings = read_record(Path(path).parent).get("settings")
        cure = f"They were trained with {settings}: give these values" if settings else "Add the overlays they were trained with"
        raise UserError(f"{path} was trained with another network ({lines[min(1, len(lines) - 1)].strip()}). {cure}.") from error


def read_record(ckpt_dir: str | Path) -> dict[str, Any]:
    """What the training wrote about its weights.

    Args:
        ckpt_dir: folder with ``weights.json``, or a file beside it.

    Returns:
        The record; empty when there is none.

    Raises:
        UserError: the record is damaged.
    """
    path = (Path(ckpt_dir).parent if Path(ckpt_dir).is_file() else Path(ckpt_dir)) / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read as the record of weights ({error}). {_CURE}") from error
    if not isinstance(record, dict) or not isinstance(record.get("settings", {}), dict):
        raise UserError(f"{path} is no record of weights: expected an object, with an object 'settings' in it. {_CURE}")
    return record


def weight_folders(ckpt_dir: str | Path | Sequence[str | Path] | None) -> list[str | Path]:
    """The folders or files of weights as a list: of one, of several folds, of none (a rule, which nobody trained)."""
    if ckpt_dir is None:
        return []
    return [ckpt_dir] if isinstance(ckpt_dir, str | Path) else list(ckpt_dir)


def is_simulated(ckpt_dir: str | Path | Sequence[str | Path] | None) -> bool:
    """Whether weights are tagged as trained on simulated data; of several folders, whether any is."""
    return any(bool(read_record(folder).get("simulated")) for folder in weight_folders(ckpt_dir))


def print_origin(ckpt_dir: str | Path | Sequence[str | Path] | None) -> None:
    """Say on the screen what results with these weights are worth, loudly where they were trained on simulated data."""
    print(SIMULATED if is_simulated(ckpt_dir) else NOT_VERIFIED, flush=True)


def member_files(ckpt_dir: str | Path, members: int | None = None) -> list[Path]:
    """Weight files of an ensemble.

    Args:
        ckpt_dir: folder with ``model.pt`` and, after training several members, ``weights.json`` that lists them; or one file.
        members: how many to use; None uses all, 1 uses ``model.pt`` (the best by validation).

    Raises:
        UserError: more members asked for than were trained.
    """
    if Path(ckpt_dir).is_file():
        return [Path(ckpt_dir)]
    names = read_record(ckpt_dir).get("members", ["model.pt"])
    if members is not None and not 1 <= members <= len(names):
        raise UserError(f"vote_members: got {members}, but {ckpt_dir} holds {len(names)}; train more (--members) or ask for fewer.")
    return [Path(ckpt_dir) / "model.pt"] if members == 1 or len(names) == 1 else [Path(ckpt_dir) / name for name in names[:members]]


def load_members(network: nn.Module, ckpt_dir: str | Path, members: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Read and check the weights of every member; the network keeps those of the first.

    Args:
        network: the network of the config; one without parameters (a rule) needs no file.
        ckpt_dir: folder of weights.
        members: see :func:`member_files`.

    Returns:
        One ``state_dict`` per member, on the network's device.
    """
    if not any(True for _ in network.parameters()):
        return [{}]
    states = []
    for path in reversed(member_files(ckpt_dir, members)):
        load_weights(network, path)
        states.append({key: value.detach().clone() for key, value in network.state_dict().items()})
    return states[::-1]
