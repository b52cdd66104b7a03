"""Weights for ``common.predict``: which ones, whether they may be used, and what ``inference.json`` is told of them.

MONAI's ``load`` and ``download`` fetch weights; whether they fit a config and were trained on patients they do not ask.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import bundle_root, config_dir
from common.errors import UserError
from common.weight_shards import shard_files


def find_weights(bundle: str, weights: str | None = None, demo: bool = False) -> Path:
    """Where the weights are: those asked for, the bundle's own ``models/``, or for a demonstration without own ones ``demo_weights/``.

    Args:
        bundle: name of the bundle.
        weights: folder or file; None looks in the bundle.
        demo: small weights that were trained on a simulated cohort will do.

    Returns:
        An absolute path, of a folder that need not exist.
    """
    if weights is not None:
        return Path(weights).expanduser().absolute()
    own = Path(bundle_root(bundle), "models").absolute()
    small = _demo_weights(bundle)
    return small if demo and small.is_dir() and not shard_files(own / "model.pt") else own


def _demo_weights(bundle: str) -> Path:
    """Small weights of a checkout, beside the configs; an archive has them in ``models/``."""
    return Path(config_dir(bundle)).absolute().parent / "demo_weights"


def weight_overrides(bundle: str, config: Mapping[str, Any], path: str | Path, demo: bool = False) -> dict[str, Any]:
    """Config values for the weights: their place, and the settings they were trained with.

    Args:
        bundle: name of the bundle, which the weights must have been trained for.
        config: its inference config.
        path: folder with ``model.pt`` (and ``weights.json``), or one file of weights.
        demo: weights that were trained on simulated data will do.

    Raises:
        UserError: no weights there, those of another bundle, trained with settings that the config does not know, or tagged as simulated.
    """
    from common.weights import read_record

    path = Path(path).absolute()
    if not (path.is_file() or shard_files(path / "model.pt")):
        raise UserError(_no_weights(bundle, path))
    record = read_record(path)
    if record.get("bundle", bundle) != bundle:
        raise UserError(f"{path}: the weights were trained for the bundle '{record['bundle']}', not for '{bundle}'.")
    settings = record.get("settings", {})
    unknown = sorted(set(settings) - set(config))
    if unknown:
        raise UserError(
            f"{path}: their record holds settings that inference.json of {bundle} does not know: {', '.join(unknown)}."
            f" The weights are from version {record.get('version')} of this collection: use that version, or train again."
        )
    if record.get("simulated") and not demo:
        raise UserError(
            f"The weights at {path} were trained on SIMULATED data: what they say of a real scan is no result. Train on your own data\n"
            f"{_training(bundle)}\nor add --demo (in Python demo=True) to try the command with them."
        )
    return {"ckpt_dir": str(path), **settings}


def _no_weights(bundle: str, path: Path) -> str:
    """What to do where there are no weights."""
    text = f"There are no weights at {path}: expected model.pt and, with the settings of its training, weights.json. Train them\n"
    text += f"{_training(bundle)}\nor put trained ones there, or give their folder or file by --weights"
    return text + ("; --demo takes small ones of simulated data, to try the command." if _demo_weights(bundle).is_dir() else ".")


def _training(bundle: str) -> str:
    return f"  python -m monai.bundle run --config_file {os.path.join(config_dir(bundle), 'train.json')} --dataset_dir YOUR_DATA"


def input_names(config: Mapping[str, Any], ckpt_dir: str | Path) -> list[str]:
    """Names of a bundle's inputs in channel order; where the config leaves them to the weights, those they were trained with.

    Args:
        config: the bundle's inference config.
        ckpt_dir: folder or file of the weights; need not exist.

    Raises:
        UserError: the record of the weights is damaged.
    """
    inputs = config.get("inputs", [])
    if isinstance(inputs, str):  # $@common.trained(...): BTCV's ct in place of FeTA's t2w
        from monai.bundle import ConfigParser

        from common.weights import read_record

        read_record(ckpt_dir)  # MONAI would wrap its error
        inputs = ConfigParser(dict(config) | {"ckpt_dir": str(ckpt_dir)}).get_parsed_content("inputs")
    return list(inputs)
