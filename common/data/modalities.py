"""What each modality's voxels become before a network sees them: a table that users extend, since MONAI's scalers know no modalities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.data.cases import Case, some
from common.errors import UserError

KINDS: Final[dict[str, tuple[float, float] | None]] = {"range": None, "zscore": None, "percentiles": (1.0, 99.0)}
"""Kinds of normalisation with their default bounds: ``range`` takes low ... high to [0, 1] and clips; ``zscore`` gives the voxels that
are not 0 mean 0 and standard deviation 1; ``percentiles`` is a range between two percentiles of all voxels (0 and 100: smallest and
largest)."""

BUILT_IN: Final[dict[str, dict[str, Any]]] = {
    "ct": {"kind": "range", "low": -1000.0, "high": 1000.0},
    "t1": {"kind": "zscore"},
    "t1ce": {"kind": "zscore"},
    "t2": {"kind": "zscore"},
    "flair": {"kind": "zscore"},
    "us": {"kind": "percentiles", "low": 1.0, "high": 99.0},
    "xr": {"kind": "percentiles", "low": 1.0, "high": 99.0},
}
"""CT in HU and the four MR contrasts as in the paper; ultrasound and X-ray are additions. Their order gives the indices."""

FIELDS: Final = ("kind", "low", "high", "noise")


@dataclass(frozen=True)
class Modality:
    """One row of the table.

    Args:
        name: lower case, e.g. ct.
        index: number that stands for it in batches, from 0.
        kind: one of ``KINDS``.
        low: bound that becomes 0: unit of the image (range) or percent (percentiles); None for zscore.
        high: bound that becomes 1, likewise.
        noise: factor on the standard deviation of the noise that disrupts images of this modality, at least 0. With 1, noise of one
            strength meets z-scored MR (standard deviation 1) and CT in [0, 1], of which tissues fill a tenth (methods/dae.md, section 4).
    """

    name: str
    index: int
    kind: str
    low: float | None = None
    high: float | None = None
    noise: float = 1.0


def modality_table(extra: Mapping[str, Any] | None = None) -> dict[str, Modality]:
    """Complete table: the built-in rows, replaced or followed by a user's.

    Args:
        extra: rows by name, e.g. ``{"us": {"kind": "percentiles", "low": 1, "high": 99}}``; each has ``kind`` (not needed where a built-in
            row is changed) and may have ``low``, ``high`` and ``noise``. A row of another kind than the built-in one starts anew.
            A complete table gives itself.

    Returns:
        Rows by name. A built-in modality keeps its index whatever is changed in it; new ones follow in the order given.

    Raises:
        UserError: an unknown kind or field, or bounds that make no range; the text names the row.

    Source: DAE (methods/dae.md, section 2): CT [-1000, 1000] HU to [0, 1], clipped; MR z-scored over the voxels that are not 0.
    """
    rows = {name: dict(row) for name, row in BUILT_IN.items()}
    for name, row in (extra or {}).items():
        key = modality_name(name)
        given = _as_fields(row, key)
        before = rows.get(key, {})
        rows[key] = {**before, **given} if given.get("kind", before.get("kind")) == before.get("kind") else given
    return {name: _checked(name, index, row) for index, (name, row) in enumerate(rows.items())}


def modality_name(name: Any) -> str:
    """A modality's name as the table writes it: without spaces around it, in lower case."""
    return str(name).strip().lower()


def modality_of(name: Any, table: Mapping[str, Modality], where: str) -> Modality:
    """Row of a modality.

    Args:
        name: the modality's own name, in capitals or not; parts of names and file names are not understood.
        table: as ``modality_table`` returns it.
        where: file or case, for the error.

    Raises:
        UserError: a name that the table does not have.
    """
    row = table.get(modality_name(name))
    if row is None:
        raise UserError(
            f"{where}: the modality {str(name)!r} is not in the table; expected one of {', '.join(table)}. Add it to the table of"
            ' modalities, e.g. {"' + modality_name(name) + '": {"kind": "percentiles", "low": 1, "high": 99}}.'
        )
    return row


def noise_scales(table: Mapping[str, Modality]) -> list[float]:
    """Factors on the standard deviation of the noise, by index."""
    return [row.noise for row in sorted(table.values(), key=lambda row: row.index)]


def modality_counts(cases: Iterable[Case]) -> str:
    """How many cases have which modality, for a line of the log."""
    names = [str(case.get("modality", "none")) for case in cases]
    return some((f"{name} ({names.count(name)})" for name in dict.fromkeys(names)), 20)


def _as_fields(row: Any, name: str) -> dict[str, Any]:
    """Fields of a user's row."""
    if isinstance(row, Modality):
        return {field: getattr(row, field) for field in FIELDS if getattr(row, field) is not None}
    if not isinstance(row, Mapping):
        raise UserError(
            f'modality {name!r}: got {str(row)[:60]!r}; expected a row such as {{"kind": "percentiles", "low": 1, "high": 99}}.'
        )
    unknown = sorted(set(map(str, row)) - set(FIELDS))
    if unknown:
        raise UserError(f"modality {name!r}: got the field {some(unknown)}; expected some of {', '.join(FIELDS)}.")
    return dict(row)


def _checked(name: str, index: int, row: Mapping[str, Any]) -> Modality:
    kind = row.get("kind")
    if kind not in KINDS:
        raise UserError(f"modality {name!r}: got the kind {kind!r}; expected one of {', '.join(KINDS)}.")
    noise = _numbers([row.get("noise", 1.0)], f"modality {name!r}: noise")[0]
    if noise < 0:
        raise UserError(f"modality {name!r}: noise is {noise:g}; expected a factor of at least 0 (1 changes nothing).")
    if kind == "zscore":
        if "low" in row or "high" in row:
            raise UserError(
                f"modality {name!r}: zscore has no bounds, got low {row.get('low')} and high {row.get('high')}; leave them out."
            )
        return Modality(name, index, kind, noise=noise)
    default = KINDS[kind] or (None, None)
    bounds = [row.get("low", default[0]), row.get("high", default[1])]
    low, high = _numbers(bounds, f"modality {name!r}: low and high of the kind {kind}")
    if not low < high or (kind == "percentiles" and not (low >= 0 and high <= 100)):
        limits = "percentiles with 0 <= low < high <= 100" if kind == "percentiles" else "low < high, in the unit of the image"
        raise UserError(f"modality {name!r}: got low {low:g}, high {high:g}; expected {limits}.")
    return Modality(name, index, kind, low, high, noise)


def _numbers(values: Sequence[Any], what: str) -> list[float]:
    numbers = [float(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else math.nan for v in values]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{what}: got {some(values)}; expected numbers.")
    return numbers
