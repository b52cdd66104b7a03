"""Where prepared cases lie on disk, found by the content of their source; MONAI's ``PersistentDataset`` hashes paths instead."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.data.head_ct import series_folder
from common.errors import UserError


def source_digest(path: str | os.PathLike[str], memo_dir: Path | None = None) -> str:
    """SHA-256 of a file, or of all files of a folder regardless of their names.

    Args:
        path: file or folder.
        memo_dir: folder that remembers digests by path, size and time of change, so that nothing is read twice; None reads always.

    Returns:
        Hexadecimal digest.
    """
    known = known_digest(path, memo_dir) if memo_dir else None
    if known is not None:
        return known
    source, files = _files_of(path)
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    digest = digests[0] if not source.is_dir() else hashlib.sha256("".join(digests).encode()).hexdigest()
    if memo_dir:
        write_text(_memo(source, memo_dir), json.dumps({"path": os.fspath(source), "stamp": _stamp(files), "digest": digest}))
    return digest


def known_digest(path: str | os.PathLike[str], memo_dir: Path) -> str | None:
    """What :func:`source_digest` remembers of a source that has not changed since; None where it would have to read."""
    source, files = _files_of(path)
    memo = _memo(source, memo_dir)
    if not memo.is_file():
        return None
    known = json.loads(memo.read_text(encoding="utf-8"))
    return str(known["digest"]) if known["stamp"] == _stamp(files) else None


def _files_of(path: str | os.PathLike[str]) -> tuple[Path, list[Path]]:
    source = series_folder(path)
    if not source.exists():
        raise UserError(f"{path}: no such file or folder; check the path (relative paths start at {os.getcwd()}).")
    return source, sorted(file for file in source.iterdir() if file.is_file()) if source.is_dir() else [source]


def _stamp(files: list[Path]) -> list[list[str | int]]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _memo(source: Path, memo_dir: Path) -> Path:
    return memo_dir / "digests" / f"{hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:32]}.json"


def load_prepared(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """A cache entry: its arrays mapped from disk (changes stay in memory) and its record.

    Raises:
        UserError: the folder holds no complete entry.
    """
    path = Path(folder)
    if not (path / "record.json").is_file():
        raise UserError(f"{path}: no prepared case here (record.json is missing); run the preparation again.")
    entry: dict[str, Any] = {file.stem: np.load(file, mmap_mode="c") for file in sorted(path.glob("[!.]*.npy"))}
    entry["record"] = json.loads((path / "record.json").read_text(encoding="utf-8"))
    return entry
