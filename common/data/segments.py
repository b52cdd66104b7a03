"""What the values of a mask mean: names, colours and codes, for viewers; MONAI's ``channel_def`` holds names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_csv
from common.errors import UserError

Code = tuple[str, str, str]
"""Value, coding scheme, meaning: ``("52988006", "SCT", "Lesion")``."""

ANATOMY: Code = ("91723000", "SCT", "Anatomical Structure")
TISSUE: Code = ("85756007", "SCT", "Tissue")
UNNAMED_COLOURS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240))
"""Of labels without an entry, in turn."""


@dataclass(frozen=True)
class Segment:
    """One value of a mask.

    Args:
        value: in the voxels, from 1.
        name: for people, at most 64 characters.
        colour: red, green, blue, 0 to 255.
        code: what it is (DICOM's segmented property type).
        category: of what kind it is (segmented property category, DICOM's context group 7150).
        modifier: side or part, such as right; None where there is none.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
    code: Code
    category: Code = ANATOMY
    modifier: Code | None = None

    @property
    def hex_colour(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#" + "".join(f"{part:02x}" for part in self.colour)


def read_segments(
    segments: Mapping[Any, Mapping[str, Any]] | Sequence[Mapping[Any, Mapping[str, Any]]], class_names: Sequence[str] | None = None
) -> list[Segment]:
    """Segments of a config, in the order of their values.

    Args:
        segments: ``{"1": {"name", "colour": [r, g, b], "code": [value, scheme, meaning]}}``, with ``category`` and ``modifier`` (codes)
            where they are needed. With ``class_names`` also several such tables.
        class_names: names of the values 1, 2, ... that the network was trained with. Entries are then found by name, whatever their
            number: a mask of other classes must not get these names. Classes without an entry are coded as tissue.

    Raises:
        UserError: an entry that is no segment; the text names it.
    """
    tables = [segments] if isinstance(segments, Mapping) else list(segments)
    entries = [_segment(key, entry) for table in tables for key, entry in table.items()]
    if class_names is None:
        if len(tables) > 1:
            raise UserError(f"segments: got {len(tables)} tables without class_names, which choose from them; give one table.")
        return sorted(entries, key=lambda segment: segment.value)
    by_name = {segment.name: segment for segment in entries}
    found = []
    for value, name in enumerate(class_names, 1):
        known = by_name.get(name)
        found.append(Segment(**{**vars(known), "value": value}) if known else unnamed(value, name))
    return found


def unnamed(value: int, name: str | None = None) -> Segment:
    """A segment for a value of which no more is known than perhaps its name."""
    return Segment(value, (name or f"label {value}")[:64], UNNAMED_COLOURS[(value - 1) % len(UNNAMED_COLOURS)], TISSUE, TISSUE)


def segments_of(mask: np.ndarray, segments: Iterable[Segment]) -> list[Segment]:
    """The segments, and an unnamed one for each further value of a mask (0 is background), in the order of their values."""
    known = {segment.value: segment for segment in segments}
    values = {int(value) for value in np.unique(mask) if value > 0}
    return [known.get(value) or unnamed(value) for value in sorted(values | set(known))]


def save_labels_csv(segments: Iterable[Segment], path: str | os.PathLike[str]) -> Path:
    """Write value, name, colour (``#rrggbb``), code (``SCT:52988006``) and its meaning, a row per segment."""
    rows = [
        {
            "value": segment.value,
            "name": segment.name,
            "colour": segment.hex_colour,
            "code": f"{segment.code[1]}:{segment.code[0]}",
            "meaning": " ".join(part[2] for part in (segment.modifier, segment.code) if part),
        }
        for segment in segments
    ]
    return write_csv(path, rows)


def _segment(key: Any, entry: Any) -> Segment:
    """One entry of a config, checked."""
    wrong = [] if isinstance(entry, Mapping) else ["a mapping"]
    entry = entry if isinstance(entry, Mapping) else {}
    if not re.fullmatch(r"[1-9]\d{0,4}", str(key)):
        wrong.append("a value from 1 as its key")
    if not (isinstance(entry.get("name"), str) and 0 < len(entry["name"]) <= 64):
        wrong.append("a name of 1 to 64 characters")
    colour = entry.get("colour", ())
    if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
        wrong.append("a colour [r, g, b] of integers from 0 to 255")
    codes = {name: entry[name] for name in ("code", "category", "modifier") if entry.get(name) is not None}
    if "code" not in codes or not all(is_code(code) for code in codes.values()):
        wrong.append("a code [value, scheme, meaning]")
    unknown = sorted(set(entry) - {"name", "colour", "code", "category", "modifier"})
    if wrong or unknown:
        expected = ", ".join([*wrong, *(f"no key {name!r}" for name in unknown)])
        raise UserError(f"segments: entry {key!r} is {entry!r}; expected {expected}.")
    return Segment(int(key), entry["name"], tuple(colour), **{name: tuple(code) for name, code in codes.items()})


def is_code(code: Any) -> bool:
    """Whether a code has three parts that DICOM can hold: value and scheme of 16 characters, meaning of 64."""
    return (
        isinstance(code, Sequence)
        and not isinstance(code, str)
        and len(code) == 3
        and all(isinstance(part, str) and part for part in code)
        and len(code[0]) <= 16
        and len(code[1]) <= 16
        and len(code[2]) <= 64
    )
