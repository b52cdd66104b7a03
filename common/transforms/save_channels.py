"""Write each channel of a map to a file of its own; ``SaveLikeSourced`` writes one volume, MONAI's ``SaveImaged`` a fourth axis."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from common.transforms.save_like_source import SaveLikeSourced


class SaveChannelsd(SaveLikeSourced):
    """Write maps on the grid of the source file as ``<id>_<key>[_<number>][_<name>]``, float32.

    Args:
        keys: map ``(K, X, Y, Z)``, or several of them, ``(n, K, X, Y, Z)``, which are numbered from 1.
        output_dir: folder for all files.
        names: of the K channels; with a single channel it is left away.
        source_key: tensor whose meta names the source file.
    """

    def __init__(
        self, keys: str = "mean", output_dir: str | os.PathLike[str] = "eval", names: Sequence[Any] = (1,), source_key: str = "image"
    ) -> None:
        super().__init__(keys, output_dir, keys, np.float32, source_key, allow_missing_keys=True)
        self.names = [str(name) for name in names]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the case stays as it was."""
        for key in self.key_iterator(dict(data)):
            values = data[key]
            for number, part in enumerate(values, 1) if values.ndim == 5 else [(0, values)]:
                for name, channel in zip(self.names, part, strict=True):
                    place = "_".join([str(key), *([str(number)] if number else []), *([name] if len(self.names) > 1 else [])])
                    one = SaveLikeSourced(place, self.output_dir, place, np.float32, self.source_key, self.print_path)
                    one({**data, place: channel[None]})
        return dict(data)
