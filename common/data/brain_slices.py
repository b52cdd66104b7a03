"""Which sagittal slices of a head are worth learning from: by their share of brain, or by simpler rules that the author tried and rejected.

MONAI has foreground crops and slice samplers for labels, but no choice of slices by a share of area.
Source: A. Arnaiz-Rodriguez, master's thesis (methods/brain_autoencoder.md, section 2).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.data.cases import some
from common.errors import UserError
from common.transforms.t1_brain import extract_t1_brain

RULES: Final = ("brain", "nonzero", "mean", "middle", "range", "all")
CUTS: Final = ("sd", "iqr", "q1")
MIN_SHARE: Final = 3000 / 65536
"""Share of a slice that must be brain: more than 3000 of 256 x 256 pixels, 4.58 %."""
TABLE_PIXELS: Final = 65536
"""Pixels of a slice that the author's counts refer to."""
FIXED_RANGE: Final = (0.16, 0.84)
"""First and last place, as shares of the axis, of the rule "range": about the 102 of 150 slices that the share of brain keeps."""
Counts = Mapping[str, Mapping[int, int]]


def select_slices(
    volume: np.ndarray,
    rule: str = "brain",
    brain: np.ndarray | None = None,
    shares: np.ndarray | None = None,
    spacing_mm: Sequence[float] | None = None,
    min_share: float = MIN_SHARE,
    cut: str = "q1",
    fixed_range: tuple[float, float] = FIXED_RANGE,
) -> np.ndarray:
    """Slices of a volume to keep.

    Args:
        volume: ``(P, S, N)``, any number type; the last axis counts sagittal slices.
        rule: "brain" keeps slices with more than ``min_share`` of brain; "nonzero" and "mean" those whose number, or mean, of non-zero
            pixels is not below a cut in the distribution over the volume's slices; "middle" the middle one; "range" a fixed range; "all".
        brain: mask ``(P, S, N)``, for the rule "brain"; without it and without ``shares`` the brain is looked for.
        shares: share of brain per slice, ``(N,)``, such as from a table of counts; wins over ``brain``.
        spacing_mm: size of a voxel per axis, mm; needed where the brain is looked for.
        min_share: share of a slice's pixels that must be exceeded, in [0, 1).
        cut: of the rules "nonzero" and "mean": "sd" mean - 3 SD, "iqr" Q1 - 1.5 IQR, "q1" Q1.
        fixed_range: of the rule "range", first and last place as shares of the axis.

    Returns:
        Indices in ascending order, int64; empty where no slice fits.

    Raises:
        UserError: an unknown rule or cut, shapes that do not fit, or the brain is to be found without spacing.

    Source: 3000 of 65,536 pixels, exceeded strictly (methods/brain_autoencoder.md, section 2). Deviation: a share, so that it holds for any
        size; the cuts of the rejected rules are those of one volume's slices, the author's those of all.
    """
    _check(volume, rule, cut, min_share, fixed_range)
    count = volume.shape[-1]
    if rule == "all":
        return np.arange(count)
    if rule == "middle":
        return np.array([count // 2])
    if rule == "range":
        first, last = (round(place * (count - 1)) for place in fixed_range)
        return np.arange(first, last + 1)
    if rule == "brain":
        if shares is None:
            shares = brain_shares(_brain(volume, brain, spacing_mm))
        if len(shares) != count:
            raise UserError(f"select_slices: got shares of {len(shares)} slices for a volume of {count}; are they of another volume?")
        return np.flatnonzero(np.asarray(shares) > min_share)
    values = nonzero_counts(volume) if rule == "nonzero" else nonzero_means(volume)
    return np.flatnonzero(values >= lower_cut(values, cut))


def brain_shares(brain: np.ndarray) -> np.ndarray:
    """Share of brain in each slice of a mask ``(P, S, N)``: ``(N,)`` float64 in [0, 1]."""
    result: np.ndarray = np.count_nonzero(brain, axis=(0, 1)) / (brain.shape[0] * brain.shape[1])
    return result


def nonzero_counts(volume: np.ndarray) -> np.ndarray:
    """Number of pixels that are not 0 in each slice, ``(N,)``."""
    return np.count_nonzero(volume, axis=(0, 1))


def nonzero_means(volume: np.ndarray) -> np.ndarray:
    """Mean of the pixels that are not 0 in each slice, ``(N,)``; 0 where there are none."""
    result: np.ndarray = volume.sum(axis=(0, 1), dtype=np.float64) / np.maximum(nonzero_counts(volume), 1)
    return result


def lower_cut(values: np.ndarray, cut: str) -> float:
    r"""Value below which slices are dropped.

    .. math:: \mu - 3\sigma \text{ (sd)}, \qquad Q_1 - 1.5\,(Q_3 - Q_1) \text{ (iqr)}, \qquad Q_1 \text{ (q1)}
    """
    if cut == "sd":
        return float(values.mean() - 3 * values.std())
    first, third = np.percentile(values, (25, 75))
    return float(first if cut == "q1" else first - 1.5 * (third - first))


def read_counts(file: str | os.PathLike[str]) -> dict[str, dict[int, int]]:
    """A table of brain pixels per slice, by volume and slice, such as the author's ``slice_brain_quantity.csv``.

    Args:
        file: CSV with the columns ``ID`` (``IXI002-Guys-0828-T1_<slice>``, slices from 0) and ``BRAIN_QUANTITY``; others are ignored.

    Returns:
        ``{volume: {slice: pixels of 65,536}}``.

    Raises:
        UserError: no such file, missing columns, or a cell that cannot be read; the text names the line.
    """
    path, result = Path(file), dict[str, dict[int, int]]()
    if not path.is_file():
        raise UserError(f"slice counts: {path}: no such file.")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in ("ID", "BRAIN_QUANTITY") if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {some(missing)}; found {some(reader.fieldnames or ['nothing'])}.")
        for line, row in enumerate(reader, start=2):
            volume, _, number = (row["ID"] or "").rpartition("_")
            try:
                result.setdefault(volume, {})[int(number)] = int(float(row["BRAIN_QUANTITY"]))
            except (TypeError, ValueError) as error:
                found = f"{row['ID']!r}, {row['BRAIN_QUANTITY']!r}"
                raise UserError(f"{path}: line {line}: got {found}; expected <volume>_<slice> and a number of pixels.") from error
    return result


def counted_shares(counts: Counts, name: str, slices: int) -> np.ndarray:
    """Share of brain per slice of one volume by a table of counts, ``(slices,)``; slices that the table leaves out have none.

    Raises:
        UserError: the table has nothing on the volume, or slices that it does not have.
    """
    if name not in counts:
        raise UserError(f"slice counts: nothing on {name} in the table; it has {some(sorted(counts))}. Leave the table out to find brains.")
    own = counts[name]
    if own and max(own) >= slices:
        raise UserError(f"slice counts: slice {max(own)} of {name}, which has {slices}; the table is of other volumes.")
    return np.array([own.get(place, 0) for place in range(slices)]) / TABLE_PIXELS


class SliceSelector:
    """``select_slices`` with its settings, for a config: called with a prepared case.

    Args:
        rule: see ``select_slices``.
        min_share: likewise.
        table: CSV of counts (``read_counts``); None takes masks, and finds the brain where there is none.
        cut: likewise.
        fixed_range: likewise.
    """

    def __init__(
        self,
        rule: str = "brain",
        min_share: float = MIN_SHARE,
        table: str | os.PathLike[str] | None = None,
        cut: str = "q1",
        fixed_range: Sequence[float] = FIXED_RANGE,
    ) -> None:
        first, last = fixed_range
        self.settings: dict[str, Any] = {"rule": rule, "min_share": min_share, "cut": cut, "fixed_range": (float(first), float(last))}
        self.counts = read_counts(table) if table and rule == "brain" else None
        _check(np.zeros((1, 1, 1)), rule, cut, min_share, (first, last))

    @property
    def needs_brain(self) -> bool:
        """Whether a mask of the brain is used."""
        return self.settings["rule"] == "brain" and self.counts is None

    def __call__(
        self, name: str, volume: np.ndarray, brain: np.ndarray | None = None, spacing_mm: Sequence[float] | None = None
    ) -> np.ndarray:
        """Slices of one volume to keep.

        Args:
            name: id of the case, as in the table of counts.
            volume: ``(P, S, N)``.
            brain: mask on the same grid.
            spacing_mm: where the brain is to be found.

        Raises:
            UserError: nothing is left; the text names the case.
        """
        shares = None if self.counts is None else counted_shares(self.counts, name, volume.shape[-1])
        found = select_slices(volume, brain=brain, shares=shares, spacing_mm=spacing_mm, **self.settings)
        if not len(found):
            raise UserError(
                f"case {name}: the rule {self.settings['rule']!r} keeps none of {volume.shape[-1]} slices (min_share"
                f" {self.settings['min_share']:g}); is it a T1 of a whole head, with sagittal slices along the last axis?"
            )
        return found


def _check(volume: np.ndarray, rule: str, cut: str, min_share: float, fixed_range: tuple[float, float]) -> None:
    if rule not in RULES or cut not in CUTS:
        raise UserError(f"slice rule: got {rule!r} with cut {cut!r}; expected one of {', '.join(RULES)}, and one of {', '.join(CUTS)}.")
    if not 0 <= min_share < 1 or not 0 <= fixed_range[0] <= fixed_range[1] <= 1:
        raise UserError(f"slice rule: got min_share {min_share}, fixed_range {fixed_range}; expected shares from 0 to 1, in order.")
    if volume.ndim != 3:
        raise UserError(f"select_slices: got a volume of shape {volume.shape}; expected (P, S, N).")


def _brain(volume: np.ndarray, brain: np.ndarray | None, spacing_mm: Sequence[float] | None) -> np.ndarray:
    if brain is not None:
        if brain.shape != volume.shape:
            raise UserError(f"select_slices: got a mask of shape {brain.shape} for a volume of shape {volume.shape}.")
        return brain
    if spacing_mm is None:
        raise UserError("select_slices: got neither mask nor shares nor spacing_mm; give one of them for the rule 'brain'.")
    return extract_t1_brain(volume, spacing_mm)
