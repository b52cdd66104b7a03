"""Weight files in parts of a few megabytes, as a git host takes them: one file's bytes, cut; other shards need their own loader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from common.errors import UserError

PART_BYTES = 5_000_000
"""Size of the largest file kept in the tree."""


def shard_names(name: str, data: bytes, part_bytes: int = PART_BYTES) -> dict[str, bytes]:
    """A file's content by the names it is kept under: its own where it is small enough, else ``<name>.part1``, ``<name>.part2``, ...

    Args:
        name: of the file, e.g. ``model.pt``.
        data: its content.
        part_bytes: size of the largest part.
    """
    if len(data) <= part_bytes:
        return {name: data}
    starts = range(0, len(data), part_bytes)
    return {f"{name}.part{number}": data[start : start + part_bytes] for number, start in enumerate(starts, 1)}


def shard_files(path: str | Path) -> list[Path]:
    """The files that hold a weight file: itself, or its parts in order; empty when there is neither.

    Raises:
        UserError: a part is missing between others.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    numbers = sorted(int(part.suffix[5:]) for part in path.parent.glob(f"{path.name}.part*") if part.suffix[5:].isdecimal())
    if numbers != list(range(1, len(numbers) + 1)):
        raise UserError(f"{path} is kept in parts, found {numbers}, expected 1 to {max(numbers)}: copy the missing ones beside them.")
    return [path.with_name(f"{path.name}.part{number}") for number in numbers]


def read_bytes(path: str | Path) -> bytes:
    """Content of a weight file, its parts joined.

    Raises:
        UserError: neither the file nor parts of it, or a part is missing.
    """
    files = shard_files(path)
    if not files:
        raise UserError(f"{path}: no such file, nor parts of it ({Path(path).name}.part1, ...).")
    return b"".join(file.read_bytes() for file in files)


def read_shards(path: str | Path) -> dict[str, Any]:
    """The ``state_dict`` of a weight file that is kept whole or in parts, read with ``weights_only`` on the CPU.

    Args:
        path: name of the whole file, e.g. ``demo_weights/model.pt``.

    Raises:
        UserError: no such file or parts, a part is missing, or the bytes are no ``state_dict``.
    """
    return parse_state(read_bytes(path), path)


def parse_state(data: bytes, path: str | Path) -> dict[str, Any]:
    """The ``state_dict`` in the bytes of a file.

    Raises:
        UserError: there is none in it; ``path`` is for the message.
    """
    import torch

    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as weights ({type(error).__name__}); expected a state_dict saved by torch.") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} cannot be read as weights (it holds a {type(state).__name__}); expected a state_dict saved by torch.")
    return state


def state_bytes(state: dict[str, Any]) -> bytes:
    """A ``state_dict`` as ``torch.save`` writes it; the same state gives the same bytes whatever the file will be called."""
    import torch

    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()
