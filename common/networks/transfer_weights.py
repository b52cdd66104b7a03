"""Carry the weights of a pre-trained Swin UNETR into another one, and say tensor by tensor what was carried, what was not and why.

MONAI's ``copy_model_state`` copies by name and shape: it gives no reasons, adapts no input channels, reads no record of the images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.networks.released_weights import Row
from common.networks.transfer_record import BODY, STEM_LAYERS, TRANSFER, bare_state, differences, read_transfer, swin_facts
from common.weights import read_weights

PARTS = ("encoder", "decoder", "both")
INPUT_LAYERS = (*STEM_LAYERS.values(), "encoder1.layer.conv1.conv.weight", "encoder1.layer.conv3.conv.weight")
"""Convolutions that the image itself goes through."""
_ENCODER = ("swinViT.", "mask_token")
_PRETEXT = ("pretext.", "mask_token")
_SKIPPED = "skipped: "


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor of a pre-trained network.

    Args:
        part: which part was asked for.
        rows: one per tensor of the source: its name, the name in the network, and "transferred", "adapted: ..." or "skipped: ...".
        fresh: names of the network's tensors that keep the weights they had.
        sizes: name of each of the network's parameters -> its number of values.
        notes: what a reader should know, e.g. another normalisation.
    """

    part: str
    rows: list[Row]
    fresh: list[str]
    sizes: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Counts, the names of skipped tensors by reason, and the notes, ready for JSON."""
        carried = [row for row in self.rows if not row.outcome.startswith(_SKIPPED)]
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.outcome.startswith(_SKIPPED):
                reasons.setdefault(row.outcome.removeprefix(_SKIPPED), []).append(row.source)
        return {
            "part": self.part,
            "transferred": len(carried),
            "adapted": sum(row.outcome.startswith("adapted") for row in carried),
            "skipped": len(self.rows) - len(carried),
            "skipped_because": reasons,
            "fresh": self.fresh,
            "parameters_transferred": sum(self.sizes.get(row.target, 0) for row in carried),
            "parameters": sum(self.sizes.values()),
            "notes": self.notes,
        }

    def table(self) -> str:
        """A line per module and outcome, then what keeps its fresh weights; the notes are logged."""
        told = self.summary()
        share = f"{told['parameters_transferred']:,} of {told['parameters']:,} parameters"
        lines = [f"Transferred (part: {self.part}): {told['transferred']} tensors, {share} of the network."]
        groups: dict[tuple[str, str], int] = {}
        for row in self.rows:
            group = (_module(row.source), row.outcome)
            groups[group] = groups.get(group, 0) + 1
        lines += [f"  {module:<20} {count:>4}  {outcome}" for (module, outcome), count in groups.items()]
        if self.fresh:
            lines.append(f"  fresh weights: {len(self.fresh)} tensors in {', '.join(dict.fromkeys(map(_module, self.fresh)))}")
        return "\n".join(lines)


def spread_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    r"""A first convolution for another number of input channels: equal inputs give what equal inputs gave before.

    .. math:: w'_{oj} = \frac{1}{C'} \sum_{i=1}^{C} w_{oi}, \qquad j = 1 \dots C'

    Args:
        weight: w, ``(O, C, *kernel)``.
        channels: C'.

    Returns:
        w', ``(O, C', *kernel)``.
    """
    return (weight.sum(dim=1, keepdim=True) / channels).repeat_interleave(channels, dim=1)


def transfer(
    source_state: Mapping[str, Any], network: nn.Module, part: str = "both", input_channels: str = "adapt", untrained: Sequence[str] = ()
) -> TransferReport:
    """Copy into a network what fits by name and shape.

    Args:
        source_state: ``state_dict`` of a Swin UNETR, MONAI's or ours; see :func:`bare_state`.
        network: MONAI's ``SwinUNETR`` or ours.
        part: "encoder" (``swinViT``), "decoder" (all else: ``encoder1`` ... ``decoder1``, ``out``) or "both".
        input_channels: what becomes of the first convolutions when the network has another number of input channels: "adapt" them by
            :func:`spread_channels`, or "skip" them.
        untrained: beginnings of names of tensors that the pre-training left as they were drawn; they are skipped.

    Returns:
        A row per tensor of the source. An output layer for another number of classes keeps its fresh weights.

    Raises:
        UserError: another feature size, weights that hold NaN, or nothing that fits. The network then stays as it was.

    Source: DAE, Sec. 3, and the released ``load_from`` (what belongs to encoder and decoder).
    """
    for argument, choice, known in (("part", part, PARTS), ("input_channels", input_channels, ("adapt", "skip"))):
        if choice not in known:
            raise UserError(f"{argument}: got '{choice}', expected one of {', '.join(known)}.")
    source, target = bare_state(source_state), network.state_dict()
    there, here = swin_facts(source)["feature_size"], swin_facts(target)["feature_size"]
    if there != here:
        raise UserError(f"feature_size: the weights have {there}, the network {here}; give --feature_size {there}.")
    rows, filled = [], {}
    for name, value in source.items():
        outcome, new = _fate(name, value, target, part, input_channels, tuple(untrained))
        rows.append(Row(name, "" if new is None else name, outcome))
        if new is not None:
            filled[name] = new
    if not filled:
        raise UserError(f"weights: nothing fits (part: {part}): {'; '.join(dict.fromkeys(row.outcome for row in rows))}.")
    broken = [name for name, value in filled.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UserError(
            f"weights: {len(broken)} tensors hold NaN or infinity, first {broken[0]}; their training diverged. Train them anew."
        )
    network.load_state_dict(filled, strict=False)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    return TransferReport(part, rows, [name for name in target if name not in filled], sizes)


def load_pretrained(
    network: nn.Module,
    path: str | Path,
    part: str = "both",
    input_channels: str = "adapt",
    expected: Mapping[str, Any] | None = None,
    mismatch: str = "warn",
) -> TransferReport:
    """Carry the weights of a file into a network, with the record beside it checked; the report is printed, its notes are warnings.

    Args:
        network: MONAI's ``SwinUNETR`` or ours.
        path: ``model.pt`` or its folder; ``transfer.json`` lies beside it.
        part: see :func:`transfer`.
        input_channels: see :func:`transfer`.
        expected: what the images of this training are like, compared with the record, e.g. ``{"spacing_mm": [1.5, 1.5, 2.0],
            "normalisation": {"t2": {...}}}``.
        mismatch: where the record says otherwise, "warn" or "error".

    Raises:
        UserError: no such file, a record that is not of these weights, or see :func:`transfer`; with "error" also what differs.
    """
    if mismatch not in ("warn", "error"):
        raise UserError(f"mismatch: got '{mismatch}', expected warn or error.")
    path = Path(path) / "model.pt" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise UserError(f"There are no pre-trained weights at {path}: run the pre-training first (pretrain.json), or give their file.")
    state = bare_state(read_weights(path))
    record, there, here = read_transfer(path, state), swin_facts(state), swin_facts(network.state_dict())
    differing = differences(record, expected or {}) if record else [f"no {TRANSFER} beside it, so its images are not known"]
    if differing and mismatch == "error":
        raise UserError(f"{path}: {'; '.join(differing)}. Prepare the images as those were, or allow it (mismatch: warn).")
    report = transfer(state, network, part, input_channels, record.get("untrained", ()))
    report.notes.extend(f"{key}: {there[key]} in the weights, {here[key]} in the network" for key in BODY if there[key] != here[key])
    report.notes.extend([*differing, *record.get("notes", ())])
    if record.get("skip") == "drop" and part != "encoder":
        report.notes.append("the skip at full resolution was dropped in the pre-training: the half of decoder1 that meets it is untrained")
    for note in report.notes:
        logging.getLogger("brain_bundles").warning("%s: %s.", path.name, note)
    print(report.table())
    return report


def _fate(
    name: str, value: torch.Tensor, target: Mapping[str, torch.Tensor], part: str, input_channels: str, untrained: tuple[str, ...]
) -> tuple[str, torch.Tensor | None]:
    """Outcome of one tensor, and what the network gets: None for nothing."""
    if part != "both" and (part == "encoder") != name.startswith(_ENCODER):
        return f"{_SKIPPED}not asked for", None
    if name.startswith(untrained):
        return f"{_SKIPPED}not trained in the pre-training", None
    if name not in target:
        if name.startswith(_PRETEXT):
            return f"{_SKIPPED}a head of the pre-training", None
        return f"{_SKIPPED}the network has {'another stem' if '.patch_embed.' in name else 'no such tensor'}", None
    wanted = target[name].shape
    if value.shape == wanted:
        return "transferred", value
    if name.startswith("out."):
        return f"{_SKIPPED}{len(value)} outputs there, {wanted[0]} here", None
    if name in INPUT_LAYERS and (value.shape[0], value.shape[2:]) == (wanted[0], wanted[2:]):
        counts = f"{value.shape[1]} input channels there, {wanted[1]} here"
        if input_channels == "skip":
            return f"{_SKIPPED}{counts}", None
        return f"adapted: {counts}; spread evenly, so that equal channels give equal features", spread_channels(value, wanted[1])
    if "relative_position" in name:
        return f"{_SKIPPED}another window", None
    return f"{_SKIPPED}shape {tuple(value.shape)} there, {tuple(wanted)} here", None


def _module(name: str) -> str:
    """First name of a tensor, or the first two."""
    return ".".join(name.split(".")[: 2 if name.startswith(("swinViT.", "pretext.")) else 1])
