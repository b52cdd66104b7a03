"""Chosen sagittal slices of heads, from volumes that are prepared once; MONAI's ``PersistentDataset`` keeps volumes, by their paths."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from monai.transforms import Compose
from torch.utils.data import Dataset
from tqdm import tqdm

from common.atomic import write_atomic
from common.data.cases import Case
from common.errors import UserError
from common.transforms.prepared_cache import source_digest

CACHE_VERSION: Final = 1
"""Part of every key: raise it when the code computes something else, and old entries are left alone."""
STORED: Final = {"uint8": np.uint8, "float16": np.float16}
"""How intensities are kept: 256 steps, or 11 significant bits."""
PASSING: Final = ("R", "_tracing", "filenames")
"""Attributes of MONAI's transforms that are no settings: the random state, a switch and a file that appear with the first use."""
_logger = logging.getLogger("brain_bundles")


class BrainSliceDataset(Dataset[dict[str, Any]]):
    """The chosen slices of all cases, one per item, kept in memory as bytes or half floats and on disk between runs.

    Args:
        data: cases, as a reader gives them.
        transform: deterministic preparation of a case: ``image`` ``(1, P, S, N)`` in [0, 1] and ``slices``, the indices to keep
            (``SelectBrainSlicesd``; without them all are kept).
        keys: what an item holds beside ``id`` and ``slice``; the first is the image, others are masks (kept as they are, uint8). A mask
            that a case does not have is all 0.
        cache_dir: folder for prepared slices; an entry is found by the content of the source files and the settings of the transform, so
            that a moved folder is not prepared again and a changed file is. None keeps them in memory only.
        store: "uint8" (a byte per pixel) or "float16".
        augment: random transform of one item.
        by: "volume", or "slice" for the original's leak, in which ``part`` ("train" or "validate") takes its share of the shuffled slices
            (``share_slices``).
        part: see ``by``.
        validation_share: see ``by``.
        seed: see ``by``.
        progress: show a bar while volumes are read.

    Raises:
        UserError: no cases, or another way to store.

    Source: memory of decoded slices instead of PNG files (methods/brain_autoencoder.md, section 9).
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Callable[..., Any],
        keys: Sequence[str] = ("image",),
        cache_dir: str | os.PathLike[str] | None = None,
        store: str = "uint8",
        augment: Callable[..., Any] | None = None,
        by: str = "volume",
        part: str = "train",
        validation_share: float = 0.15,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        if len(data) == 0:
            raise UserError("data: got no cases; check dataset_dir and the split.")
        if store not in STORED:
            raise UserError(f"store: got {store!r}; expected one of {', '.join(STORED)}.")
        self.data, self.transform, self.keys, self.store, self.augment = data, transform, tuple(keys), store, augment
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.settings = json.dumps([CACHE_VERSION, self.keys, store, describe(transform)], sort_keys=True)
        self.volumes = [self._load(case) for case in tqdm(data, desc="Reading volumes", disable=None if progress else True, leave=False)]
        self.index = [(v, place) for v, volume in enumerate(self.volumes) for place in range(len(volume["slices"]))]
        if by == "slice":
            self.index = [self.index[number] for number in share_slices(len(self.index), part, validation_share, seed)]
        held = sum(tensor.numel() * tensor.element_size() for volume in self.volumes for tensor in volume.values())
        _logger.info("%d slices of %d volumes in memory, %.0f MB.", len(self.index), len(self.volumes), held / 1e6)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One slice: ``image`` ``(1, P, S)`` float32 in [0, 1], masks uint8, ``id`` of the case, ``slice`` in the volume."""
        volume, place = self.index[number]
        held = self.volumes[volume]
        item: dict[str, Any] = {key: held[key][place] for key in self.keys}
        image = item[self.keys[0]].float()
        item[self.keys[0]] = image.div_(255.0) if self.store == "uint8" else image
        item |= {"id": self.data[volume]["id"], "slice": int(held["slices"][place])}
        return self.augment(item) if self.augment is not None else item

    def _load(self, case: Case) -> dict[str, torch.Tensor]:
        """Slices of a case from the cache, or prepared and put there."""
        if self.cache_dir is None:
            return self._prepare(case)
        file = self.cache_dir / f"{self._key(case)}.npz"
        if not file.is_file():
            arrays = {key: tensor.numpy() for key, tensor in self._prepare(case).items()}
            write_atomic(file, lambda temporary: np.savez(temporary, **arrays))  # type: ignore[arg-type]
        with np.load(file) as entry:
            return {key: torch.from_numpy(entry[key]) for key in ("slices", *self.keys)}

    def _key(self, case: Case) -> str:
        files = [case["image"]] if isinstance(case["image"], str) else list(case["image"])
        files += [case[key] for key in ("brain", "label") if key in case]
        content = [source_digest(file, self.cache_dir) for file in files]
        # a table of counts is looked up by the id
        return hashlib.sha256(json.dumps([self.settings, case["id"], content]).encode()).hexdigest()[:32]

    def _prepare(self, case: Case) -> dict[str, torch.Tensor]:
        prepared = self.transform(dict(case))
        image = torch.Tensor(prepared[self.keys[0]]).movedim(-1, 0)
        chosen = torch.as_tensor(prepared.get("slices", range(len(image))), dtype=torch.long)
        held = {"slices": chosen, self.keys[0]: _stored(image[chosen], self.store)}
        for key in self.keys[1:]:
            mask = (
                torch.as_tensor(prepared[key]).movedim(-1, 0)[chosen] if prepared.get(key) is not None else torch.zeros_like(image[chosen])
            )
            held[key] = torch.Tensor.as_subclass(mask, torch.Tensor).to(torch.uint8).contiguous()
        return held


