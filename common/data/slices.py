"""Slices of preprocessed volumes, since MONAI's ``PatchDataset`` needs the same number of patches from every volume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import UserError


class SliceDataset(Dataset):
    """All axial slices of all cases, drawn from volumes that are read and preprocessed once and kept in memory.

    Args:
        data: cases, as a reader or MONAI Label gives them.
        transform: deterministic preprocessing of a case to tensors ``(C, X, Y, Z)``.
        keys: tensors that are sliced along the last axis; each item is ``{key: (C, X, Y)}``.
        augment: random transform of one item.
        progress: show a bar while volumes are read.

    Raises:
        UserError: no cases.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable,
        keys: Sequence[str] = ("image", "label", "distance"),
        augment: Callable | None = None,
        progress: bool = True,
    ) -> None:
        if len(data) == 0:
            raise UserError("data: got no cases for training; check dataset_dir and the split.")
        self.data, self.keys, self.augment = data, tuple(keys), augment
        logging.getLogger("brain_bundles").info("Reading %d training volumes into memory.", len(data))
        self.volumes: list[dict[str, torch.Tensor]] = []
        for case in tqdm(data, desc="Reading volumes", disable=None if progress else True, leave=False):
            volume = transform(dict(case))
            # slices first and contiguous, so that drawing one is a single copy
            self.volumes.append({key: torch.Tensor(volume[key]).movedim(-1, 0).contiguous() for key in self.keys})
        self.index = [(v, z) for v, volume in enumerate(self.volumes) for z in range(len(volume[self.keys[0]]))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        volume, z = self.index[item]
        sample = {key: tensor[z] for key, tensor in self.volumes[volume].items()}
        return self.augment(sample) if self.augment is not None else sample

    def whole(self, key: str) -> Iterator[torch.Tensor]:
        """Every preprocessed volume of one key, ``(C, Z, X, Y)``, without augmentation."""
        for volume in self.volumes:
            yield volume[key].movedim(0, 1)
