"""What tells a file from a later one of the same name; MONAI's ``pickle_hashing`` of a case sees its paths alone.

A label that was drawn anew under its old name, which is what MONAI Label does, would be taken from the cache as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from monai.data.utils import pickle_hashing


def file_stamps(files: Iterable[str | os.PathLike[str]]) -> list[tuple[str, int, int]]:
    """Path, size and time of change (ns) of files or folders, in their order; -1 and -1 where there is none."""
    found = [(os.fspath(file), os.stat(file) if os.path.exists(file) else None) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) if stat else (name, -1, -1) for name, stat in found]


def stamped_hashing(item: Any) -> bytes:
    """Hash of a case for ``PersistentDataset``: another one when a value or a file of it changes.

    Args:
        item: a case, whose values may be paths or lists of paths.

    Returns:
        64 hexadecimal digits.
    """
    return pickle_hashing({"item": item, "files": file_stamps(_paths(item))})


def _paths(value: Any) -> Iterator[str]:
    """Files that a nested value names, in one order."""
    if isinstance(value, str | os.PathLike):
        yield from [os.fspath(value)] if os.path.exists(value) else []
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _paths(value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