def _stored(image: torch.Tensor, store: str) -> torch.Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).contiguous() if store == "uint8" else image.half().contiguous()


def share_slices(count: int, part: str, validation_share: float = 0.15, seed: int = 0) -> list[int]:
    """Slices of one part when slices are parted, not volumes: the original's leak, for comparison with published numbers only.

    Args:
        count: slices in all.
        part: "train" or "validate".
        validation_share: share that validates, in (0, 1).
        seed: of the shuffle.

    Returns:
        Numbers from 0 to ``count - 1``, ascending; the first ``floor((1 - share) * count)`` of the shuffled ones train.

    Raises:
        UserError: another part.

    Source: residual_cae_experiment.py: int(0.85 * 54,454) = 46,285 (methods/brain_autoencoder.md, section 2). Deviation: seeded.
    """
    if part not in ("train", "validate"):
        raise UserError(f"part: got {part!r}; expected train or validate where slices are parted.")
    order = np.random.RandomState(seed).permutation(count)
    cut = math.floor((1 - validation_share) * count + 1e-9)
    return sorted(int(number) for number in (order[:cut] if part == "train" else order[cut:]))


def describe(part: Any, depth: int = 0) -> Any:
    """Settings of a transform as JSON-able values, the same in every process: class names, numbers, texts, arrays by their digest.

    Random states, which differ between processes, are left out; a transform is therefore expected to be deterministic.
    """
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if isinstance(part, (np.ndarray, torch.Tensor)):
        return hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
    if isinstance(part, Mapping):
        return {str(key): describe(value, depth + 1) for key, value in sorted(part.items(), key=lambda pair: str(pair[0]))}
    if isinstance(part, (list, tuple, set, frozenset, range)):
        return [describe(value, depth + 1) for value in (sorted(part, key=str) if isinstance(part, (set, frozenset)) else part)]
    if isinstance(part, Compose):
        return [describe(one, depth + 1) for one in part.transforms]
    if isinstance(part, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return f"{part.__module__}.{part.__qualname__}"
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    if isinstance(part, Enum):
        return f"{name}.{part.name}"
    if isinstance(part, (np.random.RandomState, np.random.Generator, np.dtype, torch.dtype)) or depth > 8:
        return str(part) if isinstance(part, (np.dtype, torch.dtype)) else name
    return [name, describe({key: value for key, value in getattr(part, "__dict__", {}).items() if key not in PASSING}, depth + 1)]
