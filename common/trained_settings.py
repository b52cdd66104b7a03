"""Settings that weights were trained with: read, or refused where they differ.

MONAI loads a ``state_dict`` and no more: a network that fits may still be asked the wrong question, silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.weights import read_record, weight_folders


def trained(ckpt_dir: str | Path | Sequence[str | Path] | None, key: str, default: Any) -> Any:
    """A setting as the weights were trained with it, so that ``inference.json`` fits whatever weights lie in its folder.

    Args:
        ckpt_dir: folder of the weights with ``weights.json``, or a file beside it; need not exist. Or several, which must agree, or None.
        key: the setting's config id.
        default: its value where no record names it: the paper's.

    Returns:
        The value as JSON has it: lists stay lists.

    Raises:
        UserError: a damaged record, or several folders with different values.
    """
    folders = weight_folders(ckpt_dir)
    found = [settings[key] for settings in (read_record(folder).get("settings", {}) for folder in folders) if key in settings]
    value = found[0] if found else default
    check_settings(folders, {key: value})
    return value


def check_settings(ckpt_dir: str | Path | Sequence[str | Path], settings: Mapping[str, Any]) -> None:
    """Compare the settings of a run with those that the record of the weights names.

    Args:
        ckpt_dir: folder of the weights with ``weights.json``, or a file beside it; without a record nothing is compared. Or several.
        settings: values by config id; those that the record does not name are not compared.

    Raises:
        UserError: a value differs; the text says how to give it.
    """
    if not isinstance(ckpt_dir, (str, Path)):
        for folder in ckpt_dir:
            check_settings(folder, settings)
        return
    trained = read_record(ckpt_dir).get("settings", {})
    wrong = {key: trained[key] for key, value in settings.items() if key in trained and _plain(value) != _plain(trained[key])}
    if wrong:
        found = ", ".join(f"{key} {_plain(settings[key])}" for key in wrong)
        cure = " ".join(f"--{key} {json.dumps(value)}" for key, value in wrong.items())
        raise UserError(f"The weights in {ckpt_dir} were trained with other settings than {found}. Give: {cure}")


def _plain(value: Any) -> str:
    """The same text for what JSON and the command line write differently: lists and tuples, true and "true"."""
    text = json.dumps(value, default=str).lower()
    return text.strip('"')
