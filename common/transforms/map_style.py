"""How to show a map: name, unit, colour table and window, as data of a config; MONAI's metadata has no place for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.data.dicom_source import LONG_STRING, RESEARCH
from common.data.segments import Code, is_code
from common.errors import UserError

NAME_LENGTH = LONG_STRING - len(RESEARCH) - 2
"""What DICOM leaves for a name in the description of a series."""

NO_UNIT: Code = ("1", "UCUM", "no units")


@dataclass(frozen=True)
class MapStyle:
    """How to show a map.

    Args:
        name: what it shows, at most `NAME_LENGTH` characters.
        unit: code of UCUM.
        colours: name of a colour table of 3D Slicer.
        window: lowest and highest value shown; None takes them from the values.
    """

    name: str
    unit: Code = NO_UNIT
    colours: str = "Grey"
    window: tuple[float, float] | None = None


def read_styles(styles: Mapping[str, Mapping[str, Any]]) -> dict[str, MapStyle]:
    """Styles of a config by the postfix of the files: ``{"error": {"name", "unit": [value, scheme, meaning], "colours", "window"}}``.

    Raises:
        UserError: an entry that is no style; the text names it.
    """
    return {postfix: _style(postfix, entry) for postfix, entry in styles.items()}


def _style(postfix: str, entry: Any) -> MapStyle:
    entry = entry if isinstance(entry, Mapping) else {"": entry}
    window, unit = entry.get("window"), entry.get("unit", NO_UNIT)
    fits = (
        set(entry) <= {"name", "unit", "colours", "window"}
        and isinstance(entry.get("name"), str)
        and 0 < len(entry["name"]) <= NAME_LENGTH
        and is_code(unit)
        and (window is None or (len(window) == 2 and float(window[0]) < float(window[1])))
    )
    if not fits:
        raise UserError(
            f"map_styles: entry {postfix!r} is {entry!r}; expected a name of 1 to {NAME_LENGTH} characters and, where wanted, a"
            " unit [value, scheme, meaning], the name of a colour table (colours) and a window [low, high]."
        )
    shown = None if window is None else (float(window[0]), float(window[1]))
    return MapStyle(entry["name"], (str(unit[0]), str(unit[1]), str(unit[2])), str(entry.get("colours", "Grey")), shown)
