"""Data for ``common.predict``: what ``inference.json`` is told of a data set, or of one case whose inputs were named.

MONAI's bundles take a datalist; a user has a folder, a file or a DICOM series.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError


def data_overrides(config: Mapping[str, Any], source: str | None, named: Mapping[str, str]) -> dict[str, Any]:
    """Config values for the data: a data set's path, or one case whose inputs were named.

    Args:
        config: the bundle's inference config; its ``inputs`` are the names in channel order, its ``facts`` what else may be named.
        source: data set in any form of ``common.data.dataset.find_cases``, a folder of files, or one file; None with named inputs.
        named: input name -> file, a folder with one DICOM series, or a file of it; all inputs or none.

    Returns:
        Overrides with absolute paths.

    Raises:
        UserError: neither or both are given, an input is missing, a path does not exist, or a folder that is not one series.
    """
    inputs = list(config.get("inputs", []))
    if bool(named) == (source is not None):
        raise UserError(f"give either INPUT and OUTPUT, or {' '.join(f'--{name} PATH' for name in inputs)} and OUTPUT.")
    if source is not None:
        return {"dataset_dir": _existing(source, "INPUT")}
    facts = {name: named[name] for name in config.get("facts", []) if name in named}
    if set(named) - set(facts) != set(inputs):
        got, needed = (" ".join(f"--{name}" for name in names) for names in (named, inputs))
        raise UserError(f"got {got}, expected {needed}: all inputs of a case must be given together.")
    from common.data.cases import volume_stem, volume_suffix
    from common.data.dicom_folders import one_series

    files = [_existing(named[name], f"--{name}") for name in inputs]
    if len(files) == 1 and not volume_suffix(files[0]):
        head_ct = config.get("cases", {}).get("layout") == "cq500"
        return {"cases": [_one_series(files[0], f"--{inputs[0]}", head_ct) | _facts(facts)]}
    files = [file if volume_suffix(file) else one_series(Path(file)) for file in files]
    stem = volume_stem(files[0])
    return {"cases": [{"id": stem, "subject": stem, "image": files} | _facts(facts)]}


def _facts(named: Mapping[str, str]) -> dict[str, Any]:
    """What else is told of a case: an age in weeks, else a file."""
    from common.data.cases import parse_age

    return {name: parse_age(text, "--age") if name == "age" else _existing(text, f"--{name}") for name, text in named.items()}


def _one_series(path: str, argument: str, head_ct: bool) -> dict[str, Any]:
    """The case of a folder with one DICOM series, or of a file of it; of the series of a head CT the plain one is chosen."""
    from common.data.cases import VOLUME_SUFFIXES, some
    from common.data.dicom_folders import read_dicom_folders

    cases = read_dicom_folders(Path(path), head_ct)
    if len(cases) != 1:
        found = f"holds {len(cases)} cases ({some(case['id'] for case in cases)})" if cases else "holds no DICOM files"
        raise UserError(
            f"{argument}: {path} {found}, expected one: a folder with one DICOM series, or a file {' '.join(VOLUME_SUFFIXES)}."
            " A folder of several cases is given as INPUT, without an option."
        )
    return cases[0]


def _existing(path: str, argument: str) -> str:
    """Absolute path: MONAI would take a text that starts with ``@``, ``$`` or ``%`` for an expression."""
    if not path.strip() or not os.path.exists(os.path.expanduser(path)):
        raise UserError(f"{argument}: '{path}' does not exist (relative paths start at {os.getcwd()}).")
    return os.path.abspath(os.path.expanduser(path))
