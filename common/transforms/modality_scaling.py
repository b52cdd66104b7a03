"""Scale an image as its modality asks: MONAI's ``ScaleIntensityRange`` and its kin, used inside, scale all cases of a set alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, NormalizeIntensity, ScaleIntensityRange
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import convert_to_tensor

from common.data.modalities import Modality, modality_of, modality_table
from common.errors import UserError

MIN_SHARE = 0.01
"""An image whose values fill less of its modality's range would become flat: CT that was already in [0, 1] fills 0.0005 of 2000 HU."""


def scale_by_modality(image: torch.Tensor, modality: Modality) -> torch.Tensor:
    r"""Normalise one image, each channel by itself.

    .. math:: x' = \mathrm{clip}\left(\frac{x - l}{h - l}, 0, 1\right) \text{ (range, percentiles)}, \qquad
        x' = \frac{x - \mu}{\sigma} \text{ where } x \ne 0, \; 0 \text{ elsewhere (zscore)}

    Args:
        image: ``(C, *spatial)``, any number type; CT in HU, MR 0 outside the body where it was cut out.
        modality: row of the table; says kind and bounds. Percentiles are those of all voxels of a channel, :math:`\mu` and :math:`\sigma`
            (population) those of its voxels that are not 0.

    Returns:
        The same shape, float32: [0, 1], or mean 0 and standard deviation 1. The input is left as it was.

    Raises:
        UserError: a channel without contrast, or with values that fill less than 1 % of the range; the text names it.

    Source: DAE (methods/dae.md, section 2). Deviation: none for CT and MR; percentiles (ultrasound, X-ray) are not in the paper.
    """
    # NormalizeIntensity writes into its input
    plain = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach().to(torch.float32, copy=True)
    scaled = [_scale_channel(values, modality, f"channel {channel}") for channel, values in enumerate(plain)]
    return torch.stack(scaled)


def _scale_channel(values: torch.Tensor, modality: Modality, where: str) -> torch.Tensor:
    if values.numel() == 0:
        raise UserError(f"{where}: the image is empty, shape {tuple(values.shape)}.")
    if modality.kind == "zscore":
        _check_contrast(values, where)
        return convert_to_tensor(NormalizeIntensity(nonzero=True)(values), track_meta=False)
    low, high = _bounds(values, modality, where)
    return convert_to_tensor(ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(values), track_meta=False)


def _check_contrast(values: torch.Tensor, where: str) -> None:
    inside = values[values != 0]
    if inside.numel() == 0:
        raise UserError(f"{where}: every voxel is 0; expected an image that is 0 outside the body only.")
    if float(inside.min()) == float(inside.max()):
        raise UserError(f"{where}: all voxels that are not 0 are {float(inside[0]):g}: the image shows no contrast; a mask?")


def _bounds(values: torch.Tensor, modality: Modality, where: str) -> tuple[float, float]:
    """Values that become 0 and 1, after a look at whether the image has anything between them."""
    low, high = float(modality.low or 0), float(modality.high or 0)
    if modality.kind == "percentiles":
        ends = float(percentile(values, low)), float(percentile(values, high))
        if ends[0] >= ends[1]:
            raise UserError(
                f"{where}: its percentiles {low:g} and {high:g} are both {ends[0]:g}: the image shows no contrast, or is mostly background;"
                " widen the percentiles."
            )
        return ends
    smallest, largest = float(values.min()), float(values.max())
    if min(largest, high) - max(smallest, low) < MIN_SHARE * (high - low):
        raise UserError(
            f"{where}: values from {smallest:g} to {largest:g} hardly meet the range {low:g} to {high:g} of the modality {modality.name};"
            " another unit, an image that was scaled before, or another modality?"
        )
    return low, high


class ScaleByModalityd(MapTransform):
    """Scale images by the modality that their case names, and say its index (``scale_by_modality``).

    Args:
        keys: images ``(C, *spatial)``.
        table: a user's rows or a complete table; see ``common.data.modalities.modality_table``. None takes the built-in one.
        modality_key: key with the modality's name.
        modality: modality of cases that name none, such as single files at inference; None refuses them.
        index_key: gets the modality's index, a 0-d tensor of type long; None writes none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        table: Mapping[str, Any] | None = None,
        modality_key: str = "modality",
        modality: str | None = None,
        index_key: str | None = "modality_index",
    ) -> None:
        super().__init__(keys)
        self.table = modality_table(table)
        self.modality_key, self.index_key = modality_key, index_key
        self.modality = None if modality is None else modality_of(modality, self.table, "modality").name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images.

        Raises:
            UserError: no modality, one that the table does not have, or an image without contrast; the text names the case.
        """
        case = dict(data)
        where = f"case {case.get('id', '?')}"
        name = case[self.modality_key] if case.get(self.modality_key) is not None else self.modality
        if name is None:
            raise UserError(
                f"{where}: it has no {self.modality_key!r}; expected one of {', '.join(self.table)}. Give it in the datalist (per entry or"
                " for the whole list) or set the argument modality; it is never guessed."
            )
        row = modality_of(name, self.table, where)
        for key in self.key_iterator(case):
            image = case[key]
            try:
                scaled = scale_by_modality(image, row)
            except UserError as error:
                raise UserError(f"{where}, {key!r}: {error}") from error
            is_meta = isinstance(image, MetaTensor)
            case[key] = MetaTensor(scaled, meta=image.meta, applied_operations=image.applied_operations) if is_meta else scaled
        if self.index_key is not None:
            case[self.index_key] = torch.tensor(row.index, dtype=torch.long)
        return case
