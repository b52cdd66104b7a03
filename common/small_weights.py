"""Weights from a training to an archive: small ones kept in half precision, or a user's own; the network checks both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.archive_files import DEMO, ROOT, as_json, bundle_folder, weight_contents, weight_files
from common.errors import UserError
from common.growth_weights import public_bytes
from common.weight_shards import PART_BYTES, parse_state, read_shards, shard_files, shard_names, state_bytes
from common.weights import RECORD, read_record

if TYPE_CHECKING:
    from torch import nn

TOTAL_BYTES = 10_000_000
"""Size of all small weights of one bundle."""
PUBLIC = ("version", "members", "best", "bundle", "simulated", "settings", "cohort", "trained_ages")
"""What of a record may be passed on; ``trained_on`` tells which scans were used, by hashes that anyone with the scans can compare."""


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what names the scans of patients; of simulated ones they stay, so that measuring on them is noticed."""
    kept = (*PUBLIC, "trained_on") if record.get("simulated") is True else PUBLIC
    members = list(record.get("members", ["model.pt"]))
    return {key: value for key, value in record.items() if key in kept} | {"members": members if len(members) > 1 else ["model.pt"]}


def recorded_weights(name: str, weights: str | Path) -> tuple[Path, dict[str, Any]]:
    """Folder and public record of a bundle's weights.

    Args:
        name: the bundle.
        weights: folder with ``model.pt`` and ``weights.json``, or one file of weights with the record beside it.

    Raises:
        UserError: no weights, no record, or one of another bundle.
    """
    path = Path(weights).expanduser()
    folder = path.parent if path.suffix == ".pt" else path
    file = path if path.suffix == ".pt" else folder / "model.pt"
    if not shard_files(file):
        raise UserError(f"There are no weights at {file}: expected model.pt, or a folder with it; train first (train.json).")
    record = read_record(folder)
    if not record:
        raise UserError(f"{folder / RECORD}: no such file; expected the record that the training wrote beside the weights. Copy it there.")
    if record.get("bundle") != name:
        raise UserError(f"{folder / RECORD}: the weights were trained for the bundle '{record.get('bundle')}', not for '{name}'.")
    return folder, public_record(record)


