"""Refuse settings that weights were not trained with. A network that fits may still be asked the wrong question, silently."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.weights import read_record


def check_settings(ckpt_dir: str | Path | Sequence[str], settings: Mapping[str, Any]) -> None:
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
