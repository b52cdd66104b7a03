"""Files appear under their final name only when they are complete."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it.

    Args:
        path: final name; its folder is made. The temporary name keeps the extension, which image writers need.
        write: called with the temporary path.

    Returns:
        ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a UTF-8 text file atomically."""
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write nested dicts and sequences as JSON atomically; numbers that JSON does not know (NaN, infinity) become null."""
    return write_text(path, json.dumps(_finite(content), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], digits: int | None = None) -> Path:
    """Write rows as CSV atomically; columns in order of appearance, empty where a row has no value.

    Args:
        path: of the file.
        rows: of any columns.
        digits: significant digits of floats; None writes them whole.
    """
    lines, text = list(rows), io.StringIO()
    if digits is not None:
        lines = [{key: f"{value:.{digits}g}" if isinstance(value, float) else value for key, value in row.items()} for row in lines]
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in lines for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return write_text(path, text.getvalue())


def save_tensors(path: str | os.PathLike[str], content: Any) -> Path:
    """``torch.save`` atomically."""
    import torch

    return write_atomic(path, lambda temporary: torch.save(content, temporary))