def trained_network(bundle: Path, record: Mapping[str, Any]) -> nn.Module:
    """The network of a bundle's ``inference.json`` with the settings of its weights, on the CPU.

    Args:
        bundle: the bundle's folder.
        record: of the weights.

    Raises:
        UserError: a setting that the config does not know, or that the network does not take.
    """
    from monai.bundle import ConfigParser

    settings = record.get("settings", {})
    config = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
    unknown = sorted(set(settings) - set(config))
    if unknown:
        raise UserError(
            f"{RECORD} holds settings that inference.json of {bundle.name} does not know: {', '.join(unknown)}."
            f" The weights are from version {record.get('version')} of this collection: use that version, or train again."
        )
    try:
        # no folder: other weights that lie in the bundle shall not tell their settings
        return ConfigParser(config | settings | {"device": "cpu", "ckpt_dir": None}).get_parsed_content("network_def")
    except Exception as error:
        raise UserError(f"The settings in {RECORD}, {settings}, do not give a network of {bundle.name}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def load_strictly(network: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that do not fit the network that their record tells.

    Raises:
        UserError: a name or a shape differs, or a value is not finite.
    """
    try:
        network.load_state_dict(dict(state), strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = str(error).splitlines()
        reason = lines[min(1, len(lines) - 1)].strip()
        raise UserError(
            f"{path} does not fit the network that {path.parent / RECORD} tells ({reason}); these two do not belong together."
        ) from error
    parameters = dict(network.named_parameters())
    if bad := [key for key, value in state.items() if key in parameters and not bool(value.isfinite().all())]:
        raise UserError(f"{path}: '{bad[0]}' holds NaN or infinity: the training failed; train again.")


def checked_states(name: str, weights: str | Path, root: Path = ROOT) -> tuple[dict[str, Path], dict[str, Any], nn.Module]:
    """Files of weights, their public record, and the network that all of them were loaded into strictly.

    Args:
        name: the bundle.
        weights: folder with ``model.pt`` and ``weights.json``, or one file, which becomes ``model.pt``.
        root: the checkout, an unpacked archive, or where the package is installed.

    Raises:
        UserError: as :func:`recorded_weights`, or a file does not fit the network.
    """
    folder, record = recorded_weights(name, weights)
    path = Path(weights).expanduser()
    if path.suffix == ".pt":
        record |= {"members": ["model.pt"]}
    files = weight_files(folder, record) if path.suffix != ".pt" else weight_files(folder, {"members": []}) | {"model.pt": path}
    network = trained_network(bundle_folder(name, root), record)
    for file in files.values():
        if file.suffix == ".pt":
            load_strictly(network, read_shards(file), file)
    return files, record, network


def own_contents(name: str, weights: str | Path, root: Path = ROOT) -> dict[str, bytes]:
    """Files of ``models/`` of an archive with a user's own weights, as they were trained; resume files and lists of scans are left out.

    Args:
        name: the bundle.
        weights: see :func:`checked_states`.
        root: likewise.

    Raises:
        UserError: likewise.
    """
    files, record, _ = checked_states(name, weights, root)
    return weight_contents(files, record)


def half_state(state: Mapping[str, Any], network: nn.Module, path: Path) -> dict[str, Any]:
    """A ``state_dict`` with parameters as float16; buffers (constants of the normalisation, statistics, calibrations) stay as they are.

    Args:
        state: of the network.
        network: tells which names are parameters.
        path: for the message.

    Raises:
        UserError: a value is too large for float16.
    """
    import torch

    parameters = dict(network.named_parameters())
    halved = {key: value.to(torch.float16) if key in parameters and value.is_floating_point() else value for key, value in state.items()}
    if bad := [key for key in parameters if not bool(halved[key].isfinite().all())]:
        largest = float(state[bad[0]].abs().max())
        raise UserError(f"{path}: '{bad[0]}' reaches {largest:.3g}, float16 ends at 65504; these weights cannot be kept small.")
    return halved


def keep_weights(name: str, weights: str | Path, root: Path = ROOT) -> list[Path]:
    """Put small weights into the tree, ``bundles/<name>/demo_weights/``, in place of those that were there; ``models/`` is left alone.

    Args:
        name: the bundle.
        weights: folder of a training on a simulated cohort, see :func:`checked_states`.
        root: the checkout.

    Returns:
        The files written; what is larger than 5 MB is cut into parts.

    Raises:
        UserError: as :func:`checked_states`, or the weights were trained on real scans, or are not small.
    """
    bundle = bundle_folder(name, root)
    folder, record = recorded_weights(name, weights)
    if record.get("simulated") is not True:
        found = f"'simulated' is {record.get('simulated')}"
        raise UserError(f"{folder / RECORD}: {found}, expected true: only weights of simulated cohorts are kept in the tree.")
    files, record, network = checked_states(name, weights, root)
    kept = {RECORD: as_json(record)}
    for inside, file in files.items():
        data = state_bytes(half_state(parse_state(public_bytes(file), file), network, file)) if file.suffix == ".pt" else file.read_bytes()
        kept |= shard_names(inside, data) if file.suffix == ".pt" else {inside: data}
    total, largest = sum(map(len, kept.values())), max(kept, key=lambda inside: len(kept[inside]))
    if total > TOTAL_BYTES or len(kept[largest]) > PART_BYTES:
        found = f"{total / 1e6:.1f} MB in all, the largest file is {largest} with {len(kept[largest]) / 1e6:.1f} MB"
        raise UserError(
            f"{folder}: {found}; expected at most {TOTAL_BYTES / 1e6:.0f} MB and {PART_BYTES / 1e6:.0f} MB a file."
            " Train at the size of quick.json, or fewer members."
        )
    return _replace_folder(bundle / DEMO, kept)


def _replace_folder(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Fill a folder anew; the old one stays until the new one is complete."""
    temporary = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        temporary.mkdir(parents=True)
        for name, data in contents.items():
            (temporary / name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in contents]
