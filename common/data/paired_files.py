"""A plain folder with one file per input, ``<case>_<input>.nii.gz``, as a scanner's export often looks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.data.cases import Case, list_volumes, some, subject_of, volume_stem
from common.errors import UserError


def fits_inputs(folder: Path, inputs: Sequence[str]) -> bool:
    """Whether all files of a folder are named ``<case>_<input>`` or ``<case>_label``."""
    endings = "|".join(re.escape(name) for name in (*inputs, "label"))
    return all(re.fullmatch(rf".+[-_.](?:{endings})", volume_stem(file), re.IGNORECASE) for file in list_volumes(folder))


def read_paired_files(folder: Path, inputs: Sequence[str]) -> list[Case]:
    """Cases whose files are told apart by the last word of their names; ``<case>_label`` is the label where there is one.

    Args:
        folder: holds the volumes directly, such as ``P1_adc.nii.gz`` and ``P1_zadc.nii.gz``; ``-`` and ``.`` part words too.
        inputs: names of the inputs in channel order; upper and lower case are one.

    Returns:
        Cases in the order of their names; empty where no name ends in an input, so that the files hold something else.

    Raises:
        UserError: an input of a case is missing or there twice, or some names end otherwise.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    others = []
    endings = "|".join(re.escape(name) for name in (*inputs, "label"))
    for file in list_volumes(folder):
        match = re.fullmatch(rf"(?P<case>.+)[-_.](?P<input>{endings})", volume_stem(file), re.IGNORECASE)
        if match is None:
            others.append(file.name)
        else:
            found.setdefault(match["case"], {}).setdefault(match["input"].lower(), []).append(file)
    if not any(set(files) - {"label"} for files in found.values()):
        return []
    wrong = [f"{case} ({name})" for case, files in found.items() for name in inputs if len(files.get(name.lower(), [])) != 1]
    wrong += [f"{case} (label)" for case, files in found.items() if len(files.get("label", [])) > 1]
    if wrong or others:
        found_wrong = f"not exactly one file for {some(wrong)}" if wrong else f"the names {some(others)} end otherwise"
        raise UserError(
            f"{folder}: {found_wrong}; expected for every case " + " and ".join(f"<case>_{name}.nii.gz" for name in inputs) + "."
        )
    return [_case(name, files, inputs) for name, files in found.items()]


def _case(name: str, files: dict[str, list[Path]], inputs: Sequence[str]) -> Case:
    paths = {key: os.path.abspath(own[0]) for key, own in files.items()}
    label = {"label": paths["label"]} if "label" in paths else {}
    return {"id": name, "subject": subject_of(name), "image": [paths[key.lower()] for key in inputs], **label}
