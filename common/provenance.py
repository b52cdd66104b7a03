"""What was done to a scan, step by step, for its reader and for the way back; workflow managers record whole pipelines only."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from common import __version__
from common.atomic import write_json

PACKAGES: Final = ("itk-core", "itk-registration", "monai", "nibabel", "numpy", "scipy", "torch", "brainles-preprocessing")
_logger = logging.getLogger("brain_bundles")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file; of a folder, that of the lines ``<sha256>  <name>`` of the files in it, by name."""
    place = Path(path)
    if place.is_dir():
        lines = [f"{sha256_of(file)}  {file.relative_to(place).as_posix()}\n" for file in sorted(place.rglob("*")) if file.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    with place.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Provenance:
    """The record of one case.

    Args:
        command: arguments as the user typed them.
        bundle: that the files are meant for.
        case: name of the case.

    Attributes:
        content: what ``write`` writes: ``made_by``, ``command``, ``bundle``, ``case``, ``versions``, ``inputs`` (path, sha256, shape,
            spacing, affine), ``steps`` (in order, each with all its parameters), ``warnings``, ``outputs`` (file, sha256). Affines and
            transforms are 4 x 4, mm, RAS.
    """

    def __init__(self, command: list[str], bundle: str, case: str) -> None:
        self.content: dict[str, Any] = {
            "made_by": f"Brain Bundles {__version__}, prepare",
            "command": command,
            "bundle": bundle,
            "case": case,
            "versions": _versions(),
            "inputs": {},
            "steps": [],
            "warnings": [],
            "outputs": {},
        }

    def add_input(self, name: str, path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, affine: Any = None) -> None:
        """Note a file (or DICOM folder) that was read."""
        entry: dict[str, Any] = {"path": os.path.abspath(path), "sha256": sha256_of(path)}
        if shape is not None and affine is not None:
            steps = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
            entry |= {"shape": list(shape), "spacing_mm": [round(float(s), 6) for s in steps], "affine": np.asarray(affine).tolist()}
        self.content["inputs"][name] = entry

    def add_step(self, step: str, **parameters: Any) -> None:
        """Note what was done, with every number that it depends on."""
        self.content["steps"].append({"step": step, **{key: _plain(value) for key, value in parameters.items()}})

    def warn(self, text: str) -> None:
        """Note what a reader must know, and say it at once."""
        self.content["warnings"].append(text)
        _logger.warning("*** %s", text)

    def add_output(self, name: str, path: str | os.PathLike[str]) -> None:
        """Note a file that was written."""
        self.content["outputs"][name] = {"file": os.path.basename(path), "sha256": sha256_of(path)}

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the record; the file appears whole or not at all."""
        return write_json(path, self.content)


def _versions() -> dict[str, str]:
    found = {"brain-bundles": __version__, "python": sys.version.split()[0], "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra
            continue
    return found


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as JSON knows them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(held) for key, held in value.items()}
    return [_plain(held) for held in value] if isinstance(value, (list, tuple)) else value
